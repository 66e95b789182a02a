"""What a reader gets of a LangChain agent through the callback handler."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.agents import AgentFinish
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import Generation, LLMResult
from langchain_core.tools import tool
from langgraph.errors import GraphRecursionError

from stepwell.integrations.langchain import CustomAsyncIteratorCallbackHandler, Status, dumps, outlet
from tests.integrations.langchain.scripted import Says, agent, asks, given, user

ROOT = Path(__file__).parents[3]
Told = dict[str, Any]
Handler = CustomAsyncIteratorCallbackHandler


@tool
def add(a: int, b: int) -> str:
    """Add."""
    return f"Answer: {a + b}"


@tool
async def fail(reason: str) -> str:
    """Fail."""
    raise ValueError(reason)


def bounded(main: Callable[[], Awaitable[None]]) -> None:
    async def body() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(body())


async def read(handler: Handler) -> list[Told]:
    return [json.loads(text) async for text in handler.aiter()]


async def told(handler: Handler, run: Awaitable[Any]) -> list[Told]:
    """Run an agent and return everything that its handler told; errors of the agent are its caller's."""
    task = asyncio.ensure_future(run)
    found = await read(handler)
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
    return found


def statuses(found: list[Told]) -> list[int]:
    return [each["status"] for each in found]


def test_an_agent_tells_what_the_page_says() -> None:
    page = (ROOT / "docs/langchain.md").read_text("utf-8")
    documented = re.findall(r"^\{.*\}$", page, re.M)
    assert len(documented) > 8

    async def main() -> None:
        handler = Handler()
        script = [asks("I add.", ("add", {"a": 1, "b": 2})), AIMessage("It is 3.")]
        task = asyncio.create_task(agent(script, add).ainvoke(user("1 + 2?"), given(handler)))
        texts = [text async for text in handler.aiter()]
        await task
        assert [re.sub("[0-9a-f]{32}", "0" * 32, text) for text in texts] == documented

    bounded(main)


def test_the_strict_mode_shows_what_the_old_handler_showed() -> None:
    """The tokens and what became of them are those of a recorded exchange with the old service."""

    async def main() -> None:
        handler, run = Handler(strict=True), uuid4()
        await handler.on_llm_start({}, ["question"])
        for token in (
            "I",
            " need",
            " a",
            " tool.",
            "\nAction:",
            " shell",
            "\nAction",
            " Input:",
            " echo",
            " 1\necho 2",
        ):
            await handler.on_llm_new_token(token)
        await handler.on_llm_end(LLMResult(generations=[[Generation(text="")]]))
        await handler.on_tool_start({"name": "shell"}, "echo 1\necho 2", run_id=run)
        await handler.on_tool_end("Answer: 1\n2\n", run_id=run)
        for token in ("Final", " Answer:", " ok"):
            await handler.on_llm_new_token(token)
        await handler.on_agent_finish(AgentFinish({"output": "ok"}, ""), run_id=uuid4())
        handler.done.set()
        found = await read(handler)
        tokens = [each["llm_token"] for each in found if each["status"] == Status.running]
        assert tokens == ["I", " need", " a", " tool.", "\n\n", "\n\n", "Final", " Answer:", " ok"]
        started, ended = (next(each for each in found if each["status"] == status) for status in (4, 7))
        assert (started["input_str"], ended["output_str"]) == ("echo 1", " 1\n2\n")
        assert found[-1]["final_answer"] == "ok"
        assert handler.cur_tool == {}

    bounded(main)


def test_without_the_strict_mode_no_word_is_swallowed_and_nothing_is_cut() -> None:
    async def main() -> None:
        handler = Handler()
        words = "Action needs a Thought and an Answer: Observation"
        script = [asks(words, ("add", {"a": 1, "b": 2})), AIMessage(words)]
        found = await told(handler, agent(script, add).ainvoke(user("go"), given(handler)))
        said = "".join(each["llm_token"] for each in found if each["status"] == Status.running)
        assert said == words * 2
        assert [each["output_str"] for each in found if each["status"] == Status.tool_finish] == ["Answer: 3"]
        assert found[-1]["final_answer"] == words

    bounded(main)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("a Thought", "a "),
        ('say "x"', "say "),
        ("（a）", ""),
        ("a\tb", "a"),
        ("tab\tThought", "tab\t"),
        ("plain", "plain"),
    ],
)
def test_the_strict_mode_cuts_a_tools_input_at_the_first_word_of_its_list(word: str, shown: str) -> None:
    async def main() -> None:
        handler = Handler(strict=True)
        await handler.on_tool_start({"name": "shell"}, word, run_id=uuid4())
        assert handler.cur_tool["input_str"] == shown
        assert handler.queue.get_nowait() == dumps(handler.cur_tool)

    bounded(main)


