"""What a tool wants to know from a person while it runs: a question of the kind `elicitation`.

The call stays under way until somebody answers; what becomes of calls before they run is said in `approvals.py`.
"""

from __future__ import annotations

from stepwell.events import Answered, Asked
from stepwell.log import Log
from stepwell.questions import Inquiry
from stepwell.state.run import Question


async def inquire(log: Log, call: str, inquiry: Inquiry) -> Answered | None:
    """Put a question of a running tool to people and wait until the answer is on the disk.

    Args:
        log: Of the agent whose call it is.
        call: Id of the call.
        inquiry: What the tool wants to know.

    Returns:
        What was decided: `answer`, `deny`, `expired` or `cancelled`; None where nobody can be asked, or the call is
        over.

    Raises:
        StoreError: It could not be asked, or what was decided could not be stored; the call is carried out again, or
            its outcome asked for.
    """
    run = log.state.run
    opened = run.calls.get(call) if run is not None else None
    if run is None or not run.spec.people or opened is None or opened.ended is not None:
        return None
    until = 0 if inquiry.seconds is None else log.now() + round(inquiry.seconds * 1000)
    asked = Asked("elicitation", call, inquiry.text, choices=inquiry.choices, form=inquiry.form, until=until)
    await log.record(asked)
    number = next(each.seq for each in open_inquiries(log, call) if each.event == asked)
    await log.committed()  # else nobody could answer where another process came first
    seen = number
    while number in log.whole.questions:
        await log.changed(seen)
        seen = log.whole.seq
    await log.committed()  # else the tool would act on an answer of which nobody knows where the process dies now
    for each in await log.read(after=number):
        if isinstance(each.event, Answered) and each.event.question == number:
            return each.event
    return None


def open_inquiries(log: Log, call: str) -> list[Question]:
    """Return what a running call of the agent of this log has asked and nobody has answered."""
    questions = log.whole.questions.values()
    mine = (each for each in questions if each.event.kind == "elicitation" and each.path == log.path)
    return [each for each in mine if each.event.call == call]


def withdrawn(log: Log, call: str) -> list[Answered]:
    """Return what takes back questions of a call that nobody needs to answer any more."""
    if not log.whole.questions:
        return []
    return [Answered(each.seq, "cancelled") for each in open_inquiries(log, call)]
