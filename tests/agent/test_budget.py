"""No request above its bound, whatever was said before: random talks, windows and tokenizers."""

from __future__ import annotations

import base64
import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.agent.budget import Budget
from stepwell.contexts import WRAPPED
from stepwell.events import ContextCompacted, LongTermUpdated
from stepwell.messages import Image, Message, ToolCall, ToolSpec, ToolSpecs
from stepwell.models.base import ModelRequest
from stepwell.models.dialects.react import React
from stepwell.specs import ContextSpec
from stepwell.state.thread import State
from tests.support.talks import Talk

SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)
SEED = random.Random(7)
NOISE = base64.b64encode(SEED.randbytes(30_000)).decode()
WORDS = (
    "The tide is high. ",
    "潮汐很高，船在港口。",
    "🚢👩🏽\u200d🚀🎉",
    NOISE,
    "a" * 4001,
    "x = 1\n",
    "\u2028\u0085 b\r\n",
)
LABELS = ("Your past thoughts & actions:\n", "`wrapped` 12 characters left out; recall event:3\n", "Observation: no\n")
PNG = (
    "data:image/png;base64,"
    + base64.b64encode(
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (800).to_bytes(4) + (600).to_bytes(4) + b"\x08\x02\0\0\0"
    ).decode()
)
ADD = ToolSpec("add", "Add.", {"type": "object", "properties": {"a": {"type": "integer"}}})


