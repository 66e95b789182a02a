"""`GET /tools` and `POST /tools/call` of Langchain-Chatchat 0.3: tools without a model.

A direct call is under the same keys, rules and limits as a model's. Nobody can be asked here, so what a rule asks about
is refused. It is no run and stands in no thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from stepwell.config import Config
from stepwell.engines.approvals import rule_text
from stepwell.engines.delegating import Delegating
from stepwell.errors import LimitReached, StepwellError
from stepwell.messages import ToolCall, ToolSpec, clean
from stepwell.runs.answers import HasToolbox
from stepwell.runs.catalog import Catalog
from stepwell.runs.service import RunService
from stepwell.server.asking import Key
from stepwell.server.auth import Caller, caller_of
from stepwell.server.chatchat.bodies import OldToolCallBody
from stepwell.server.chatchat.envelope import envelope
from stepwell.server.chatchat.wishes import wish
from stepwell.specs import RunSpec
from stepwell.tools.base import Tool, Toolbox, ToolContext, ToolResult
from stepwell.tools.policy import arguments_of, asking_of, decide, is_untrusted, place_of

_log = logging.getLogger("stepwell.server")


class Refused(StepwellError):
    """A call is not made.

    Args:
        code: What an HTTP status would be.
        message: Why, in words.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def tool_routes(router: APIRouter, config: Config, service: RunService, catalog: Catalog) -> None:
    """Add the routes.

    Args:
        router: Of the old routes.
        config: The settings.
        service: Builds the engines whose tools are called.
        catalog: Models and tools.
    """

    @router.get("/tools", tags=["chatchat"])
    async def list_old_tools() -> Response:  # pyright: ignore[reportUnusedFunction]
        """List the tools that are switched on, as Langchain-Chatchat 0.3 does."""
        return envelope({each.spec.name: _shown(each.spec) for each in catalog.tools()})

    @router.post("/tools/call", tags=["chatchat"])
    async def call_tool(request: Request, body: OldToolCallBody, idempotency_key: Key = None) -> Response:  # pyright: ignore[reportUnusedFunction]
        """Call a tool without a model, if the rules let it run unasked."""
        try:
            check_once(idempotency_key)
            result = await call(config, service, catalog, caller_of(request.scope), body.name, body.tool_input)
        except Refused as refused:
            return envelope(None, refused.code, str(refused))
        except LimitReached as error:
            return envelope(None, 429, str(error))
        return envelope(result.content)


def check_once(key: str | None) -> None:
    """Refuse an idempotency key.

    Raises:
        Refused: There is one: what a direct call did is in no log, so nobody can tell if it came before.
    """
    if key:
        raise Refused(422, "A direct call of a tool cannot be made once; leave Idempotency-Key out.")


async def call(
    config: Config,
    service: RunService,
    catalog: Catalog,
    caller: Caller,
    name: str,
    given: dict[str, Any],
    *,
    kept: bool = False,
) -> ToolResult:
    """Call a tool and return its result, which is good.

    Args:
        config: The settings.
        service: Builds the engine whose tool is called.
        catalog: Models and tools.
        caller: Who asks.
        name: The tool.
        given: Its arguments.
        kept: Whether a conversation goes on with the result, in which it would not count as text of strangers.

    Raises:
        Refused: There is no such tool, the rules do not let it run unasked, or it failed.
        LimitReached: The caller's key has no means left.
    """
    if name not in {each.spec.name for each in catalog.tools()}:
        raise Refused(500, f"no tool named '{name[:200]}'")
    spec = catalog.spec(msgspec.structs.replace(wish(config, text="", key=caller.key, model=""), tools=(name,)))
    await catalog.admit(spec)
    engine = service.engine(spec)
    assert isinstance(engine, HasToolbox)
    made = ToolCall(f"call_{secrets.token_hex(12)}", name, clean(json.dumps(given, ensure_ascii=False)))
    result = await _run(engine.toolbox, spec, made, kept)
    _log.info("%s called the tool %s directly: %s", caller.owner, name, result.status)
    if result.status != "ok":
        raise Refused(500, f"failed to call tool '{name}': {result.content}")
    return result


async def _run(toolbox: Toolbox, spec: RunSpec, made: ToolCall, kept: bool) -> ToolResult:
    prepared = toolbox.prepare(made)
    if isinstance(prepared, ToolResult):
        raise Refused(422, prepared.content)
    _check(spec, prepared.tool, made)
    if kept and is_untrusted(prepared.tool):
        raise Refused(403, f"The tool {made.name} brings text of strangers; leave conversation_id out.")
    context = ToolContext(thread="", run=0, call=made.id, key=made.id, progress=_unheard)
    try:
        async with asyncio.timeout(spec.limits.seconds):
            return await toolbox.run(prepared, context)
    except TimeoutError:
        raise Refused(500, f"failed to call tool '{made.name}': the time limit of a run is over") from None


def _check(spec: RunSpec, tool: Tool, made: ToolCall) -> None:
    """Refuse what does not run unasked; rules about untrusted text find none, for there is no context."""
    if asking_of(tool) is not None or isinstance(tool, Delegating):
        raise Refused(403, f"The tool {made.name} is carried out by an agent's run only.")
    arguments = arguments_of(tool, made.arguments)
    decision, rule = decide(spec.approvals, made.name, tool.effect, place_of(tool), arguments, False)
    if decision == "deny":
        raise Refused(403, f"A rule refuses this call: {rule_text(rule)}.")
    if decision == "ask":
        said = f"A rule asks a person about this call, and here nobody can be asked: {rule_text(rule)}."
        raise Refused(403, said)


def _unheard(text: str) -> None:
    """Nobody listens to how far a call is."""


def _shown(spec: ToolSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "title": spec.name.replace("_", " "),
        "description": spec.description,
        "args": spec.parameters.get("properties", {}),
        "config": {},
    }
