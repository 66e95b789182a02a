"""How contexts, calls and the past read as text for a model, and how templates are filled.

Pure functions of their arguments: nothing is counted in tokens, stored or asked for here. A cut is always marked
and names the handle of what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from posixpath import normpath
from typing import Any, Literal, assert_never

import msgspec

from stepwell.contexts import WRAPPED, LongTermContext, TaskConclusion, WorkingContext, cut_text, handle_of_event
from stepwell.errors import ConfigError
from stepwell.headings import heading
from stepwell.messages import ToolCall

LEAST_DIGEST = 200
"""Characters below which no digest is written."""
LINE = 120
"""Characters of an entry in its one-line form."""

_CALL, _NAME, _STATUS = 50, 128, 16  # characters of a call and of a status in a line, and of a tool's name
_LEAST_TEXT = 40
_PLACES = re.compile(r"\{\{|\}\}|\{([^\W\d]\w*)\}|[{}]")
_FILE_CONTENTS = frozenset({"content", "new_content"})
_FILE_PATHS = ("path", "file_path", "filepath", "filename", "file_name", "file")


class PastEntry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Something that happened and is no longer shown as a message of its own.

    Args:
        seq: Number of the event that holds all of it.
        kind: Who spoke, the result of a call, or a summary of several events.
        text: What was said or returned.
        name: On a result, the tool.
        arguments: On a result, the arguments of its call as JSON text.
        status: On a result, how the call ended.
        critical: On a result, whether its text matters more than others.
    """

    seq: int
    kind: Literal["user", "assistant", "result", "summary"]
    text: str
    name: str = ""
    arguments: str = ""
    status: str = "ok"
    critical: bool = False


def long_term(context: LongTermContext, language: str = "en") -> str:
    """Return a long-term context as titled sections; what changes least stands first, what is empty is left out."""
    sections = (
        ("available_tools", _tools(context.available_tools)),
        ("skills_description", _items(context.skills_description)),
        ("resource", _items(context.resource)),
        ("experience", context.experience),
        ("rolled", context.rolled),
        ("user_message", _items(context.user_message)),
        ("past_tasks", _items(conclusion_text(each, language) for each in context.past_tasks)),
        ("ideas", _items(context.ideas)),
        ("pinned", _items(context.pinned)),
        ("current_goal", context.current_goal),
    )
    return _titled(sections, language)


def working(context: WorkingContext, language: str = "en") -> str:
    """Return a working context as titled sections.

    A summary stands for the thoughts and calls; without one the thoughts are shown, and of calls only the names
    (XAgent's WorkingContext).
    """
    sections = [("basic_info", context.basic_info), ("observation", context.observation)]
    if context.summary:
        sections += [("summary", context.summary), ("self_examination", context.self_examination)]
    else:
        sections += [
            ("thoughts", _items(map(_thought, context.thoughts))),
            ("tool_calls", _items(_one_line(call.name, _NAME) for call in context.tool_calls)),
        ]
    return _titled(sections, language)


def conclusion_text(conclusion: TaskConclusion, language: str = "en") -> str:
    """Return a conclusion as lines: what was done, what was reached and not, what was learned, what was replied."""
    comma, colon, opening, closing = ("；", "：", "（", "）") if language == "zh" else ("; ", ": ", " (", ")")
    failed: list[str] = []
    for each in conclusion.failed_goals:
        why = (("reason", each.reason), ("reflection", each.reflection))
        told = comma.join(f"{heading(name, language)}{colon}{text}" for name, text in why if text)
        failed.append(f"{each.goal}{opening}{told}{closing}" if told else each.goal)
    tools = [f"{each.tool_name}{colon}{comma.join(each.reflection)}" for each in conclusion.tool_reflection]
    parts = (
        ("reached_goals", comma.join(conclusion.reached_goals)),
        ("failed_goals", comma.join(failed)),
        ("reflections", comma.join(conclusion.reflections)),
        ("tool_reflection", comma.join(tools)),
        ("reply", conclusion.reply),
    )
    lines = [f"[{heading(conclusion.status, language)}] {conclusion.summary}"]
    lines += [f"{heading(name, language)}{colon}{text}" for name, text in parts if text]
    return "\n".join(lines)


def call_text(call: ToolCall, status: str, output: str | None, limit_arguments: int, *, language: str = "en") -> str:
    """Return a call and what came of it in the text form of XAgent's ToolCall.

    What a file tool writes is shown as `` `wrapped` ``. Arguments stand shortest first and share their limit evenly;
    what does not fit ends in `...`.

    Args:
        call: What the model asked for.
        status: How it ended.
        output: What it returned, cut by the caller; empty or None leaves the line out.
        limit_arguments: Characters of all arguments together, but for a last `...`.
        language: `zh`, or else English.
    """
    lines = [f"[{heading('tool_call', language)}] {_called(call, limit_arguments)}"]
    lines.append(f"[{heading('status', language)}] {_one_line(status, _NAME)}")
    if output:
        lines.append(f"[{heading('output', language)}] {output}")
    return "\n".join(lines)


