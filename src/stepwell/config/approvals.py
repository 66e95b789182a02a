"""Settings of approvals: which calls people are asked about, the section `[approvals]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stepwell.config.base import LONGEST, Section, Table


class RuleSettings(Section):
    """One row of the table that says which calls of tools run at once."""

    decision: Literal["allow", "ask", "deny"]
    """`allow` runs the call, `deny` refuses it, `ask` asks a person."""
    tool: str = Field(default="*", min_length=1)
    """Name of the tool, with `*` and `?` as in names of files."""
    effect: Literal["", "pure", "idempotent", "write"] = ""
    """The tool's effect; empty for any."""
    place: Literal["", "workspace", "outside"] = ""
    """`workspace` for tools that reach no further than the workspace; empty for any."""
    untrusted: bool | None = None
    """Whether untrusted text stands in the context; empty for either."""
    arguments: dict[str, str] = {}
    """What arguments must look like: a pattern as for `tool`, by the name of a top-level argument."""


class ApprovalSettings(Section):
    """Which calls of tools are asked for."""

    rules: Annotated[list[RuleSettings], Table] = []
    """The first that fits decides; below them stands a built-in one: ask before a `write` outside the workspace."""
    seconds: float | None = Field(default=None, gt=0, le=LONGEST)
    """Seconds until a question expires unanswered; empty for never."""