def test_a_slow_reader_holds_the_agent_back_and_loses_nothing() -> None:
    async def main() -> None:
        handler, words = Handler(maxsize=3), [f"w{number}" for number in range(60)]
        task = asyncio.create_task(agent([AIMessage(" ".join(words))]).ainvoke(user("go"), given(handler)))
        said: list[str] = []
        async for text in handler.aiter():
            for _ in range(5):
                await asyncio.sleep(0)  # the agent gets ahead as far as it can
            assert handler.queue.qsize() <= 4, "the bound, and the last text of a run"
            said.append(json.loads(text)["llm_token"])
        await task
        assert [each.strip() for each in said[1:-2]] == words

    bounded(main)


def test_without_a_reader_the_agent_halts_and_goes_on_when_one_comes() -> None:
    async def main() -> None:
        handler = Handler(maxsize=4)
        task = asyncio.create_task(agent([AIMessage("a b c d e f g h")]).ainvoke(user("go"), given(handler)))
        while not handler.queue.full():
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert not task.done()
        found = await read(handler)
        assert statuses(found) == [1, *[2] * 8, 3, 5]
        await task

    bounded(main)


def test_a_reader_that_leaves_lets_the_agent_run_to_its_end() -> None:
    async def main() -> None:
        handler = Handler(maxsize=2)
        task = asyncio.create_task(agent([AIMessage("a b c d e f g h")]).ainvoke(user("go"), given(handler)))
        reader = handler.aiter()
        assert json.loads(await anext(reader))["status"] == Status.start
        while not handler.queue.full():
            await asyncio.sleep(0)
        await reader.aclose()
        assert (await task)["messages"][-1].text == "a b c d e f g h"
        assert handler.queue.empty()

    bounded(main)


def test_a_reader_that_is_cancelled_lets_the_agent_run_to_its_end() -> None:
    async def main() -> None:
        handler, waits = Handler(maxsize=2), asyncio.Event()

        async def late() -> AIMessage:
            await waits.wait()
            return AIMessage("a b c d e f")

        task = asyncio.create_task(agent([late]).ainvoke(user("go"), given(handler)))
        reader = asyncio.create_task(read(handler))
        while not handler.cur_tool:
            await asyncio.sleep(0)
        reader.cancel()
        await asyncio.wait({reader})
        waits.set()
        assert (await task)["messages"][-1].text == "a b c d e f"

    bounded(main)


def test_the_last_text_of_a_run_is_there_although_the_reader_stalled() -> None:
    async def main() -> None:
        handler = Handler(maxsize=0)
        await agent([AIMessage("a b c")]).ainvoke(user("go"), given(handler))
        assert handler.done.is_set()
        found = await read(handler)
        assert (found[-1]["status"], found[-1]["final_answer"]) == (Status.agent_finish, "a b c")

    bounded(main)


def test_a_model_that_fails_before_the_first_tool_is_told_with_all_keys() -> None:
    async def main() -> None:
        handler = Handler()
        found = await told(handler, agent([RuntimeError("no model")]).ainvoke(user("go"), given(handler)))
        assert found[-1] == {
            "tool_name": "agent",
            "input_str": "",
            "output_str": "",
            "status": Status.error,
            "run_id": "",
            "llm_token": "",
            "final_answer": "",
            "error": "no model",
        }
        assert statuses(found) == [1, 6]

    bounded(main)


def test_a_tool_that_fails_is_told_once() -> None:
    async def main() -> None:
        handler = Handler()
        script = [asks("", ("fail", {"reason": "no disk"}))]
        found = await told(handler, agent(script, fail).ainvoke(user("go"), given(handler)))
        assert statuses(found) == [1, 3, 4, 6]
        assert (found[-1]["tool_name"], found[-1]["error"]) == ("fail", "no disk")

    bounded(main)


