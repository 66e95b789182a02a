"""Blocking functions in threads."""

import asyncio
import contextvars
import subprocess
import sys
import threading

import pytest

from stepwell.tools.threads import Threads

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def test_a_function_runs_in_a_thread_with_the_callers_context() -> None:
    async def main() -> tuple[str, bool]:
        VARIABLE.set("mine")
        return await Threads().run(lambda: (VARIABLE.get(), threading.current_thread() is threading.main_thread()))

    assert asyncio.run(main()) == ("mine", False)


def test_calls_after_one_another_share_a_thread() -> None:
    async def main() -> set[int]:
        threads = Threads()
        return {await threads.run(threading.get_ident) for _ in range(50)}

    assert len(asyncio.run(main())) == 1


def test_hung_functions_do_not_hold_up_others() -> None:
    released = threading.Event()

    async def main() -> str:
        threads = Threads()
        hung = [asyncio.create_task(threads.run(lambda: released.wait(30))) for _ in range(60)]
        answer = await threads.run(lambda: "through")
        released.set()
        assert await asyncio.gather(*hung) == [True] * 60
        return answer

    assert asyncio.run(main()) == "through"


def test_a_cancelled_caller_leaves_at_once_and_the_late_result_is_dropped() -> None:
    started, released, over = threading.Event(), threading.Event(), threading.Event()

    def block() -> str:
        started.set()
        released.wait(30)
        over.set()
        return "late"

    async def main() -> None:
        threads = Threads()
        task = asyncio.create_task(threads.run(block))
        await asyncio.to_thread(started.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not over.is_set()
        released.set()
        await asyncio.to_thread(over.wait, 30)
        assert await threads.run(lambda: "next") == "next"

    asyncio.run(main())


def raise_stop() -> None:
    raise StopIteration("x")


def leave() -> None:
    sys.exit(3)


@pytest.mark.parametrize(
    ("function", "error"), [(raise_stop, RuntimeError), (leave, SystemExit), (lambda: 1 / 0, ZeroDivisionError)]
)
def test_what_a_function_raises_reaches_the_caller(function: object, error: type[BaseException]) -> None:
    async def main() -> None:
        assert callable(function)
        with pytest.raises(error):
            await Threads().run(function)

    asyncio.run(main())


def test_a_hung_function_does_not_keep_the_program_from_ending() -> None:
    code = """
import asyncio, threading
from stepwell.tools.threads import Threads

async def main():
    try:
        async with asyncio.timeout(0.1):
            await Threads().run(threading.Event().wait)
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")
