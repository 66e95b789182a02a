"""Questions, steering, waiting messages and forks on the command line, with and without a server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import apsw
import pytest

from tests.cli.running import WAIT, Cli, finish
from tests.support.endpoint import Cut, Endpoint, Reply, chunk, ending, stream, text, tool_calls

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ASK = {"STEPWELL_APPROVALS__RULES": '[{"decision": "ask", "tool": "calculate"}]'}


def calls(*queries: str) -> Reply:
    return tool_calls(*((f"c{n}", "calculate", [json.dumps({"query": each})]) for n, each in enumerate(queries)))


async def said(endpoint: Endpoint, number: int) -> list[str]:
    request = await endpoint.request(number)
    return [each["content"] for each in request.body["messages"][1:]]


@pytest.mark.parametrize("served", [False, True])
def test_a_run_that_asks_is_left_waiting_and_goes_on_when_its_calls_are_approved(tmp_path: Path, served: bool) -> None:
    async def main() -> None:
        async with Endpoint([calls("1+1", "2+2"), text("It is 7.")]) as endpoint:
            cli = Cli(tmp_path, **ASK).at(endpoint.base_url)
            async with cli.maybe_serving(served):
                asked = await cli.run("ask", "go")
                assert (asked.code, asked.out) == (3, "")
                (thread,) = await cli.threads()
                assert f"approve {thread} " in asked.err
                inbox = await cli.run("inbox")
                assert inbox.out.splitlines()[0] == thread
                listed = await cli.run("answer", thread[:8])
                numbers = [line.split()[1] for line in listed.out.splitlines() if line.startswith("? ")]
                assert len(numbers) == 2
                assert 'calculate {"query": "1+1"}' in listed.out
                bad = await cli.run("approve", thread, numbers[0], "--arguments", '{"query": 7}')
                assert (bad.code, "query" in bad.err) == (1, True)
                denied = await cli.run("deny", thread, numbers[0], "--reason", "too dear")
                assert denied.code == (0 if served else 3), denied
                done = await cli.run("approve", thread[:8], numbers[1], "--arguments", '{"query": "3+4"}')
                assert done.code == 0, done
                if not served:
                    assert done.out.endswith("It is 7.\n")
                results = (await said(endpoint, 1))[2:]
                assert "too dear" in results[0]
                assert results[1].endswith("\n7")
                again = await cli.run("approve", thread, numbers[1])
                assert (again.code, "already" in again.err) == (1, True)
                unknown = await cli.run("answer", thread, "1", "x")
                assert (unknown.code, "no such question" in unknown.err) == (1, True)

    asyncio.run(main())


def test_a_person_decides_in_place_with_invisible_characters_written_out(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([calls("1+1\u202e", "2+2", "3+3"), text("done")]) as endpoint:
            cli = Cli(tmp_path, **ASK).at(endpoint.base_url)
            async with cli.chatting() as terminal:
                await terminal.enter("go", "\\u202e", "y: run it")
                await terminal.enter("what?", "y: run it")
                await terminal.enter("n no tricks", '"2+2"', "y: run it")
                await terminal.enter('e {"query": 5}', "error:", "y: run it")
                await terminal.enter('e {"query": "20+2"}', '"3+3"', "y: run it")
                await terminal.enter("a", "done\n", "> ")
            results = (await said(endpoint, 1))[2:]
            assert "no tricks" in results[0]
            assert results[1].endswith("\n22")
            assert results[2] == "6"

    asyncio.run(main())


def test_what_is_typed_while_a_run_goes_on_waits_or_reaches_the_agent(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        replies = [stream(chunk(content="one"), held, *ending()), text("two"), text("three")]
        async with Endpoint(replies) as endpoint:
            async with Cli(tmp_path).at(endpoint.base_url).chatting() as terminal:
                await terminal.enter("first", "one")
                await terminal.enter("later", "Waiting for the end of the run, as number ")
                await terminal.enter("/queue", "  later\n")
                await terminal.enter("/what", "/steer TEXT")
                await terminal.enter("/steer now", "The agent meets it")
                held.set()
                for words in ("two", "three", "> "):
                    await terminal.expect(words)
            assert (await said(endpoint, 1))[-1] == "now"
            assert (await said(endpoint, 2))[-1] == "later"

    asyncio.run(main())


@pytest.mark.parametrize("command", [["ask"], ["run", "--react"]])
def test_who_leaves_at_a_question_is_told_how_to_answer_it_later(tmp_path: Path, command: list[str]) -> None:
    async def main() -> None:
        async with Endpoint([calls("1+1")]) as endpoint:
            cli = Cli(tmp_path, **ASK).at(endpoint.base_url)
            async with cli.terminal(*command, "go") as terminal:
                await terminal.expect("y: run it")
                terminal.type("\x04")
                await terminal.expect(" approve ")
                assert await terminal.left() == 130

    asyncio.run(main())


def test_an_answer_may_look_like_a_command(tmp_path: Path) -> None:
    async def main() -> None:
        asked = tool_calls(("c", "ask_human", ['{"question": "Which file?"}']))
        async with Endpoint([asked, text("I see.")]) as endpoint:
            cli = Cli(tmp_path, STEPWELL_TOOLS__ASK_HUMAN__ENABLED="true").at(endpoint.base_url)
            async with cli.chatting() as terminal:
                await terminal.enter("go", "answer with text")
                await terminal.enter("/queue", "No message waits.")
                await terminal.enter("/etc/hosts", "I see.\n", "> ")
            assert (await said(endpoint, 1))[-1] == "/etc/hosts"

    asyncio.run(main())


def test_who_has_the_folder_decides_for_any_owner_and_sees_the_run_go_on(tmp_path: Path) -> None:
    async def main() -> None:
        replies = [calls("1+1"), text("It is 2."), text("It is two.")]
        async with Endpoint(replies) as endpoint:
            cli = Cli(tmp_path, **ASK).at(endpoint.base_url)
            assert (await cli.run("ask", "go")).code == 3
            (thread,) = await cli.threads()
            db = apsw.Connection(str(cli.data / "stepwell.db"))
            db.execute("UPDATE threads SET owner = 'bob'")
            db.close()
            done = await cli.run("approve", thread, "6")
            assert (done.code, done.out) == (0, "It is 2.\n"), done
            again = await cli.run("regenerate", thread)
            assert (again.code, again.out) == (0, "It is two.\n"), again
            assert (await cli.run("ask", "hello", "--thread", thread)).code == 1

    asyncio.run(main())


def test_an_open_run_is_paused_steered_resumed_and_cancelled_from_another_terminal(tmp_path: Path) -> None:
    async def main() -> None:
        first = calls("6*7")
        held = asyncio.Event()
        replies = [Reply([first.pieces[0], held, *first.pieces[1:]]), stream(chunk(content="42"), Cut.STALL)]
        async with Endpoint(replies) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.serving():
                asking = await cli.start("ask", "6*7?")
                await endpoint.request(0)
                thread = await cli.stored()
                assert (await cli.run("pause", thread)).code == 0
                held.set()
                waits = await finish(asking)
                assert (waits.code, f"resume {thread}" in waits.err) == (3, True)
                assert (await cli.run("resume", thread)).code == 0
                await endpoint.request(1)
                assert (await cli.run("steer", thread, "and?")).code == 0
                waiting = await cli.run("queue", thread)
                assert (waiting.code, waiting.out) == (0, "")
                assert (await cli.run("cancel", thread)).code == 0
                async with asyncio.timeout(WAIT):
                    while "run ended: cancelled" not in "".join(await cli.shown(thread)):
                        pass
                for command in ("pause", "cancel"):
                    over = await cli.run(command, thread)
                    assert (over.code, "No run" in over.err) == (1, True)
            shown = await cli.shown(thread)
            assert "asked to halt" in shown
            assert "waits for a person" in shown
            assert "said while it runs: and?" in shown

    asyncio.run(main())


def test_a_command_whose_message_is_taken_out_of_the_queue_ends_and_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with Endpoint([stream(chunk(content="one"), held, *ending())]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.serving():
                asking = await cli.start("ask", "first")
                await endpoint.request(0)
                thread = await cli.stored()
                behind = await cli.start("run", "second", "--thread", thread, "--react")
                while not (listed := (await cli.run("queue", thread)).out):
                    pass
                item = listed.split("\t")[0]
                assert (await cli.run("queue", thread, "remove", item)).code == 0
                left = await finish(behind)
                assert (left.code, f"waiting message {item} is taken out" in left.err) == (1, True)
                held.set()
                assert (await finish(asking)).out == "one\n"

    asyncio.run(main())


@pytest.mark.parametrize("served", [False, True])
def test_a_waiting_message_keeps_its_images_when_its_words_are_changed(tmp_path: Path, served: bool) -> None:
    async def main() -> None:
        async with Endpoint([calls("1+1")]) as endpoint:
            cli = Cli(tmp_path, **ASK).at(endpoint.base_url)
            assert (await cli.run("ask", "go")).code == 3
            (thread,) = await cli.threads()
            async with cli.serving(), aiohttp.ClientSession() as session:
                server = json.loads((cli.data / "server.json").read_text())
                shown = {"content": "look", "images": [{"url": PIXEL}]}
                headers = {"authorization": f"Bearer {server['key']}"}
                url = f"{server['url']}/api/threads/{thread}/messages"
                async with session.post(url, json=shown, headers=headers) as response:
                    item = str((await response.json())["queued"])
            async with cli.maybe_serving(served):
                edited = await cli.run("queue", thread, "edit", item, "look closely")
            assert (edited.code, edited.out) == (0, f"{item}\tlook closely\n")
            exported = await cli.run("show", thread, "--json")
            assert exported.out.splitlines()[-1].count(PIXEL) == 1

    asyncio.run(main())


def test_waiting_messages_are_edited_moved_removed_and_the_policy_is_set(tmp_path: Path) -> None:
    async def main() -> None:
        held = asyncio.Event()
        async with Endpoint([stream(chunk(content="one"), held, *ending())]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.serving():
                asking = await cli.start("ask", "first")
                await endpoint.request(0)
                thread = await cli.stored()
                for words in ("a", "b", "c"):
                    left = await cli.run("run", words, "--thread", thread, "--react", "--no-follow")
                    assert left.code == 0, left
                listed = (await cli.run("queue", thread)).out.splitlines()
                a, b, c = (line.split("\t")[0] for line in listed)
                assert [line.split("\t")[1] for line in listed] == ["a", "b", "c"]
                assert (await cli.run("queue", thread, "edit", c, "C")).code == 0
                assert (await cli.run("queue", thread, "move", c, a)).code == 0
                for number in (a, b):
                    removed = await cli.run("queue", thread, "remove", number)
                assert removed.out == f"{c}\tC\n"
                assert (await cli.run("queue", thread, "remove", c)).out == ""
                policy = await cli.run("queue", thread, "policy", "reject")
                assert (policy.code, "refused" in policy.err) == (0, True)
                for wrong in (("policy", "x"), ("edit", a), ("fly",), ("remove", a)):
                    assert (await cli.run("queue", thread, *wrong)).code == 1
                refused = await cli.run("run", "x", "--thread", thread)
                assert (refused.code, "open run" in refused.err) == (1, True)
                held.set()
                assert (await finish(asking)).out == "one\n"

    asyncio.run(main())


@pytest.mark.parametrize("served", [False, True])
def test_a_fork_makes_only_the_calls_after_it_and_diff_shows_where_they_part(tmp_path: Path, served: bool) -> None:
    async def main() -> None:
        replies = [calls("6*7"), text("42"), text("forty-three"), text("again 42"), text("other")]
        async with Endpoint(replies) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.maybe_serving(served):
                assert (await cli.run("ask", "6*7?")).out == "42\n"
                (old,) = await cli.threads()
                events = [json.loads(line) for line in (await cli.run("show", "--json", old)).out.splitlines()]
                result = next(each["seq"] for each in events if each["event"]["type"] == "tool_ended")
                forked = await cli.run("fork", old, "--at", str(result), "--result", "43")
                assert (forked.code, forked.out) == (0, "forty-three\n"), forked
                new = forked.err.split()[1]
                assert (await said(endpoint, 2))[-1] == "43"
                diff = await cli.run("diff", old, new)
                assert diff.out.splitlines()[0] == f"{result - 1} events are the same."
                assert "forty-three" in diff.out
                common = json.loads((await cli.run("diff", old, new, "--json")).out)["common"]
                assert common == result - 1
                regenerated = await cli.run("regenerate", old)
                assert (regenerated.code, regenerated.out) == (0, "again 42\n")
                assert await said(endpoint, 3) == ["6*7?"]
                edited = await cli.run("fork", old, "--at", "2", "--edit", "7*7?")
                assert (edited.code, edited.out) == (0, "other\n")
                assert await said(endpoint, 4) == ["7*7?"]
                for wrong in (("--at", "999"), ("--at", "2", "--result", "x"), ("--at", "2", "--model", "nope")):
                    refused = await cli.run("fork", old, *wrong)
                    assert (refused.code, refused.out) == (1, "")

    asyncio.run(main())


def test_a_program_on_a_pipe_is_asked_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([calls("1+1"), text("I may not.")]) as endpoint:
            done = await Cli(tmp_path, **ASK).at(endpoint.base_url).run("chat", stdin="go\n")
            assert (done.code, done.out) == (0, "I may not.\n")

    asyncio.run(main())


def one(name: str, **arguments: object) -> Reply:
    return tool_calls((f"call_{name}", name, [json.dumps(arguments)]))


def submitted(result: str, *suggestions: str) -> Reply:
    wanted = {"need_plan_rectification": bool(suggestions), "suggestions": suggestions}
    return one("subtask_submit", submit_type="success", result=result, **wanted)


def concluded(summary: str, reply: str = "") -> Reply:
    goals: dict[str, list[str]] = {"reached_goals": [], "failed_goals": []}
    return one("conclusion", summary=summary, status="success", reply=reply or summary, **goals)


def edited(operation: str, target: str, *names: str) -> Reply:
    tasks = [{"name": name, "goal": f"{name} goal"} for name in names]
    return one("subtask_operations", operation=operation, target_subtask_id=target, subtasks=tasks)


PLAN = [
    one("generate_plan", subtasks=[{"name": "look", "goal": "look around"}, {"name": "write", "goal": "write it"}]),
    submitted("seen", "take more care"),
    concluded("I looked."),
    edited("delete", "1.1"),
    edited("add", "1.2", "check"),
    edited("exit", ""),
    submitted("written"),
    concluded("I wrote."),
    submitted("checked"),
    concluded("I checked."),
    concluded("All of it.", reply="Here you are."),
]


@pytest.mark.parametrize("served", [False, True])
def test_a_plan_is_shown_as_a_tree_with_what_each_task_hands_in_and_each_change(tmp_path: Path, served: bool) -> None:
    async def main() -> None:
        async with Endpoint(PLAN) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            async with cli.maybe_serving(served):
                done = await cli.run("run", "Do it all.", "--plan")
            assert done.code == 0, done
            lines = done.out.splitlines()
            assert lines[:3] == ["Plan: Do it all.", "  · 1.1 look", "  · 1.2 write"]
            assert "▶ 1.1 look" in lines
            assert "  1.1 task submitted (success) seen" in lines
            assert "  1.1 another plan is wanted: take more care" in lines
            assert "✓ 1.1 look – task over (success) I looked." in lines
            changed = lines.index("plan: after 1.2 comes 1.3 check")
            assert lines[changed + 1 : changed + 5] == [
                "Plan: Do it all.",
                "  ✓ 1.1 look",
                "  · 1.2 write",
                "  · 1.3 check",
            ]
            assert lines[-1] == "Here you are."
            refused, why = [line for line in done.err.splitlines() if "subtask_operations" in line]
            assert refused.startswith("• subtask_operations {")
            assert '"delete"' in refused
            assert why.startswith("  subtask_operations → ")
            assert why.endswith("nothing happens.")
            shown = await cli.shown((await cli.threads())[0])
            assert "[1.3] task submitted (success): checked" in shown

    asyncio.run(main())