def test_what_fails_outside_of_models_and_tools_is_told_too() -> None:
    async def main() -> None:
        handler, script = Handler(), [asks("", ("add", {"a": 1, "b": 1}), first=number) for number in range(9)]
        config = given(handler) | {"recursion_limit": 4}
        task = asyncio.ensure_future(agent(script, add).ainvoke(user("go"), config))
        found = await read(handler)
        with pytest.raises(GraphRecursionError):
            await task
        assert found[-1]["status"] == Status.error
        assert "Recursion limit of 4" in found[-1]["error"]

    bounded(main)


def test_a_cancelled_agent_ends_its_stream() -> None:
    async def main() -> None:
        handler, forever = Handler(), asyncio.Event()

        async def never() -> AIMessage:
            await forever.wait()
            return AIMessage("")

        task = asyncio.create_task(agent([never]).ainvoke(user("go"), given(handler)))
        while not handler.cur_tool:
            await asyncio.sleep(0)
        task.cancel()
        found = await read(handler)
        assert (found[-1]["status"], found[-1]["error"]) == (Status.error, "CancelledError")

    bounded(main)


def test_tools_side_by_side_keep_their_own_words() -> None:
    async def main() -> None:
        handler, first, second = Handler(), asyncio.Event(), asyncio.Event()

        @tool
        async def slow(name: str) -> str:
            """Wait for the other."""
            first.set()
            await second.wait()
            return f"slow {name}"

        @tool
        async def quick(name: str) -> str:
            """Let the other go on."""
            await first.wait()
            second.set()
            return f"quick {name}"

        script = [asks("", ("slow", {"name": "one"}), ("quick", {"name": "two"})), AIMessage("done")]
        found = await told(handler, agent(script, slow, quick).ainvoke(user("go"), given(handler)))
        of_tools = [each for each in found if each["status"] in (Status.agent_action, Status.tool_finish)]
        assert len({each["run_id"] for each in of_tools}) == 2
        for each in of_tools:
            argument = {"slow": "one", "quick": "two"}[each["tool_name"]]
            assert each["input_str"] == str({"name": argument})
            ended = each["status"] == Status.tool_finish
            assert each["output_str"] == (f"{each['tool_name']} {argument}" if ended else "")

    bounded(main)


def test_synchronous_tools_in_threads_tell_through_a_full_queue() -> None:
    async def main() -> None:
        handler, together = Handler(maxsize=1), threading.Barrier(3)
        threads: set[str] = set()

        @tool
        def meet(number: int) -> str:
            """Wait for the others."""
            threads.add(threading.current_thread().name)
            together.wait(10)
            return f"met {number}"

        script = [asks("", *(("meet", {"number": number}) for number in range(3))), AIMessage("done")]
        found = await told(handler, agent(script, meet).ainvoke(user("go"), given(handler)))
        assert len(threads) == 3
        assert sorted(each["output_str"] for each in found if each["status"] == Status.tool_finish) == [
            f"met {number}" for number in range(3)
        ]
        assert found[-1]["final_answer"] == "done"

    bounded(main)


def test_a_tool_in_a_thread_that_ends_after_its_run_tells_nothing() -> None:
    async def main() -> None:
        handler, started, goes_on = Handler(), threading.Event(), threading.Event()
        ended = threading.Event()

        @tool
        def late(name: str) -> str:
            """End after the run."""
            started.set()
            goes_on.wait(10)
            ended.set()
            return name

        @tool
        async def hasty(name: str) -> str:
            """Fail as soon as the other runs."""
            await asyncio.to_thread(started.wait, 10)
            raise ValueError("hasty")

        script = [asks("", ("late", {"name": "x"}), ("hasty", {"name": "y"}))]
        found = await told(handler, agent(script, late, hasty).ainvoke(user("go"), given(handler)))
        assert statuses(found)[-1] == Status.error
        goes_on.set()
        await asyncio.to_thread(ended.wait, 10)
        await asyncio.get_running_loop().shutdown_default_executor()
        assert handler.queue.empty()

    bounded(main)


