"""What must hold when a world has come to its end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from stepwell.agent.accounts import nanos
from stepwell.events import (
    Answered,
    Asked,
    Forked,
    MessageAdded,
    MessageEnded,
    MessageQueued,
    QueueEdited,
    Recorded,
    RunEnded,
    RunStarted,
    Steered,
    StepStarted,
    TaskEnded,
    ToolEnded,
    ToolStarted,
)
from stepwell.runs.replay import Parts, replay
from stepwell.state.thread import NEVER, State, parent_of
from tests.simulation.actors import People, Said
from tests.simulation.model import CLIENT_TOOLS, TOLD
from tests.simulation.world import Effect, World
from tests.support.audit import audit

CLIENTS = frozenset(tool.name for tool in CLIENT_TOOLS)


async def check(world: World, people: People, parts: Parts, *, overlap: bool) -> None:
    """Check everything.

    Args:
        world: The world.
        people: Who was in it.
        parts: What engines are made of.
        overlap: Two processes were at work at once.
    """
    assert not world.errors, "\n".join(world.errors)
    logs = {id: await world.disk.read(id) for id in world.disk.ids}
    raced = world.disk.raced - world.disk.deleted
    assert overlap or not raced, f"one process came into its own way in {raced}"
    for id, events in logs.items():
        await check_thread(world, id, events)
    for id, shown in world.acknowledged.items():
        for each in shown if id in logs else ():
            assert logs[id][each.seq - 1].body == each.body, f"{each} of {id} was acknowledged and is gone"
        assert len({each.seq for each in shown}) == len(shown), f"an event of {id} was acknowledged twice"
    for id, seen in people.seen.items():
        for seq, body in seen.items() if id in logs else ():
            assert logs[id][seq - 1].body == body, f"event {seq} of {id} was shown as {body} and is another"
    check_said(world, logs, people.said, people.refused)
    for key, money in world.disk.most.items():
        assert overlap or money <= (nanos(world.keys[key].money) or 0), f"{money} were spent on the account of {key}"
    check_effects(world, logs, overlap=overlap)
    for id in [id for id in logs if id not in world.disk.displaced]:
        difference = await replay(logs[id], parts, id)
        assert difference is None, f"the replay of {id} leaves the log: {difference}"


async def check_thread(world: World, id: str, events: list[Recorded]) -> None:
    """Check a log that has come to its end, and the row beside it."""
    state = audit(events)
    assert state.run is None, f"run {state.run.seq} of {id} is open"
    assert not state.queue, f"{state.queue} of {id} wait"
    assert not state.questions, f"{list(state.questions)} of {id} are open"
    row = await world.disk.thread(id)
    assert row is not None
    assert (row.seq, row.run) == (len(events), 0), f"{row} is not that of its log"
    assert not state.title or row.title == state.title
    assert state.wake == NEVER
    assert all(each.id != id for each in await world.disk.due(NEVER - 1)), f"{id} is due"
    assert all(each.id != id for each in await world.disk.overdue(NEVER - 1)), f"{id} is overdue"
    assert id not in await world.disk.asking(row.owner, 1000), f"{id} asks"
    for each in events:
        if isinstance(each.event, RunEnded):
            assert each.event.cause not in ("internal", "config"), f"{each} of {id}"
    check_approvals(events)
    check_answered(id, events)
    check_money(id, events)
    check_results(id, events)
    check_told(id, events)


def check_told(id: str, events: Sequence[Recorded]) -> None:
    """Check that a tool that asked while it ran was told what people said, and that a question ends with its call.

    What an agent asks where nobody is there is no such question: it stays for a later answer.
    """
    asked: dict[int, tuple[str, str]] = {}
    left: set[int] = set()
    said: dict[tuple[str, str], list[list[object]]] = {}
    for each in events:
        match each.event:
            case Asked(kind=kind, call=call) if call and kind != "question":
                asked[each.seq] = (each.path, call)
                left.add(each.seq)
            case Answered(question=number) as answered if number in asked:
                left.discard(number)
                said.setdefault(asked[number], []).append([answered.decision, answered.text, answered.value])
            case ToolEnded(call=call, status="ok", content=content, blob="") if TOLD in content:
                told = json.loads(content.partition(TOLD)[2])
                known = said.get((each.path, call), [])
                # What attempts of other processes were told may stand between.
                rest = iter(known)
                assert all(answer in rest for answer in told), f"{each} of {id}, and people said {known}"
            case ToolEnded(call=call):
                open_ = [number for number in left if asked[number] == (each.path, call)]
                assert not open_, f"{each} of {id} leaves questions {open_} open"
            case _:
                pass


def check_results(id: str, events: Sequence[Recorded]) -> None:
    """Check that the model is told of a client's tool what the client said, and nothing that it did not."""
    edited = {
        seq for each in events if isinstance(each.event, Forked) for seq in (each.event.edited, *each.event.earlier)
    }
    asked: dict[tuple[str, str], int] = {}
    sent: dict[int, Answered] = {}
    for each in events:
        match each.event:
            case Asked(kind="result", call=call):
                asked[each.path, call] = each.seq
            case Answered(question=number) as answered:
                sent[number] = answered
            case ToolEnded(call=call, status="ok" | "failed") as ended if (each.path, call) in asked:
                said = sent[asked.pop((each.path, call))]
                assert (ended.status == "ok") == (said.decision == "done"), f"{each} of {id} is not {said}"
                same = said.text == ended.content or (said.text[:60] == ended.content[:60] and bool(ended.blob))
                assert same or each.seq in edited or not said.text, f"{each} of {id} is not what the client sent"
            case ToolEnded(call=call):
                asked.pop((each.path, call), None)
            case _:
                pass


