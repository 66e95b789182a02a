"""The examples, run as a person runs them: the command, what it prints, and what became of its log."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.cli.running import Cli, Done

ROOT = Path(__file__).parents[1]
QUESTION = "Which is cheaper: three pens at 1.20 each, or the box of three for 3.40?"
ANSWER = (
    "The box of three for 3.40 is the better buy: it is cheaper by 0.20, "
    "which is 5.6 % of the price of three single pens."
)
CONFIG = ("--config", "examples/plan/stepwell.toml")


def cli_in(folder: Path) -> Cli:
    """Return the command line in the checkout, where the settings name their script from, over data of the test."""
    cli = Cli(folder)
    cli.folder = ROOT
    return cli


async def done(cli: Cli, *args: str) -> Done:
    found = await cli.run(*args, *CONFIG)
    assert found.code == 0, found
    return found


async def events(cli: Cli, thread: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (await done(cli, "show", "--json", thread)).out.splitlines()]


def places(log: list[dict[str, Any]], type: str) -> list[int]:
    return [each["seq"] for each in log if each["event"]["type"] == type]


def test_the_plan_is_shown_with_what_each_task_came_to_and_a_refused_and_an_accepted_edit(tmp_path: Path) -> None:
    async def main() -> None:
        cli = cli_in(tmp_path)
        shown = await done(cli, "run", QUESTION, "--plan")
        assert shown.out.splitlines() == [
            f"Plan: {QUESTION}",
            "  · 1.1 Single pens",
            "  · 1.2 Difference",
            "▶ 1.1 Single pens",
            "  1.1 task submitted (success) Three single pens cost 3.60.",
            "  1.1 another plan is wanted: Say also what share of the price the box saves.",
            "✓ 1.1 Single pens – task over (success) Three single pens cost 3.60.",
            "plan: after 1.2 comes 1.3 Share",
            f"Plan: {QUESTION}",
            "  ✓ 1.1 Single pens",
            "  · 1.2 Difference",
            "  · 1.3 Share",
            "▶ 1.2 Difference",
            "  1.2 task submitted (success) The box is cheaper by 0.20.",
            "✓ 1.2 Difference – task over (success) The box is cheaper by 0.20.",
            "▶ 1.3 Share",
            "  1.3 task submitted (success) The box saves 5.6 % of the price.",
            "✓ 1.3 Share – task over (success) The box saves 5.6 % of the price.",
            ANSWER,
        ]
        heading, *beside = shown.err.splitlines()
        assert beside == [
            '[1.1] • calculate {"query":"3*1.20"}',
            "[1.1]   calculate → 3.6",
            '• subtask_operations {"operation":"delete","target_subtask_id":"1.1"}',
            "  subtask_operations → Task 1.1 is SUCCESS; only a task to be done can be deleted; nothing happens.",
            '[1.2] • calculate {"query":"3*1.20-3.40"}',
            "[1.2]   calculate → 0.2",
            '[1.3] • calculate {"query":"round((3*1.20-3.40)/(3*1.20)*100, 1)"}',
            "[1.3]   calculate → 5.6",
        ]
        replayed = await done(cli, "replay", heading.split()[-1])
        assert replayed.out.startswith("No difference")

    asyncio.run(main())


def test_the_plan_is_shown_beside_a_server_that_holds_the_usual_data_folder(tmp_path: Path) -> None:
    async def main() -> None:
        cli = cli_in(tmp_path)
        del cli.env["STEPWELL_DATA"]
        cli.env["HOME"] = str(tmp_path)
        async with cli.serving():
            shown = await done(cli, "run", QUESTION, "--plan")
            assert shown.out.splitlines()[-1] == ANSWER

    asyncio.run(main())


def test_a_fork_in_the_middle_of_the_plan_asks_only_for_what_lies_beyond(tmp_path: Path) -> None:
    async def main() -> None:
        cli = cli_in(tmp_path)
        old = (await done(cli, "run", QUESTION, "--plan")).err.split()[1]
        log = await events(cli, old)
        replies = places(log, "message_ended")
        at = next(seq for seq in replies if log[seq - 1].get("path") == "1.2")
        forked = await done(cli, "fork", old, "--at", str(at), "--edit", "Let me see.")
        assert forked.out.splitlines()[-1] == ANSWER
        new = forked.err.split()[1]
        copy = await events(cli, new)
        assert copy[: at - 1] == log[: at - 1]
        assert places(copy, "forked") == [at + 1]
        beyond = [seq for seq in places(log, "step_started") if seq > at]
        assert len([seq for seq in places(copy, "step_started") if seq > at]) == len(beyond) > 5
        parted = (await done(cli, "diff", old, new)).out.splitlines()
        assert parted[0] == f"{at - 1} events are the same."
        assert "Let me see." in "\n".join(parted)
        for thread in (old, new):
            replayed = await done(cli, "replay", thread)
            assert replayed.out.startswith("No difference")

    asyncio.run(main())
