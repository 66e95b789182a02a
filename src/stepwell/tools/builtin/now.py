"""The tool `now`: the date and the time of day anywhere.

Zones come from the system's time zone database, or from the package `tzdata` where the system has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from stepwell.errors import ToolError
from stepwell.tools.base import Tool, as_tool
from stepwell.tools.mark import tool

_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+-])([0-9]{1,2})(?::?([0-9]{2}))?$", re.IGNORECASE)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def now_tool(clock: Callable[[], datetime] | None = None) -> Tool:
    """Build the tool.

    Args:
        clock: Returns the present moment, with its zone; the system's clock in the local zone without it.
    """
    read = clock or _local

    @tool(effect="pure", timeout=10.0)
    async def now(timezone: str = "") -> str:
        """Tell the current date, time of day, weekday and time zone.

        Args:
            timezone: A zone such as Asia/Shanghai or Europe/Berlin, or an offset such as +08:00. Empty for the
                local zone.
        """
        name = timezone.strip()
        moment = read() if not name else read().astimezone(find_zone(name))
        zone = moment.tzinfo if not name else name
        return f"{moment.isoformat(timespec='seconds')} {_WEEKDAYS[moment.weekday()]} ({zone})"

    return as_tool(now)


def find_zone(name: str) -> tzinfo:
    """Return a time zone by its name in the IANA database or its offset from UTC.

    Raises:
        ToolError: There is no such zone; says how zones are written.
    """
    if name.upper() in ("UTC", "GMT", "Z"):
        return UTC
    if offset := _OFFSET.match(name):
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        if minutes >= 24 * 60 or int(offset[3] or 0) >= 60:
            raise ToolError(f"There is no offset {name[:80]}; write one from -23:59 to +23:59, such as +08:00.")
        return timezone(timedelta(minutes=minutes if offset[1] == "+" else -minutes))
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ToolError(
            f"There is no time zone {name[:80]}. Write a name such as Asia/Shanghai or America/New_York, or an offset "
            "from UTC such as +08:00."
        ) from None


def _local() -> datetime:
    return datetime.now().astimezone()
