"""`stepwell keys`: keys are shown once, listed without their secret, and gone when revoked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import apsw
import pytest

from tests.cli.running import Cli


def test_a_key_is_alone_on_stdout_works_at_a_running_server_and_not_any_more_when_revoked(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        async with cli.serving() as server, aiohttp.ClientSession() as session:

            async def status(key: str) -> int:
                headers = {"authorization": f"Bearer {key}"}
                async with session.get(f"{server.url}/api/threads", headers=headers) as response:
                    return response.status

            made = await cli.run("keys", "add", "ada")
            key = made.out.strip()
            assert (made.code, made.out, "ada" in made.err) == (0, f"{key}\n", True)
            assert await status(key) == 200
            id = key.split("_")[1]
            listed = [line.split("\t") for line in (await cli.run("keys", "list")).out.splitlines()]
            assert [(row[0], row[1], row[3]) for row in listed][1:] == [(id, "ada", "good")]
            assert key.split("_", 2)[2] not in str(listed)
            revoked = await cli.run("keys", "revoke", id)
            assert (revoked.code, revoked.out) == (0, "")
            assert await status(key) == 401
            again = await cli.run("keys", "revoke", id)
            assert (again.code, id in again.err) == (1, True)
            assert "revoked" in (await cli.run("keys", "list")).out

    asyncio.run(main())


def test_before_anything_is_there_the_list_is_empty_and_a_key_can_be_made(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        listed = await cli.run("keys", "list")
        assert (listed.code, listed.out, "stepwell keys add" in listed.err) == (0, "", True)
        assert (await cli.run("keys", "revoke", "0123")).code == 1
        assert not cli.data.exists()
        assert (await cli.run("keys", "add", "李雷")).code == 0
        assert cli.data.stat().st_mode & 0o077 == 0
        assert "李雷" in (await cli.run("keys", "list")).out

    asyncio.run(main())


def test_a_key_is_made_with_limits_and_they_are_listed(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        limits = ("--limit", "money=5", "--limit", "tokens=100000", "--limit", "seconds=1.5", "--limit", "money=7.25")
        assert (await cli.run("keys", "add", "ada", *limits)).code == 0
        assert (await cli.run("keys", "add", "bob")).code == 0
        listed = [line.split("\t") for line in (await cli.run("keys", "list")).out.splitlines()]
        assert [(row[1], row[4]) for row in listed] == [("ada", "tokens=100000 seconds=1.5 money=7.25"), ("bob", "")]
        for wrong in (
            "money",
            "money=",
            "money=x",
            "money=-1",
            "money=nan",
            "money=inf",
            "tokens=1.5",
            "gold=1",
            "tokens=1" + "0" * 400,
        ):
            done = await cli.run("keys", "add", "eve", "--limit", wrong)
            assert (done.code, done.out, repr(wrong) in done.err) == (1, "", True)
        assert "eve" not in (await cli.run("keys", "list")).out

    asyncio.run(main())


def test_keys_are_listed_also_when_one_has_a_limit_beyond_all_floats(tmp_path: Path) -> None:
    async def main() -> None:
        cli = Cli(tmp_path)
        assert (await cli.run("keys", "add", "ada", "--limit", "tokens=7")).code == 0
        db = apsw.Connection(str(cli.data / "stepwell.db"))
        db.execute("UPDATE api_keys SET limits = replace(limits, '7', '1' || ?)", ("0" * 400,))
        db.close()
        assert (await cli.run("keys", "list")).out.rstrip("\n").endswith("tokens=1" + "0" * 400)

    asyncio.run(main())


@pytest.mark.parametrize("owner", ["", "  ", "a\nb", "x" * 101, b"\xff"])
def test_an_owner_that_cannot_be_read_is_refused(tmp_path: Path, owner: str | bytes) -> None:
    done = asyncio.run(Cli(tmp_path).run("keys", "add", owner))
    assert (done.code, done.out) == (1, "")
    assert "printable" in done.err
