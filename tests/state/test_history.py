"""The conversation as a model sees it: what compactions make of it, what counts stay known, what is repaired."""

from __future__ import annotations

import json

from stepwell.contexts import WRAPPED
from stepwell.events import ContextCompacted, Cut
from stepwell.messages import Image, Message, ToolCall
from stepwell.state.history import History, cut_message
from tests.support.audit import check_history

PICTURE = Image("https://x.test/a.png")


def talk(*messages: Message, system: str = "Be brief.") -> History:
    """Return a history whose messages came with the events 1, 2, 3 and so on."""
    history = History()
    history.set_system(system)
    for seq, message in enumerate(messages, 1):
        history.append(message, seq)
    return history


def called(*ids: str) -> Message:
    return Message("assistant", calls=tuple(ToolCall(id, "look", "{}") for id in ids))


def result(id: str, text: str = "seen") -> Message:
    return Message("tool", text, call=id)


def said(history: History) -> list[str]:
    return [f"{message.role}: {message.content}" for message in history.transcript]


STEPS = (Message("user", "go"), called("a"), result("a"), called("b"), result("b"))


def test_the_users_message_stays_with_the_digest_in_front_of_it() -> None:
    history = talk(*STEPS)
    history.compact(ContextCompacted(3, "the past"))
    assert said(history) == ["system: Be brief.", "user: the past\n\ngo", "assistant: ", "tool: seen"]
    assert (history.gone, history.first, history.upto) == (2, 2, 3)
    assert [entry.seq for entry in history.past] == [2, 3]


def test_a_second_compaction_replaces_the_digest_and_leaves_the_users_words_as_they_are() -> None:
    history = talk(*STEPS)
    history.compact(ContextCompacted(3, "the past"))
    history.compact(ContextCompacted(5, "all of it"))
    assert said(history) == ["system: Be brief.", "user: all of it\n\ngo"]
    history.append(Message("user", "  and now?\n"), 6)
    history.compact(ContextCompacted(5, "more"))
    assert said(history)[1:] == ["user: more\n\n  and now?\n"]
    assert (history.gone, history.first, history.upto) == (5, 1, 5)


def test_an_agent_without_a_user_is_told_of_its_past_in_a_message_of_its_own() -> None:
    history = talk(*STEPS[1:], system="")
    history.compact(ContextCompacted(2, "the past"))
    assert said(history) == ["user: the past", "assistant: ", "tool: seen"]
    assert history.entries() == [(STEPS[3], 3), (STEPS[4], 4)]
    history.compact(ContextCompacted(4, "more"))
    assert said(history) == ["user: more"]


def test_images_leave_a_line_behind_when_they_go_and_when_their_message_goes() -> None:
    shown = Message("user", "  look\n", (PICTURE, PICTURE))
    cut = cut_message(shown, Cut(4, part="images"))
    assert (cut.images, cut.content) == ((), f"  look\n\n{WRAPPED} 2 image(s) left out; recall event:4")
    assert cut_message(STEPS[0], Cut(1, part="images")) == STEPS[0]
    history = talk(shown, *STEPS)
    history.compact(ContextCompacted(2, "the past"))
    assert f"{WRAPPED} 2 image(s)" in history.past[0].message.content


def test_arguments_stay_a_json_object_when_they_are_cut() -> None:
    for arguments in ('{"path": "a", "content": "' + "x" * 999 + '"}', "[" * 999, "x" * 999):
        message = Message("assistant", calls=(ToolCall("a", "write", arguments),))
        (call,) = cut_message(message, Cut(7, 50, part="arguments")).calls
        assert isinstance(json.loads(call.arguments), dict)
        assert "recall event:7" in call.arguments
        assert len(call.arguments) < 200


def test_imported_history_is_made_valid_for_strict_endpoints() -> None:
    history = talk(
        result("x"), called("a", "b"), result("b", "two"), result("a", "one"), Message("assistant"), called("a", "a")
    )
    history.repair()
    check_history(list(history.transcript), False)
    assert said(history)[1:] == [
        "assistant: ",
        "tool: one",
        "tool: two",
        "assistant: ",
        f"tool: {WRAPPED} no result was kept",
    ]
    assert [fault.split(" of event ")[0] for fault in history.faults] == [
        "the result",
        "results",
        "the reply",
        "two calls",
        "call a",
    ]


def test_valid_history_is_left_alone() -> None:
    history = talk(*STEPS)
    before = history.transcript
    history.repair()
    assert (history.transcript, history.faults) == (before, ())


def test_what_a_trial_does_stays_with_the_trial() -> None:
    history = talk(*STEPS)
    trial = history.copy()
    trial.compact(ContextCompacted(5, "gone"))
    assert said(history) == said(talk(*STEPS))
    assert (history.gone, len(history.past), history.compactions) == (0, 0, 0)


def counted(history: History, *reports: int) -> History:
    """Ask and be told a count, again and again, with two short messages between."""
    for at, tokens in enumerate(reports):
        history.asked(plain=True)
        history.counted(tokens)
        history.append(called(f"n{at}"), 100 + 2 * at)
        history.append(result(f"n{at}"), 101 + 2 * at)
    return history


def test_the_provider_is_believed_once_it_counts_more_than_is_new() -> None:
    assert not counted(talk(*STEPS), 1000).proved
    assert not counted(talk(*STEPS), 60, 120).proved
    assert counted(talk(*STEPS), 1000, 1050).proved


def test_a_count_that_shrinks_is_never_believed_again() -> None:
    history = counted(talk(*STEPS), 1000, 1050, 1100)
    assert (history.proved, len(history.segments)) == (True, 2)
    history = counted(history, 40, 1500, 1600)
    assert (history.proved, history.segments) == (False, [])
    assert not any(mark.own for mark in history.marks)


def test_counts_of_what_is_kept_as_it_was_outlive_a_compaction() -> None:
    history = counted(talk(*STEPS), 1000, 1050, 1100)
    assert [(each.seq, each.messages, each.tokens) for each in history.segments] == [(100, 2, 50), (102, 2, 50)]
    history.compact(ContextCompacted(5, "the past", (Cut(101, 2),)))
    assert [each.seq for each in history.segments] == [102]
    assert (history.marks, history.first_mark is not None) == ([], True)


def test_counts_of_another_model_or_system_message_are_forgotten() -> None:
    history = counted(talk(*STEPS), 1000, 1050, 1100)
    history.counted_by("gpt")
    assert (history.marks, history.segments, history.first_mark, history.proved) == ([], [], None, False)
    history = counted(history, 2000)
    history.counted_by("gpt")
    assert history.first_mark is not None
    history.set_system("Be long.")
    assert history.first_mark is None
