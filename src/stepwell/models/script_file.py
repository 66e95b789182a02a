"""A script as a file: which reply answers which request, by what the request holds, not by its place in a row.

For demonstrations and for tests of whole servers: the model needs no network, and a run goes on with it in another
process. Each line of the file is a JSON object; the first that fits answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from stepwell.errors import ConfigError
from stepwell.messages import Message, ToolCall
from stepwell.models.base import Failure, ModelRequest
from stepwell.models.scripted import Answer, Brain, Reply


class Called(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call of a reply."""

    name: str
    arguments: dict[str, Any] = {}


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a script.

    Args:
        offers: Names of tools that the request must offer.
        says: Texts that must stand in what was said since the model's last reply.
        lacks: Texts that must not stand there.
        text: What the model says.
        calls: What it calls.
    """

    offers: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    text: str = ""
    calls: tuple[Called, ...] = ()

    def fits(self, offered: set[str], said: str) -> bool:
        """Tell whether it answers a request.

        Args:
            offered: Names of the tools that the request offers.
            said: What was said since the model's last reply.
        """
        if not offered.issuperset(self.offers) or any(text in said for text in self.lacks):
            return False
        return all(text in said for text in self.says)


def script_of(path: Path) -> Brain:
    """Return a function that answers requests as a file says.

    Raises:
        ConfigError: The file cannot be read, or a line is no line of a script.
    """
    try:
        rows = path.expanduser().read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the script {path}: {error.strerror}") from error
    lines: list[Line] = []
    for number, row in enumerate(rows, 1):
        try:
            lines += [msgspec.json.decode(row, type=Line)] if row.strip() else []
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ConfigError(f"line {number} of the script {path}: {error}") from error

    def answer(request: ModelRequest) -> Answer:
        said = "\n".join(message.content for message in _newest(request))
        offered = {tool.name for tool in request.tools}
        found = next((line for line in lines if line.fits(offered, said)), None)
        if found is None:
            return Failure("request", f"no line of the script answers: {said[-200:]}")
        calls = tuple(ToolCall("", each.name, msgspec.json.encode(each.arguments).decode()) for each in found.calls)
        return Reply(found.text, calls)

    return answer


def _newest(request: ModelRequest) -> list[Message]:
    """Return the messages since the model's last reply."""
    newest: list[Message] = []
    for message in reversed(request.all):
        if message.role == "assistant":
            break
        newest.append(message)
    return newest[::-1]