def test_a_synchronous_agent_in_a_thread_is_held_back_by_its_reader() -> None:
    async def main() -> None:
        handler = Handler(maxsize=2)
        script = [asks("one two three", ("add", {"a": 1, "b": 2})), AIMessage("four five six")]
        run = asyncio.to_thread(agent(script, add).invoke, user("go"), given(handler))
        found = await told(handler, run)
        assert statuses(found) == [1, 2, 2, 2, 3, 4, 7, 1, 2, 2, 2, 3, 5]

    bounded(main)


def test_a_synchronous_agent_that_blocks_the_readers_loop_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "PATIENCE", 0.05)

    async def main() -> None:
        handler = Handler(maxsize=2)
        agent([AIMessage("one two three four")]).invoke(user("go"), given(handler))
        assert statuses(await read(handler)) == [1, 2, 2, 2, 2, 3, 5]

    bounded(main)


def test_a_program_without_a_loop_reads_everything_afterwards() -> None:
    handler = Handler(maxsize=2)
    agent([AIMessage("one two three four")]).invoke(user("go"), given(handler))
    assert statuses(asyncio.run(read(handler))) == [1, 2, 2, 2, 2, 3, 5]


def test_what_a_tools_own_model_says_is_not_the_agents_answer() -> None:
    async def main() -> None:
        handler, inner = Handler(), Says(replies=[AIMessage("secret words")])

        @tool
        async def ask(question: str) -> str:
            """Ask another model."""
            return (await inner.ainvoke(question)).text

        script = [asks("", ("ask", {"question": "x"})), AIMessage("done")]
        found = await told(handler, agent(script, ask).ainvoke(user("go"), given(handler)))
        assert statuses(found) == [1, 3, 4, 7, 1, 2, 3, 5]
        assert [each["llm_token"] for each in found if each["status"] == Status.running] == ["done"]

    bounded(main)


def test_a_handler_begins_anew_with_another_run() -> None:
    async def main() -> None:
        handler = Handler()
        made = agent([asks("", ("add", {"a": 1, "b": 2})), AIMessage("one"), AIMessage("two")], add)
        for answer, count in (("one", 8), ("two", 4)):
            await made.ainvoke(user("go"), given(handler))
            found = await read(handler)
            assert (len(found), found[-1]["final_answer"]) == (count, answer)
        assert found[-1] == {"status": 5, "llm_token": "\n", "final_answer": "two"}

    bounded(main)


def test_the_methods_and_attributes_are_those_of_the_old_handler() -> None:
    async def main() -> None:
        handler, run = Handler(), uuid4()
        assert (handler.out, handler.cur_tool, handler.queue.empty(), handler.done.is_set()) == (True, {}, True, False)
        await handler.on_chat_model_start({}, [[]], run_id=run)
        await handler.on_llm_error(RuntimeError("gone"), run_id=run)
        await handler.on_tool_start({"name": "tool"}, "in", run_id=run)
        await handler.on_tool_error(ValueError("bad"), run_id=run)
        await handler.on_tool_end(ToolMessage("out", tool_call_id="1"), run_id=run)
        assert handler.cur_tool["output_str"] == "out"
        found = [json.loads(handler.queue.get_nowait()) for _ in range(handler.queue.qsize())]
        assert statuses(found) == [1, 6, 4, 6, 7]
        with pytest.raises(asyncio.QueueEmpty):
            handler.queue.get_nowait()
        handler.queue.put_nowait("own")
        assert await handler.queue.get() == "own"
        handler.done.set()
        assert await handler.done.wait()

    bounded(main)


def test_the_numbers_of_the_statuses_and_the_form_of_the_json_are_the_old_ones() -> None:
    names = ("start", "running", "complete", "agent_action", "agent_finish", "error", "tool_finish")
    assert [getattr(Status, name) for name in names] == [1, 2, 3, 4, 5, 6, 7]
    assert dumps({"name": "测试工具", "status": 1}) == '{"name": "测试工具", "status": 1}'


def test_without_langchain_an_import_names_the_extra() -> None:
    program = (
        "import sys\nsys.modules['langchain_core'] = None\n"
        "try:\n    import stepwell.integrations.langchain\n"
        "except ModuleNotFoundError as error:\n    assert 'pip install \"stepwell[langchain]\"' in str(error)\n"
        "else:\n    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