def entry_line(entry: PastEntry, language: str = "en") -> str:
    """Return an entry as one line of at most `LINE` characters that starts with its handle."""
    start = _start(entry, language)
    if entry.kind == "result":
        start += f"{_clip(_called(_call(entry), LINE), _CALL)} [{_one_line(entry.status, _STATUS)}] "
    room = LINE - len(start)
    body = " ".join(entry.text[: 4 * LINE].split())
    if len(body) > room or len(entry.text) > 4 * LINE:
        kept = 0 if entry.kind == "result" else room - len(WRAPPED) - 1
        body = f"{body[:kept].rstrip()} {WRAPPED}".lstrip()
    return (start + body).rstrip()


def entry_text(entry: PastEntry, limit: int, language: str = "en") -> str:
    """Return as much of an entry as fits; its lines after the first are indented, so that none passes for an entry.

    Args:
        entry: What is shown.
        limit: Characters; the one-line form is returned where no longer form fits.
        language: `zh`, or else English.
    """
    line, start = entry_line(entry, language), _start(entry, language)
    if entry.kind == "result":
        fuller = start + _result(entry, limit - len(start), language)
    else:
        fuller = start + _fitted(entry, limit - len(start))
    fuller = fuller.rstrip()
    return fuller if len(line) < len(fuller) <= limit else line


def digest(entries: Sequence[PastEntry], budget: int, language: str = "en") -> str:
    """Return what is known of the past in at most `budget` characters, oldest first; empty if there is nothing.

    Every entry has its line where all lines fit. Otherwise summaries and critical results come first, in up to half of
    the budget; the newest others have theirs in one half of what is left, the other half is for texts, and the first
    line names what is missing. Texts grow in this order, newest first: users,
    summaries, critical results, the rest. A file's content is shown in its newest version only.

    Args:
        entries: What happened, oldest first.
        budget: Characters, at least `LEAST_DIGEST`.
        language: `zh`, or else English.

    Raises:
        ValueError: The budget is below `LEAST_DIGEST`.
    """
    if budget < LEAST_DIGEST:
        raise ValueError(f"A digest needs {LEAST_DIGEST} characters, not {budget}.")
    told = [each for each in entries if each.kind in ("user", "result") or not _blank(each.text)]
    if not told:
        return ""
    title = heading("history", language)
    room = budget - len(title)
    shown, texts = _lines(told, room, language)
    if len(texts) == len(told):
        _grow(shown, texts, room - _cost(texts), language)
        return "\n".join([title, *reversed(texts)])
    widest = max(told, key=lambda each: each.seq)
    room -= len(_rolled(len(told), widest, widest)) + 1
    missing, texts = _chosen(told, room, language)
    rolled = [_rolled(len(missing), missing[0], missing[-1])] if missing else []
    return "\n".join([title, *rolled, *texts])


