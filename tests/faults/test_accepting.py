"""A message that was accepted is there, once, whatever dies and whoever repeats it (F01-F03)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from stepwell.events import MessageAdded, RunClaimed, RunEnded, RunStarted
from tests.faults.support.case import Parent, case, run
from tests.faults.support.examine import of, replies
from tests.faults.support.parent import Death
from tests.support.endpoint import chunk, ending, stream, text

KEY = {"idempotency-key": "k-1"}


def test_f01_a_client_that_repeats_itself_after_a_crash_before_the_answer_gets_the_same_run(
    tmp_path: Path, parent: Parent
) -> None:
    async def main() -> None:
        async with case(tmp_path, lambda _: text("Hello."), parent) as it:
            async with it.victim(Death(type="run_started")) as victim:
                with pytest.raises(aiohttp.ClientError):
                    await victim.call("POST", "/api/messages", json={"content": "hi"}, headers=KEY)
            async with it.victim() as victim:
                status, answer = await victim.call("POST", "/api/messages", json={"content": "hi"}, headers=KEY)
                assert (status, answer["repeated"], answer["run"]) == (202, True, 1)
                await victim.over(answer["thread"])
                again = await victim.call("POST", "/api/messages", json={"content": "hi"}, headers=KEY)
                assert again == (202, answer)
                listed = await victim.call("GET", "/api/threads")
                assert [each["id"] for each in listed[1]["threads"]] == [answer["thread"]]
        assert len(of(it.log, RunStarted)) == 1
        assert [each.message.content for each in of(it.log, MessageAdded)] == ["hi"]
        # The process may have died while the model was asked: then that reply is closed as cut, and asked for again.
        assert [each for each in replies(it.log) if each] == ["Hello."]

    run(main)


def test_f02_twenty_equal_requests_at_once_make_one_run_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with case(tmp_path, [text("Hello.")]) as it, it.serving() as (person, _):

            async def post(content: str) -> tuple[int, Any]:
                return await person.call("POST", "/api/messages", json={"content": content}, headers=KEY)

            answers = await asyncio.gather(*(post("hi") for _ in range(20)))
            assert {status for status, _ in answers} == {202}
            assert len({(answer["thread"], answer["run"]) for _, answer in answers}) == 1
            assert sum(not answer["repeated"] for _, answer in answers) == 1
            status, refused = await post("something else")
            assert status == 409
            assert "Idempotency" in refused["error"]["message"] or "idempotency" in refused["error"]["message"]
            await person.over(answers[0][1]["thread"])
        assert len(of(it.log, RunStarted)) == 1

    run(main)


@pytest.mark.parametrize("when", ["committed", "told"])
def test_f03_a_run_that_was_accepted_and_not_begun_is_carried_out_after_the_restart(
    tmp_path: Path, parent: Parent, when: Any
) -> None:
    async def main() -> None:
        held = asyncio.Event()  # the run must not be over before the process is
        async with case(tmp_path, lambda _: stream(held, chunk(content="Hello."), *ending()), parent) as it:
            async with it.victim(Death(at=2, when=when)) as victim:
                try:
                    thread = (await victim.post("/api/messages", {"content": "hi"}))["thread"]
                except aiohttp.ClientError:
                    thread = ""
            held.set()
            async with it.victim() as victim:
                listed = (await victim.call("GET", "/api/threads"))[1]["threads"]
                assert [each["id"] for each in listed] == [thread or listed[0]["id"]]
                await victim.over(listed[0]["id"])
        assert of(it.log, RunEnded) == [RunEnded("answer")]
        assert of(it.log, RunClaimed) == [RunClaimed(1)]
        assert replies(it.log)[-1] == "Hello."

    run(main)
