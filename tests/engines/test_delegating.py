"""An agent gives tasks to other agents: each works on a path of its own, by the same rules and from the same purse."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from stepwell.agent.base import BaseAgent
from stepwell.agent.task_agents import ToolAgent
from stepwell.engines.base import Engine
from stepwell.engines.calls import Calls
from stepwell.engines.chat import ChatEngine
from stepwell.engines.react import ReactEngine
from stepwell.errors import ConfigError
from stepwell.events import (
    Answered,
    CancelRequested,
    PauseRequested,
    Recorded,
    ResumeRequested,
    RunEnded,
    Steered,
    TaskEnded,
    TaskStarted,
    ToolEnded,
    ToolStarted,
)
from stepwell.log import Log
from stepwell.messages import Message
from stepwell.models.base import Failure, ModelRequest
from stepwell.models.scripted import Answer, Gate, call, reply
from stepwell.plans import Task
from stepwell.runs.replay import replay
from stepwell.runs.replay_parts import ReplayToolbox
from stepwell.specs import Limits, Rule, RunSpec, TaskOptions
from stepwell.tools.base import Toolbox
from stepwell.tools.builtin.ask_human import ask_human_tool
from stepwell.tools.builtin.delegate import DelegateTool
from stepwell.tools.mark import tool
from tests.support.runs import bounded, chat_engine, end_of, events_of
from tests.support.tasks import TaskRig, concluded, offered, results, submit, told


class HelpedRig(TaskRig):
    """Runs of one thread whose agent may give tasks to `reader` and `writer`."""

    def __init__(self, model: Any, *tools: Callable[..., Any], engine: Any = "chat") -> None:
        super().__init__(model, *tools, engine=engine)
        self.whole = Toolbox(
            [*self.toolbox.tools, ask_human_tool(), DelegateTool({"reader": "reads", "writer": "writes"})]
        )
        self.toolbox = self.whole

    def assemble(self, spec: RunSpec) -> Engine:
        box = Toolbox([each for each in self.whole.tools if each.spec.name in spec.tools])
        if isinstance(self.toolbox, ReplayToolbox):
            box = self.toolbox.over(box)
        calls = Calls(box, None, self.delegate, self.assemble)
        if spec.engine == "react":
            return ReactEngine(lambda log: ToolAgent(model=self.answers, tools=box.specs, log=log), calls)

        def make_agent(log: Log) -> BaseAgent:
            return BaseAgent(step_prompt="", default_replies=None, model=self.answers, tools=box.specs, log=log)

        engine = ChatEngine(make_agent, box)
        engine.calls = calls
        return engine

    def delegate(self, parent: RunSpec, name: str, text: str) -> tuple[Task, RunSpec] | None:
        options = TaskOptions(max_chain_length=4)
        spec = msgspec.structs.replace(parent, agent=name, engine="react", tasks=options, system=f"You are {name}.")
        return Task(id="1", name=text[:80], goal=text), spec

    def steer(self, text: str, *, interrupt: bool = False, path: str = "") -> None:
        """Say something to an agent, as the service does."""
        self.say(Steered(Message("user", text), interrupt), path=path)
        if interrupt and self.log.interrupt is not None:
            self.log.interrupt()


def give(agent: str, task: str) -> Any:
    return call("delegate", agent=agent, task=task)


class Shop:
    """A tool that does harm, a tool that waits at a gate, and a model that decides by what a request holds.

    Args:
        given: The calls of the agent of the run.
        asks: What a helper calls first, by its task.
    """

    def __init__(self, *given: Any, **asks: Any) -> None:
        self.given, self.asks = given, asks
        self.gate, self.ran = Gate(), list[str]()

        @tool(effect="write")
        async def write(what: str) -> str:
            """Write."""
            self.ran.append(what)
            return f"wrote {what}"

        @tool(effect="pure")
        async def slow() -> str:
            """Take long."""
            await self.gate.wait()
            return "slow"

        @tool(effect="pure", untrusted=True)
        async def page() -> str:
            """Read a page."""
            return "page"

        self.tools = (write, slow, page)

    def __call__(self, request: ModelRequest) -> Answer:
        if "conclusion" in offered(request):
            goal = told(request)
            status = "failure" if "bad" in goal else "success"
            return concluded("ended", status, reply=f"All of {self.task(request)}.")
        done = results(request)
        if "subtask_submit" not in offered(request):
            return f"Done: {len(done)}" if done else reply("", *self.given)
        wanted = self.asks.get(self.task(request), ())
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        return wanted[len(done)] if len(done) < len(wanted) else submit(f"did {self.task(request)}")

    def task(self, request: ModelRequest) -> str:
        opening = next(each.content for each in request.messages if each.role == "user")
        return opening.split("\n\n")[1] if "\n\n" in opening else opening

    def rig(self, **options: Any) -> HelpedRig:
        return HelpedRig(self, *self.tools, **options)


def paths(log: list[Recorded]) -> list[str]:
    return [each.path for each in log if isinstance(each.event, TaskStarted)]


def of_calls(log: list[Recorded], path: str = "") -> list[tuple[str, str]]:
    return [
        (each.event.status, each.event.content)
        for each in log
        if each.path == path and isinstance(each.event, ToolEnded)
    ]


async def replayed(log: list[Recorded], made: HelpedRig) -> None:
    """Check that a replay of every beginning makes the same decisions; the end of a cancel is one."""
    answers, box = made.answers, made.toolbox
    stopped = next((each.seq for each in log if isinstance(each.event, CancelRequested)), len(log))
    for end in (*range(1, stopped), len(log)):
        found = await replay(log[:end], made.parts(), "t")
        made.answers, made.toolbox = answers, box
        assert found is None, (end, found)


@pytest.mark.parametrize("engine", ["chat", "react"])
def test_a_task_is_done_by_another_agent_and_its_conclusion_is_the_result(engine: str) -> None:
    async def main() -> None:
        shop = Shop(give("reader", "x"), x=call("write", what="x"))
        if engine == "react":
            shop.asks["go"] = (give("reader", "x"),)
        made = shop.rig(engine=engine)
        log = await made.play("go")
        seq, started = next((each.seq, each.event) for each in log if isinstance(each.event, ToolStarted))
        assert (started.name, started.effect) == ("delegate", "pure")
        assert paths(log) == [f"reader:{seq}"]
        begun = events_of(log, TaskStarted)[0]
        assert (begun.call, begun.spec.agent, begun.task.goal) == (started.call, "reader", "x")
        assert of_calls(log)[0] == ("ok", "The agent reader did the task.\n\nAll of x.")
        assert shop.ran == ["x"]
        assert end_of(log) == RunEnded("answer")
        await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (call("delegate", agent="nobody", task="x"), "`agent` must be one of"),
        (call("delegate", agent="reader"), "task"),
        (call("delegate", agent="reader", task="  "), "write 1 to 20000"),
    ],
)
def test_a_task_for_nobody_or_of_nothing_is_refused_before_it_begins(given: Any, said: str) -> None:
    async def main() -> None:
        made = Shop(given).rig()
        log = await made.play("go")
        ((status, content),) = of_calls(log)
        assert status == "invalid"
        assert said in content
        assert not events_of(log, ToolStarted)
        await replayed(log, made)

    bounded(main)


def test_an_agent_that_is_gone_is_told_of_and_without_wiring_nothing_is_given() -> None:
    async def main() -> None:
        made = Shop(give("reader", "x")).rig()
        made.delegate = lambda parent, name, text: None  # type: ignore[method-assign]
        assert of_calls(await made.play("go")) == [("invalid", "There is no agent reader any more.")]
        plain = Shop(give("reader", "x")).rig()
        plain.assemble = lambda spec: chat_engine(plain.answers, plain.toolbox)  # type: ignore[method-assign]
        assert of_calls(await plain.play("go")) == [("failed", "No task can be given to another agent here.")]

    bounded(main)


def test_a_task_that_fails_is_a_failed_call_with_what_was_found() -> None:
    async def main() -> None:
        made = Shop(give("reader", "bad")).rig()
        log = await made.play("go")
        assert of_calls(log) == [("failed", "The agent reader did not reach the goal.\n\nAll of bad.")]
        shop = Shop(give("reader", "x"), x=Failure("request", "broken"))
        log = await shop.rig().play("go")
        ((status, content),) = of_calls(log)
        assert status == "failed"
        assert "broken" in content
        assert end_of(log) == RunEnded("answer")

    bounded(main)


def test_agents_delegate_in_turn_down_to_a_fixed_depth() -> None:
    async def main() -> None:
        shop = Shop(give("reader", "x"), x=give("writer", "y"), y=give("reader", "z"))
        made = shop.rig()
        log = await made.play("go")
        outer, inner = paths(log)
        assert inner.startswith(f"{outer}/writer:")
        assert of_calls(log, inner)[0][0] == "unknown_tool"
        of_inner = next(each for each in made.model.calls if "You are writer." in each.messages[0].content)
        assert "delegate" not in {each.name for each in of_inner.tools}
        assert end_of(log) == RunEnded("answer")
        await replayed(log, made)

    bounded(main)


ASK = (Rule(decision="ask", tool="write"),)


def test_agents_side_by_side_wait_for_people_each_while_the_others_go_on() -> None:
    async def main() -> None:
        given = (give("reader", "x"), give("writer", "y"), call("slow"), give("writer", "z"))
        shop = Shop(*given, x=call("write", what="x"), y=call("write", what="y"))
        made = shop.rig()
        task = asyncio.create_task(made.play("go", approvals=ASK))
        while len(made.log.state.questions) < 2 or len(of_calls(await made.log.read())) < 1:
            await asyncio.sleep(0)
        assert of_calls(await made.log.read())[0][1] == "The agent writer did the task.\n\nAll of z."
        first, second = made.log.state.questions.values()
        made.say(Answered(second.seq, "approve"), path=second.path)
        while len(of_calls(await made.log.read())) < 2:  # beside the slow call, and beside the other question
            await asyncio.sleep(0)
        assert shop.ran == ["y"]
        shop.gate.set()
        await task
        assert made.log.state.run is not None
        assert made.log.state.run.waiting is not None
        made.say(Answered(first.seq, "deny", "no"), path=first.path)
        log = await made.go_on()
        assert shop.ran == ["y"]
        assert [status for status, _ in of_calls(log)] == ["ok"] * 4
        assert end_of(log) == RunEnded("answer")
        await replayed(log, made)

    bounded(main)


def test_an_answer_that_comes_while_the_run_is_about_to_wait_is_not_lost() -> None:
    async def main() -> None:
        shop = Shop(give("reader", "x"), x=call("write", what="x"))
        made = shop.rig()
        assemble = made.assemble

        class Answering(ReactEngine):
            async def close(self) -> None:
                for each in [*made.log.state.questions.values()]:
                    made.say(Answered(each.seq, "approve"), path=each.path)

        def answering(spec: RunSpec) -> Engine:
            engine = assemble(spec)
            if isinstance(engine, ReactEngine):
                engine.__class__ = Answering
            return engine

        made.assemble = answering  # type: ignore[method-assign]
        log = await made.play("go", approvals=ASK)
        assert end_of(log) == RunEnded("answer")
        assert shop.ran == ["x"]

    bounded(main)


def test_where_nobody_can_answer_the_question_of_a_helper_ends_the_run_and_stays_open() -> None:
    async def main() -> None:
        shop = Shop(give("reader", "x"), x=call("ask_human", question="Which?"))
        made = shop.rig()
        log = await made.play("go", people=False)
        assert (end_of(log).reason, end_of(log).cause) == ("answer", "question")
        assert len(made.log.state.questions) == 1
        assert events_of(log, TaskEnded)[0].cause == "question"
        await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize(("limit", "ran"), [(1, []), (2, ["1"]), (3, ["1", "2"])])
def test_the_limit_of_calls_holds_for_helpers_and_counts_the_call_that_gave_the_task(
    limit: int, ran: list[str]
) -> None:
    async def main() -> None:
        writes = tuple(call("write", what=str(at)) for at in (1, 2, 3))
        shop = Shop(give("reader", "x"), x=writes)
        made = shop.rig()
        log = await made.play("go", limits=Limits(tool_calls=limit))
        assert shop.ran == ran
        assert events_of(log, TaskEnded)[0].cause == "tool_calls"
        assert end_of(log).reason in ("limit", "answer")
        await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize("limit", range(2, 7))
def test_helpers_side_by_side_end_at_the_limit_of_calls_and_never_wait_for_each_other(limit: int) -> None:
    async def main() -> None:
        writes = tuple(call("write", what=str(at)) for at in (1, 2))
        shop = Shop(give("reader", "x"), give("writer", "y"), x=writes, y=give("reader", "z"), z=writes)
        made = shop.rig()
        log = await made.play("go", limits=Limits(tool_calls=limit))
        begun = [each for each in events_of(log, ToolStarted) if each.name != "subtask_submit"]
        assert len(begun) <= limit
        assert end_of(log).reason in ("limit", "answer")
        await replayed(log, made)

    bounded(main)


@pytest.mark.parametrize("limit", range(1, 5))
def test_a_limit_of_steps_ends_the_helper_and_the_run(limit: int) -> None:
    async def main() -> None:
        made = Shop(give("reader", "x"), x=call("write", what="x")).rig()
        log = await made.play("go", limits=Limits(steps=limit))
        assert (end_of(log).reason, end_of(log).cause) == ("limit", "steps")
        assert made.asked == limit
        await replayed(log, made)

    bounded(main)


def test_text_of_strangers_that_a_helper_read_is_text_of_strangers_for_the_giver() -> None:
    async def main() -> None:
        made = Shop(give("reader", "x"), x=call("page")).rig()
        await made.play("go")
        assert made.log.state.untrusted

    bounded(main)


def test_the_chain_of_a_helper_is_bounded() -> None:
    async def main() -> None:
        made = Shop(give("reader", "x"), x=tuple(call("write", what=str(at)) for at in range(9))).rig()
        log = await made.play("go")
        assert len(made.whole.names) == 5
        assert len([each for each in log if each.path and isinstance(each.event, ToolEnded)]) == 4
        assert end_of(log) == RunEnded("answer")

    bounded(main)


@pytest.mark.parametrize("to_helper", [True, False])
def test_what_is_said_to_a_helper_reaches_it_and_an_interrupt_closes_what_it_has_open(to_helper: bool) -> None:
    async def main() -> None:
        shop = Shop(give("reader", "x"), x=call("slow"))
        made = shop.rig()
        task = asyncio.create_task(made.play("go"))
        await shop.gate.reached.wait()
        (path,) = made.log.state.agents
        made.steer("News.", interrupt=True, path=path if to_helper else "")
        log = await task
        ended = events_of(log, TaskEnded)[0]
        if to_helper:
            assert of_calls(log, path)[0][0] == "cancelled"
            assert ended.status == "success"
            assert any("News." in each.content for asked in made.model.calls for each in asked.messages)
        else:
            assert (ended.status, ended.cause) == ("cancelled", "interrupted")
            assert of_calls(log)[0][0] == "cancelled"
        assert end_of(log) == RunEnded("answer")
        await replayed(log, made)

    bounded(main)


def test_a_cancel_closes_the_helper_and_a_pause_halts_it() -> None:
    async def main() -> None:
        shop = Shop(give("reader", "x"), x=call("slow"))
        made = shop.rig()
        task = asyncio.create_task(made.play("go"))
        await shop.gate.reached.wait()
        made.say(PauseRequested())
        shop.gate.set()
        await task
        run = made.log.state.run
        assert run is not None
        assert run.waiting is not None
        made.say(ResumeRequested())
        log = await made.go_on()
        assert end_of(log) == RunEnded("answer")
        await replayed(log, made)

        shop = Shop(give("reader", "x"), x=call("slow"))
        made = shop.rig()
        task = asyncio.create_task(made.play("go"))
        await shop.gate.reached.wait()
        made.say(CancelRequested())
        assert made.log.interrupt is not None
        made.log.interrupt()
        log = await task
        assert end_of(log).reason == "cancelled"
        assert events_of(log, TaskEnded)[0].status == "cancelled"
        await replayed(log, made)

    bounded(main)


def test_settings_that_lost_the_model_of_a_helper_end_the_run_with_the_cause() -> None:
    async def main() -> None:
        made = Shop(give("reader", "x")).rig()
        assemble = made.assemble

        def gone(spec: RunSpec) -> Engine:
            if spec.agent == "reader":
                raise ConfigError("there is no model 'm' in the settings any more")
            return assemble(spec)

        made.assemble = gone  # type: ignore[method-assign]
        log = await made.play("go")
        assert (end_of(log).reason, end_of(log).cause) == ("failed", "config")

    bounded(main)


def test_after_a_stop_at_any_event_the_helpers_end_the_same_and_each_effect_comes_once() -> None:
    given = (give("reader", "x"), give("writer", "y"))

    async def main() -> None:
        first = Shop(*given, x=call("write", what="x"), y=give("reader", "z"), z=call("page"))
        whole = await first.rig().play("go")
        for end in range(2, len(whole)):
            shop = Shop(*given, x=call("write", what="x"), y=give("reader", "z"), z=call("page"))
            made = shop.rig()
            await made.take_over(whole[:end])
            log = await made.go_on()
            while made.log.state.run is not None:  # nobody knows whether the call took effect
                (question,) = made.log.state.questions.values()
                made.say(Answered(question.seq, "done", "wrote x"), path=question.path)
                log = await made.go_on()
            begun = sum(isinstance(each.event, ToolEnded) and each.event.content == "wrote x" for each in whole[:end])
            assert len(shop.ran) + begun <= 1, end
            assert sorted(of_calls(log)) == sorted(of_calls(whole)), end
            assert end_of(log) == end_of(whole)
            if end % 4 == 0:
                answers, box = made.answers, made.toolbox
                assert await replay(log, made.parts(), "t") is None, end
                made.answers, made.toolbox = answers, box

    bounded(main, 60)
