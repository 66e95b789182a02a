"""What is typed under a question, and what it decides."""

from __future__ import annotations

import pytest

from stepwell.cli.asked import typed
from stepwell.questions import DECISIONS, QuestionKind
from stepwell.runs.people import QuestionInfo


def question(kind: QuestionKind) -> QuestionInfo:
    return QuestionInfo(
        thread="t",
        run=1,
        seq=6,
        path="",
        kind=kind,
        call="c",
        tool="shell",
        arguments="{}",
        shown="{}",
        text="May it?",
        reason="",
        choices=(),
        form=None,
        hash="h",
        time=0,
        until=0,
        default=None,
        decisions=DECISIONS[kind],
    )


@pytest.mark.parametrize("line", ["a moment please", "a tools", "y but not now", "yes, if I must", "e", "Y?"])
def test_a_call_runs_only_where_the_whole_line_says_so(line: str) -> None:
    assert typed(question("approval"), line) is None


@pytest.mark.parametrize("line", ["y", "Yes ", "a", "a  tool", "always tool", 'e {"a": 1}'])
def test_a_plain_yes_lets_a_call_run(line: str) -> None:
    reply = typed(question("approval"), line)
    assert reply is not None
    assert (reply.decision, reply.hash) == ("approve", "h")


@pytest.mark.parametrize(
    ("kind", "line", "decision"),
    [
        ("approval", "n because", "deny"),
        ("confirm", "y or what?", None),
        ("confirm", "y", "approve"),
        ("confirm", "no way", "deny"),
        ("outcome", "retry later please", None),
        ("outcome", "r", "retry"),
        ("outcome", "done it was there", "done"),
        ("repetition", "continue elsewhere", None),
        ("repetition", "c", "continue"),
        ("repetition", "stop it", "stop"),
        ("result", "skip no printer", "skip"),
    ],
)
def test_what_lets_something_happen_stands_alone_and_what_prevents_it_may_have_a_reason(
    kind: QuestionKind, line: str, decision: str | None
) -> None:
    reply = typed(question(kind), line)
    assert (reply and reply.decision) == decision