def check_answered(id: str, events: Sequence[Recorded]) -> None:
    """Check that everything that was said was met: a model was asked after it, or the agent above was told of it."""
    waiting: dict[str, list[str]] = {}
    lost: list[str] = []
    for each in events:
        match each.event:
            case Steered(message=message):
                waiting.setdefault(each.path, []).append(message.content)
            case StepStarted() | RunStarted():
                waiting.pop(each.path, None)
            case TaskEnded():
                above = waiting.get(parent_of(each.path), [])
                lost += [text for text in waiting.pop(each.path, []) if text not in above]
            case RunEnded(reason=reason, cause=cause):
                met = not waiting and not lost
                assert met or reason != "answer" or cause, f"run {each.run} of {id} did not meet {waiting} and {lost}"
                waiting, lost = {}, []
            case _:
                pass


def check_money(id: str, events: Sequence[Recorded]) -> None:
    """Check that what is spent and reserved stays below the ceiling of a run at every event."""
    state = State()
    for each in events:
        state.apply(each)
        most = nanos(state.run.spec.limits.money) if state.run is not None else None
        if most is not None and state.run is not None:
            spent = state.run.spent
            assert spent.money + spent.reserved <= most, f"event {each.seq} of {id} puts {spent.money} over {most}"


def texts_of(events: Sequence[Recorded]) -> Iterator[str]:
    """Yield what people said in a thread, each once."""
    queued = False
    for each in events:
        match each.event:
            case RunStarted(queued=number):
                queued = number > 0
            case MessageAdded(message=message, source="user"):
                if not queued:
                    yield message.content
            case Steered(message=message, source="user") | MessageQueued(message=message):
                yield message.content
            case _:
                pass


def check_said(world: World, logs: dict[str, list[Recorded]], said: list[Said], refused: list[str]) -> None:
    """Check that what was taken is there, and once, and nothing of what was refused."""
    own = [id for id in logs if (row := world.disk.row(id)) is not None and not row.parent]
    counts = Counter(text for id in own for text in texts_of(logs[id]))
    for text in refused:
        assert not counts[text], f"{text} was refused and taken"
    for each in said:
        assert counts[each.text] <= 1, f"{each.text} was taken {counts[each.text]} times"
        if each.ref is None or each.ref.thread not in logs:
            continue
        events, ref = logs[each.ref.thread], each.ref
        seq = ref.queued or ref.steered or ref.run
        event = events[seq - 1].event
        if isinstance(event, RunStarted):
            event = next(after.event for after in events[seq:] if isinstance(after.event, MessageAdded))
        assert isinstance(event, MessageAdded | MessageQueued | Steered), f"{each} is {event}"
        assert event.message.content == each.text, f"{each} is {event}"
    for id, events in logs.items():
        taken = {each.event.queued for each in events if isinstance(each.event, RunStarted)}
        taken |= {each.event.item for each in events if isinstance(each.event, QueueEdited) and each.event.removed}
        left = {each.seq for each in events if isinstance(each.event, MessageQueued)} - taken
        assert not left, f"messages {left} of {id} were never taken up"


