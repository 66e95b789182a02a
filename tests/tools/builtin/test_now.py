"""The clock."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from stepwell.tools.builtin.now import now_tool
from tests.tools.running import called

BERLIN_WINTER = datetime(2024, 2, 29, 23, 30, 5, 999, tzinfo=timezone(timedelta(hours=1), "CET"))


def told(zone: str | None) -> str:
    """Ask the tool at a fixed moment."""
    tool = now_tool(lambda: BERLIN_WINTER)
    return asyncio.run(called(tool, {} if zone is None else {"timezone": zone})).content


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        (None, "2024-02-29T23:30:05+01:00 Thursday (CET)"),
        ("", "2024-02-29T23:30:05+01:00 Thursday (CET)"),
        ("Asia/Shanghai", "2024-03-01T06:30:05+08:00 Friday (Asia/Shanghai)"),
        (" America/New_York ", "2024-02-29T17:30:05-05:00 Thursday (America/New_York)"),
        ("Asia/Kathmandu", "2024-03-01T04:15:05+05:45 Friday (Asia/Kathmandu)"),
        ("UTC", "2024-02-29T22:30:05+00:00 Thursday (UTC)"),
        ("z", "2024-02-29T22:30:05+00:00 Thursday (z)"),
        ("+08:00", "2024-03-01T06:30:05+08:00 Friday (+08:00)"),
        ("UTC+8", "2024-03-01T06:30:05+08:00 Friday (UTC+8)"),
        ("-0330", "2024-02-29T19:00:05-03:30 Thursday (-0330)"),
    ],
)
def test_the_time_is_told_in_any_zone(zone: str | None, text: str) -> None:
    assert told(zone) == text


@pytest.mark.parametrize(
    "zone",
    [
        "Nowhere",
        "Asia",
        "../../etc/passwd",
        "/etc/passwd",
        "Asia/../../x",
        "\0",
        "x" * 5000,
        "+25:00",
        "+08:60",
        "北京",
    ],
)
def test_an_unknown_zone_is_named_with_the_remedy(zone: str) -> None:
    result = asyncio.run(called(now_tool(), {"timezone": zone}))
    assert result.status == "failed"
    assert "+08:00" in result.content
    assert len(result.content) < 300


def test_without_a_clock_of_its_own_it_reads_the_systems() -> None:
    before = datetime.now(UTC)
    read = asyncio.run(called(now_tool(), "")).content.split()[0]
    assert before.replace(microsecond=0) <= datetime.fromisoformat(read) <= datetime.now(UTC)


def test_looking_at_the_clock_twice_does_no_harm() -> None:
    assert now_tool().effect == "pure"
