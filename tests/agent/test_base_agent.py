"""The agent by itself: each member of XAgent's BaseAgent under its name and with its meaning."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from stepwell.agent.base import CHAT_PROMPT, CONCLUSION, STEP_PROMPT, BaseAgent, ToolOutput
from stepwell.agent.memory import MemoryLog
from stepwell.agent.options import AgentOptions, ExecutionOptions, ExperimentOptions, SummaryOptions
from stepwell.agent.replies import built_in
from stepwell.agent.summaries import Summaries
from stepwell.contexts import FailureGoal, LongTermContext, TaskConclusion, ToolReflection
from stepwell.errors import ConfigError, ReplyMisfit
from stepwell.events import (
    HistoryCleared,
    LongTermUpdated,
    MessageEnded,
    ModelFailed,
    RunEnded,
    RunStarted,
    StepStarted,
    ToolEnded,
    Warned,
    WindowLearned,
    WorkingUpdated,
)
from stepwell.messages import Message, ToolCall, ToolSpec, ToolSpecs
from stepwell.models.base import Failure, ModelProfile, Settings
from stepwell.models.dialects.react import React
from stepwell.models.offline import OfflineModel
from stepwell.models.scripted import ScriptedModel, Step, call, reply
from stepwell.state.thread import State
from tests.support.audit import audit
from tests.support.runs import bounded, events_of

LOOK = ToolSpec("look", "Look something up.", {"type": "object", "properties": {"what": {"type": "string"}}})
TOOLS = ToolSpecs([LOOK])
CONCLUDED: dict[str, Any] = {
    "summary": "Looked it up.",
    "status": "success",
    "reached_goals": ["found it"],
    "failed_goals": [{"goal": "buy it", "reason": "no money"}],
    "reflections": ["look first"],
    "tool_reflection": [{"tool_name": "look", "reflection": ["it is quick"]}],
    "reply": "It is 3.",
}
CONCLUSION_OF_IT = TaskConclusion(
    summary="Looked it up.",
    status="success",
    reached_goals=("found it",),
    failed_goals=(FailureGoal(goal="buy it", reason="no money"),),
    reflections=("look first",),
    tool_reflection=(ToolReflection(tool_name="look", reflection=("it is quick",)),),
    reply="It is 3.",
)


def an_agent(*script: Step, **more: Any) -> tuple[BaseAgent, ScriptedModel, MemoryLog]:
    profile = ModelProfile(window=more.pop("window", 1_000_000))
    log, model, kind = MemoryLog(), ScriptedModel(script, profile=profile), more.pop("kind", BaseAgent)
    given = {"config": AgentOptions(), "default_replies": None, "tools": TOOLS, **more}
    return kind(profile="You look things up.", model=model, log=log, **given), model, log


def thought(text: str, *calls: ToolCall) -> Step:
    return reply("", call("simple_thought", thought=text), *calls)


def checked(main: Callable[[], Awaitable[MemoryLog]]) -> None:
    """Run a test whose log is audited, and folded again by what would be a new process."""

    async def body() -> None:
        log = await main()
        assert_same(audit(log.events), log.state)

    bounded(body)


def assert_same(one: State, other: State) -> None:
    assert list(one.transcript) == list(other.transcript)
    assert one.transcript.seqs == other.transcript.seqs
    assert (one.longterm, one.working, one.steps, one.calls) == (
        other.longterm,
        other.working,
        other.steps,
        other.calls,
    )
    for each in ("past", "gone", "upto", "summaries", "summarizing", "summarized"):
        assert getattr(one.history, each) == getattr(other.history, each), each


def roles(messages: Sequence[Message]) -> list[str]:
    return [each.role for each in messages]


# the constructor


def test_the_constructor_takes_what_xagents_takes_in_its_order() -> None:
    parameters = list(inspect.signature(BaseAgent).parameters.values())
    names = ["config", "profile", "step_prompt", "chat_prompt", "conclusion_prompt", "default_replies"]
    assert [each.name for each in parameters[:6]] == names
    assert [each.default for each in parameters[2:6]] == [STEP_PROMPT, CHAT_PROMPT, CONCLUSION, "simple_thought"]
    assert {each.kind for each in parameters[6:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert STEP_PROMPT == "What's next?"
    assert CHAT_PROMPT == "Answer the user's query based on the history."


def test_a_new_agent_has_empty_contexts_and_the_prompts_that_it_was_given() -> None:
    config = AgentOptions()
    agent = BaseAgent(config, "profile", "step", "chat", "end", "action_reasoning", model=ScriptedModel([]))
    assert (agent.config, agent.profile) == (config, "profile")
    assert (agent.step_prompt, agent.chat_prompt, agent.conclusion_prompt) == ("step", "chat", "end")
    assert agent.default_replies == built_in()["action_reasoning"]
    assert agent.conclusion_arguments == built_in()["conclusion"]
    assert agent.longterm_context == LongTermContext()
    assert agent.working_context.thoughts == agent.working_context.tool_calls == ()
    assert (len(agent.history_working_context), len(agent.history_tool_calls)) == (0, 0)
    assert agent._tool_call_summary_task is None
    assert agent._context_summary_task is None
    assert BaseAgent(config, "", model=ScriptedModel([])).default_replies == built_in()["simple_thought"]
    assert BaseAgent(config, "", default_replies=None, model=ScriptedModel([])).default_replies is None
    with pytest.raises(ConfigError, match="simple_thought"):
        BaseAgent(config, "", default_replies="deep_thought", model=ScriptedModel([]))


def test_an_agent_is_named_by_its_class() -> None:
    class Clerk(BaseAgent):
        pass

    assert str(BaseAgent(model=ScriptedModel([]))) == "BaseAgent"
    assert str(Clerk(model=ScriptedModel([]))) == "Clerk"


# lazy_init


def test_lazy_init_takes_other_options_and_begins_anew() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent(call("look", what="x"), "fine", "new")
        await agent.update_longterm_context(user_message="find x")
        await agent.step()
        await agent.step()
        assert len(agent.history_working_context) == 2
        other = AgentOptions(execution=ExecutionOptions(max_message_tokens=5000), language="zh")
        await agent.lazy_init(other)
        assert agent.config is other
        assert isinstance(log.events[-1].event, HistoryCleared)
        assert (len(agent.history_working_context), len(agent.history_tool_calls)) == (0, 0)
        assert [each async for each in agent.history_working_context] == []
        assert [each async for each in agent.history_tool_calls] == []
        assert await agent.get_history_message(1000) == []
        assert agent.longterm_context.user_message == ("find x",)
        await agent.step()
        assert roles(model.calls[-1].messages) == ["system", "user"]
        assert model.calls[-1].messages[-1].content == "接下来做什么？"
        (first, second) = events_of(log.events, RunStarted)
        assert (first.spec.context.max_tokens, second.spec.context.max_tokens) == (0, 5000)
        return log

    checked(main)


def test_lazy_init_keeps_the_history_where_the_options_say_so() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent(call("look", what="x"), "fine")
        _, calls = await agent.step()
        await agent.update_tool_calls_output([ToolOutput(calls[0].id, "found x")])
        await agent.lazy_init(AgentOptions(experiment=ExperimentOptions(maintain_history_context=True)))
        assert events_of(log.events, HistoryCleared) == []
        assert len(agent.history_tool_calls) == 1
        await agent.step()
        assert [each.content for each in model.calls[1].messages[2:]] == ["found x", "What's next?"]
        return log

    checked(main)


def test_lazy_init_leaves_no_call_without_a_result_and_does_nothing_to_a_new_agent() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent(call("look", what="x"), "fine")
        await agent.lazy_init(AgentOptions())
        assert log.events == []
        _, calls = await agent.step()
        await agent.lazy_init(AgentOptions())
        assert [each.status for each in events_of(log.events, ToolEnded)] == ["cancelled"]
        assert await agent.update_tool_calls_output([ToolOutput(calls[0].id, "late")]) == ""
        await agent.step()
        return log

    checked(main)


# what it says of itself


def test_the_context_is_the_long_term_and_the_working_context_as_text() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent(thought("Look first.", call("look", what="x")), default_replies="simple_thought")
        await agent.update_longterm_context(user_message="find x", current_goal="x")
        await agent.update_working_context({"Place": "home"}, "It rains.")
        known, now = agent.context()
        assert known == "# User Messages\n- find x\n\n# Current Goal\nx"
        assert now.startswith("# Basic Info\nTime: ")
        assert now.endswith("Step Id: No.0\nPlace: home\n\n# Observation\nIt rains.")
        await agent.step()
        assert agent.context()[1].endswith("# Thoughts\n- Look first.\n\n# Tool Calls\n- look")
        await agent.update_working_context()
        assert "Look first" not in agent.context()[1]
        return log

    checked(main)


def test_a_new_process_holds_the_same_agent() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent(call("look", what="x"), "It is {3}.", call("look", what="y"))
        await agent.update_longterm_context(user_message="find x", experience="none", ideas=["a", "b"])
        await agent.pin("x is red")
        await agent.update_working_context({"Place": "home"}, "It rains.")
        _, calls = await agent.step()
        await agent.update_tool_calls_output([ToolOutput(calls[0].id, "found x")])
        await agent.step()
        await agent.step()
        other = MemoryLog()
        other.events, other.state = list(log.events), State(log.events)
        again = BaseAgent(AgentOptions(), "You look things up.", model=model, tools=TOOLS, log=other)
        assert again.context() == agent.context()
        assert again.longterm_context == agent.longterm_context
        assert again.working_context == agent.working_context
        assert await again.get_history_message(10_000) == await agent.get_history_message(10_000)
        assert await again._get_basic_info() == await agent._get_basic_info()
        assert await again.history_working_context.read() == await agent.history_working_context.read()
        assert await again.history_tool_calls.read() == await agent.history_tool_calls.read()
        return log

    checked(main)


# prompts


def test_a_step_prompt_is_filled_by_name_and_says_what_is_missing() -> None:
    async def main() -> None:
        agent, _, _ = an_agent(step_prompt="Do {action} of {{all}}.", conclusion_prompt="{task} is {result}.")
        assert await agent.get_step_message(action="{this} {0}", spare=1) == "Do {this} {0} of {all}."
        assert await agent.get_step_message("conclusion", task="{x}", result="done") == "{x} is done."
        with pytest.raises(ConfigError, match=r"no value for \{action\}; values given: other"):
            await agent.get_step_message(other=1)
        with pytest.raises(ConfigError, match=r"no value for \{result\}"):
            await agent.get_step_message("conclusion", task="x")
        with pytest.raises(ConfigError, match=r"no value for \{action\}"):
            await agent.step()

    bounded(main)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_own_conclusion_prompt_asks_for_its_values_too(language: str) -> None:
    async def main() -> None:
        agent, _, _ = an_agent(config=AgentOptions(language=language))
        text = await agent.get_step_message("conclusion", task="find {x}", tasks_overview="`wrapped`", spare=1)
        assert "find {x}" in text
        assert "`wrapped`" in text
        with pytest.raises(ConfigError, match=r"missing \{task\}"):
            await agent.get_step_message("conclusion", tasks_overview="none")

    bounded(main)


def test_an_unknown_mode_is_refused_and_a_subclass_can_know_further_ones() -> None:
    class Planner(BaseAgent):
        modes = (*BaseAgent.modes, "generate")

        async def get_step_message(self, mode: str = "default", **kwargs: object) -> str:
            if mode == "generate":
                return f"Plan {kwargs['query']}."
            return await super().get_step_message(mode, **kwargs)

    async def main() -> MemoryLog:
        agent, model, log = an_agent("A plan.", kind=Planner)
        await agent.step({"mode": "generate", "query": "{it}"})
        assert model.calls[0].messages[-1].content == "Plan {it}."
        assert await agent.get_step_message() == STEP_PROMPT
        with pytest.raises(ConfigError, match="no mode 'dream' of a step; known: default, conclusion, generate"):
            await agent.step({"mode": "dream"})
        plain, _, _ = an_agent()
        with pytest.raises(ConfigError, match=r"known: default, conclusion\.$"):
            await plain.get_step_message("generate")
        return log

    checked(main)


def test_a_chat_prompt_is_filled_by_name() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent("Sunny.", chat_prompt="Hello {name}! {{Now}}.")
        assert await agent.get_chat_message(name="{小明}") == "Hello {小明}! {Now}."
        with pytest.raises(ConfigError, match="name"):
            await agent.get_chat_message()
        await agent.step({"name": "Ann"}, chat_mode=True)
        assert model.calls[0].messages[-1].content == "Hello Ann! {Now}."
        return log

    checked(main)


def test_a_chat_about_the_work_sees_all_of_it_and_leaves_no_trace() -> None:
    async def main() -> MemoryLog:
        script = [call("look", what="x"), "It is 3.", reply("", call("chat", message="I looked.")), "Next."]
        agent, model, log = an_agent(*script)
        _, calls = await agent.step()
        await agent.update_tool_calls_output([ToolOutput(calls[0].id, "found x")])
        await agent.step()
        before = list(log.state.transcript)
        replies, calls = await agent.step(
            message={"role": "user", "content": "What did you do?"},
            replies="chat",
            tools=[],
            setup_summary_tasks=False,
            update_working_context=False,
            chat_mode=True,
        )
        assert (replies, calls) == ([{"message": "I looked."}], [])
        assert [each.content for each in model.calls[2].messages[-2:]] == [CHAT_PROMPT, "What did you do?"]
        assert model.calls[2].messages[2:4] == tuple(before[2:4])
        assert [each.name for each in model.calls[2].tools] == ["chat"]
        assert list(log.state.transcript) == before
        assert (len(agent.history_working_context), len(await agent.history_working_context.read())) == (2, 2)
        await agent.step()
        assert [each.name for each in model.calls[3].tools] == ["look"]
        assert "What did you do?" not in str(model.calls[3].messages)
        return log

    checked(main)


def test_calls_that_are_asked_for_aside_are_returned_and_are_no_part_of_the_history() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent("One.", reply("", call("look", what="x")), "Two.")
        await agent.step()
        _, (asked,) = await agent.step(update_working_context=False)
        assert asked.name == "look"
        assert await agent.update_tool_calls_output([ToolOutput(asked.id, "found x")]) == ""
        await agent.step()
        assert [each.content for each in model.calls[2].messages[1:]] == ["One.", STEP_PROMPT]
        assert (len(agent.history_working_context), len(agent.history_tool_calls)) == (2, 0)
        return log

    checked(main)


# conclusions


def concluding(agent: BaseAgent, log: MemoryLog) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        conclusion = await agent.get_task_conclusion("find {x}")
        assert conclusion == CONCLUSION_OF_IT
        assert agent.longterm_context.past_tasks == (CONCLUSION_OF_IT,)
        assert "Looked it up." in agent.context()[0]
        (started,) = events_of(log.events, StepStarted)
        assert (started.reply, started.tools) == ("conclusion", ())
        assert "find {x}" in started.tail[0].content
        assert "`wrapped`" in started.tail[0].content

    return check


def test_a_conclusion_is_asked_for_by_its_form_without_tools_and_kept() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent(reply("", call("conclusion", **CONCLUDED)))
        await concluding(agent, log)()
        assert [each.name for each in model.calls[0].tools] == ["conclusion"]
        assert model.calls[0].settings.tool_choice == "conclusion"
        return log

    checked(main)


def test_a_conclusion_in_a_dialect_is_read_from_text() -> None:
    async def main() -> MemoryLog:
        text = f"Thought: I am done.\nFinal Answer: {msgspec.json.encode(CONCLUDED).decode()}"
        agent, model, log = an_agent(text, dialect=React("default", "en"))
        await concluding(agent, log)()
        assert not model.calls[0].tools
        assert '"failed_goals"' in model.calls[0].messages[0].content
        return log

    checked(main)


def test_a_conclusion_of_the_offline_model_says_what_it_said() -> None:
    async def main() -> MemoryLog:
        log = MemoryLog()
        agent = BaseAgent(None, "You help.", model=OfflineModel(), tools=TOOLS, log=log)
        conclusion = await agent.get_task_conclusion("find x")
        assert conclusion.status == "success"
        assert conclusion.summary == conclusion.reply != ""
        assert agent.longterm_context.past_tasks == (conclusion,)
        return log

    checked(main)


def test_a_conclusion_that_never_comes_is_a_clear_failure_and_changes_nothing() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent(Failure("server", "it is down", 500), "No.", "No!")
        with pytest.raises(ReplyMisfit, match="no conclusion: it is down"):
            await agent.get_task_conclusion("find x")
        with pytest.raises(ReplyMisfit, match="does not fit the form conclusion"):
            await agent.get_task_conclusion("find x")
        assert agent.longterm_context.past_tasks == ()
        return log

    checked(main)


# history


def test_the_history_comes_as_roles_and_contents_newest_first_within_the_tokens() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent(call("look", what="x"), "It is 3.")
        _, calls = await agent.step()
        await agent.update_tool_calls_output([ToolOutput(calls[0].id, "found x " * 30)])
        await agent.step()
        whole = await agent.get_history_message(10_000)
        assert [each["role"] for each in whole] == ["assistant", "tool", "assistant"]
        assert all(set(each) == {"role", "content"} for each in whole)
        assert 'look(what="x")' in whole[0]["content"]
        assert whole[1:] == [
            {"role": "tool", "content": "found x " * 30},
            {"role": "assistant", "content": "It is 3."},
        ]
        cut = await agent.get_history_message(100)
        assert cut[-1] == whole[-1]
        assert len(cut) == 2
        assert cut[0]["content"].endswith("\n`wrapped`")
        assert whole[1]["content"].startswith(cut[0]["content"].removesuffix("\n`wrapped`"))
        assert await agent.get_history_message(16) == [whole[-1]]
        assert await agent.get_history_message(0) == []
        for tokens in range(0, 400, 7):
            shown = await agent.get_history_message(tokens)
            assert sum(len(each["content"].encode()) + 8 for each in shown) <= tokens
        return log

    checked(main)


def test_without_summaries_the_history_stays_raw_and_no_model_is_asked_for_any() -> None:
    async def main() -> MemoryLog:
        helper = ScriptedModel([])
        config = AgentOptions(execution=ExecutionOptions(summary=SummaryOptions(enable=False)))
        agent, _, log = an_agent(
            *[call("look", what=str(n)) for n in range(40)],
            config=config,
            window=6000,
            summaries=Summaries(helper),
        )
        await agent.update_longterm_context(user_message="u" * 2000)
        await agent.update_longterm_context(user_message="v" * 500)
        for n in range(40):
            _, calls = await agent.step()
            await agent.update_tool_calls_output([ToolOutput(calls[0].id, f"{n} " * 200)])
        assert log.state.history.compactions
        assert helper.calls == []
        assert log.state.run is not None
        assert log.state.run.spec.context is not None
        assert log.state.run.spec.context.summarize is None
        return log

    checked(main)


# steps


def test_a_request_has_the_long_term_then_the_history_then_the_working_then_the_extra_message() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent("One.", "Two.", step_prompt="Do {what}.")
        await agent.update_longterm_context(user_message="find x")
        await agent.step({"what": "a"})
        await agent.update_working_context({"Place": "home"}, "It rains.")
        await agent.step({"what": "b"}, Message("user", "extra {x}"))
        system, history, working, extra = model.calls[1].messages
        assert system == Message("system", "You look things up.\n\n# User Messages\n- find x")
        assert history == Message("assistant", "One.")
        assert working.role == "user"
        assert working.content.startswith("# Basic Info\nTime: ")
        assert working.content.endswith("Place: home\n\n# Observation\nIt rains.\n\nDo b.")
        assert extra == Message("user", "extra {x}")
        return log

    checked(main)


def test_a_step_returns_replies_and_calls_apart() -> None:
    async def main() -> MemoryLog:
        script = [thought("Look.", call("look", what="x")), "just text", reply("", call("look", what="y"))]
        agent, model, log = an_agent(*script, default_replies="simple_thought")
        replies, (asked,) = await agent.step()
        assert replies == [{"thought": "Look."}]
        assert (asked.name, asked.arguments) == ("look", '{"what":"x"}')
        assert [each.name for each in model.calls[0].tools] == ["look", "simple_thought"]
        assert log.state.transcript[-1].calls == (asked,)
        await agent.update_tool_calls_output([ToolOutput(asked.id, "found")])
        plain, _, _ = an_agent("just text")
        assert await plain.step() == ([{"thought": "just text"}], [])
        return log

    checked(main)


def test_replies_tools_and_the_choice_of_one_step_do_not_outlive_it() -> None:
    class Colour(msgspec.Struct):
        red: int

    async def main() -> MemoryLog:
        colour = reply("", call("Colour", red=1))
        agent, model, log = an_agent(colour, "x", thought("y"), reply("", call("simple_thought", thought="z")))
        given = {"type": "function", "function": {"name": "paint", "description": "Paint.", "parameters": {}}}
        bare = {"name": "wash", "parameters": {"type": "object"}}
        replies, _ = await agent.step(replies=Colour, tools=[given, bare, LOOK], tool_choice="required")
        assert replies == [{"red": 1}]
        assert [each.name for each in model.calls[0].tools] == ["paint", "wash", "look", "Colour"]
        assert model.calls[0].settings.tool_choice == "required"
        (started,) = events_of(log.events, StepStarted)
        assert (started.reply, started.tools) == ("Colour", ("paint", "wash", "look"))
        await agent.step()
        assert [each.name for each in model.calls[1].tools] == ["look"]
        assert model.calls[1].settings == Settings()
        assert (await agent.step(replies="simple_thought"))[0] == [{"thought": "y"}]
        schema = {"title": "simple_thought", "type": "object", "properties": {"thought": {"type": "string"}}}
        assert (await agent.step(replies=schema))[0] == [{"thought": "z"}]
        return log

    checked(main)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"type": "function", "function": {"name": "look"}}, "look"),
        ({"name": "look"}, "look"),
        ({"type": "auto"}, "auto"),
        ("none", "none"),
        ("look", "look"),
    ],
)
def test_the_choice_of_a_tool_comes_as_a_name_or_as_an_object(given: Any, sent: str) -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent("x")
        await agent.step(tool_choice=given)
        assert model.calls[0].settings.tool_choice == sent
        return log

    checked(main)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tools": [{"description": "nameless"}]}, "tools.0"),
        ({"tools": [LOOK, {"name": 3}]}, "tools.1"),
        ({"tools": [{"type": "function", "function": 3}]}, "tools.0"),
        ({"tool_choice": {}}, "tool_choice"),
        ({"message": {"content": "x"}}, "message"),
        ({"message": {"role": "nobody", "content": "x"}}, "message"),
        ({"message": {"role": "user", "content": [1]}}, "message"),
        ({"replies": "deep_thought"}, "deep_thought"),
        ({"replies": {"type": "object"}}, "title"),
    ],
)
def test_what_is_wrong_with_an_argument_of_a_step_is_named(wrong: dict[str, Any], said: str) -> None:
    async def main() -> None:
        agent, model, _ = an_agent("x")
        with pytest.raises(ConfigError, match=said):
            await agent.step(**wrong)
        assert model.calls == []

    bounded(main)


def test_further_keywords_reach_the_model_call_unchanged() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent("x", "y", settings=Settings(temperature=0.1, extra={"a": 1, "b": 2}))
        await agent.step(temperature=0.9, max_tokens=7, stop=["END"], seed=42, b=3)
        assert model.calls[0].settings == Settings(0.9, 7, ("END",), extra={"a": 1, "b": 3, "seed": 42})
        await agent.step()
        assert model.calls[1].settings == Settings(temperature=0.1, extra={"a": 1, "b": 2})
        return log

    checked(main)


def test_a_reply_that_does_not_fit_is_asked_for_once_more_and_the_broken_one_is_gone() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent("One.", "no form", thought("Better."), default_replies=None)
        await agent.step()
        replies, _ = await agent.step(replies="simple_thought", tools=[], seed=42)
        assert replies == [{"thought": "Better."}]
        assert "no form" in model.calls[2].messages[-1].content
        assert [each.settings.extra for each in model.calls] == [{}, {"seed": 42}, {"seed": 42}]
        assert [each.content for each in log.state.transcript[1:]] == ["One.", '{"thought":"Better."}']
        assert len(agent.history_working_context) == 2
        steps = await agent.history_working_context.read()
        assert [each.thoughts for each in steps] == [({"thought": "One."},), ({"thought": "Better."},)]
        return log

    checked(main)


@pytest.mark.parametrize("bad", ["", "no form"])
def test_a_broken_reply_in_a_chat_or_an_empty_one_takes_nothing_else_out_of_the_history(bad: str) -> None:
    async def main() -> MemoryLog:
        script = ["One.", bad, reply("", call("chat", message="hi")), bad, thought("Better.")]
        agent, _, log = an_agent(*script)
        await agent.step()
        replies, _ = await agent.step(replies="chat", tools=[], update_working_context=False, chat_mode=True)
        assert replies == [{"message": "hi"}]
        assert [each.content for each in log.state.transcript[1:]] == ["One."]
        await agent.step(replies="simple_thought", tools=[])
        assert [each.content for each in log.state.transcript[1:]] == ["One.", '{"thought":"Better."}']
        assert len(agent.history_working_context) == len(await agent.history_working_context.read()) == 2
        return log

    checked(main)


def test_a_reply_that_never_fits_is_an_error() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent("no", "no", default_replies="observation_thought", tools=ToolSpecs())
        with pytest.raises(ReplyMisfit, match="observation_thought"):
            await agent.step()
        return log

    checked(main)


def test_no_reply_at_all_is_a_warning_in_the_log() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent("", Failure("server", "it is down", 500), reply("half", failure=Failure("stall", "")))
        for _ in range(3):
            assert await agent.step() == ([], [])
        assert [each.code for each in events_of(log.events, Warned)] == ["no_reply"] * 3
        assert [each.kind for each in events_of(log.events, ModelFailed)] == ["server", "stall"]
        assert [each.role for each in log.state.transcript] == ["system"]
        return log

    checked(main)


def test_a_request_that_was_too_long_after_all_is_made_again_shorter() -> None:
    async def main() -> MemoryLog:
        refusal = Failure("overflow", "maximum context length is 9000 tokens", 400)
        agent, model, log = an_agent(*[call("look", what="x")] * 6, refusal, "Fine.")
        for _ in range(6):
            _, calls = await agent.step()
            await agent.update_tool_calls_output([ToolOutput(calls[0].id, "found " * 500)])
        assert await agent.step() == ([{"thought": "Fine."}], [])
        assert [each.window for each in events_of(log.events, WindowLearned)] == [9000]
        sizes = [sum(len(each.content) for each in asked.messages) for asked in model.calls[-2:]]
        assert sizes[1] < 9000 < sizes[0]
        return log

    checked(main)


def test_calls_that_were_left_without_results_get_them_before_the_next_step() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent(reply("", call("look", what="x"), call("look", what="y")), "Fine.")
        _, calls = await agent.step()
        await agent.update_tool_calls_output([ToolOutput(calls[1].id, "found y")])
        await agent.step()
        results = [each.content for each in model.calls[1].messages if each.role == "tool"]
        assert results == ["No result was given for this call.", "found y"]
        return log

    checked(main)


# basic info and the working context


def test_basic_info_is_the_stored_time_and_the_number_of_the_step() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent("One.", "Two.")
        await agent.step()
        await agent.update_working_context()
        (updated,) = [each for each in log.events if isinstance(each.event, WorkingUpdated)]
        moment = datetime.fromtimestamp(updated.time / 1000, UTC)
        assert await agent._get_basic_info() == {"Time": f"{moment:%Y-%m-%d %A %H:%M:%S}", "Step Id": "No.1"}
        await agent.step()
        assert "Step Id: No.1\n" in model.calls[1].messages[-1].content
        assert (await agent._get_basic_info())["Step Id"] == "No.2"
        return log

    checked(main)


def test_a_working_context_is_always_a_new_one_and_leaves_out_what_is_empty() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent("One.")
        assert await agent.update_working_context({"Place": "home", "Mood": ""}, "It rains.") is True
        first = agent.working_context
        assert first.basic_info.endswith("Place: home")
        assert "Mood" not in first.basic_info
        assert first.observation == "It rains."
        await agent.step()
        assert agent.working_context.thoughts == ({"thought": "One."},)
        assert await agent.update_working_context() is True
        assert (agent.working_context.observation, agent.working_context.thoughts) == ("", ())
        assert "Place" not in agent.working_context.basic_info
        return log

    checked(main)


def test_a_working_context_can_say_something_else_under_a_known_name() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent()
        await agent.update_working_context({"Time": "noon \ud800", "Step Id": ""})
        assert agent.working_context.basic_info == "Time: noon \ufffd\nStep Id: No.0"
        return log

    checked(main)


# outputs of calls


def test_outputs_are_recorded_and_come_back_as_the_observation() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent(reply("", call("look", what="x"), call("look", what="y")))
        _, (one, two) = await agent.step()
        said = await agent.update_tool_calls_output(
            [ToolOutput(two.id, "no y", "failed"), ToolOutput(one.id, "found x"), ToolOutput("stranger", "?")]
        )
        assert said == (
            '[Tool Call] look(what="y")\n[Status] failed\n[Output] no y\n'
            '[Tool Call] look(what="x")\n[Status] ok\n[Output] found x'
        )
        assert [each.content for each in log.state.transcript if each.role == "tool"] == ["found x", "no y"]
        again = await agent.update_tool_calls_output([ToolOutput(one.id, "another")])
        assert again.endswith("[Output] found x")
        found = await agent.history_tool_calls.get(two.id)
        assert found is not None
        assert (found.call, found.output, found.status) == (two, "no y", "failed")
        return log

    checked(main)


def test_an_output_too_big_for_a_request_is_kept_whole_beside_what_stands_for_it() -> None:
    async def main() -> MemoryLog:
        big = "".join(f"line {n}\n" for n in range(200_000))
        agent, model, log = an_agent(call("look", what="x"), "Fine.", window=8000)
        _, calls = await agent.step()
        said = await agent.update_tool_calls_output([ToolOutput(calls[0].id, big)])
        assert len(said) < 4000
        (ended,) = events_of(log.events, ToolEnded)
        assert (ended.size, len(ended.blob)) == (len(big), 64)
        assert f"recall blob:{ended.blob[:12]}" in ended.content
        assert await log.blob(ended.blob[:12]) == big.encode()
        await agent.step()
        assert sum(len(each.content) for each in model.calls[1].messages) < 8000
        return log

    checked(main)


# the long-term context


def test_a_users_message_is_added_and_everything_else_is_replaced() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent()
        tool = {"type": "function", "function": {"name": "look"}}
        await agent.update_longterm_context("one", "much", ["s1"], ["i1", "i2"], "goal", [tool])
        await agent.update_longterm_context(user_message="two\ud800", ideas=["i3"])
        await agent.update_longterm_context(experience="", current_goal="another")
        assert agent.longterm_context == LongTermContext(
            user_message=("one", "two\ufffd"),
            experience="",
            skills_description=("s1",),
            ideas=("i3",),
            current_goal="another",
            available_tools=(tool,),
        )
        before = agent.longterm_context
        await agent.update_longterm_context()
        assert agent.longterm_context == before
        return log

    checked(main)


def test_a_pinned_fact_stands_in_every_request_once() -> None:
    async def main() -> MemoryLog:
        agent, model, log = an_agent("One.", "Two.")
        await agent.pin("x is {red}\n")
        await agent.step()
        await agent.pin("x is {red}")
        await agent.pin(" \n")
        await agent.step()
        for asked in model.calls:
            assert asked.messages[0].content.count("x is {red}") == 1
        assert agent.longterm_context.pinned == ("x is {red}",)
        assert len(events_of(log.events, LongTermUpdated)) == 1
        return log

    checked(main)


def test_an_update_from_elsewhere_is_seen_at_once() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent()
        await log.record(LongTermUpdated(pinned="a"), WorkingUpdated({}, "seen"))
        assert agent.longterm_context.pinned == ("a",)
        assert agent.working_context.observation == "seen"
        await log.record(LongTermUpdated(unpinned="a"))
        assert agent.longterm_context.pinned == ()
        return log

    async def body() -> None:
        await main()

    asyncio.run(body())


def test_the_events_of_an_agent_by_itself_open_one_run_that_lazy_init_ends() -> None:
    async def main() -> MemoryLog:
        agent, _, log = an_agent("One.", "Two.", "Three.")
        await agent.step()
        await agent.step()
        await agent.lazy_init(AgentOptions())
        await agent.step()
        assert len(events_of(log.events, RunStarted)) == 2
        assert events_of(log.events, RunEnded) == [RunEnded("answer")]
        assert len(events_of(log.events, MessageEnded)) == 3
        return log

    checked(main)
