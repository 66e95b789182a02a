"""Questions that a run puts to people or its client: which decisions each kind takes, what an approval is bound to.

Records of them are events (`events/people.py`); who asks is an engine's business, who may answer the run service's.
"""

from __future__ import annotations

import hashlib
import unicodedata
from types import MappingProxyType
from typing import Any, Literal

import msgspec

QuestionKind = Literal["approval", "question", "outcome", "repetition", "confirm", "result", "elicitation"]
"""May this call run; what the agent wants to know; what became of a call that was cut off; may a run that goes in
circles go on; is it really meant; what came of a call that the client carries out; what a tool
wants to know while it runs."""

Decision = Literal[
    "approve", "deny", "answer", "retry", "done", "skip", "continue", "stop", "expired", "cancelled", "forked"
]

Scope = Literal["once", "call", "tool"]
"""How far an approval reaches: this time; the same tool with the same arguments, or the tool with any, from now on in
this thread."""

DECISIONS: MappingProxyType[str, tuple[Decision, ...]] = MappingProxyType(
    {
        "approval": ("approve", "deny"),
        "question": ("answer",),
        "outcome": ("retry", "done", "skip"),
        "repetition": ("continue", "stop"),
        "confirm": ("approve", "deny"),
        "result": ("done", "skip"),
        "elicitation": ("answer", "deny"),
    }
)
"""What a person may decide, by the kind of the question; time, an end and a fork decide the rest."""


class Inquiry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an agent wants to know from a person.

    Args:
        text: The question in words.
        kind: A person is asked something, or the client for the result of a call.
        choices: Answers to choose from; empty for free text.
        form: JSON schema of an answer that has fields; None for text.
        seconds: Until it expires; None for never.
        default: The answer that counts then; None for none.
    """

    text: str
    kind: Literal["question", "result", "elicitation"] = "question"
    choices: tuple[str, ...] = ()
    form: dict[str, Any] | None = None
    seconds: float | None = None
    default: str | None = None


def call_hash(tool: str, arguments: str, version: str) -> str:
    """Return what an approval is bound to: SHA-256 over tool, arguments and the tool's version, 64 digits.

    Args:
        tool: Name of the tool.
        arguments: The JSON text that will run, byte for byte.
        version: Hash of what the tool says of itself.
    """
    digest = hashlib.sha256()
    for part in (tool, arguments, version):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def visible(text: str) -> str:
    r"""Return a text with its invisible characters written out, such as `\u202e`, so that a person sees what runs.

    Line breaks and tabs stay as they are. Marked are control and format characters (among them those that turn the
    direction of writing, and those without width), and every blank but the common one.
    """
    return "".join(map(_shown, text)) if any(map(_hidden, text)) else text


_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0\ufffc\U00016fe4\U0001d159"
"""Letters and marks that nothing shows."""
_HIDDEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})


def _hidden(char: str) -> bool:
    if char in "\n\t" or " " <= char < "\x7f":
        return False
    selects = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    return selects or unicodedata.category(char) in _HIDDEN or char in _BLANK


def _shown(char: str) -> str:
    if not _hidden(char):
        return char
    code = ord(char)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