def _chosen(told: Sequence[PastEntry], room: int, language: str) -> tuple[list[PastEntry], list[str]]:
    """Return the entries that do not fit, and the texts of those that do, both oldest first."""
    told = list(_newest_versions(told))[::-1]
    places: tuple[list[int], list[int]] = ([], [])
    for at in range(len(told) - 1, -1, -1):
        places[told[at].kind != "summary" and not told[at].critical].append(at)
    first, others = ([told[at] for at in reversed(each)] for each in places)
    shown, texts = _lines(first, room // 2, language)
    left = room - _cost(texts)
    newest, lines = _lines(others, left, language)
    kept, sure = len(texts), _fitting(lines, left // 2)
    texts += lines[:sure]
    _grow([*shown, *newest], texts, room - _cost(texts), language)
    more = lines[sure:]
    texts += more[: _fitting(more, room - _cost(texts))]
    order = [*places[0][:kept], *places[1][: len(texts) - kept]]
    missing = sorted((*places[0][kept:], *places[1][len(texts) - kept :]))
    return [told[at] for at in missing], [text for _, text in sorted(zip(order, texts, strict=True))]


def placeholders(template: str) -> frozenset[str]:
    """Return the names that a template asks for.

    Raises:
        ConfigError: A brace belongs to no `{name}` and is not doubled.
    """
    names: set[str] = set()
    for match in _PLACES.finditer(template):
        if match[1]:
            names.add(match[1])
        elif len(match[0]) == 1:
            piece = template[match.start() : match.start() + 24]
            raise ConfigError(
                f"Template: {piece!r} starts with a brace that belongs to no {{name}}; write {{{{ or }}}} for a brace."
            )
    return frozenset(names)


def fill(template: str, /, **values: object) -> str:
    """Return a template with values in the places written `{name}`; `{{` and `}}` stand for braces.

    Values are put in as they are and never read as templates. Nothing else of `str.format` is known: no attributes,
    no indices, no formats. Values without a place are ignored.

    Args:
        template: Text from settings or a program.
        values: By name.

    Raises:
        ConfigError: A name has no value, or a brace belongs to no name.
    """
    missing = sorted(placeholders(template) - values.keys())
    if missing:
        wanted = ", ".join(f"{{{name}}}" for name in missing)
        given = ", ".join(sorted(values)) or "none"
        raise ConfigError(f"Template: no value for {wanted}; values given: {given}.")
    return _PLACES.sub(lambda match: str(values[match[1]]) if match[1] else match[0][0], template)


def _titled(sections: Iterable[tuple[str, str]], language: str) -> str:
    return "\n\n".join(f"# {heading(name, language)}\n{text.strip()}" for name, text in sections if not _blank(text))


def _items(texts: Iterable[str]) -> str:
    return "\n".join(f"- {_indented(text.strip())}" for text in texts if not _blank(text))


def _tools(tools: Iterable[dict[str, Any]]) -> str:
    return "\n".join(f"{number}. {_tool(tool)}" for number, tool in enumerate(tools, 1))


def _tool(tool: dict[str, Any]) -> str:
    kind = tool.get("type", "function")
    if kind != "function":
        return _one_line(str(kind), _NAME)
    fields: dict[str, Any] = tool["function"] if isinstance(tool.get("function"), dict) else tool
    texts = (" ".join(str(fields.get(each) or "").split()) for each in ("name", "description"))
    return " - ".join(text for text in texts if text) or "?"


def _thought(fields: dict[str, Any]) -> str:
    told = {name: text for name, value in fields.items() if (text := _value_text(value))}
    if len(told) == 1:
        return next(iter(told.values()))
    return "\n".join(f"{name}: {text}" for name, text in told.items())


def _value_text(value: object) -> str:
    if value is None or value in ("", [], {}):
        return ""
    return value.strip() if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()


def _blank(text: str) -> bool:
    return not text or text.isspace()


@cache
def _breaks() -> re.Pattern[str]:
    """Return what finds the breaks of lines; most runs end before anything is left out of their window."""
    return re.compile(r"\r(?!\n)|[\n\v\f\x1c-\x1e\x85\u2028\u2029]")


def _indented(text: str) -> str:
    return _breaks().sub("\n  ", text)


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _one_line(text: str, limit: int) -> str:
    """Return the start of a text with each run of blanks as one space."""
    return _clip(" ".join(text[: 2 * limit].split()) + "..." * (len(text) > 2 * limit), limit)


def _call(entry: PastEntry) -> ToolCall:
    return ToolCall("", entry.name, entry.arguments)


def _called(call: ToolCall, limit: int) -> str:
    return f"{_one_line(call.name, _NAME)}({_arguments(call, limit)})"


def _is_file_tool(name: str) -> bool:
    return "file" in name.lower()


def _fields(arguments: str) -> dict[str, str] | None:
    """Return a call's arguments by name as JSON text, or None if they are no object."""
    try:
        raw = msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
        return {name: _json(bytes(value)) for name, value in raw.items()}
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None


def _json(raw: bytes) -> str:
    # A text may be written in escapes that a reader need not see.
    return msgspec.json.encode(msgspec.json.decode(raw)).decode() if raw[:1] == b'"' else raw.decode()


def _arguments(call: ToolCall, limit: int) -> str:
    fields = _fields(call.arguments)
    if fields is None:
        return _one_line(call.arguments, max(limit, 3))
    hidden = _FILE_CONTENTS if _is_file_tool(call.name) else frozenset[str]()
    pieces = [f"{name}={WRAPPED if name in hidden else value}" for name, value in fields.items()]
    pieces = sorted((" ".join(piece.splitlines()) for piece in pieces), key=len)
    shown: list[str] = []
    for at, piece in enumerate(pieces):
        share = limit // (len(pieces) - at) - 2
        if len(piece) > share and share < 8:
            shown.append("...")
            break
        shown.append(_clip(piece, share))
        limit -= len(shown[-1]) + 2
    return ", ".join(shown)


def _start(entry: PastEntry, language: str) -> str:
    match entry.kind:
        case "user" | "assistant" | "summary":
            label = heading(entry.kind, language)
        case "result":
            label = heading("tool_call", language)
        case _:
            assert_never(entry.kind)
    return f"{handle_of_event(entry.seq)} [{label}] "


def _result(entry: PastEntry, room: int, language: str) -> str:
    called, status = _called(_call(entry), max(room // 4, LINE)), _one_line(entry.status, _NAME)
    if len(entry.text) <= LINE and not _breaks().search(entry.text):
        return f"{called} [{status}] {entry.text}"
    lines = f"{called}\n  [{heading('status', language)}] {status}\n  [{heading('output', language)}] "
    body = _fitted(entry, room - len(lines))
    return f"{called} [{status}] {WRAPPED}" if body == WRAPPED else lines + body


def _fitted(entry: PastEntry, room: int) -> str:
    """Return a text indented and cut so that it has at most `room` characters, if that leaves enough to read."""
    text, handle = entry.text, handle_of_event(entry.seq)
    cut = _cut(text, room, handle)
    breaks = len(_breaks().findall(cut))
    if len(cut) + 2 * breaks > room:
        # A shorter cut has at most the same breaks and the two around the mark.
        cut = _cut(text, room - 2 * breaks - 4, handle)
    return _indented(cut.rstrip())


def _cut(text: str, room: int, handle: str) -> str:
    if len(text) <= room:
        return text
    kept = room - len(cut_text(text, 0, 0, handle)) - 2
    return cut_text(text, kept - kept // 3, kept // 3, handle) if kept >= _LEAST_TEXT else WRAPPED


def _newest_versions(entries: Sequence[PastEntry]) -> Iterator[PastEntry]:
    """Give entries newest first; what an older one says of a file that a newer one is about is left out."""
    seen: set[str] = set()
    for entry in reversed(entries):
        path = _path(entry)
        old = bool(path and entry.text) and path in seen
        if path and entry.status == "ok":
            seen.add(path)
        yield msgspec.structs.replace(entry, text=WRAPPED) if old else entry


def _path(entry: PastEntry) -> str:
    return file_path(entry.name, entry.arguments) if entry.kind == "result" else ""


def file_path(name: str, arguments: str) -> str:
    """Return the path of the file that a call is about; empty where it is about none.

    Args:
        name: The tool; one of files has `file` in its name.
        arguments: As JSON text.
    """
    fields = (_fields(arguments) or {}) if _is_file_tool(name) else {}
    found = next((fields[each] for each in _FILE_PATHS if each in fields), "")
    return normpath(found.strip('"')) if found.startswith('"') else ""


def _lines(entries: Sequence[PastEntry], room: int, language: str) -> tuple[list[PastEntry], list[str]]:
    """Return the newest entries whose lines fit, newest first, and their lines."""
    shown: list[PastEntry] = []
    lines: list[str] = []
    for entry in _newest_versions(entries):
        line = entry_line(entry, language)
        room -= len(line) + 1
        if room < 0:
            break
        shown.append(entry)
        lines.append(line)
    return shown, lines


def _rolled(count: int, first: PastEntry, last: PastEntry) -> str:
    if count == 1:
        return f"{WRAPPED} 1 earlier entry; recall {handle_of_event(first.seq)}"
    return f"{WRAPPED} {count} earlier entries; recall {handle_of_event(first.seq)}-{last.seq}"


def _cost(lines: Iterable[str]) -> int:
    return sum(len(line) + 1 for line in lines)


def _fitting(lines: Sequence[str], room: int) -> int:
    """Return how many of the first lines fit."""
    for at, line in enumerate(lines):
        room -= len(line) + 1
        if room < 0:
            return at
    return len(lines)


def _grow(entries: Sequence[PastEntry], texts: list[str], room: int, language: str) -> None:
    """Lengthen texts in place by at most `room` characters in all."""
    ranks: tuple[list[int], ...] = ([], [], [], [])
    for at in range(len(texts)):
        ranks[_rank(entries[at])].append(at)
    left = room
    # First nobody takes more than a part, then each takes what it can get.
    for parts in ((4, 4, 4, 16), (1, 1, 1, 1)):
        for rank, part in zip(ranks, parts, strict=True):
            for at in rank:
                text = entry_text(entries[at], len(texts[at]) + min(room // part, left), language)
                if len(text) > len(texts[at]):
                    left -= len(text) - len(texts[at])
                    texts[at] = text


def _rank(entry: PastEntry) -> int:
    match entry.kind:
        case "user":
            return 0
        case "summary":
            return 1
        case "result":
            return 2 if entry.critical else 3
        case "assistant":
            return 3
        case _:
            assert_never(entry.kind)
