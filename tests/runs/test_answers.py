"""Several answers at once: all of them count or none, whatever asked, and errors speak the words of the request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepwell.errors import Decided, Expired, InputError
from stepwell.events import Answered, MessageAdded, MessageQueued, RunStarted, Steered
from stepwell.messages import Message, ToolCall
from stepwell.models.scripted import call, reply
from stepwell.runs.answers import Reply, answer_all
from stepwell.runs.channel import Item
from stepwell.runs.people import answer, questions
from stepwell.runs.requests import Once
from stepwell.runs.service import RunRef
from stepwell.specs import Limits, RunSpec
from stepwell.tools.builtin.ask_human import ask_human_tool
from tests.runs.test_people import ASK, Clock, Outbox, asking, clocked, left, sending, waiting
from tests.support.runs import OWNER, WAIT, Rig, answer_of, bounded, events_of, open_store, rig, until


def say(question: int, decision: Any = "approve", text: str = "", **more: Any) -> Reply:
    """Give an answer whose fields stand in a place of their own."""
    names = ("lapses", "hash")
    made = Answered(question, decision, text, **{name: each for name, each in more.items() if name not in names})
    places = {"": f"answers.{question}", "arguments": f"answers.{question}.edited"}
    return Reply(made, places=places, **{name: each for name, each in more.items() if name in names})


async def decide(made: Rig, thread: str, *replies: Reply, **more: Any) -> RunRef:
    return await answer_all(made.service, OWNER, thread, lambda _: replies, **more)


def test_answers_of_one_request_are_one_append_and_the_run_goes_on_from_the_first(tmp_path: Path) -> None:
    async def main() -> None:
        box = Outbox()
        async with rig(sending("a", "b"), box.tool, store=open_store("sqlite", tmp_path)) as made:
            ref = await made.start(**ASK)
            one, two = await waiting(made, ref, 2)
            await left(made, ref)
            once = Once("test", "k", "")
            replies = (say(one), say(two, "deny", "no\0t that"))
            found = await decide(made, ref.thread, *replies, said=Message("user", "Be brief."), once=once)
            log = await made.ended(ref)
            at = next(index for index, each in enumerate(log) if isinstance(each.event, Answered))
            assert [type(each.event) for each in log[at : at + 3]] == [Answered, Answered, Steered]
            assert found == RunRef(ref.thread, log[at].seq)
            given = events_of(log, Answered)
            assert [(each.question, each.text, each.by) for each in given] == [
                (one, "", OWNER),
                (two, "no\ufffdt that", OWNER),
            ]
            assert box.sent == ["a"]
            again = await decide(made, ref.thread, *replies, once=once)
            assert again == found._replace(repeated=True)
            assert len(await made.log(ref.thread)) == len(log)

    bounded(main)


@pytest.mark.parametrize(
    ("bad", "kind", "field", "words"),
    [
        ({"decision": "answer"}, InputError, "answers.{}", "approve or deny"),
        ({"decision": "expired"}, InputError, "answers.{}", "approve or deny"),
        ({"scope": "always"}, InputError, "answers.{}", "once"),
        ({"arguments": '{"what": 7}'}, InputError, "answers.{}.edited", "what"),
        ({"hash": "0" * 64}, Decided, "answers.{}", "look at the question again"),
    ],
)
def test_none_counts_where_one_is_wrong_and_its_own_place_is_named(
    bad: dict[str, Any], kind: type[InputError], field: str, words: str
) -> None:
    async def main() -> None:
        async with rig(sending("a", "b"), Outbox().tool) as made:
            ref = await made.start(**ASK)
            one, two = await waiting(made, ref, 2)
            before = len(await made.log(ref.thread))
            with pytest.raises(InputError, match=words) as caught:
                await decide(made, ref.thread, say(one), say(two, **bad))
            assert (type(caught.value), caught.value.field) == (kind, field.format(two))
            with pytest.raises(InputError, match="two answers") as caught:
                await decide(made, ref.thread, say(one), say(two), say(two, "deny"))
            assert caught.value.field == f"answers.{two}"
            assert await decide(made, ref.thread) == RunRef(ref.thread, 0)
            assert len(await made.log(ref.thread)) == before
            await decide(made, ref.thread, say(one), say(two))
            with pytest.raises(Decided, match="already") as caught:
                await decide(made, ref.thread, say(two))
            assert caught.value.field == f"answers.{two}"

    bounded(main)


def test_who_does_not_answer_lets_a_question_end_with_its_default() -> None:
    async def main() -> None:
        clock = Clock()
        async with rig(asking(question="Which?", timeout_seconds=60, default="red"), ask_human_tool()) as made:
            clocked(made, clock)
            ref = await made.start()
            (number,) = await waiting(made, ref)
            clock.now += 60_000
            with pytest.raises(Expired) as caught:
                await decide(made, ref.thread, say(number, "answer", "blue"))
            assert caught.value.field == f"answers.{number}"
            await decide(made, ref.thread, say(number, "expired", "red", lapses=True))
            assert answer_of(await made.ended(ref)) == "Heard: red"

    bounded(main)


async def leave(made: Rig, thread: str = "") -> tuple[RunRef, int]:
    """Have a run end with a question that nobody was there to answer."""
    ref = await made.start(thread=thread, people=False)
    await made.ended(ref)
    return ref, max(each.seq for each in await questions(made.service, OWNER, ref.thread))


async def taken(made: Rig, thread: str, queued: int) -> str:
    """Wait for the end of the run that takes up a message that waits, and return its answer."""

    def starts(item: Item) -> bool:
        return isinstance(item.event, RunStarted) and item.event.queued == queued

    async with asyncio.timeout(WAIT):
        started = await until(made.service, thread, starts)
    log = await made.ended(RunRef(thread, started[-1].run))
    return answer_of(log)


async def admit(spec: RunSpec) -> RunSpec:
    return msgspec.structs.replace(spec, limits=Limits(tool_calls=7))


def test_answers_to_what_ended_runs_left_open_begin_one_run_and_wait_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        ask = call("ask_human", question="Which?")
        script = [ask, ask, "Blue, and brief", "Red"]
        async with rig(script, ask_human_tool(), store=open_store("sqlite", tmp_path)) as made:
            ref, one = await leave(made)
            _, two = await leave(made, ref.thread)
            with pytest.raises(InputError, match="empty"):
                await decide(made, ref.thread, say(one, "answer", "blue"), say(two, "answer", " "))
            replies = (say(one, "answer", "blue"), say(two, "answer", "red"))
            found = await decide(made, ref.thread, *replies, said=Message("user", "Be brief."), admit=admit)
            log = await made.ended(found)
            assert answer_of([each for each in log if each.run == found.run]) == "Blue, and brief"
            assert events_of(log, Steered)[0].message.content == "Be brief."
            (queued,) = (each.seq for each in log if isinstance(each.event, MessageQueued))
            assert await taken(made, ref.thread, queued) == "Red"
            log = await made.log(ref.thread)
            started = events_of(log, RunStarted)
            assert [each.spec.limits.tool_calls for each in started[2:]] == [7, 7]
            told = [each.message.content for each in events_of(log, MessageAdded)]
            assert [each.rpartition(": ")[2] for each in told if "asked earlier" in each] == ["blue", "red"]

    bounded(main)


def test_an_open_run_goes_before_what_another_left_open(tmp_path: Path) -> None:
    async def main() -> None:
        box = Outbox()
        script: list[Any] = [
            call("ask_human", question="Which?"),
            reply("", ToolCall("c9", "send", '{"what": "a"}')),
            "Sent.",
            "Blue.",
        ]
        async with rig(script, ask_human_tool(), box.tool, store=open_store("sqlite", tmp_path)) as made:
            old, left_open = await leave(made)
            ref = await made.start(thread=old.thread, **ASK)
            _, asked = await waiting(made, ref, 2)
            replies = (say(left_open, "answer", "blue"), say(asked))
            found = await decide(made, ref.thread, *replies)
            log = await made.ended(ref)
            assert [type(each.event) for each in log[found.run - 1 : found.run + 2]] == [
                Answered,
                Answered,
                MessageQueued,
            ]
            assert [each.question for each in events_of(log[found.run - 1 :], Answered)] == [asked, left_open]
            assert box.sent == ["a"]
            assert await taken(made, ref.thread, found.run + 2) == "Blue."

    bounded(main)


def test_an_answer_alone_leads_to_its_whole_run_and_after_its_end_to_the_message_that_waits(tmp_path: Path) -> None:
    async def main() -> None:
        script: list[Any] = [
            call("ask_human", question="Which?"),
            call("ask_human", question="How?"),
            "Well.",
            "Blue.",
        ]
        async with rig(script, ask_human_tool(), store=open_store("sqlite", tmp_path)) as made:
            old, left_open = await leave(made)
            ref = await made.start(thread=old.thread)
            _, asked = await waiting(made, ref, 2)
            waits = await answer(made.service, OWNER, ref.thread, left_open, "answer", text="blue")
            assert (waits.run, waits.queued > asked) == (0, True)
            assert await answer(made.service, OWNER, ref.thread, asked, "answer", text="so") == ref
            assert await taken(made, ref.thread, waits.queued) == "Blue."

    bounded(main)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), "\ud800"])
def test_an_answer_that_would_be_another_once_it_is_stored_is_refused(number: Any) -> None:
    async def main() -> None:
        form = {"type": "object", "properties": {"n": {}}, "required": ["n"]}
        async with rig(asking(question="Which?", form=form), ask_human_tool()) as made:
            ref = await made.start()
            (asked,) = await waiting(made, ref)
            with pytest.raises(InputError) as caught:
                await answer(made.service, OWNER, ref.thread, asked, "answer", value={"n": number})
            assert caught.value.field == "value"
            await answer(made.service, OWNER, ref.thread, asked, "answer", value={"n": 10**30})
            assert answer_of(await made.ended(ref)) == f'Heard: {{"n":{10**30}}}'

    bounded(main)
