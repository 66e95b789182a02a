"""What the faces share about requests and answers: strict JSON, idempotency keys, wishes for a stream, headers."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from typing import Annotated, Any, NoReturn, cast

import msgspec
from fastapi import Header, HTTPException, Path, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel

from stepwell.messages import clean
from stepwell.runs.requests import Once, RunRef
from stepwell.tools.json_text import OutsideTexts, marks

Key = Annotated[
    str | None, Header(alias="Idempotency-Key", max_length=200, description="Makes a repeated request happen once.")
]
ThreadId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="The thread's id.")]
JSON = "application/json"
MOST_VALUES = 200_000
"""Values of a body: it is taken apart in one piece, in which nobody else is heard, and as many take 0.2 seconds."""
DEEPEST = 200
"""Levels of a body: what reads and writes it calls itself for each, and has to have room wherever that is done."""
_PIECE = 1 << 16

Number = Annotated[int, Path(ge=1, le=2**31, description="The number of the event that names it.")]


class JsonRoute(APIRoute):
    """A route whose body is JSON as RFC 8259 has it, without duplicate names: nothing in it has two meanings."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, given a request that reads strictly."""
        handle, plain = super().get_route_handler(), _plain_of(self)

        async def strict(request: Request) -> Response:
            request = _JsonRequest(request.scope, request.receive)
            kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
            if kind != JSON and not kind.endswith("+json") and await request.body():
                raise HTTPException(415, f"The body is {kind[:100]!r}; send JSON with `content-type: {JSON}`.")
            given = await plain.read(request) if plain is not None and kind == JSON else None
            return await handle(request) if plain is None or given is None else await plain.answer(**given)

        return strict


class _Plain:
    """Reads good requests of a route that takes one body, which is most of the framework's work for one.

    Others it leaves to the framework, which says what is wrong with them.
    """

    def __init__(self, dependant: Dependant, body: type[BaseModel]) -> None:
        self.answer = cast("Callable[..., Coroutine[Any, Any, Response]]", dependant.call)
        self._dependant, self._body, self._name = dependant, body, dependant.body_params[0].name

    async def read(self, request: Request) -> dict[str, Any] | None:
        """Return what the route is called with, or None if the request has more than a body or a fault."""
        taken = self._dependant
        given: dict[str, Any] = {taken.request_param_name: request} if taken.request_param_name else {}
        for field in taken.header_params:
            if field.alias in request.headers:
                return None
            given[field.name] = field.default
        for field in taken.path_params:
            given[field.name], wrong = field.validate(request.path_params.get(field.alias))
            if wrong:
                return None
        try:
            given[self._name] = self._body.model_validate(await request.json())
        except ValueError:
            return None
        return given


def _plain_of(route: APIRoute) -> _Plain | None:
    """Return what reads the good requests of a route; None for one that takes other things than a body."""
    taken = route.dependant
    others = (taken.dependencies, taken.query_params, taken.cookie_params, taken.response_param_name)
    if any(others) or taken.background_tasks_param_name or len(taken.body_params) != 1:
        return None
    body: object = taken.body_params[0].field_info.annotation
    return _Plain(taken, body) if isinstance(body, type) and issubclass(body, BaseModel) else None


class _JsonRequest(Request):
    async def json(self) -> Any:
        """Return the body; raises `JSONDecodeError`, of which the framework makes a validation error."""
        if not hasattr(self, "_json"):  # the framework reads again what is wrong in it
            self._json = self._read(await self.body())
        return self._json

    def _read(self, body: bytes) -> Any:
        if _is_too_much(body):
            raise HTTPException(413, f"The body has more than {MOST_VALUES:,} values; send less at once.")
        try:
            # Given bytes, `json` would let halves of surrogate pairs through.
            read = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_no_constant)
        except json.JSONDecodeError:
            raise
        except RecursionError:
            _malformed("it is nested too deep")
        except UnicodeDecodeError:
            packed = "content-encoding" in self.headers
            _malformed("it is packed; send it without `content-encoding`" if packed else "it is not UTF-8")
        except ValueError:
            _malformed("a number in it has too many digits")
        if body.count(b"[") + body.count(b"{") > DEEPEST and _is_too_deep(read):
            _malformed("it is nested too deep")
        return read


def _is_too_much(body: bytes) -> bool:
    """Tell whether a body has more than `MOST_VALUES`, without taking it apart."""
    if marks(body) <= MOST_VALUES:
        return False
    found, outside = 0, OutsideTexts()  # now those in texts are left out
    for start in range(0, len(body), _PIECE):
        found += marks(outside.take(body[start : start + _PIECE]))
        if found > MOST_VALUES:
            return True
    return False


def _is_too_deep(read: Any) -> bool:
    """Tell whether what was read has more than `DEEPEST` levels."""
    level: list[Any] = [read]
    for _ in range(DEEPEST + 1):
        level = [inner for each in level for inner in _inside(each)]
        if not level:
            return False
    return True


def _inside(read: Any) -> Iterable[Any]:
    """Return what an object or an array holds; nothing for any other value."""
    if isinstance(read, dict):
        return cast("dict[str, Any]", read).values()
    return cast("list[Any]", read) if isinstance(read, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        _malformed(f"the field `{clean(twice[:80])}` is there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    _malformed(f"{name} is no JSON number")


def _malformed(message: str) -> NoReturn:
    raise json.JSONDecodeError(message, "", 0)


async def once_of(request: Request, key: str | None) -> Once | None:
    """Return what makes this request happen once, if the client sent an idempotency key."""
    if not key:
        return None
    return Once(request.url.path, key, hashlib.sha256(await request.body()).hexdigest())


def wants_stream(request: Request) -> bool:
    """Tell whether the client accepts server-sent events."""
    return "text/event-stream" in request.headers.get("accept", "")


def run_headers(ref: RunRef) -> dict[str, str]:
    """Return the headers that name a run, so that it can be followed and cancelled elsewhere."""
    named = {"x-stepwell-run": str(ref.run)} if ref.run else {}
    return {"x-stepwell-thread": ref.thread, **named}


def json_response(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer as JSON."""
    return Response(msgspec.json.encode(body), status, headers, JSON)
