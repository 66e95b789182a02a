"""The recorded exchanges of the old chat service, held against a server of this checkout."""

import subprocess
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "scripts" / "golden"


@pytest.mark.limit(180)
@pytest.mark.parametrize("cut", ["recorded", "char", "whole", "7"])
def test_an_old_client_sees_what_it_saw_however_the_models_text_is_cut(cut: str) -> None:
    command = [GOLDEN, "", cut]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        try:
            output, _ = program.communicate(timeout=170)
        finally:
            program.terminate()  # it stops its server, which a kill would leave behind
    assert program.returncode == 0, output
    assert "23 passed, 0 failed" in output
