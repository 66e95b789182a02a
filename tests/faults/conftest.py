"""What the tests of faults share: the one warmed parent of all victims."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.faults.support.case import Parent


@pytest.fixture(scope="session")
def parent() -> Iterator[Parent]:
    """Give the parent; it and all of its children have gone at the end."""
    made = Parent()
    yield made
    left = made.children()
    made.stop()
    assert not left, f"victims are left: {left}"


@pytest.fixture(scope="session", autouse=True)
def sandbox() -> None:
    """Fail loudly where the sandbox is missing, instead of testing less."""
    assert shutil.which("bwrap"), "bubblewrap is not installed; run scripts/test --install"
