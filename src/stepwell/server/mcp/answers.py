"""What clients answer to the open questions of a run, decided together: all that count are in the log, or none is.

What a question takes is checked where every face has it checked (`runs/answers.py`); here, what is no answer to a
question counts as none, and one that somebody else decided is passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mcp_types as types

from stepwell.errors import Decided, Expired, InputError
from stepwell.events import Answered
from stepwell.runs.answers import Reply, answer_all, check_reply, run_of
from stepwell.runs.log import ThreadLog
from stepwell.runs.people import QuestionInfo
from stepwell.runs.requests import RunRef
from stepwell.runs.service import RunService
from stepwell.server.mcp.questions import decided

NOBODY = types.ElicitResult(action="cancel")
"""What stands for an answer where there is none."""


class Given(NamedTuple):
    """What a client says to a question.

    Args:
        asked: The question.
        said: As it came.
    """

    asked: QuestionInfo
    said: types.ElicitResult


async def decide(service: RunService, owner: str, ref: RunRef, given: Sequence[Given]) -> None:
    """Decide questions of a run as a client says.

    A question that can neither go without an answer nor be turned down cancels the run, and then no other is decided,
    lest what it allows begins.

    Args:
        service: The threads.
        owner: Who decides.
        ref: The run; answers to what another asked are passed over.
        given: What the client says.

    Raises:
        NotFound: There is no such thread.
    """
    answering = _Answering(service, ref.run, given)
    try:
        await answer_all(service, owner, ref.thread, answering.replies)
    except _Unanswerable:
        await service.cancel(owner, ref.thread, ref.run, "Nobody answered its question.")


class _Unanswerable(Exception):
    """A question has no answer, cannot be refused, and the run cannot go on without it."""


class _Answering:
    """Answers of a client, against the log as it is.

    Args:
        service: Knows the time and the engines.
        run: The run's number.
        given: What the client says.
    """

    def __init__(self, service: RunService, run: int, given: Sequence[Given]) -> None:
        self._service, self._run, self._given = service, run, given

    def replies(self, log: ThreadLog) -> list[Reply]:
        """Return what is answered in a thread as it is now; see `answer_all`."""
        found = [self._reply(log, each) for each in self._given if self._is_open(log, each.asked.seq)]
        return [each for each in found if each is not None]

    def _is_open(self, log: ThreadLog, seq: int) -> bool:
        run = run_of(log.state, seq)
        return seq in log.state.questions and run is not None and run.seq == self._run

    def _reply(self, log: ThreadLog, given: Given) -> Reply | None:
        asked = log.state.questions[given.asked.seq]
        for said in (given.said, NOBODY):
            found = decided(given.asked, said.action, said.content)
            if found.decision is None:
                break
            made = Answered(given.asked.seq, found.decision, found.text, value=found.value)
            try:
                check_reply(self._service, log, asked, reply := Reply(made, given.asked.hash))
            except (Decided, Expired):  # nobody waits for it any more
                return None
            except InputError:
                continue
            return reply
        raise _Unanswerable
