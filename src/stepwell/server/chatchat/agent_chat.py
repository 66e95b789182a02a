"""The face of Langchain-Chatchat 0.2 clients: `POST /chat/agent_chat`.

One more encoder over a run's events. Field names, framing, labels and their order are the old service's wire
format; what was broken there is mended here (`docs/agent_chat.md` lists it). Each request is a thread of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from fastapi import APIRouter, Request, Response

from stepwell.config import Config
from stepwell.errors import InputError, StoreError
from stepwell.messages import Message
from stepwell.prompts import names
from stepwell.runs.catalog import Catalog, Wish
from stepwell.runs.channel import Cursor
from stepwell.runs.log import now_ms
from stepwell.runs.requests import NewThread, RunRef
from stepwell.runs.service import RunService
from stepwell.server import sse
from stepwell.server.asking import Key, once_of, run_headers
from stepwell.server.auth import Caller, caller_of
from stepwell.server.chatchat.agent_chat_events import UNFINISHED, Encoder, own
from stepwell.server.chatchat.bodies import AgentChatBody
from stepwell.server.chatchat.frames import Event, frame, ping, streamed
from stepwell.server.chatchat.wishes import DAY, model_of, wish


def agent_chat_route(router: APIRouter, config: Config, service: RunService, catalog: Catalog) -> None:
    """Add the route.

    Args:
        router: Of the old routes.
        config: The settings.
        service: Threads and runs.
        catalog: Models and tools.
    """

    @router.post("/chat/agent_chat", tags=["chatchat"])
    async def agent_chat(  # pyright: ignore[reportUnusedFunction]
        request: Request, body: AgentChatBody, idempotency_key: Key = None
    ) -> Response:
        """Chat with the agent as Langchain-Chatchat 0.2 does."""
        caller = caller_of(request.scope)
        once = await once_of(request, idempotency_key)
        spec = catalog.spec(_wish(config, body, caller.key))
        if not await service.came_before(caller.owner, once):
            await catalog.admit(spec)
        rounds = config.chatchat.history_rounds * 2
        history = [
            Message("user" if each.role == "user" else "assistant", each.content)
            for each in body.history[len(body.history) - rounds if rounds < len(body.history) else 0 :]
        ]
        new = NewThread(history=history if rounds else (), expires=now_ms() + config.chatchat.keep_days * DAY)
        ref = await service.start(caller.owner, Message("user", body.query), spec, new=new, once=once)
        encode = streamed if body.stream else _whole
        events = _events(service, caller, ref, config.chatchat.language)
        return sse.response(encode(events), run_headers(ref))


def _grammar(config: Config, name: str, prompt: str) -> tuple[str, str]:
    """Return the dialect of a model and the template: those of the settings, else what the old service chose.

    Raises:
        InputError: There is no such template.
    """
    known = names("react")
    if (prompt or "default") not in known:
        raise InputError(f"There is no prompt {prompt[:80]!r}; known: {', '.join(known)}.", "prompt")
    old = "glm3" if "chatglm3" in name or "zhipu-api" in name else "react"
    dialect = config.chatchat.dialects.get(name, old)
    # Clients know the names of the old templates; what other dialects have is one of their own.
    return dialect, prompt if dialect in ("react", "glm3") else "default"


def _wish(config: Config, body: AgentChatBody, key: str) -> Wish:
    dialect, prompt = _grammar(config, model_of(config, body.model_name), body.prompt_name)
    plain = wish(
        config,
        text=body.query,
        key=key,
        model=body.model_name,
        temperature=body.temperature,
        max_tokens=body.max_tokens,
    )
    return msgspec.structs.replace(plain, dialect=dialect, prompt=prompt)


async def _events(service: RunService, caller: Caller, ref: RunRef, language: str) -> AsyncGenerator[Event | None]:
    """Yield the old events of a run, its `final_answer` last, None for a heartbeat."""
    encoder, inner = Encoder(), set[int]()
    batches = service.follow(caller.owner, ref.thread, Cursor(ref.run - 1))
    cause = UNFINISHED[language].format(thread=ref.thread)
    try:
        async for items in sse.watched(batches, caller, sse.Until(ref.run)):
            for item in items:
                for event in encoder.encode(item.event) if own(item, inner) else ():
                    yield event
                    if "final_answer" in event:
                        return
            if not items:
                yield None
    except (InputError, StoreError) as error:
        cause = str(error)
    # The headers are gone: old clients read the cause as the answer.
    yield {"final_answer": cause}


async def _whole(events: AsyncGenerator[Event | None]) -> AsyncGenerator[bytes]:
    answer: list[str] = []
    final = ""
    async for event in events:
        if event is None:
            yield ping()
        elif "tools" in event:
            answer.append(_block(event["tools"]))
        else:
            answer.append(event.get("answer", ""))
            final = event.get("final_answer", final)
    yield frame({"answer": "".join(answer), "final_answer": final})


def _block(lines: list[str]) -> str:
    """Return a `tools` array as text; a failure's promise to start over was never part of it."""
    fence, *labels, _ = lines
    return fence + "".join(f"{label}\n" for label in labels if ": " in label) + fence
