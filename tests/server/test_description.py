"""The description at `/openapi.json`: what a generated client believes of keys, errors and streams is true."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepwell.server import description
from tests.support.server import serving


def described(tmp_path: Path) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        async with serving(tmp_path) as server:
            _, first = await server.call("GET", "/openapi.json")
            _, again = await server.call("GET", "/openapi.json")
            assert first == again
            return first

    return asyncio.run(main())


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        part = list(part.values())
    for each in part if isinstance(part, list) else ():
        yield from references(each)


def test_every_reference_leads_to_a_schema_and_every_schema_is_used(tmp_path: Path) -> None:
    document = described(tmp_path)
    assert {each.rpartition("/")[2] for each in references(document)} == set(document["components"]["schemas"])


def test_a_key_is_asked_for_everywhere_but_for_the_health(tmp_path: Path) -> None:
    document = described(tmp_path)
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    open_ones = [
        path for path, item in document["paths"].items() if any("security" in operation for operation in item.values())
    ]
    assert open_ones == ["/health"]


def test_the_routes_that_stream_are_there_and_say_so(tmp_path: Path) -> None:
    paths = described(tmp_path)["paths"]
    for method, path in description._MAY_STREAM:
        answers = paths[path][method]["responses"]
        assert "text/event-stream" in answers["200"]["content"]
        assert "application/json" in answers["202" if "202" in answers else "200"]["content"]
    for method, path in description._STREAMS:
        assert list(paths[path][method]["responses"]["200"]["content"]) == ["text/event-stream"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/messages", {"content": 5}),
        ("/api/threads/{thread}/messages", {"content": ""}),
        ("/agui", {"threadId": 5}),
        ("/v1/chat/completions", {"model": "nobody", "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {"model": 5}),
    ],
)
def test_what_is_refused_has_the_form_that_is_described(path: str, body: dict[str, Any], tmp_path: Path) -> None:
    document = described(tmp_path)

    async def main() -> Any:
        async with serving(tmp_path / "again") as server:
            status, answer = await server.call("POST", path.format(thread=await server.thread()), json=body)
            assert str(status) not in document["paths"][path]["post"]["responses"]
            return answer

    answer = asyncio.run(main())
    schema = document["paths"][path]["post"]["responses"]["default"]["content"]["application/json"]["schema"]
    inner = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]["error"]
    assert list(answer) == ["error"]
    assert set(answer["error"]) == set(inner["required"]) == set(inner["properties"])


def test_a_stream_has_the_status_that_is_described(tmp_path: Path) -> None:
    document = described(tmp_path)

    async def main() -> None:
        async with serving(tmp_path / "again") as server:
            stream = await server.stream("POST", "/api/messages", {"content": "1+1"})
            assert (stream.status, stream.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
            await stream.rest()
        assert "text/event-stream" in document["paths"]["/api/messages"]["post"]["responses"]["200"]["content"]

    asyncio.run(main())
