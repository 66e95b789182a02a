"""ChatGPT's export: which branch of a tree becomes a conversation, and what of its messages."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import InputError
from stepwell.imports import base
from stepwell.imports import chatgpt as module
from stepwell.imports.base import Skipped, Talk
from stepwell.messages import Image
from tests.imports.making import PICTURE, PNG, archive, chatgpt, conversation, node, read, said, talk, talks

HIDDEN: dict[str, Any] = {"metadata": {"is_visually_hidden_from_conversation": True}}


def picture(pointer: str) -> dict[str, Any]:
    return {"content_type": "image_asset_pointer", "asset_pointer": pointer, "width": 1, "height": 1}


def mixed(*parts: Any) -> dict[str, Any]:
    return {"content_type": "multimodal_text", "parts": list(parts)}


def test_the_branch_that_was_shown_last_is_read_with_title_and_times(tmp_path: Path) -> None:
    tree = conversation(
        "c1",
        node("root", None),
        node("hidden", "root", "system", "", **HIDDEN),
        node("a", "hidden", "user", "hello", 1_699_564_801.25),
        node("old", "a", "assistant", "an older answer", 1_699_564_802),
        node("new", "a", "assistant", ["a newer", "answer"], 1_699_564_803),
    )
    found = talk(chatgpt(tmp_path / "conversations.json", tree))
    assert said(found) == [("user", "hello"), ("assistant", "a newer\nanswer")]
    assert (found.origin, found.title, found.created) == ("c1", "Cats", 1_699_564_800_500)
    assert found.times == (1_699_564_801_250, 1_699_564_803_000)
    assert found.left_out == {"branch": 1, "system": 1}


def test_what_was_not_shown_and_thoughts_and_instructions_do_not_get_in(tmp_path: Path) -> None:
    tree = conversation(
        "c1",
        node("i", None, "user", {"content_type": "user_editable_context", "user_instructions": "obey"}),
        node("a", "i", "user", "hello"),
        node("t", "a", "assistant", {"content_type": "thoughts", "thoughts": [{"content": "hm"}]}),
        node("r", "t", "assistant", {"content_type": "reasoning_recap", "content": "Thought for 2 s"}),
        node("h", "r", "assistant", "hidden", **HIDDEN),
        node("e", "h", "assistant", ""),
        node("u", "e", "moderator", "stop"),
        node("b", "u", "assistant", "hi"),
    )
    found = talk(chatgpt(tmp_path / "c.json", tree))
    assert said(found) == [("user", "hello"), ("assistant", "hi")]
    assert found.left_out == {"system": 1, "thinking": 2, "hidden": 1, "empty": 1, "role": 1}


def test_what_passed_between_the_assistant_and_a_tool_becomes_text_that_names_it(tmp_path: Path) -> None:
    output = {"content_type": "execution_output", "text": "1"}
    display = {"content_type": "tether_browsing_display", "result": "a page"}
    tree = conversation(
        "c1",
        node("a", None, "user", "run it"),
        node("c", "a", "assistant", {"content_type": "code", "text": "print(1)"}, recipient="python"),
        node("d", "c", "tool", output, name="python"),
        node("e", "d", "tool", display, name="browser"),
        node("f", "e", "tool", mixed(picture("file-service://file-x"), 5, {"content_type": "odd_thing"}), name="dalle"),
        node("g", "f", "assistant", {"content_type": "tether_quote", "text": 7}),
    )
    found = talk(chatgpt(tmp_path / "c.json", tree))
    assert said(found)[1:] == [
        ("assistant", "[python]\nprint(1)"),
        ("assistant", "[python]\n1"),
        ("assistant", "[browser]\na page"),
        ("assistant", "[dalle]\n[image]\n[odd_thing]"),
    ]
    assert not [each for each in found.messages if each.calls or each.role == "tool"]


def test_without_a_current_node_the_branch_with_the_newest_message_is_read(tmp_path: Path) -> None:
    nodes = (
        node("a", None, "user", "q", 5.0),
        node("new", "a", "assistant", "new", 9.0),
        node("old", "a", "assistant", "old", 7.0),
    )
    trees = [conversation("1", *nodes, current=None), conversation("2", *nodes, current="gone")]
    for found in talks(chatgpt(tmp_path / "c.json", *trees)):
        assert said(found) == [("user", "q"), ("assistant", "new")]


def test_conversations_that_cannot_be_read_are_named_and_the_others_are_read(tmp_path: Path) -> None:
    circle = (node("a", "b", "user", "x"), node("b", "a", "assistant", "y"))
    trees = [
        conversation("good", node("a", None, "user", "q")),
        conversation("circle", *circle),
        conversation("no end", *circle, current=None),
        conversation("", node("a", None, "user", "q")),
        conversation("i" * 300, node("a", None, "user", "q")),
        conversation("nothing"[:7], node("a", None), current="a"),
        {"id": "no tree"},
        5,
        conversation("odd", node("a", None, "user", {"content_type": 5})),
    ]
    found = read(chatgpt(tmp_path / "c.json", *trees))
    assert {each.place: each.cause for each in found if isinstance(each, Skipped)} == {
        "circle": "circle",
        "no end": "circle",
        "4": "form",
        "i" * 200: "form",
        "nothing": "empty",
        "7": "form",
        "8": "form",
        "odd": "form",
    }
    assert [each.origin for each in found if isinstance(each, Talk)] == ["good"]


def test_one_conversation_alone_and_half_a_pair_of_surrogates_are_read(tmp_path: Path) -> None:
    tree = conversation("c1", node("a", None, "user", "half \ud800 a pair"), title=None)
    (tmp_path / "one.json").write_text(json.dumps(tree, indent=1), "ascii")
    assert said(talk(tmp_path / "one.json")) == [("user", "half \ufffd a pair")]
    (tmp_path / "all.json").write_text(json.dumps([tree]), "ascii")
    assert talk(tmp_path / "all.json").title == "half \ufffd a pair"


def test_the_zip_gives_conversations_of_all_its_parts_and_images_of_people(tmp_path: Path) -> None:
    shown = mixed(
        picture("sediment://file_abc"), picture("file-service://file-def"), picture("sediment://file_gone"), "?"
    )
    first = conversation(
        "c1", node("a", None, "user", shown), node("b", "a", "assistant", mixed(picture("sediment://file_abc")))
    )
    second = conversation("c2", node("a", None, "user", "older"))
    files: dict[str, str | bytes] = {
        "export/conversations-000.json": json.dumps([first]),
        "export/conversations-001.json": json.dumps([second]),
        "export/file_abc-photo.png": PNG,
        "export/user-1/file-def-a.dat": b"no image",
        "export/chat.html": "x",
    }
    old, new = talks(archive(tmp_path / "export.zip", files))
    assert said(old) == [("user", "older")]
    assert new.messages[0].images == (Image(PICTURE),)
    assert said(new) == [("user", "[image]\n[image]\n?"), ("assistant", "[image]")]


def test_names_that_lead_out_of_the_zip_are_not_looked_at(tmp_path: Path) -> None:
    tree = conversation("c1", node("a", None, "user", mixed(picture("sediment://file_abc"), "?")))
    files: dict[str, str | bytes] = {
        "../conversations.json": json.dumps([conversation("evil", node("a", None, "user", "q"))]),
        "/conversations.json": "[",
        "..\\conversations.json": "[",
        "conversations.json": json.dumps([tree]),
        "../file_abc.png": PNG,
        "a/../file_abc.png": PNG,
    }
    found = talk(archive(tmp_path / "export.zip", files))
    assert (found.origin, said(found)) == ("c1", [("user", "[image]\n?")])
    assert [each.name for each in tmp_path.iterdir()] == ["export.zip"]


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JSON_LIMIT", 100_000)
    file = archive(tmp_path / "bomb.zip", {"conversations.json": b"[" + b" " * 50_000_000})
    assert file.stat().st_size < 100_000
    with pytest.raises(InputError, match="more than 100,000 bytes"):
        read(file)
    (tmp_path / "big.json").write_bytes(b"[" + b" " * 200_000)
    with pytest.raises(InputError, match="more than 100,000 bytes"):
        read(tmp_path / "big.json")


def test_a_document_of_more_values_than_conversations_have_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "OBJECTS_LIMIT", 50)
    monkeypatch.setattr(base, "VALUES_LIMIT", 200)
    path = tmp_path / "conversations.json"
    for text in ("[" + "{}," * 50 + "{}]", "[" + "1," * 200 + "1," + "1]"):
        path.write_text(text)
        with pytest.raises(InputError, match="take it apart"):
            read(path)
    assert len(talks(chatgpt(path, conversation("c", node("n", None, "user", "question"))))) == 1


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_that_is_packed_in_an_unusual_way_is_refused(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "export.zip"
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("conversations.json", "[]")
    with pytest.raises(InputError, match="its compression"):
        read(path)


def test_a_zip_with_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "export.zip", {"ä": "[]"})
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))
    with pytest.raises(InputError, match="a zip that cannot be read"):
        read(path)


def test_an_image_that_is_too_big_is_noted_and_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PICTURE_LIMIT", len(PNG) - 1)
    tree = conversation("c1", node("a", None, "user", mixed(picture("sediment://file_abc"), "?")))
    files: dict[str, str | bytes] = {"conversations.json": json.dumps([tree]), "file_abc.png": PNG}
    assert said(talk(archive(tmp_path / "export.zip", files))) == [("user", "[image]\n?")]


def test_zips_without_conversations_or_with_damage_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"without conversations\.json"):
        read(archive(tmp_path / "a.zip", {"other.json": "[]"}))
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match="no export of ChatGPT"):
        read(tmp_path / "b.zip")
    whole = archive(tmp_path / "c.zip", {"conversations.json": "[" + "1," * 100_000 + "1]"})
    with zipfile.ZipFile(whole) as file:
        at = file.infolist()[0].header_offset + 60
    data = bytearray(whole.read_bytes())
    data[at : at + 40] = b"\xff" * 40
    whole.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read"):
        read(whole)


@pytest.mark.parametrize("text", ["[1, 2", "[" * 200_000])
def test_a_document_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text, "utf-8")
    with pytest.raises(InputError, match="no export of ChatGPT"):
        read(tmp_path / "c.json")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00\x01", b"\xef\xbb\xbf"])
def test_a_file_of_no_known_format_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError, match="none of"):
        read(tmp_path / "x")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file"):
        read(tmp_path)
