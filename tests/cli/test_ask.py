"""`stepwell ask`: what is on stdout and stderr, and how it ends, whatever happens."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

from tests.cli.running import Cli, finish
from tests.support.endpoint import Cut, Endpoint, chunk, error, stream, text


def test_the_offline_model_calculates_and_the_answer_is_alone_on_stdout(tmp_path: Path) -> None:
    done = asyncio.run(Cli(tmp_path).run("ask", "what is 17*23+4?"))
    assert done.code == 0
    assert done.out == "17*23+4 = 395\n"
    assert done.err.startswith("calculate ")
    assert done.err.endswith("→ 395\n")


def test_the_second_question_goes_on_with_the_thread_that_a_prefix_names(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("Hello Ada."), text("Ada.")]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            assert (await cli.run("ask", "I am Ada")).code == 0
            (thread,) = await cli.threads()
            assert (await cli.run("ask", "Who am I?", "--thread", thread[:5])).out == "Ada.\n"
            said = [message["content"] for message in endpoint.requests[1].body["messages"]]
            assert said[1:] == ["I am Ada", "Hello Ada.", "Who am I?"]

    asyncio.run(main())


def test_json_has_the_answer_its_place_and_the_tool_calls(tmp_path: Path) -> None:
    done = asyncio.run(Cli(tmp_path).run("ask", "--json", "what is 6*7?"))
    said = json.loads(done.out)
    assert done.code == 0
    assert said["answer"] == "6*7 = 42"
    assert (said["reason"], said["steps"], said["run"], len(said["thread"])) == ("answer", 2, 1, 32)
    assert [(each["name"], each["status"], each["content"]) for each in said["tool_calls"]] == [
        ("calculate", "ok", "42")
    ]


def test_a_failed_run_tells_its_cause_on_stderr_and_exits_with_1(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([error(401, "no such key"), error(401, "no such key")]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            done = await cli.run("ask", "hello")
            assert (done.code, done.out) == (1, "")
            assert done.err.startswith("error: ")
            assert "no such key" in done.err
            assert "sk-1" not in done.err
            as_json = await cli.run("ask", "hello", "--json")
            assert as_json.code == 1
            assert json.loads(as_json.out)["cause"] == "auth"

    asyncio.run(main())


def test_retries_are_told_while_they_happen(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([error(503, "busy", headers={"retry-after": "0"}), text("at last")]) as endpoint:
            done = await Cli(tmp_path).at(endpoint.base_url).run("ask", "hello")
            assert (done.code, done.out) == (0, "at last\n")
            assert "busy" in done.err

    asyncio.run(main())


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["ask", "hi", "--model", "nope"], 1, "offline"),
        (["ask", "hi", "--thread", "0123"], 1, "stepwell threads"),
        (["ask", "hi", "--thread", b"\xff\xfe"], 1, "stepwell threads"),
        (["ask", "hi", "--config", "nope.toml"], 1, "nope.toml"),
        (["ask", "hi", "--data", "/proc/nope"], 1, "/proc/nope"),
        (["ask"], 2, "question"),
        (["ask", "hi", "--nope"], 2, "--nope"),
        (["ask", ""], 1, "empty"),
        (["ask", " \n"], 1, "empty"),
        (["run", ""], 1, "empty"),
        (["steer", "0123", " "], 1, "empty"),
        (["nope"], 2, "nope"),
    ],
)
def test_a_wrong_command_line_is_one_clear_message(
    tmp_path: Path, args: list[str | bytes], code: int, words: str
) -> None:
    done = asyncio.run(Cli(tmp_path).run(*args))
    assert (done.code, done.out) == (code, "")
    assert words in done.err


def test_errors_are_told_in_the_language_of_the_person(tmp_path: Path) -> None:
    async def main() -> None:
        by_environment = await Cli(tmp_path, LANG="zh_CN.UTF-8").run("ask", "hi", "--thread", "0123")
        assert by_environment.err.startswith("错误：没有会话")
        by_setting = await Cli(tmp_path, STEPWELL_AGENT__LANGUAGE="zh").run("ask", "hi", "--thread", "0123")
        assert by_setting.err == by_environment.err
        both = await Cli(tmp_path, LANG="zh_CN", STEPWELL_AGENT__LANGUAGE="en").run("ask", "hi", "--thread", "0123")
        assert both.err.startswith("error: There is no thread")

    asyncio.run(main())


def test_arguments_that_are_no_unicode_do_no_harm(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        done = await cli.run("ask", b"what is 2+3? \xff\xed\xa0\x80")
        assert (done.code, done.out) == (0, "2+3 = 5\n")
        (line,) = (await cli.run("threads")).out.splitlines()
        assert "what is 2+3? \ufffd" in line

    asyncio.run(main())


def test_a_narrow_output_encoding_does_no_harm(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("naïve 你好")]) as endpoint:
            cli = Cli(tmp_path, PYTHONIOENCODING="ascii").at(endpoint.base_url)
            done = await cli.run("ask", "hello")
            assert (done.code, done.out) == (0, "na\\xefve \\u4f60\\u597d\n")

    asyncio.run(main())


@pytest.mark.parametrize("args", [["ask", "what is 2+3?"], ["threads"], ["doctor"], ["--help"]])
def test_a_reader_of_stdout_that_went_away_is_no_accident(tmp_path: Path, args: list[str]) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        await cli.run("ask", "what is 2+3?")
        reading, writing = os.pipe()
        os.close(reading)
        process = await cli.start(*args, stdout=writing)
        os.close(writing)
        done = await finish(process)
        assert done.code in (1, 141)
        assert "error" not in done.err.lower()

    asyncio.run(main())


def test_closed_streams_do_no_harm(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        assert (await cli.run("ask", "what is 2+3?", preexec_fn=lambda: os.close(1))).code == 0
        assert (await cli.run("ask", "what is 2+3?", preexec_fn=lambda: os.close(2))).out == "2+3 = 5\n"
        assert (await cli.run("chat", preexec_fn=lambda: os.close(0))).code == 0

    asyncio.run(main())


@pytest.mark.parametrize("served", [False, True])
def test_ctrl_c_cancels_the_run_and_ends_the_command(tmp_path: Path, served: bool) -> None:
    async def main() -> None:
        async with Endpoint([stream(chunk(content="half"), Cut.STALL)]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.maybe_serving(served):
                await interrupt(cli, endpoint)

    async def interrupt(cli: Cli, endpoint: Endpoint) -> None:
        process = await cli.start("ask", "hello")
        await endpoint.request(0)
        process.send_signal(signal.SIGINT)
        done = await finish(process)
        assert (done.code, done.out) == (130, "")
        (thread,) = await cli.threads()
        assert (await cli.shown(thread))[-1] == "run ended: cancelled The run was cancelled."

    asyncio.run(main())


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([stream(chunk(content="half"), Cut.STALL)], strict=False) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.serving() as server:
                process = await cli.start("ask", "hello")
                await endpoint.request(0)
                # A server that hangs cannot answer the request to cancel.
                server.process.send_signal(signal.SIGSTOP)
                process.send_signal(signal.SIGINT)
                assert process.stderr is not None
                async with asyncio.timeout(20):
                    await process.stderr.readline()
                process.send_signal(signal.SIGINT)
                assert (await finish(process)).code == 130

    asyncio.run(main())


def test_two_questions_at_once_both_get_their_answer(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        one, two = await asyncio.gather(cli.run("ask", "what is 2+3?"), cli.run("ask", "what is 3+4?"))
        assert (one.out, two.out) == ("2+3 = 5\n", "3+4 = 7\n")

    asyncio.run(main())


def test_a_folder_that_something_else_holds_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        cli.data.mkdir()
        (cli.data / "server.json").write_text('{"url": "http://127.0.0.1:9", "key": "sw_secret_0", "pid": 1}')
        with open(cli.data / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = await cli.run("ask", "hello")
        assert (done.code, done.out) == (1, "")
        assert "stepwell serve" in done.err
        assert "secret" not in done.err

    asyncio.run(main())


def test_a_server_that_is_halted_is_given_up_soon(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        async with cli.serving() as server:
            server.process.send_signal(signal.SIGSTOP)
            done = await cli.run("ask", "hello")
            assert (done.code, done.out, "stepwell serve" in done.err) == (1, "", True)

    asyncio.run(main())


@pytest.mark.parametrize("answer", ["<html>hello</html>", "{}", '{"models": 7}'])
def test_a_stranger_at_the_address_of_a_server_that_died_is_not_taken_for_it(tmp_path: Path, answer: str) -> None:
    async def strange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(answer)}\r\n\r\n{answer}".encode())
        writer.close()

    async def main() -> None:
        cli = Cli(tmp_path)
        cli.data.mkdir(mode=0o700)
        async with await asyncio.start_server(strange, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            (cli.data / "server.json").write_text(f'{{"url": "http://127.0.0.1:{port}", "key": "sw_0_0", "pid": 1}}')
            looked = await cli.run("doctor")
            with open(cli.data / "lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                done = await cli.run("ask", "hello")
        assert (looked.code, "off  server:" in looked.out) == (0, True)
        assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)

    asyncio.run(main())


def test_a_run_that_was_left_unfinished_is_gone_on_with_before_the_question(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [stream(chunk(content="half"), Cut.STALL), text("all of it"), text("and more")]
        async with Endpoint(replies) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            thread = await cli.left_open(endpoint)
            done = await cli.run("ask", "go on", "--thread", thread)
            assert (done.code, done.out) == (0, "and more\n")
            said = [message["content"] for message in endpoint.requests[2].body["messages"]]
            assert said[1:] == ["hello", "all of it", "go on"]
            replayed = await cli.run("replay", thread)
            assert replayed.code == 0, replayed

    asyncio.run(main())
