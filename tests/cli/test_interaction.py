"""A front that talks, on the command line: what is typed while a plan works reaches it, and its calls are not shown."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.cli.running import WAIT, Cli
from tests.support.endpoint import Endpoint, text
from tests.support.front import Model

SLOW = {"STEPWELL_TASKS__FAST_PATH": "false"}


@pytest.mark.parametrize("command", [("run", "Count the pens.", "--interaction"), ("chat", "--engine", "interaction")])
def test_what_is_typed_while_a_plan_works_is_answered_passed_on_and_stops_it_after_a_yes(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    async def main() -> None:
        async with Endpoint(Model()) as endpoint:
            async with Cli(tmp_path, **SLOW).at(endpoint.base_url).terminal(*command) as terminal:
                if command[0] == "chat":
                    await terminal.expect("> ")
                    terminal.type("Count the pens.\n")
                await terminal.expect("▶ plan1/1.1 count\n")
                terminal.type("How far is it?\n")
                await terminal.expect("\nIt is at: True.\n")
                terminal.type("Also the pencils.\n")
                await terminal.expect("Also the pencils.")
                terminal.type("Stop it.\n")
                await terminal.expect("no use any more")
                await terminal.expect("y or n")
                terminal.type("y\n")
                if command[0] == "chat":
                    await terminal.expect("> ")
                    terminal.type("\x04")
                assert await terminal.left() == 1
                for name in ("start_task", "exit_task", "• chat", "• detail", "▶ chat", "✓ chat", "The agent meets it"):
                    assert name not in terminal.text

    asyncio.run(main())


def test_an_agent_inside_a_run_is_spoken_to_by_its_path(tmp_path: Path) -> None:
    async def main() -> None:
        model = Model()
        async with Endpoint(model) as endpoint:
            cli = Cli(tmp_path, **SLOW).at(endpoint.base_url)
            async with cli.serving():
                left = await cli.run("run", "Count the pens.", "--plan", "--no-follow")
                thread = left.err.split()[1]
                async with asyncio.timeout(WAIT):
                    while "[1.1] task begins" not in str(await cli.shown(thread)):
                        pass
                told = await cli.run("steer", thread, "Count twice.", "--path", "1.1")
                assert told.code == 0, told
                nobody = await cli.run("steer", thread, "Count twice.", "--path", "1.9")
                assert (nobody.code, "no such agent" in nobody.err) == (1, True)
                model.held.set()
            assert any(line.startswith("[1.1] said while it runs: Count twice.") for line in await cli.shown(thread))

    asyncio.run(main())


def test_two_engines_at_once_and_an_unknown_one_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with Endpoint([text("Hi.")]) as endpoint:
            cli = Cli(tmp_path).at(endpoint.base_url)
            assert (await cli.run("run", "x", "--plan", "--interaction")).code == 2
            assert (await cli.run("chat", "--engine", "x")).code == 2
            said = await cli.run("chat", stdin="hello\n")
            assert (said.code, said.out) == (0, "Hi.\n")

    asyncio.run(main())
