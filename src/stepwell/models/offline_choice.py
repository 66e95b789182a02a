"""How the embedded offline model chooses tools for a question: by the words that both share.

It is pure functions of one text and the tools on offer; it keeps no conversation and writes no replies.
`offline_arguments.py` fills the arguments in, `offline_words.py` holds the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stepwell.messages import ToolSpec
from stepwell.models import offline_words as words
from stepwell.models.offline_arguments import QUOTED, Offer, Pick, Question, each_of, fill, offer, question

_THRESHOLD = 2.0
_COVERED, _COVERED_BARE = 0.2, 0.4
_MOST_PARTS = 8
_VERBS = frozenset({"read", "list", "search"})
_NOT_ASKED_TO = re.compile(
    r"\b(?:how (?:do|can|could|should|would|to)|why|should i|what (?:do|does|is|are)|explain|never|not|don[’']t)\b"
    r"|如何|怎么(?!样)|怎样|为什么|什么意思|解释|不要|不能|别",
    re.I,
)
_SPLIT = re.compile(r"[?？!！;；。\n、，]|[,.]\s|\band then\b|\bthen\b|\band\b|并且|然后|以及|还有|另外|再|和", re.I)
_ASKING = re.compile(
    r"\b(?:what|what's|which|how|when|where|who)\b|^\s*(?:please\s+|also\s+)*(?:calculate|compute|search|find|look up|"
    r"read|open|show|list|write|save|run|execute|send|convert|translate|get|check|use|call)\b"
    r"|几|多少|什么|怎么|哪|吗|天气|时间|计算|搜索|查|读取|打开|列出|写入|运行|执行|发送|换算|翻译",
    re.I,
)


def choose(text: str, tools: Sequence[ToolSpec], forced: bool = False) -> list[Pick]:
    """Return the calls for a question: several for a question of several clear parts, none when no tool fits.

    Args:
        text: The question.
        tools: The tools on offer; of equals the first wins.
        forced: Take the best tool however badly it fits.
    """
    offers = [offer(tool) for tool in tools]
    parts = _parts(text, offers)
    if len(parts) > 1:
        return parts
    asked = question(text)
    best = _best(asked, offers, forced)
    return each_of(best, asked) if best else []


def complete(pick: Pick, answer: str) -> Pick:
    """Fill what a pick was missing from a text given in answer to it."""
    return fill(offer(pick.tool), question(answer), pick.arguments, answer=True)


def _parts(text: str, offers: Sequence[Offer]) -> list[Pick]:
    """Return the calls for the parts of a question; a part that asks nothing of its own belongs to the one before."""
    masked = QUOTED.sub(lambda match: "\0" * len(match[0]), text)
    starts = [0, *(match.end() for match in _SPLIT.finditer(masked))]
    groups: list[tuple[int, int, ToolSpec]] = []
    if len(starts) > _MOST_PARTS:
        return []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        asked = question(text[start:end])
        pick = _best(asked, offers) if not groups or asked.expression or _ASKING.search(asked.plain) else None
        if pick and not pick.missing:
            groups.append((start if groups else 0, end, pick.tool))
        elif groups:
            groups[-1] = (groups[-1][0], end, groups[-1][2])
    picks: list[Pick] = []
    for start, end, tool in groups:
        asked = question(text[start:end])
        picks += each_of(fill(offer(tool), asked), asked)
    found = {(pick.tool.name, str(pick.arguments)): pick for pick in picks if not pick.missing}
    return list(found.values())


def _best(asked: Question, offers: Sequence[Offer], forced: bool = False) -> Pick | None:
    best, top = None, 0.0
    for each in offers:
        score = _score(asked, each)
        if score >= _THRESHOLD or forced:
            pick = fill(each, asked, answer=forced)
            score += 0 if pick.missing else 2
            if best is None or score > top:
                best, top = pick, score
    return best


def _score(asked: Question, each: Offer) -> float:
    """Return how well a tool fits; 0.0 for one that changes something and was not clearly asked for."""
    said = set(asked.terms)
    if _is_named(each.tool.name, asked.plain):
        return 100.0
    if each.acts and (not each.acts & said or _NOT_ASKED_TO.search(asked.plain)):
        return 0.0
    hits = sum(1.0 if term in words.WEAK else 3.0 for term in said & each.name)
    hits += sum(0.5 if term in words.WEAK else 1.5 if words.is_concept(term) else 1.0 for term in said & each.about)
    if asked.expression and "calculate" in each.name | each.about:
        return hits + (6.0 if "calculate" in each.name else 3.0)
    if not each.required:
        said -= _VERBS.union(*(words.terms(place) for place, _ in words.places(asked.bare)))
    covered = _COVERED if each.required else _COVERED_BARE
    return hits if len(said & (each.name | each.about)) >= covered * len(said) else 0.0


def _is_named(name: str, text: str) -> bool:
    """Whether the text names the tool itself and not just a word that is also its name."""
    calling = "" if "_" in name else r"(?:\b(?:use|call|using)\b(?: the)?|使用|调用|用)\s*"
    return bool(re.search(rf"{calling}(?<![\w.]){re.escape(name)}(?![\w.])", text, re.A))
