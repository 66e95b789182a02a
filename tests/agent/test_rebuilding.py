"""Requests rebuilt from the log: of every agent of a run, whatever its engine, each is the one that was sent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepwell import Agent, tool
from stepwell.agent.accounts import Accounts
from stepwell.config import Config, load
from stepwell.errors import InputError, NotFound
from stepwell.events import ContextCompacted, Forked, Recorded, RunStarted, StepStarted, SummaryEnded, ToolEnded
from stepwell.messages import Image, Message, ToolCall, Usage
from stepwell.models.base import ModelProfile, ModelRequest
from stepwell.models.scripted import Answer, ScriptedModel, Step, call, reply
from stepwell.runs.catalog import Wish
from stepwell.runs.contexts import context_of
from stepwell.runs.driver import Assemble
from stepwell.runs.forks import Edit, fork
from stepwell.runs.replay import replay
from stepwell.runs.service import RunService
from stepwell.specs import Limits, Prices, TaskOptions
from stepwell.store.base import Spending
from stepwell.store.memory import MemoryStore
from stepwell.wiring.catalog import ConfigCatalog
from stepwell.wiring.replay import ConfigParts
from tests.agent.test_report import PICTURE
from tests.support.contexts import proved, reports
from tests.support.runs import bounded
from tests.support.tasks import concluded, offered, operation, plan, results, sub, submit, task_of, told

ROOT = Path(__file__).parents[2]
QUESTION = "Which is cheaper: three pens at 1.20 each, or the box of three for 3.40?"


@tool(effect="pure")
def look(n: int) -> str:
    """Look at something."""
    return f"result {n} " + "words and more words " * 40


def agent(script: Any, *, profile: dict[str, Any] | None = None, **options: Any) -> Agent:
    facts = ModelProfile(**{"window": 8192, **(profile or {})})
    return Agent(ScriptedModel(script, profile=facts), tools=[look], max_steps=None, system="Be short.", **options)


async def log_of(made: Agent, thread: str) -> list[Recorded]:
    return await made._parts.service().store.read(thread)


def assemble_of(made: Agent) -> Assemble:
    return made._parts.service().engine


def parts(found: Any) -> set[str]:
    return {part.name for part in found.parts}


def planner(request: ModelRequest) -> Answer:
    """Make two tasks that go on side by side, change the plan once, and conclude."""
    names = offered(request)
    if "answer_directly" in names and all(each.role != "assistant" for each in request.messages):
        return "Let me think."
    if "generate_plan" in names:
        return plan(sub("a"), sub("b"))
    if "subtask_operations" in names:
        added = "] c:" in told(request) or "c goal" in str(request.messages)
        return operation("exit") if added else operation("add", "1.2", sub("c"))
    if "conclusion" in names:
        return concluded("all") if "a goal" not in str(request.messages[1]) else "no form"
    if results(request):
        return submit("made", need_plan_rectification=task_of(request) == "a", suggestions=["c"])
    return reply("I look.", call("look", n=1))


async def played(catalog: ConfigCatalog, text: str, **wish: Any) -> list[Recorded]:
    """Return the log of a run by the settings."""
    service = RunService(MemoryStore(), catalog.assemble)
    spec = catalog.spec(Wish(text=text, **wish))
    log = await service.begin("ann", Message("user", text), spec)
    await service.drive(log)
    events = await service.events("ann", log.thread)
    await service.stop()
    return events


def aged(events: Sequence[Recorded]) -> list[Recorded]:
    """Return a log as it was when steps did not say what was paid for."""
    return [
        Recorded(each.seq, each.time, each.run, msgspec.structs.replace(each.event, max_tokens=None), each.path)
        if isinstance(each.event, StepStarted)
        else each
        for each in events
    ]


def test_each_request_of_the_example_of_a_plan_is_the_one_that_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the settings name their script from here

    async def main() -> None:
        catalog = ConfigCatalog(load(ROOT / "examples/plan/stepwell.toml"))
        events = await played(catalog, QUESTION, engine="plan")
        found = proved(events, catalog.assemble)
        assert {path for _, path, _ in found} == {"", "1.1", "1.2", "1.3"}
        newest = context_of(events, catalog.assemble, agent="1.2")
        assert newest == found[1, "1.2", newest.step]
        assert newest.step == 3
        assert parts(newest) >= {"system", "user", "calls", "results", "form", "tail"}  # it concludes
        assert parts(found[1, "1.2", 1]) >= {"tools", "tail"}
        assert context_of(events, catalog.assemble).agent == ""
        await catalog.close()

    asyncio.run(main())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_request_of_tasks_side_by_side_is_the_one_that_was_sent(language: Any) -> None:
    async def main() -> None:
        options = TaskOptions(fast_path=True, max_parallel_tasks=2)
        async with agent(planner, tasks=options, language=language, temperature=0.3, max_tokens=500) as made:
            result = await made.run("Do a and b.", engine="plan")
            events = await log_of(made, result.thread)
            found = proved(events, assemble_of(made))
            assert {path for _, path, _ in found} == {"", "1.1", "1.2", "1.3"}
            steps = [each.event for each in events if isinstance(each.event, StepStarted)]
            assert {each.reply for each in steps} == {"", "conclusion"}
            assert {each.aside for each in steps} == {each.repairs for each in steps} == {True, False}
            assert {each.tools for each in steps} >= {None, (), ("answer_directly", "generate_plan")}
            assert (await made.context(result.thread, 1, agent="1.2")).seq == found[1, "1.2", 1].seq

    bounded(main)


def test_the_last_step_of_a_chain_and_its_repaired_conclusion_are_shown() -> None:
    script: list[Step] = [reply("", call("look", n=1)), submit(), "no form", concluded("seen")]

    async def main() -> None:
        async with agent(script, tasks=TaskOptions(max_chain_length=2)) as made:
            result = await made.run("Look.", engine="react")
            events = await log_of(made, result.thread)
            found = [*proved(events, assemble_of(made)).values()]
            assert [each.step for each in found] == [1, 2, 3, 4]
            steps = [each.event for each in events if isinstance(each.event, StepStarted)]
            assert [each.tools for each in steps] == [None, ("subtask_submit",), (), ()]
            assert [each.repairs for each in steps] == [False, False, False, True]
            assert ["form" in parts(each) for each in found] == [False, False, True, True]

    bounded(main)


IN_WORDS: list[Step] = [
    '{"action": "look", "action_input": {"n": 1}}',
    '{"action": "subtask_submit", "action_input": {"submit_type": "success", "result": "seen"}}',
    concluded("seen").arguments,
]


@pytest.mark.parametrize("json_mode", [True, False])
def test_each_request_in_the_words_of_a_dialect_is_the_one_that_was_sent(json_mode: bool) -> None:
    async def main() -> None:
        facts = {"json_mode": json_mode, "native_tools": False}
        async with agent(IN_WORDS, profile=facts, dialect="structured") as made:
            result = await made.run("Look.", engine="react")
            found = proved(await log_of(made, result.thread), assemble_of(made))
            assert len(found) == 3
            assert all("dialect" in parts(each) for each in found.values())
            model = made._parts.model
            assert isinstance(model, ScriptedModel)
            kept = [each.settings.response_format is not None for each in model.calls]
            assert kept == [json_mode] * 3

    bounded(main)


def busy(request: ModelRequest) -> Answer:
    """Look in each step but the last, then submit and conclude."""
    names = offered(request)
    if "generate_plan" in names:
        return plan(sub("a"))
    if "conclusion" in names:
        return concluded("seen")
    if not names:
        return reply('{"summary": "It looked around.", "intentions": "looking"}', usage=Usage(30, 5))
    return submit() if names == {"subtask_submit"} else reply("I look.", call("look", n=1))


@pytest.mark.parametrize("path", ["", "1.1"])
def test_each_request_after_compactions_and_with_summaries_is_the_one_that_was_sent(path: str) -> None:
    async def main() -> None:
        options = TaskOptions(max_chain_length=30, fast_path=False)
        async with agent(busy, profile={"window": 6000}, tasks=options) as made:
            result = await made.run("Look around.", engine="plan" if path else "react")
            events = await log_of(made, result.thread)
            found = proved(events, assemble_of(made))
            assert sum(isinstance(each.event, ContextCompacted) and each.path == path for each in events) > 1
            assert any(isinstance(each.event, SummaryEnded) and each.event.status == "ok" for each in events)
            last = context_of(events, assemble_of(made), agent=path)
            assert last.agent == path
            assert last.compaction is not None
            assert [each.path for each in events if each.seq == last.compaction.seq] == [path]
            assert "digest" in parts(last)
            assert last.left_out[0].what == "messages"
            assert all(each.compaction is None for (_, of, _), each in found.items() if of != path)

    bounded(main)


def test_a_fork_shows_the_requests_that_it_was_given_and_its_own() -> None:
    async def main() -> None:
        async with agent(planner, tasks=TaskOptions(fast_path=False, max_parallel_tasks=1)) as made:
            thread = (await made.run("Do a and b.", engine="plan")).thread
            events, service = await log_of(made, thread), made._parts.service()
            at = next(each.seq for each in events if each.path == "1.2" and isinstance(each.event, ToolEnded))
            ref = await fork(service, "local", thread, at, edit=Edit(result="Something else."))
            await made.result(ref.thread, ref.run)
            copy = await log_of(made, ref.thread)
            assert [each.seq for each in copy if isinstance(each.event, Forked)] == [at + 1]
            found = proved(copy, assemble_of(made))
            assert max(each.seq for each in found.values()) > at
            assert {path for _, path, _ in found} == {"", "1.1", "1.2", "1.3"}

    bounded(main)


def line(call: ToolCall | None = None, text: str = "", **fits: list[str]) -> str:
    """Return a line of a script."""
    calls = [{"name": call.name, "arguments": msgspec.json.decode(call.arguments)}] if call else []
    return msgspec.json.encode({**fits, "text": text, "calls": calls}).decode()


def tagged(call: ToolCall) -> str:
    return f'<tool_call>{{"name": "{call.name}", "arguments": {call.arguments}}}</tool_call>'


GIVES = [
    line(text="It is 4.", says=["It is 4."]),
    line(call("delegate", agent="adder", task="Add 2 and 2.")),
]
ADDS = [
    line(text=concluded("4", reply="It is 4.").arguments, says=["has ended"]),
    line(text=tagged(call("calculate", query="2+2")), says=["Add 2"]),
    line(text=tagged(submit("4"))),
]


def settings(folder: Path, price: float = 1.0) -> Config:
    """Return settings with an agent that gives a task to another one, which has another model and a dialect."""
    models = ""
    for name, script, dialect in (("m", GIVES, "native"), ("other", ADDS, "hermes")):
        (folder / f"{name}.jsonl").write_text("\n".join(script))
        models += f"""
        [models.{name}]
        kind = "scripted"
        script = "{folder / name}.jsonl"
        dialect = "{dialect}"
        max_output = 1000
        price_input = {price}
        price_output = {price}
        extra = {{ n = 1, seed = 7 }}
        """
    helper = '[agents.adder]\ndescription = "adds"\nmodel = "other"\ntools = ["calculate"]\n'
    (folder / "s.toml").write_text(models + helper)
    return load(folder / "s.toml")


def test_each_request_of_an_agent_that_was_given_a_task_is_the_one_that_was_sent(tmp_path: Path) -> None:
    async def main() -> None:
        catalog = ConfigCatalog(settings(tmp_path))
        events = await played(catalog, "Add.", temperature=0.2)
        found = proved(events, catalog.assemble)
        (helper,) = {path for _, path, _ in found if path}
        assert helper.startswith("adder:")
        assert context_of(events, catalog.assemble, agent=helper).model == "other"
        assert context_of(events, catalog.assemble).model == "m"

    asyncio.run(main())


@pytest.mark.parametrize("price", [0.0, 1.0])
@pytest.mark.parametrize("of_key", [True, False])
def test_a_request_under_a_limit_of_money_is_the_one_that_was_sent_and_is_made_again(
    price: float, of_key: bool, tmp_path: Path
) -> None:
    async def account(key: str) -> tuple[Limits | None, Spending]:
        return Limits(money=1), Spending()

    async def main() -> None:
        config = settings(tmp_path, price)
        catalog = ConfigCatalog(config, Accounts(account))
        paid: dict[str, Any] = {"key": "k"} if of_key else {"limits": Limits(money=1)}
        events = await played(catalog, "Add.", **paid)
        steps = [each.event for each in events if isinstance(each.event, StepStarted)]
        assert [each.max_tokens for each in steps] == [1000] * len(steps)
        assert [each.reserved > 0 for each in steps] == [price > 0] * len(steps)
        assert len({path for _, path, _ in proved(events, catalog.assemble)}) == 2
        assert await replay(events, ConfigParts(config)) is None
        if price:
            assert await replay(aged(events), ConfigParts(config)) is None

    asyncio.run(main())


def test_a_log_of_old_that_does_not_say_what_was_paid_for_is_shown_unproved() -> None:
    async def main() -> None:
        script: list[Step] = [reply("", call("look", n=1)), "Seen."]
        async with agent(script, profile={"max_output": 1000}, max_money=1, prices=Prices(1, 2)) as made:
            events = await log_of(made, (await made.run("Look.")).thread)
            assert [each.proved for each in proved(events, assemble_of(made)).values()] == [True, True]
            old = aged(events)
            shown = reports(old, assemble_of(made))
            assert [each.proved for each in shown.values()] == [False, False]
            same = reports(events, assemble_of(made)).values()
            assert [each.parts for each in shown.values()] == [each.parts for each in same]

    bounded(main)


def test_a_reply_whose_length_costs_nothing_is_told_from_one_without_a_limit() -> None:
    async def main() -> None:
        for options, most in (({}, None), ({"max_money": 1, "prices": Prices(1, 0)}, 0)):
            async with agent(["Hi."], **options) as made:
                events = await log_of(made, (await made.run("Hi.")).thread)
                (step,) = [each.event for each in events if isinstance(each.event, StepStarted)]
                assert step.max_tokens == most
                proved(events, assemble_of(made))

    bounded(main)


def test_a_model_that_sees_is_not_sent_what_the_settings_hide_and_a_forced_call_stays_forced() -> None:
    async def main() -> None:
        script: list[Step] = [reply("", call("look", n=1)), "Seen."]
        async with agent(script, profile={"images": True}) as made:
            service, spec = made._parts.service(), made._parts.spec
            assert spec.context is not None
            blind = msgspec.structs.replace(spec.context, images=False)
            spec = msgspec.structs.replace(spec, tool_choice="look", context=blind)
            log = await service.begin("local", Message("user", "Look.", (Image(PICTURE),)), spec)
            await service.drive(log)
            found = proved(await log_of(made, log.thread), assemble_of(made))
            assert [[left.what for left in each.left_out] for each in found.values()] == [["images"], ["images"]]

    bounded(main)


def test_another_model_that_is_asked_for_its_eyes_is_not_given_the_name_of_the_first() -> None:
    async def main() -> None:
        eyes = ScriptedModel(["A cat."], profile=ModelProfile(window=20_000, images=True))
        async with agent([], image_model=eyes) as made:
            service, spec = made._parts.service(), msgspec.structs.replace(made._parts.spec, model_name="blind-1")
            made._parts.spec = spec
            log = await service.begin("local", Message("user", "Look.", (Image(PICTURE),)), spec)
            await service.drive(log)
            ((which, shown),) = proved(await log_of(made, log.thread), assemble_of(made)).items()
            assert which[2] == 1
            assert shown.model == "image_model"

    bounded(main)


def test_an_agent_or_step_that_is_not_there_is_named_with_those_that_are() -> None:
    async def main() -> None:
        async with agent(planner, tasks=TaskOptions(fast_path=False)) as made:
            thread = (await made.run("Do a and b.", engine="plan")).thread
            ways: list[tuple[dict[str, Any], str, str]] = [
                ({"agent": "9.9"}, "agent", "1.1, 1.2, 1.3"),
                ({"agent": "9.9", "step": 1}, "agent", "1.1, 1.2, 1.3"),
                ({"agent": "1.2", "step": 99}, "step", "Agent 1.2 of run 1 has no step 99; its newest is 4"),
                ({"agent": "1.2", "run": 99}, "run", "99"),
            ]
            for which, field, said in ways:
                with pytest.raises(NotFound) as refused:
                    await made.context(thread, **which)
                assert refused.value.field == field
                assert said in str(refused.value)

    bounded(main)


def test_a_run_that_another_program_carried_out_is_refused_by_its_name() -> None:
    async def main() -> None:
        async with agent(["Hi."]) as made:
            events = await log_of(made, (await made.run("Hi.")).thread)
            first = events[0]
            assert isinstance(first.event, RunStarted)
            spec = msgspec.structs.replace(first.event.spec, outside="langchain")
            events[0] = msgspec.structs.replace(first, event=RunStarted(spec))
            with pytest.raises(InputError, match="`langchain`") as refused:
                context_of(events, assemble_of(made))
            assert refused.value.field == "run"

    bounded(main)
