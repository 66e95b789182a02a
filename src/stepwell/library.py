"""Stepwell inside a program: an agent as an object.

The same service, engines and logs as the server's, in memory or in a file. Nothing is imported for it until
an agent is used, so that `from stepwell import Agent, tool` is cheap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

from stepwell.errors import Busy, RunFailed
from stepwell.wiring.library import (
    answer_form,
    answer_object,
    context_report,
    library_parts,
    pin_fact,
    user_message,
    with_output,
)

if TYPE_CHECKING:
    from os import PathLike

    from stepwell.agent.replies import Output
    from stepwell.agent.report import ContextReport
    from stepwell.events import Stored, Transient, Unknown
    from stepwell.messages import Usage
    from stepwell.models.base import Model
    from stepwell.runs.log import ThreadLog
    from stepwell.tools.base import Tool

OWNER = "local"
"""Whose the threads of a program are."""


class Result(NamedTuple):
    """What a run came to.

    Args:
        text: The answer.
        thread: The thread's id; give it to the next `run` to go on with the conversation.
        run: The run's number in the thread.
        steps: Model calls made.
        usage: Tokens counted by the provider.
        cause: Empty, or why the answer is not all that it could be, such as `length`.
        output: The answer as an object, where one was asked for.
    """

    text: str
    thread: str
    run: int
    steps: int
    usage: Usage
    cause: str = ""
    output: Any = None


class Agent:
    """An agent with a model and tools.

    Args:
        model: A model's name at `base_url`; empty or `offline` for the embedded one; or a model object.
        base_url: An OpenAI-compatible endpoint up to and including `/v1`.
        api_key: The endpoint's key.
        system: The system message.
        tools: Functions, marked with `@tool` or not, or tool objects.
        path: A database file in which its threads are kept; None keeps them in memory.
        dialect: `native`, a dialect such as `react`, or empty for what the model's family can do.
        language: Of prompts and notices: `en` or `zh`.
        temperature: Sampling temperature; None leaves it to the endpoint.
        max_tokens: Longest reply in tokens; None leaves it to the endpoint.
        max_steps: Most model calls of one run; None for no limit.
        max_seconds: Most seconds of one run; None for no limit.
        window: The model's context window in tokens; None for what is known of its family.
        summaries: Whether a model summarises in the background what left the window.
        summary_model: Who makes these summaries, such as a cheaper model; None for the agent's own. Like `model`.
        image_model: Who is asked where a conversation holds images and the agent's own model does not see. Like
            `model`.

    Raises:
        ConfigError: An argument is wrong; the message names it.
    """

    def __init__(
        self,
        model: str | Model = "",
        *,
        base_url: str = "",
        api_key: str = "",
        system: str = "",
        tools: Sequence[Callable[..., Any] | Tool] = (),
        path: str | PathLike[str] | None = None,
        dialect: str = "",
        language: str = "en",
        temperature: float | None = None,
        max_tokens: int | None = None,
        max_steps: int | None = 50,
        max_seconds: float | None = None,
        window: int | None = None,
        summaries: bool = True,
        summary_model: str | Model | None = None,
        image_model: str | Model | None = None,
    ) -> None:
        self._parts = library_parts(
            model,
            base_url=base_url,
            api_key=api_key,
            system=system,
            tools=tools,
            path=path,
            dialect=dialect,
            language=language,
            temperature=temperature,
            max_tokens=max_tokens,
            max_steps=max_steps,
            max_seconds=max_seconds,
            window=window,
            summaries=summaries,
            summary_model=summary_model,
            image_model=image_model,
        )

    async def run(self, prompt: str, *, thread: str = "", images: Sequence[str] = (), output: object = None) -> Result:
        """Run the agent on a message and return its answer.

        Args:
            prompt: What the user says.
            thread: The thread to go on with; empty begins a new one.
            images: Addresses of images shown with it, `https:` or `data:`.
            output: What the answer should be: a pydantic model, dataclass, msgspec struct or TypedDict, or a JSON
                schema with a `title`. `Result.output` is then such an object.

        Raises:
            RunFailed: The run ended without an answer; the message says why, and `cause` is the log's word for it.
                With the cause `invalid_output` the answer does not fit `output`.
            InputError: An image is none, or too large.
            ConfigError: `output` describes no answer.
            NotFound: There is no such thread.
            Busy: The thread has an open run.
        """
        form = None if output is None else answer_form(output)
        spec = with_output(self._parts.spec, form)
        service = self._parts.service()
        log = await service.begin(OWNER, user_message(prompt, images), spec, thread=thread)
        number = log.carried
        try:
            await service.drive(log)
        except asyncio.CancelledError:
            await service.abandon(log, number)
            raise
        return _result(log, number, form)

    async def stream(
        self, prompt: str, *, thread: str = "", images: Sequence[str] = (), output: object = None
    ) -> AsyncGenerator[Stored | Transient | Unknown]:
        """Run the agent on a message and yield every event of the run as it happens, `RunEnded` last.

        Leaving the loop early does not stop the run. Arguments and errors are those of `run`, but for
        `RunFailed`: the last event tells.
        """
        spec = with_output(self._parts.spec, None if output is None else answer_form(output))
        service = self._parts.service()
        message = user_message(prompt, images)
        async with aclosing(service.stream(OWNER, message, spec, thread=thread)) as items:
            async for item in items:
                yield item.event

    async def pin(self, thread: str, text: str) -> None:
        """Keep a fact before the model in a thread, whatever else leaves its window.

        Args:
            thread: The thread's id.
            text: 1 to 4,000 characters.

        Raises:
            NotFound: There is no such thread.
            InputError: The text is empty or too long, or the pins would take too much of the window.
        """
        await pin_fact(self._parts.service(), OWNER, thread, text)

    async def context(self, thread: str, step: int | None = None, *, run: int | None = None) -> ContextReport:
        """Return what the request of a step held, part by part, and what it left out.

        Args:
            thread: The thread's id.
            step: Number of the step in its run; None for the newest.
            run: Number of the run; None for the newest.

        Raises:
            NotFound: There is no such thread, run or step.
        """
        return await context_report(self._parts.service(), OWNER, thread, run or 0, step or 0)

    async def resume(self) -> int:
        """Go on with every run of the file that another process left unfinished; return how many."""
        return await self._parts.service().resume()

    async def close(self) -> None:
        """Close the file and the connections; unfinished runs stay in the file to be resumed."""
        await self._parts.close()

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _result(log: ThreadLog, number: int, form: Output | None) -> Result:
    run, ended = log.state.last or (None, None)
    if run is None or ended is None or run.seq != number:
        raise Busy("Another process took the run over or came first; what it does is in the thread.", "thread")
    if ended.reason != "answer":
        raise RunFailed(ended.detail, ended.cause)
    text = run.reply.content if run.reply else ""
    output = None if form is None else answer_object(form, text)
    return Result(text, log.thread, run.seq, run.steps, run.usage, ended.cause, output)