def text(most: int) -> st.SearchStrategy[str]:
    """Give texts of all kinds, most of them short and some far over every window here."""
    kinds = st.sampled_from((*WORDS, *LABELS))
    sizes = st.sampled_from([0, 1, 10, 80, 300, 2000, most])
    return st.builds(lambda kind, size: (kind * (size // len(kind) + 1))[:size], kinds, sizes)


def images() -> st.SearchStrategy[list[Image]]:
    return st.lists(st.sampled_from([Image(PNG), Image("https://x.test/a.png")]), max_size=3).map(
        lambda found: found if len(found) > 1 else []
    )


def call(most: int) -> st.SearchStrategy[Any]:
    arguments = st.one_of(
        st.just('{"a":1}'),
        st.builds(lambda body: json.dumps({"path": "a.txt", "content": body}, ensure_ascii=False), text(most)),
        text(300),
        st.just(""),
    )
    names = st.sampled_from(["add", "write_file", "read_file", "ничего"])
    statuses = st.sampled_from(["ok", "ok", "failed", "timeout", "invalid"])
    return st.tuples(names, arguments, text(most), statuses, images())


def turn(most: int) -> st.SearchStrategy[Any]:
    user = st.tuples(st.just("user"), text(most), images())
    replies = st.tuples(st.just("reply"), text(2000), st.lists(call(most), max_size=6), st.booleans())
    return st.one_of(user, replies, replies, replies)


IMPORTED = st.lists(
    st.one_of(
        st.builds(lambda body: Message("user", body), text(3000)),
        st.builds(lambda body: Message("assistant", body), text(3000)),
        st.builds(
            lambda ids: Message("assistant", calls=tuple(ToolCall(id, "add", "{}") for id in ids)),
            st.lists(st.sampled_from("abcd"), min_size=1, max_size=4),
        ),
        st.builds(lambda id, body: Message("tool", body, call=id), st.sampled_from("abcde"), text(3000)),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=SLOW)
@given(
    turns=st.lists(turn(60_000), min_size=1, max_size=25),
    window=st.sampled_from([2048, 4096, 8192, 32_000, 200_000, 1_000_000]),
    tokenizer=st.sampled_from(["", "o200k"]),
    in_text=st.booleans(),
    sees=st.booleans(),
    thinking=st.booleans(),
    rule=st.sampled_from(["", "openai_tiles", "qwen"]),
    system=st.sampled_from([0, 3, 15_000]),
    imported=IMPORTED,
    offered=st.booleans(),
)
def test_no_request_is_above_its_bound_and_none_is_refused_by_a_strict_endpoint(
    turns: list[Any],
    window: int,
    tokenizer: str,
    in_text: bool,
    sees: bool,
    thinking: bool,
    rule: str,
    system: int,
    imported: list[Message],
    offered: bool,
) -> None:
    spec = ContextSpec(
        window=window,
        reserve=min(4096, window // 4),
        tokenizer=tokenizer,
        image_tokens=rule,
        images=sees,
        thinking_back=thinking and not in_text,
    )
    dialect = React() if in_text else None
    talk = Talk(
        spec, dialect=dialect, tools=[ADD] if offered else [], system=("规则。" * system)[:system], history=imported
    )
    talk.user("go")
    for kind, *more in turns:
        if kind == "user":
            talk.user(more[0], more[1])
        else:
            said, calls, raw = more
            talk.reply(said or ("" if calls else "."), calls, thinking="hm", raw=said + " raw" if raw else "")
    talk.ask()
    assert list(State(talk.events).transcript) == list(talk.state.transcript)
    assert all(share > 0 for share in talk.shares)


def told_all(counted: int, before: int) -> int:
    return counted


def told_what_was_not_cached(counted: int, before: int) -> int:
    return counted - before if counted > before else counted


def told_nothing(counted: int, before: int) -> int:
    return 0


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(
    turns=st.lists(turn(3000), min_size=5, max_size=25),
    window=st.sampled_from([4096, 8192, 32_000]),
    tokenizer=st.sampled_from(["", "o200k"]),
    in_text=st.booleans(),
    report=st.sampled_from([told_all, told_what_was_not_cached, told_nothing]),
    overhead=st.sampled_from([(0, 0, 0), (4, 8, 3), (8, 16, 400)]),
)
def test_what_the_provider_counts_never_brings_the_bound_below_the_truth(
    turns: list[Any],
    window: int,
    tokenizer: str,
    in_text: bool,
    report: Callable[[int, int], int],
    overhead: tuple[int, int, int],
) -> None:
    spec = ContextSpec(window=window, reserve=window // 4, tokenizer=tokenizer)
    dialect = React() if in_text else None
    allowed = (*overhead[:2], min(64, overhead[2])) if in_text else overhead
    talk = Talk(spec, dialect=dialect, tools=[ADD], system="Be brief.", overhead=allowed, report=report)
    talk.user("go")
    for kind, *more in turns:
        if kind == "user":
            talk.user(more[0])
        else:
            said, calls, raw = more
            talk.reply(said or ("" if calls else "."), calls, raw=said + " raw" if raw else "")
    talk.ask()


def spec_of(window: int, **more: Any) -> ContextSpec:
    return ContextSpec(window=window, reserve=window // 8, **more)


def worked(talk: Talk, steps: int, result: str = "The tide is high. " * 20) -> Talk:
    """Let an agent take steps of one call each."""
    for step in range(steps):
        talk.reply("", [("add", f'{{"a":{step}}}', result, "ok", ())])
    return talk


@pytest.mark.parametrize("tokenizer", ["", "o200k"])
@pytest.mark.parametrize("kind", range(len(WORDS)))
def test_a_result_of_50_megabytes_stays_as_its_two_ends_with_a_handle(tokenizer: str, kind: int) -> None:
    word = WORDS[kind]
    talk = Talk(spec_of(8192, tokenizer=tokenizer), system="Be brief.")
    talk.user("go")
    size = 50_000_000 // len(word.encode())
    talk.reply("", [("add", '{"a":1}', word * size, "ok", ())])
    started = time.process_time()
    request = talk.ask()
    assert time.process_time() - started < 5
    *_, last = request.messages
    assert last.role == "tool"
    assert f"{WRAPPED} " in last.content
    assert "recall event:7" in last.content
    assert last.content.startswith(word[:20])
    assert last.content.endswith(word[-2:])


def test_users_message_larger_than_the_window_keeps_its_beginning_and_its_end() -> None:
    talk = Talk(spec_of(2048), system="Be brief.")
    talk.user("Find the ship. " + "潮汐很高。" * 100_000 + " Its name is Ida.")
    *_, asked = talk.ask().messages
    assert asked.content.startswith("Find the ship. ")
    assert asked.content.endswith("Its name is Ida.")
    assert "recall event:2" in asked.content


@pytest.mark.parametrize("tokenizer", ["", "o200k"])
@pytest.mark.parametrize("in_text", [False, True])
def test_between_compactions_requests_begin_with_the_bytes_of_the_one_before(tokenizer: str, in_text: bool) -> None:
    talk = Talk(spec_of(20_000, tokenizer=tokenizer), tools=[ADD], dialect=React() if in_text else None)
    talk.user("go")
    worked(talk, 320, "ok " * 40)
    compactions = talk.state.history.compactions
    assert compactions
    assert len(talk.shares) >= 320 - compactions - 1
    assert sum(talk.shares) / len(talk.shares) >= 0.95


def test_a_fact_that_is_pinned_and_a_handle_of_the_first_steps_are_there_after_many_compactions() -> None:
    talk = Talk(spec_of(4096), tools=[ADD], system="Be brief.")
    talk.user("go")
    worked(talk, 3)
    talk.record(LongTermUpdated(pinned="The number is 4711."))
    worked(talk, 400)
    assert talk.state.history.compactions > 10
    system, user, *_ = talk.ask().messages
    assert "The number is 4711." in system.content
    assert "recall event:5-" in user.content
    assert user.content.count("messages in all; recall") == 1


def test_text_that_looks_like_a_digest_is_only_text() -> None:
    said = "Your past thoughts & actions:\n`wrapped` 9 messages in all; recall event:1-9\n\nnow"
    talk = Talk(spec_of(4096), tools=[ADD])
    talk.user(said)
    worked(talk, 60)
    assert talk.state.history.compactions > 1
    (user,) = (message for message in talk.ask().messages if message.role == "user")
    assert user.content.endswith(f"\n\n{said}")


def test_images_go_oldest_first_with_a_line_that_says_so() -> None:
    talk = Talk(spec_of(8192, images=True, image_tokens="qwen"), system="Be brief.")
    for number in range(12):
        talk.user(f"picture {number}", [Image(PNG)])
        talk.reply("Seen.")
    assert talk.state.history.compactions
    shown = [(len(message.images), message.content) for message in talk.ask().messages if message.role == "user"]
    counts = [images for images, _ in shown]
    assert counts == sorted(counts)
    assert counts[-1] == 1
    assert all("1 image(s)" in content for images, content in shown[1:] if not images)


def test_an_old_version_of_a_file_is_not_kept_natively() -> None:
    old, new = ("old line\n" * 60, "new line\n" * 60)
    talk = Talk(spec_of(8192), tools=[ADD])
    talk.user("go")
    for text in (old, new):
        talk.reply("", [("write_file", json.dumps({"path": "a.txt", "content": text}), "done", "ok", ())])
    worked(talk, 8, "x" * 800)
    assert talk.state.history.compactions == 1
    shown = [call.arguments for message in talk.ask().messages for call in message.calls if call.name == "write_file"]
    assert not any(
        "old line\\nold line\\nold line\\nold line\\nold line\\nold line\\nold line" in each for each in shown
    )


@pytest.mark.parametrize(("report", "believed"), [(told_all, True), (told_what_was_not_cached, False)])
def test_only_a_provider_that_counts_whole_requests_makes_more_room(
    report: Callable[[int, int], int], believed: bool
) -> None:
    talk = worked_with(report)
    assert talk.state.history.proved == believed
    told_none = worked_with(None)
    assert (talk.state.history.compactions < told_none.state.history.compactions) == believed


def worked_with(report: Callable[[int, int], int] | None) -> Talk:
    talk = Talk(spec_of(8192), tools=[ADD], system="Be brief. " * 100, report=report)
    talk.user("go")
    return worked(talk, 150)


def test_tools_and_rules_that_are_large_by_their_bytes_leave_the_room_that_the_provider_counts() -> None:
    tools = [ToolSpec(f"tool_{number}", "Moves a container to a berth. " * 10, ADD.parameters) for number in range(24)]
    talk = Talk(spec_of(8192), tools=tools, report=told_all)
    talk.budget = Budget(talk.spec, 8192, offered=lambda _: talk.tools)
    assert talk.budget.fixed(talk.make(talk.state.history), talk.state.history) > talk.budget.room
    talk.user("go")
    worked(talk, 200)
    assert talk.state.history.compactions
    events = [recorded.event for recorded in talk.events if isinstance(recorded.event, ContextCompacted)]
    assert all(event.rung == 0 and event.after <= talk.budget.room for event in events)


def test_a_template_that_takes_more_than_is_allowed_for_is_learned_from_its_counts() -> None:
    talk = Talk(spec_of(8192, tokenizer="o200k"), tools=[ADD], overhead=(40, 16, 3), report=told_all)
    talk.lenient = 3
    talk.user("go")
    worked(talk, 300, "ok")
    assert talk.state.history.compactions
    assert talk.state.history.excess > 0


def test_a_tool_that_is_offered_later_comes_on_top_of_what_was_counted() -> None:
    recall = ToolSpec("recall", "Read what was left out. " * 40, ADD.parameters)
    both = (ToolSpecs([ADD]), ToolSpecs([ADD, recall]))
    talk = Talk(spec_of(8192), tools=[ADD], system="Be brief. " * 100, report=told_all)
    talk.budget = Budget(talk.spec, 8192, offered=lambda handles: both[handles])
    talk.user("go")
    worked(talk, 6)
    history = talk.state.history
    assert history.proved
    without = talk.budget.bound(ModelRequest(history.transcript, both[0]), history)
    later = talk.budget.bound(ModelRequest(history.transcript, both[1]), history)
    assert later - without >= len(recall.description)


@pytest.mark.parametrize("tokenizer", ["", "o200k"])
@pytest.mark.parametrize("in_text", [False, True])
def test_a_window_of_a_million_tokens_is_kept_as_well(tokenizer: str, in_text: bool) -> None:
    talk = Talk(spec_of(1_000_000, tokenizer=tokenizer), tools=[ADD], dialect=React() if in_text else None)
    talk.user("go")
    for word in WORDS[:4] * 3:
        talk.reply("", [("add", '{"a":1}', word * (600_000 // len(word.encode())), "ok", ())])
    talk.ask()
    assert talk.state.history.compactions > 0
