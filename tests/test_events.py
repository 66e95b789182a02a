"""Events as they are written: every kind that was ever stored is read again, and what is unknown is kept as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from stepwell import events
from stepwell.events import (
    CallDelta,
    MessageAdded,
    Recorded,
    RunEnded,
    RunStarted,
    Stored,
    TextDelta,
    TitleChanged,
    ToolEnded,
    Transient,
    Unknown,
    decode,
    encode,
)
from stepwell.messages import Message
from stepwell.specs import RunSpec
from tests.support.audit import audit

LOGS = sorted((Path(__file__).parent / "logs").glob("v*/*.jsonl"))


class Line(msgspec.Struct):
    """A line of a kept log."""

    seq: int
    time: int
    run: int
    event: msgspec.Raw
    path: str = ""


def read(log: Path) -> list[tuple[bytes, Line]]:
    return [(line, msgspec.json.decode(line, type=Line)) for line in log.read_bytes().splitlines()]


@pytest.mark.parametrize("log", LOGS, ids=lambda log: f"{log.parent.name}/{log.stem}")
def test_logs_of_every_version_are_read_and_hold(log: Path) -> None:
    recorded = [Recorded(each.seq, each.time, each.run, decode(bytes(each.event)), each.path) for _, each in read(log)]
    assert not [each for each in recorded if isinstance(each.event, Unknown)]
    audit(recorded)


@pytest.mark.parametrize("log", [log for log in LOGS if log.parent.name == "v1"], ids=lambda log: log.stem)
def test_logs_of_this_version_are_written_as_they_were_read(log: Path) -> None:
    for line, each in read(log):
        recorded = Recorded(each.seq, each.time, each.run, decode(bytes(each.event)), each.path)
        assert recorded.body == bytes(each.event)
        assert recorded.to_json() == line


def test_the_kept_logs_have_every_kind_of_event_with_every_field() -> None:
    kept = [decode(bytes(each.event)) for log in LOGS for _, each in read(log)]
    assert {type(event) for event in kept} == set(get_args(Stored))
    for kind in get_args(Stored):
        for field in msgspec.structs.fields(kind):
            values = [getattr(event, field.name) for event in kept if isinstance(event, kind)]
            assert any(value != field.default for value in values), f"{kind.__name__}.{field.name} is always the same"


def test_deltas_are_written_for_clients() -> None:
    assert encode(TextDelta(4, "一")) == '{"type":"text_delta","message":4,"text":"一"}'.encode()
    assert encode(CallDelta(4, 1, "add", "{")) == b'{"type":"call_delta","message":4,"index":1,"name":"add","text":"{"}'


def test_a_delta_is_never_read_from_a_store() -> None:
    for kind in get_args(Transient):
        values = {field.name: 1 if field.type is int else "x" for field in msgspec.structs.fields(kind)}
        assert isinstance(decode(encode(kind(**values))), Unknown)


@pytest.mark.parametrize(
    "row",
    [
        '{"type":"summary_made","text":"a future event"}',
        '{"type":"tool_ended.2","call":"c","content":"","status":"ok"}',
        '{"type":"tool_ended","call":"c","content":"","status":"a future status"}',
        '{"type":"run_ended"}',
        '{"no":"type"}',
        '{"type":"title_changed","title":null}',
    ],
)
def test_what_this_version_does_not_know_is_kept_as_it_is(row: str) -> None:
    for data in (row, row.encode()):
        event = decode(data)
        assert isinstance(event, Unknown)
        assert encode(event) == row.encode()
        assert Recorded(1, 2, 0, event).to_json() == b'{"seq":1,"time":2,"run":0,"event":%s}' % row.encode()


def test_an_older_version_is_upgraded_step_by_step_on_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(row: dict[str, Any]) -> dict[str, Any]:
        return {"type": "named.2", "text": row["name"]}

    def second(row: dict[str, Any]) -> dict[str, Any]:
        return {"type": "title_changed", "title": row["text"].title()}

    monkeypatch.setitem(events.UPGRADES, "named", first)
    monkeypatch.setitem(events.UPGRADES, "named.2", second)
    assert decode('{"type":"named","name":"my thread"}') == TitleChanged("My Thread")
    assert decode(b'{"type":"named.2","text":"my thread"}') == TitleChanged("My Thread")


def test_a_record_is_encoded_once_and_tells_its_agent_only_where_there_is_one() -> None:
    plain, inner = Recorded(3, 5, 1, TitleChanged("t")), Recorded(3, 5, 1, TitleChanged("t"), "sub/1")
    assert plain.body is plain.body
    assert plain.to_json() == b'{"seq":3,"time":5,"run":1,"event":{"type":"title_changed","title":"t"}}'
    assert inner.to_json() == b'{"seq":3,"time":5,"run":1,"path":"sub/1","event":{"type":"title_changed","title":"t"}}'


def test_records_are_equal_if_all_of_them_is() -> None:
    one = Recorded(3, 5, 1, TitleChanged("t"))
    assert one == Recorded(3, 5, 1, TitleChanged("t"))
    assert hash(one) == hash(Recorded(3, 5, 1, TitleChanged("t")))
    assert one.body
    others = [
        Recorded(4, 5, 1, TitleChanged("t")),
        Recorded(3, 6, 1, TitleChanged("t")),
        Recorded(3, 5, 0, TitleChanged("t")),
        Recorded(3, 5, 1, TitleChanged("u")),
        Recorded(3, 5, 1, TitleChanged("t"), "sub"),
        "Recorded",
    ]
    assert [other for other in others if other == one] == []


def test_only_the_end_of_a_run_ends_it() -> None:
    assert Recorded(1, 0, 1, RunEnded("answer")).ends_run
    assert not Recorded(1, 0, 1, ToolEnded("c", "")).ends_run


def test_a_row_holds_no_more_than_was_said() -> None:
    assert encode(MessageAdded(Message("user", "hi"))) == (
        b'{"type":"message_added","message":{"role":"user","content":"hi"}}'
    )
    assert encode(RunStarted(RunSpec())) == b'{"type":"run_started","spec":{}}'
