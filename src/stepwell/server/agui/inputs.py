"""What a request of an AG-UI client means: what is new in it, and how a run of it should go. It does nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from stepwell.errors import InputError
from stepwell.messages import Message, ToolSpec, clean
from stepwell.runs.catalog import Catalog, Wish
from stepwell.server.agui.answers import Given
from stepwell.server.agui.bodies import InputMessageBody, OptionsBody, RunInputBody
from stepwell.server.agui.parts import history, is_text, said, text_of
from stepwell.server.agui.wire import NAME, check_sendable, is_mine, number_of
from stepwell.specs import Limits, RunSpec, TaskOptions

Object = dict[str, Any]

LONGEST_CONTEXT = 1_000_000
"""Characters of what a client wants the agent to know besides the conversation."""


class News(NamedTuple):
    """What is new in a conversation.

    Args:
        user: Messages of the user since the last reply, with their places in the request.
        given: Results of calls since then.
        older: The messages before.
        fresh: All that is new, as it came.
    """

    user: list[tuple[int, InputMessageBody]]
    given: list[Given]
    older: list[InputMessageBody]
    fresh: list[InputMessageBody]


def news_of(messages: Sequence[InputMessageBody], before: int = 2**62) -> News:
    """Return what is new in a conversation: what stands after its last reply.

    Args:
        messages: The conversation as a client has it.
        before: Replies that began after the event of this number do not count: they are shown again.
    """
    replies = [index for index, each in enumerate(messages) if each.role == "assistant" and not _since(each, before)]
    last = max(replies, default=-1)
    user: list[tuple[int, InputMessageBody]] = []
    given: list[Given] = []
    older, fresh = list(messages[: last + 1]), list[InputMessageBody]()
    for index, each in enumerate(messages[last + 1 :], last + 1):
        if each.role == "user":
            user.append((index, each))
            fresh.append(each)
        elif each.role == "tool" and not is_mine(each.id):
            given.append(_given(each, f"messages.{index}.content"))
            fresh.append(each)
        else:
            older.append(each)
    return News(user, given, older, fresh)


def _since(body: InputMessageBody, seq: int) -> bool:
    return is_mine(body.id) and number_of(body.id) > seq


def _given(body: InputMessageBody, field: str) -> Given:
    text, more = text_of(body.content), "" if is_text(body.content) else field
    if body.error:
        return Given(body.toolCallId, False, f"{body.error}\n{text}".strip(), more)
    return Given(body.toolCallId, True, text, more)


def unheard(
    user: Sequence[tuple[int, InputMessageBody]], before: Sequence[Message]
) -> list[tuple[int, InputMessageBody]]:
    """Return messages without those at the beginning that the thread ends with: their run came to no reply.

    Args:
        user: New messages as a client has them.
        before: What was said in the thread since its last reply.
    """
    known = [each.content for each in before if each.role == "user"]
    texts = [text_of(each.content) for _, each in user]
    for count in range(min(len(known), len(texts)), 0, -1):
        if known[len(known) - count :] == texts[:count]:
            return list(user[count:])
    return list(user)


def earlier(body: RunInputBody, news: News) -> list[Message]:
    """Return the conversation before the new messages as the history of a new thread; results of calls are part."""
    new = {index for index, _ in news.user}
    return history(each for index, each in enumerate(body.messages) if index not in new)


def message_of(user: Sequence[tuple[int, InputMessageBody]], max_pixels: int) -> Message | None:
    """Return new messages as one, or None where there is none; see `parts.said`."""
    return said(user, max_pixels) if user else None


def own_state(body: RunInputBody) -> Object | None:
    """Return the client's own state, without what is ours; None where it is no object.

    Raises:
        InputError: It cannot be sent back.
    """
    state = body.state
    if state is None:
        return {}
    check_sendable(state, "state")
    known = cast("Mapping[str, Any]", state) if isinstance(state, Mapping) else None
    return None if known is None else {name: value for name, value in known.items() if name != NAME}


def spec_of(catalog: Catalog, body: RunInputBody, text: str, agent: str, key: str) -> RunSpec:
    """Return how a run should go.

    Args:
        catalog: Models and tools.
        body: The request.
        text: What the user says.
        agent: Name of the agent; empty for the default one.
        key: Whose account it is on.

    Raises:
        InputError: Something of it is not there or cannot be used; names the field.
    """
    options = _options(body)
    limits = options.limits
    spec = catalog.spec(
        Wish(
            agent=agent,
            text=text,
            model=options.model,
            tools=options.tools,
            client_tools=_tools(body),
            temperature=options.temperature,
            max_tokens=options.max_tokens,
            limits=Limits(**limits.model_dump()) if limits is not None else None,
            face="agui",
            engine=options.engine or "",
            key=key,
        )
    )
    if options.plan is not None:
        if spec.engine == "chat":
            told = "The engine `chat` has no tasks; name `react`, `plan` or `interaction` as `engine`."
            raise InputError(told, "forwardedProps.stepwell.plan")
        given = options.plan.model_dump(exclude_none=True)
        spec = msgspec.structs.replace(spec, tasks=msgspec.structs.replace(spec.tasks or TaskOptions(), **given))
    more = _told(body)
    return msgspec.structs.replace(spec, system="\n\n".join(filter(None, (spec.system, more)))) if more else spec


def _tools(body: RunInputBody) -> tuple[ToolSpec, ...]:
    given = body.tools or ()
    for index, each in enumerate(given):
        check_sendable(each.parameters, f"tools.{index}.parameters")
    return tuple(ToolSpec(each.name, each.description, each.parameters or {}) for each in given)


def _options(body: RunInputBody) -> OptionsBody:
    props = body.forwardedProps
    if props is None:
        return OptionsBody()
    options, given = props.stepwell or OptionsBody(), props
    return options.model_copy(
        update={
            "model": options.model or given.model,
            "engine": options.engine or given.engine,
            "temperature": given.temperature if options.temperature is None else options.temperature,
        }
    )


def policy_of(body: RunInputBody) -> str:
    """Return what becomes of a message while a run is open; empty for what the thread says."""
    return _options(body).while_running or ""


def _told(body: RunInputBody) -> str:
    """Return what the client's application wants the agent to know, for the end of the system message."""
    texts = [text_of(each.content) for each in body.messages if each.role in ("system", "developer")]
    texts += [
        f"<context about={json.dumps(clean(each.description), ensure_ascii=False)}>\n{clean(each.value)}\n</context>"
        for each in body.context or ()
    ]
    own = own_state(body)
    if own:
        shown = clean(json.dumps(own, ensure_ascii=False))
        texts.append(f"<state of the application>\n{shown}\n</state of the application>")
    told = "\n\n".join(filter(None, texts))
    if len(told) > LONGEST_CONTEXT:
        raise InputError(
            f"`context` and `state` have {len(told):,} characters; {LONGEST_CONTEXT:,} can be told.", "context"
        )
    return told
