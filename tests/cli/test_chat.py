"""`stepwell chat`, as a person in a terminal and as a program on a pipe has it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.cli.running import Cli, finish
from tests.support.endpoint import Cut, Endpoint, chunk, ending, error, stream, text, tool_calls


def test_each_line_of_a_pipe_is_a_message_of_one_thread(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("Hello Ada."), text("Ada.")]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            done = await cli.run("chat", stdin="I am Ada\n\n  \r\nWho am I?")
            assert (done.code, done.out, done.err) == (0, "Hello Ada.\nAda.\n", "")
            assert len(await cli.threads()) == 1
            said = [message["content"] for message in endpoint.requests[1].body["messages"]]
            assert said[1:] == ["I am Ada", "Hello Ada.", "Who am I?"]

    asyncio.run(main())


def test_on_a_pipe_answers_are_alone_on_stdout(tmp_path: Path) -> None:
    async def main() -> None:
        calls = tool_calls(("a", "calculate", ['{"query": "6*7"}']))
        async with Endpoint([calls, text("It is 42.", thinking=["easy"])]) as endpoint:
            done = await Cli(tmp_path).at(endpoint.base_url).run("chat", stdin="6*7?\n")
            assert (done.code, done.out) == (0, "It is 42.\n")
            assert done.err == '• calculate {"query": "6*7"}\n  calculate → 42\neasy\n'

    asyncio.run(main())


def test_on_a_pipe_bytes_that_are_no_text_do_no_harm(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        process = await cli.start("chat", stdin=asyncio.subprocess.PIPE)
        done = await finish(process, b"what is 2+3? \xff\xfe\x00\nwhat is 3+4?")
        assert (done.code, done.out) == (0, "2+3 = 5\n3+4 = 7\n")

    asyncio.run(main())


def test_ctrl_c_while_it_waits_for_a_pipe_ends_it(tmp_path: Path) -> None:
    async def main() -> None:
        process = await Cli(tmp_path).start("chat", stdin=asyncio.subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"what is 2+3?\n")
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"2+3 = 5\n"
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) == 130

    asyncio.run(main())


def test_a_failed_run_is_told_and_the_next_message_gets_its_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([error(400, "no, no"), text("yes")]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            done = await cli.run("chat", stdin="one\ntwo\n")
            assert (done.code, done.out) == (0, "yes\n")
            assert "no, no" in done.err
            refused = await cli.run("chat", "--model", "nope", stdin="one\n")
            assert (refused.code, refused.out) == (1, "")
            assert "nope" in refused.err

    asyncio.run(main())


@pytest.mark.parametrize("served", [False, True])
def test_a_person_sees_text_as_it_comes_thinking_dim_and_tools_with_their_results(tmp_path: Path, served: bool) -> None:
    more, last = asyncio.Event(), asyncio.Event()
    replies = [
        tool_calls(("a", "calculate", ['{"query": ', '"6*7"}']), said="Let me see."),
        stream(
            chunk(role="assistant", content=""),
            chunk(reasoning_content="Easy "),
            chunk(reasoning_content="one."),
            chunk(content="It is "),
            more,
            chunk(content="42."),
            last,
            *ending(),
        ),
    ]

    async def talk(cli: Cli) -> None:
        async with cli.terminal("chat") as terminal:
            assert "model m" in await terminal.expect("> ")
            terminal.type("what is 6*7?\n")
            await terminal.expect("Let me see.\n")
            await terminal.expect('• calculate {"query": "6*7"}\n  calculate → 42\n')
            await terminal.expect("Easy one.\nIt is ")
            assert terminal.text.endswith("It is ")
            more.set()
            await terminal.expect("42.")
            last.set()
            await terminal.expect("\n> ")
            assert "\x1b[2mEasy one." in terminal.raw.replace("\x1b[0m\x1b[2m", "")
            terminal.type("\x04")
            await terminal.expect(" chat --thread ")
            assert await terminal.left() == 0

    async def main() -> None:
        async with Endpoint(replies) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.maybe_serving(served):
                await talk(cli)

    asyncio.run(main())


def test_ctrl_c_cancels_the_run_and_not_the_program_and_ctrl_d_leaves(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([stream(chunk(content="half of it"), Cut.STALL), text("all of it")]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.chatting() as terminal:
                await terminal.enter("hello", "half of it")
                terminal.type("\x03")
                await terminal.expect("The run was cancelled.")
                await terminal.expect("> ")
                await terminal.enter("again", "all of it", "> ")
                terminal.type("\x03")
                await terminal.expect("Ctrl-D leaves.\n> ")
            (thread,) = await cli.threads()
            assert "run ended: cancelled The run was cancelled." in await cli.shown(thread)

    asyncio.run(main())


def test_ctrl_c_at_the_prompt_keeps_what_is_typed(tmp_path: Path) -> None:
    async def main() -> None:
        async with Cli(tmp_path).chatting() as terminal:
            terminal.type("what is 2+")
            await terminal.expect("what is 2+")
            terminal.type("\x03")
            await terminal.expect("> what is 2+")
            await terminal.enter("3?", "2+3 = 5\n", "> ")

    asyncio.run(main())


def test_what_a_model_writes_cannot_steer_the_terminal(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("\x1b]0;owned\x07[red]not red[/red] \x9b31m:smile:\r\n")]) as endpoint:
            async with Cli(tmp_path).at(endpoint.base_url).chatting() as terminal:
                await terminal.enter("hello", "\ufffd]0;owned\ufffd[red]not red[/red] \ufffd31m:smile:", "> ")
                assert "\x1b]0;" not in terminal.raw

    asyncio.run(main())


def test_a_person_types_chinese_whatever_the_locale(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("好")]) as endpoint:
            cli = Cli(tmp_path, LC_ALL="C").at(endpoint.base_url)
            async with cli.chatting() as terminal:
                await terminal.enter("北京的天气 é 👍", "好\n", "> ")
            assert endpoint.requests[0].body["messages"][-1]["content"] == "北京的天气 é 👍"

    asyncio.run(main())


def test_what_is_typed_for_a_file_leaves_answers_alone_in_it(tmp_path: Path) -> None:
    async def main() -> None:
        master, slave = os.openpty()
        process = await Cli(tmp_path).start("chat", stdin=slave)
        os.close(slave)
        assert process.stderr is not None
        for keys in (b"what is 1+1?\n", b"", b"\x04"):
            await asyncio.wait_for(process.stderr.readuntil(b"> "), 20)
            if keys:
                os.write(master, keys)
            else:
                process.send_signal(signal.SIGINT)  # the prompt is shown again
        done = await finish(process)
        os.close(master)
        assert (done.code, done.out) == (0, "1+1 = 2\n")

    asyncio.run(main())


def test_a_command_at_the_prompt_is_no_message(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        async with cli.chatting() as terminal:
            await terminal.enter("/stop", "No run of this thread is open.", "> ")
        assert await cli.threads() == []

    asyncio.run(main())


def test_an_attempt_that_broke_is_marked_as_void(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([stream(chunk(content="half"), Cut.RESET)]) as endpoint:
            async with Cli(tmp_path).at(endpoint.base_url).terminal("chat") as terminal:
                await terminal.expect("> ")
                await terminal.enter("hello", "(the text above is void)", "> ")

    asyncio.run(main())


def test_the_person_is_spoken_to_in_their_language(tmp_path: Path) -> None:
    async def main() -> None:
        async with Cli(tmp_path, LANG="zh_CN.UTF-8").terminal("chat") as terminal:
            await terminal.expect("模型 offline")
            await terminal.expect("> ")
            await terminal.enter("2+3 等于多少？", "2+3 = 5")

    asyncio.run(main())


def test_a_run_left_by_a_dead_process_is_gone_on_with_when_its_thread_is_taken_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([stream(chunk(content="half"), Cut.STALL), text("all of it"), text("more")]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            thread = await cli.left_open(endpoint)
            done = await cli.run("chat", "--thread", thread[:8], stdin="go on\n")
            assert (done.code, done.out) == (0, "all of it\nmore\n")

    asyncio.run(main())


def test_a_chat_goes_on_when_its_server_dies_and_comes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([stream(chunk(content="half"), Cut.STALL), text("all of it"), text("more")]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.serving() as first:
                async with cli.terminal("chat") as terminal:
                    await terminal.expect("> ")
                    await terminal.enter("hello", "half")
                    await first.kill()
                    async with cli.serving():
                        for words in ("(the text above is void)", "all of it\n", "> "):
                            await terminal.expect(words)
                        await terminal.enter("and?", "more\n")

    asyncio.run(main())
