"""How `show` describes what concerns people, waiting messages and plans."""

from __future__ import annotations

from typing import get_args

import pytest

from stepwell.cli.describe import describe
from stepwell.cli.screen import Screen
from stepwell.cli.texts import TEXTS
from stepwell.contexts import TaskConclusion
from stepwell.events import (
    Answered,
    Asked,
    Feedback,
    Forked,
    Imported,
    MessageQueued,
    PauseRequested,
    PlanChanged,
    PlanMade,
    Policy,
    PolicyChanged,
    QueueEdited,
    ResumeRequested,
    RunStarted,
    RunWaiting,
    Steered,
    Stored,
    TaskEnded,
    TaskStarted,
    TaskSubmitted,
)
from stepwell.messages import Message
from stepwell.plans import Task, TaskSubmission
from stepwell.questions import QuestionKind
from stepwell.specs import RunSpec

TASK = Task(id="1.2", name="write", goal="write it")
SAID = Message("user", "hello")
PEOPLE: list[tuple[Stored, str]] = [
    (Asked("approval", "c1", "May shell run?", "rule 1"), "asks whether the call c1 may run: May shell run? – rule 1"),
    (Asked("question", text="Which?", choices=("a", "b")), "asks a person: Which? [a | b]"),
    (Asked("outcome", "c1"), "asks what became of the call c1"),
    (Asked("repetition"), "asks whether it may go on"),
    (Asked("confirm", until=1_600_000_000_000), "asks whether that is meant, until 2020-09-1"),
    (Answered(4, "deny", "too dear", by="ada"), "question 4: deny: too dear, by ada"),
    (
        Answered(4, "approve", arguments='{"a": "\u202e"}', scope="call"),
        'question 4: approve, with the arguments {"a": "\\u202e"}, always for this call in this thread',
    ),
    (Answered(4, "approve", scope="tool"), "question 4: approve, always for this tool in this thread"),
    (RunWaiting(), "waits for a person"),
    (RunWaiting(1_600_000_000_000), "waits for a person, until 2020-09-1"),
    (Steered(SAID), "said while it runs: hello"),
    (Steered(SAID, interrupt=True), "said, and what was under way is closed: hello"),
    (PauseRequested("lunch"), "asked to halt: lunch"),
    (ResumeRequested(), "asked to go on"),
    (MessageQueued(SAID, RunSpec()), "waits for the end of the run: hello"),
    (QueueEdited(3, removed=True), "waiting message 3 is taken out"),
    (QueueEdited(3, SAID), "waiting message 3 is now: hello"),
    (QueueEdited(3, before=2), "waiting message 3 is put before 2"),
    (QueueEdited(3, before=0), "waiting message 3 is put at the end"),
    (PolicyChanged("steer"), "messages during a run: steer, "),
    (Forked("ab", 9), "forked from ab at event 9"),
    (Forked("ab", 9, 9), "forked from ab at event 9, event 9 changed"),
    (Imported("jsonl", "ab", 2, "d"), "imported from jsonl (ab): 2 messages"),
    (Feedback(7, 90), "feedback on event 7: 90"),
    (Feedback(7, 0, "too long"), "feedback on event 7: 0: too long"),
    (
        Imported("chatgpt", "ab", 2, "d", {"system": 1, "hidden": 3}),
        "imported from chatgpt (ab): 2 messages; left out: 1 system, 3 hidden",
    ),
    (PlanMade(TASK, (TASK,)), "plan for: write it; tasks: 1.2 write"),
    (PlanChanged("split", "1.1", (TASK,)), "plan: 1.1 is split into 1.2 write"),
    (PlanChanged("add", "1.1", (TASK,)), "plan: after 1.1 comes 1.2 write"),
    (PlanChanged("delete", "1.1"), "plan: 1.1 is deleted"),
    (PlanChanged("exit"), "plan: the change is over"),
    (TaskStarted(TASK, RunSpec()), "task begins: 1.2 write"),
    (TaskStarted(TASK, RunSpec(), "c1"), "delegated task begins (c1): 1.2 write"),
    (
        TaskSubmitted(
            TaskSubmission(
                submit_type="give_up", need_plan_rectification=True, suggestions=("ask", "wait"), result="stuck"
            )
        ),
        "task submitted (give_up): stuck, wants another plan: ask; wait",
    ),
    (
        TaskEnded("failure", TaskConclusion(summary="nothing", status="failure"), "steps", "too many"),
        "task over (failure): nothing – too many",
    ),
]


@pytest.mark.parametrize(("event", "line"), PEOPLE)
def test_what_people_and_plans_do_has_a_line_in_both_languages(event: Stored, line: str) -> None:
    said, _ = describe(event, Screen("en"))
    assert said.startswith(line)
    chinese, _ = describe(event, Screen("zh"))
    assert any("\u4e00" <= letter <= "\u9fff" for letter in chinese)
    assert "{" not in chinese.replace('{"a', "")


def test_a_run_says_its_engine_and_the_message_that_it_takes_up() -> None:
    said, _ = describe(RunStarted(RunSpec(model="m", engine="plan"), queued=7), Screen("en"))
    assert said == "run started: model m, face native, tools -, engine plan, takes up message 7"


def test_every_kind_of_question_and_policy_has_its_words() -> None:
    kinds = {f"{name}_{kind}" for name in ("event_asked", "asked", "keys") for kind in get_args(QuestionKind)}
    assert kinds | {f"policy_{policy}" for policy in get_args(Policy)} <= TEXTS.keys()
