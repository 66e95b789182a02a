"""What is known of an image from its address alone, and which images are refused."""

from base64 import b64encode
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import InputError
from stepwell.images import check, probe
from stepwell.messages import Image

JPEG_FRAME = b"\xff\xc0" + pack(">HBHHB", 17, 8, 480, 640, 3) + bytes(9)


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + pack(">I4sII", 13, b"IHDR", width, height) + b"\x08\x02" + bytes(7)


def riff(chunk: bytes) -> bytes:
    return b"RIFF" + pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def url(data: bytes, kind: str = "png") -> Image:
    return Image(f"data:image/{kind};base64,{b64encode(data).decode()}")


FILES = {
    "png": png(640, 480),
    "gif87": b"GIF87a" + pack("<HH", 640, 480) + bytes(20),
    "gif89": b"GIF89a" + pack("<HH", 640, 480) + bytes(20),
    "bmp": b"BM" + bytes(12) + pack("<Iii", 40, 640, 480) + bytes(20),
    "bmp from the top down": b"BM" + bytes(12) + pack("<Iii", 40, 640, -480) + bytes(20),
    "bmp of old": b"BM" + bytes(12) + pack("<IHH", 12, 640, 480) + bytes(20),
    "webp lossy": riff(b"VP8 " + bytes(7) + b"\x9d\x01\x2a" + pack("<HH", 640 | 1 << 14, 480) + bytes(8)),
    "webp lossless": riff(b"VP8L" + bytes(4) + b"\x2f" + pack("<I", 639 | 479 << 14 | 1 << 28) + bytes(8)),
    "webp extended": riff(b"VP8X" + bytes(8) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")),
    "jpeg": b"\xff\xd8\xff\xe0" + pack(">H", 16) + b"JFIF\0" + bytes(9) + JPEG_FRAME,
    "jpeg with fill bytes": b"\xff\xd8\xff\xff\xff\xe0" + pack(">H", 16) + bytes(14) + b"\xff\x01" + JPEG_FRAME,
    "jpeg progressive": b"\xff\xd8" + JPEG_FRAME.replace(b"\xff\xc0", b"\xff\xc2"),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_the_size_is_read_from_the_header(data: bytes) -> None:
    assert probe(url(data)) == (640, 480)


def test_nothing_but_the_header_is_decoded() -> None:
    head = b64encode(png(640, 480)[:24]).decode()
    assert probe(Image("data:image/png;base64," + head + "!" * 15_000_000)) == (640, 480)


def test_a_photo_is_measured_past_its_preview_without_decoding_it() -> None:
    preview = b"\xff\xe1" + pack(">H", 60_002) + bytes(60_000)
    text = b64encode(b"\xff\xd8" + preview + JPEG_FRAME).decode()
    assert probe(Image(f"data:image/jpeg;base64,{text[:40]}{'!' * 70_000}{text[70_040:]}")) == (640, 480)


@pytest.mark.parametrize(
    "image",
    [
        Image("https://example.com/a.png"),
        Image(""),
        Image("data:image/png,plain"),
        url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"),
        url(png(640, 480)[:20]),
        url(png(0, 480)),
        url(png(640, 480).replace(b"IHDR", b"IDAT")),
        url(riff(b"VP9 " + bytes(30))),
        url(riff(b"VP8 " + bytes(30))),
        url(riff(b"VP8L" + bytes(30))),
        url(b"RIFF" + bytes(40)),
        url(b"BM" + bytes(12) + pack("<Iii", 40, -5, 480)),
        url(b"\xff\xd8\xff\xda" + bytes(40)),
        url(b"\xff\xd8" + bytes(40)),
        url(b"\xff\xd8" + b"\xff\x01" * 5000 + JPEG_FRAME),
        Image("data:image/png;base64,iVBORw0KGgo\ud800"),
    ],
)
def test_an_unknown_size_is_said_to_be_unknown(image: Image) -> None:
    assert probe(image) is None


@given(st.sampled_from([data[:16] for data in FILES.values()]), st.binary(max_size=200), st.integers(0, 16))
def test_no_header_is_too_broken_to_be_read(start: bytes, rest: bytes, keep: int) -> None:
    size = probe(url(start[:keep] + rest))
    assert size is None or min(size) > 0


def refusal(image: Image) -> InputError:
    with pytest.raises(InputError) as caught:
        check(image, field="images.2.url")
    assert caught.value.field == "images.2.url"
    assert "`images.2.url`" in str(caught.value)
    return caught.value


def test_a_billion_pixels_are_refused_with_the_remedy() -> None:
    assert str(refusal(url(png(40_000, 25_000)))) == (
        "`images.2.url` has 40000 x 25000 pixels; scale it down to at most 50,000,000 of them"
    )
    assert "4294967295 x 4294967295" in str(refusal(url(png(2**32 - 1, 2**32 - 1))))


def test_too_many_bytes_are_refused_before_they_are_decoded() -> None:
    heavy = Image("data:image/png;base64," + b64encode(png(640, 480)[:24]).decode() + "A" * 28_000_000)
    assert str(refusal(heavy)).endswith("holds 21,000,024 bytes; send an image of at most 20,000,000 bytes")


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/a.png",
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "/a.png",
        "",
        "data:text/html;base64,PGI+",
        "data:image/png,abc",
        "data:;base64,iVBORw0KGgo=",
        "javascript:alert(1)",
    ],
)
def test_only_https_and_data_addresses_are_taken(address: str) -> None:
    assert "send an `https://` address or `data:image/png;base64,...`" in str(refusal(Image(address)))


@pytest.mark.parametrize("text", ["", "????", "iVBORw0KGg", "iVBO Rw0K", "_-__", "é" * 8])
def test_broken_base64_is_refused(text: str) -> None:
    assert "encode the file with the standard alphabet and padding" in str(
        refusal(Image(f"data:image/png;base64,{text}"))
    )


@pytest.mark.parametrize("data", FILES.values(), ids=FILES.keys())
def test_an_ordinary_image_is_taken(data: bytes) -> None:
    check(url(data))


def test_an_address_and_an_unknown_format_are_taken() -> None:
    check(Image("HTTPS://example.com/a.png"))
    check(url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"))
    check(Image("DATA:image/png;charset=utf-8;base64," + b64encode(png(10, 10)).decode()))


def test_the_limits_can_be_set() -> None:
    check(url(png(100, 100)), max_pixels=10_000)
    with pytest.raises(InputError, match="at most 9,999 of them"):
        check(url(png(100, 100)), max_pixels=9999)
    with pytest.raises(InputError, match="at most 20 bytes"):
        check(url(png(100, 100)), max_bytes=20)
