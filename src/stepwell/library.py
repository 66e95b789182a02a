"""Stepwell inside a program: an agent as an object.

The same service, engines and logs as the server's, in memory or in a file. Nothing is imported for it until
an agent is used, so that `from stepwell import Agent, tool` is cheap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from stepwell.errors import Busy, ConfigError, RunFailed
from stepwell.wiring.library import (
    Bounds,
    Endpoint,
    Helpers,
    Manner,
    answer_form,
    answer_object,
    answer_text,
    context_report,
    library_parts,
    pin_fact,
    user_message,
    with_output,
)
from stepwell.wiring.library_people import (
    Answer,
    Ask,
    At,
    Places,
    all_questions,
    compare_threads,
    ended_state,
    fork_thread,
    give_answer,
    let_go_on,
    newest_plan,
    newest_run,
    open_run,
    pause_run,
    send_message,
    settle_run,
    steer_run,
    waiting_messages,
)

if TYPE_CHECKING:
    from os import PathLike

    from stepwell.agent.replies import Output
    from stepwell.agent.report import ContextReport
    from stepwell.events import Policy, Stored, Transient, Unknown
    from stepwell.messages import Usage
    from stepwell.models.base import Model
    from stepwell.runs.forks import Diff
    from stepwell.runs.log import ThreadLog
    from stepwell.runs.outline import TaskView
    from stepwell.runs.people import QuestionInfo
    from stepwell.runs.requests import RunRef
    from stepwell.specs import EngineName, Prices, Rule, TaskOptions
    from stepwell.state.thread import Queued
    from stepwell.tools.base import Tool

OWNER = "local"
"""Whose the threads of a program are."""


class Result(NamedTuple):
    """What a run came to.

    Args:
        text: The answer.
        thread: The thread's id; give it to the next `run` to go on with the conversation.
        run: The run's number in the thread.
        steps: Model calls made, those of all agents.
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
        approvals: Which calls run at once, are asked for, or refused; the first row that fits decides, and a call that
            none fits runs.
        ask: Answers what runs ask; without it nobody can be asked, and to ask is to refuse. `"wait"` leaves a run
            waiting (`RunWaits`) for `answer`, now or in a later process.
        tasks: How tasks and plans are carried out, for the engines that have them.
        max_money: Most money of one run, in the unit of `prices`; None for no limit.
        prices: What the model costs; None for what is known of its family.

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
        approvals: Sequence[Rule] = (),
        ask: Ask | Literal["wait"] | None = None,
        tasks: TaskOptions | None = None,
        max_money: float | None = None,
        prices: Prices | None = None,
    ) -> None:
        if not (ask is None or ask == "wait" or callable(ask)):
            raise ConfigError(f'`ask` is a function, "wait" or None, not {ask!r}')
        self._ask: Ask | None = None if ask == "wait" else ask
        endpoint = Endpoint(base_url, api_key, window)
        manner = Manner(system, dialect, language, temperature, max_tokens)
        bounds = Bounds(max_steps, max_seconds, max_money, prices, approvals, ask is not None, tasks)
        helpers = Helpers(summaries, summary_model, image_model)
        self._parts = library_parts(model, tools, path, endpoint, manner, bounds, helpers)

    async def run(
        self,
        prompt: str,
        *,
        thread: str = "",
        images: Sequence[str] = (),
        output: object = None,
        engine: EngineName = "chat",
    ) -> Result:
        """Run the agent on a message and return its answer.

        Args:
            prompt: What the user says.
            thread: The thread to go on with; empty begins a new one.
            images: Addresses of images shown with it, `https:` or `data:`.
            output: What the answer should be: a pydantic model, dataclass, msgspec struct or TypedDict, or a JSON
                schema with a `title`. `Result.output` is then such an object.
            engine: `chat`; `react` for a bounded task with a conclusion, `plan` for a tree of tasks, `interaction` for
                a front that talks while a plan works.

        Raises:
            RunWaits: The run waits for people, and there is no `ask`; `answer` lets it go on, `result` waits for it.
            RunFailed: The run ended without an answer; the message says why, and `cause` is the log's word for it.
                With the cause `invalid_output` the answer does not fit `output`.
            InputError: An image is none, or too large.
            ConfigError: `output` describes no answer, or there is no such engine.
            NotFound: There is no such thread.
            Busy: The thread has an open run.
        """
        form = None if output is None else answer_form(output)
        spec, service = with_output(self._parts.spec_for(engine), form), self._parts.service()
        while True:
            log = await service.begin(OWNER, user_message(prompt, images), spec, thread=thread)
            if (result := await self._driven(log, form)) is not None:
                return result

    async def _driven(self, log: ThreadLog, form: Output | None) -> Result | None:
        """Drive a run; return None where another process appended something before its start: it is to begin anew."""
        service, number = self._parts.service(), log.carried
        try:
            await service.drive(log)
            if log.carried < 0:
                return None
            waits = log.state.run is not None and log.state.run.seq == log.carried == number  # or did, and goes on
            return await (self._answered(log.thread, number, form) if waits else _result(log, number, form))
        except asyncio.CancelledError:
            await service.abandon(log, number)
            raise

    async def _answered(self, thread: str, number: int, form: Output | None) -> Result:
        """Answer what the run asks until it has ended."""
        service = self._parts.service()
        async with service.using(OWNER, thread) as log:
            await settle_run(service, OWNER, log, number, self._ask)
            return await _result(log, number, form)

    async def result(self, thread: str, run: int = 0) -> Result:
        """Wait for the end of a run, answering what it asks, and return what it came to.

        Args:
            thread: The thread's id.
            run: The run's number; 0 for the open one, or the last where none is open.

        Raises:
            RunWaits: It waits for people, and there is no `ask`.
            RunFailed: It ended without an answer.
            NotFound: There is no such thread or run.
            InputError: The thread has no run.
        """
        number = await newest_run(self._parts.service(), OWNER, thread, run)
        return await self._answered(thread, number, None)

    async def questions(self, thread: str) -> list[QuestionInfo]:
        """Return what is asked in a thread and not decided, oldest first.

        Raises:
            NotFound: There is no such thread.
        """
        return await all_questions(self._parts.service(), OWNER, thread)

    async def answer(self, thread: str, question: int, answer: Answer) -> None:
        """Decide a question; the run goes on by itself.

        Args:
            thread: The thread's id.
            question: Its number.
            answer: What is decided.

        Raises:
            NotFound: There is no such thread or question.
            Decided: It was decided before, or its run is over.
            Expired: Its time is over.
            InputError: Its kind does not take this answer; names the field.
        """
        await give_answer(self._parts.service(), OWNER, thread, question, answer)

    async def send(
        self, text: str, *, thread: str = "", policy: Policy | None = None, engine: EngineName = "chat"
    ) -> RunRef:
        """Say something, also while a run is open, and return at once; `result` waits for the run.

        Args:
            text: What the user says.
            thread: The thread; empty begins a new one.
            policy: What becomes of it while a run is open: `queue`, `steer`, `interrupt` or `reject`; None for what the
                thread says, which is `queue` without another word.
            engine: As for `run`.

        Returns:
            The run that it began; or where it waits (`queued`); or the open run that was told of it (`steered`).

        Raises:
            ConfigError: There is no such engine.
            InputError: There is no such policy.
            NotFound: There is no such thread.
            Busy: A run is open, and the policy is `reject`.
        """
        spec, service = self._parts.spec_for(engine), self._parts.service()
        return await send_message(service, OWNER, user_message(text), spec, thread, policy)

    async def queue(self, thread: str) -> list[Queued]:
        """Return the messages that wait for the open run to end, in order.

        Raises:
            NotFound: There is no such thread.
        """
        return await waiting_messages(self._parts.service(), OWNER, thread)

    async def plan(self, thread: str) -> TaskView | None:
        """Return the newest plan of a thread as a tree: each task with its status, what it handed in and came to.

        None comes back where no plan was made.

        Raises:
            NotFound: There is no such thread.
        """
        return await newest_plan(self._parts.service(), OWNER, thread)

    async def steer(self, thread: str, text: str, *, interrupt: bool = False) -> None:
        """Say something to the open run of a thread; the agent meets it before its next model call.

        Args:
            thread: The thread's id.
            text: What is said.
            interrupt: Close what is under way first.

        Raises:
            InputError: The thread has no open run.
        """
        await steer_run(self._parts.service(), OWNER, thread, user_message(text), interrupt=interrupt)

    async def pause(self, thread: str) -> None:
        """Halt the open run of a thread before its next model call or tool; `go_on` lets it go on."""
        await pause_run(self._parts.service(), OWNER, thread)

    async def go_on(self, thread: str) -> None:
        """Let a halted run go on."""
        await let_go_on(self._parts.service(), OWNER, thread)

    async def cancel(self, thread: str) -> None:
        """End the open run of a thread.

        Raises:
            InputError: The thread has no open run.
        """
        service = self._parts.service()
        await service.cancel(OWNER, thread, await open_run(service, OWNER, thread))

    async def fork(
        self,
        thread: str,
        at: int,
        *,
        content: str | None = None,
        arguments: str | None = None,
        call: str = "",
        result: str | None = None,
    ) -> RunRef:
        """Make a thread with the events of another up to a number; a run that is open there goes on in it.

        Args:
            thread: The thread's id.
            at: Number of the last event that is taken over; one of the next three changes it.
            content: Another text of a message.
            arguments: Other arguments of a call, as JSON text.
            call: Id of that call, where the reply has several.
            result: Another result of a tool.

        Returns:
            The new thread, with the number of its open run or 0; `result` waits for that.

        Raises:
            NotFound: There is no such thread.
            InputError: There is no such event, or it cannot be changed so.
        """
        given = {"content": content, "arguments": arguments, "call": call or None, "result": result}
        edit = {name: value for name, value in given.items() if value is not None}
        return await fork_thread(self._parts.service(), OWNER, thread, at, edit, None)

    async def diff(self, one: str, other: str) -> Diff:
        """Tell where two threads part, and what each has then.

        Raises:
            NotFound: There is no such thread.
        """
        return await compare_threads(self._parts.service(), OWNER, one, other)

    @overload
    def stream(
        self,
        prompt: str,
        *,
        thread: str = "",
        images: Sequence[str] = (),
        output: object = None,
        engine: EngineName = "chat",
        paths: Literal[False] = False,
    ) -> AsyncGenerator[Stored | Transient | Unknown]: ...

    @overload
    def stream(
        self,
        prompt: str,
        *,
        thread: str = "",
        images: Sequence[str] = (),
        output: object = None,
        engine: EngineName = "chat",
        paths: Literal[True],
    ) -> AsyncGenerator[At]: ...

    async def stream(
        self,
        prompt: str,
        *,
        thread: str = "",
        images: Sequence[str] = (),
        output: object = None,
        engine: EngineName = "chat",
        paths: bool = False,
    ) -> AsyncGenerator[Any]:
        """Run the agent on a message and yield every event of the run as it happens, `RunEnded` last.

        Leaving the loop early does not stop the run. Other arguments and errors are those of `run`, but for
        `RunFailed`: the last event tells. What the run asks comes as an event and waits for `answer`.

        Args:
            prompt: What the user says.
            thread: The thread to go on with.
            images: Addresses of images shown with it.
            output: What the answer should be.
            engine: Who decides the steps.
            paths: Yield each event as an `At`, with the agent inside the run that it happened to.
        """
        spec = with_output(self._parts.spec_for(engine), None if output is None else answer_form(output))
        service = self._parts.service()
        message = user_message(prompt, images)
        async with aclosing(service.stream(OWNER, message, spec, thread=thread)) as items:
            places = Places()
            async for item in items:
                yield At(places.of(item), item.event) if paths else item.event

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

    async def context(
        self, thread: str, step: int | None = None, *, run: int | None = None, agent: str = ""
    ) -> ContextReport:
        """Return what the request of a step held, part by part, and what it left out.

        Args:
            thread: The thread's id.
            step: Number of the agent's step in its run; None for the newest.
            run: Number of the run; None for the newest.
            agent: Path of an agent inside the run, such as `1.2`, as events have it; empty for the run's own.

        Raises:
            NotFound: There is no such thread, run, agent or step.
            InputError: A program outside carried the run out.
        """
        return await context_report(self._parts.service(), OWNER, thread, run or 0, step or 0, agent)

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


async def _result(log: ThreadLog, number: int, form: Output | None) -> Result:
    state = await ended_state(log, number)
    run, ended = state.last or (None, None)
    if run is None or ended is None or run.seq != number:
        raise Busy("Another process took the run over or came first; what it does is in the thread.", "thread")
    if ended.reason != "answer":
        raise RunFailed(ended.detail, ended.cause)
    text = answer_text(state)
    output = None if form is None else answer_object(form, text)
    return Result(text, log.thread, run.seq, run.spent.steps, run.spent.usage, ended.cause, output)
