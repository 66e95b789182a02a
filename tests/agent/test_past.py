"""What stands for messages that left the view, and which versions of files are told."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.agent.past import digest_of, superseded
from stepwell.contexts import WRAPPED
from stepwell.events import ContextCompacted
from stepwell.messages import Message, ToolCall
from stepwell.state.history import History
from stepwell.tokens import Counter

TITLE = "Your past thoughts & actions:"
WORDS = st.sampled_from(
    ["the tide ", "潮汐", "🚢👩🏽\u200d🚀", "\n", "\u2028", f"{TITLE}\n", f"{WRAPPED} 3; recall event:9\n", "\n# x"]
)
TEXT = st.lists(WORDS, max_size=200).map("".join)


def history_of(texts: list[str]) -> tuple[History, list[tuple[Message, int]]]:
    """Return a history whose first half has left before, and what leaves now."""
    history = History()
    for seq, text in enumerate(texts, 1):
        role = "user" if seq % 2 else "assistant"
        history.append(Message(role, text or "."), seq)
    history.append(Message("user", "last"), len(texts) + 1)
    history.compact(ContextCompacted(len(texts) // 2, f"{TITLE}\nolder"))
    return history, history.entries()[:-1]


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=30), st.integers(0, 4000), st.sampled_from(["", "o200k"]))
def test_a_digest_is_bounded_names_all_that_left_and_holds_no_other_digest(
    texts: list[str], most: int, tokenizer: str
) -> None:
    history, left = history_of(texts)
    counter = Counter(tokenizer)
    text = digest_of(history, left, most, counter, 2048, "en")
    text.encode()
    *told, last = text.split("\n")
    assert last == f"{WRAPPED} {len(texts)} messages in all; recall event:1-{len(texts)}"
    assert counter.text("\n".join(told)) <= most
    assert told.count(TITLE) == (1 if told else 0)
    # What was said can pass for nothing but what was said.
    assert all(line.startswith(("event:", "  ", WRAPPED, TITLE)) for line in told)


def test_what_left_before_is_told_again_beside_what_leaves_now() -> None:
    history, left = history_of([f"word{number}" for number in range(8)])
    text = digest_of(history, left, 2000, Counter(), 2048, "en")
    assert all(f"word{number}" in text for number in range(8))
    assert "older" not in text


def versions(*calls: tuple[str, str, str, str]) -> tuple[History, list[tuple[Message, int]]]:
    """Return steps of one call each: tool, path, what was written, what was read. `!` before a tool: it failed."""
    history = History()
    history.append(Message("user", "go"), 1)
    for at, (tool, path, written, read) in enumerate(calls):
        arguments = json.dumps({"path": path, "content": written} if written else {"path": path})
        seq = 2 + 2 * at
        history.append(Message("assistant", calls=(ToolCall(f"c{at}", tool.lstrip("!"), arguments),)), seq)
        status = "failed" if tool.startswith("!") else "ok"
        history.add_results([(seq + 1, Message("tool", read, call=f"c{at}"), status, False)])
    return history, history.entries()


OLD, NEW = "old " * 200, "new " * 200


def cut(*calls: tuple[str, str, str, str]) -> list[tuple[int, str]]:
    return [(each.seq, each.part) for each in superseded(*versions(*calls))]


def test_only_the_newest_version_of_a_file_is_kept() -> None:
    assert cut(("read_file", "a.txt", "", OLD), ("write_file", "./a.txt", NEW, "done")) == [(3, "content")]
    assert cut(("write_file", "a.txt", OLD, "done"), ("read_file", "a.txt", "", NEW)) == [(2, "arguments")]
    both = cut(("write_file", "a", OLD, OLD), ("write_file", "a", OLD, OLD), ("write_file", "a", NEW, NEW))
    assert both == [(5, "content"), (4, "arguments"), (3, "content"), (2, "arguments")]


def test_other_files_failed_attempts_and_other_tools_take_nothing_away() -> None:
    assert cut(("read_file", "a", "", OLD), ("read_file", "b", "", NEW)) == []
    assert cut(("read_file", "a", "", OLD), ("!write_file", "a", NEW, "no room")) == []
    assert cut(("fetch", "a", "", OLD), ("fetch", "a", "", NEW)) == []
    assert cut(("read_file", "a", "", "short"), ("read_file", "a", "", NEW)) == []