def check_effects(world: World, logs: dict[str, list[Recorded]], *, overlap: bool) -> None:
    """Check the ledger: nothing with harm twice, nothing before its intent, and what ran is what was approved."""
    by_key: dict[str, list[Effect]] = {}
    for effect in world.effects:
        by_key.setdefault(effect.key, []).append(effect)
    for key, effects in by_key.items():
        thread, _, number = key.partition(".")
        if thread not in logs:
            assert thread in world.disk.deleted, f"{effects} of no thread"
            continue
        events, seq = logs[thread], int(number)
        started = events[seq - 1].event if seq <= len(events) else None
        assert isinstance(started, ToolStarted), f"{effects} began with {started}"
        assert started.name == effects[0].tool, f"{effects} began with {started}"
        path = events[seq - 1].path
        most = 1 + _retries(events, started.call, path)
        if effects[0].tool == "book" and overlap:
            most = max(most, len({each.process for each in effects}))  # nobody can fence the outside
        assert len(effects) <= most or started.effect == "idempotent", f"{effects} with {most} leaves"
        wanted = json.loads(_arguments(events, seq, started.call, path))["n"]
        assert {each.n for each in effects} == {wanted}, f"{effects}, and {wanted} was approved"


def _questions(events: Sequence[Recorded], call: str, path: str, kind: str) -> set[int]:
    return {
        each.seq
        for each in events
        if isinstance(each.event, Asked) and (each.event.kind, each.event.call, each.path) == (kind, call, path)
    }


def _retries(events: Sequence[Recorded], call: str, path: str) -> int:
    asked = _questions(events, call, path, "outcome")
    return sum(
        isinstance(each.event, Answered) and each.event.question in asked and each.event.decision == "retry"
        for each in events
    )


def _arguments(events: Sequence[Recorded], seq: int, call: str, path: str) -> str:
    """Return the arguments with which a call may run."""
    arguments = ""
    asked = _questions(events, call, path, "approval")
    for each in events[:seq]:
        match each.event:
            case MessageEnded(message=message):
                arguments = next((made.arguments for made in message.calls if made.id == call), arguments)
            case Answered(decision="approve", arguments=edited, question=number) if number in asked and edited:
                arguments = edited
            case _:
                pass
    return arguments


def check_approvals(events: Sequence[Recorded]) -> None:
    """Check that nothing ran that a rule denies, or that one asks for and nobody approved."""
    state = State()
    for each in events:
        if isinstance(each.event, ToolStarted):
            _check_allowed(state, each, each.event)
        state.apply(each)


def _check_allowed(state: State, recorded: Recorded, started: ToolStarted) -> None:
    assert state.run is not None
    rules = [rule for rule in state.run.spec.approvals if rule.tool in ("*", started.name)]
    rules = [rule for rule in rules if rule.effect in ("", started.effect)]
    rules = [
        rule
        for rule in rules
        if rule.place == "" or (rule.place == "workspace") == (started.name in ("save", "delegate"))
    ]
    if not rules or rules[0].untrusted is not None or rules[0].decision == "allow":
        return
    agent = state.at(recorded.path).run
    opened = agent.calls.get(started.call) if agent is not None else None
    assert opened is not None
    own = started.name in ("ask_human", "subtask_submit", "generate_plan", "subtask_operations", "answer_directly")
    own = own or started.name in CLIENTS
    answer = opened.asked.answer if opened.asked is not None else None
    approved = answer is not None and answer.decision == "approve"
    known = any(name == started.name for name, _ in state.allowed)
    assert rules[0].decision == "ask", f"{recorded} was denied"
    assert own or approved or known, f"{recorded} was approved by nobody"
