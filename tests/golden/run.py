"""Start a server with temporary data and hold it against the recorded exchanges of the old chat service.

    run.py [CASES] [CUT]

CASES is a file of cases; without it (or with an empty one) they are those of `agent_chat.jsonl`. CUT says how the
model's text is cut into tokens: recorded (the default), char, whole, or a number, the seed of a random cut. The exit
status is 0 when every case holds. The comparison itself is in `replay.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
START, STOP = 30.0, 10.0  # seconds that the server may take

SETTINGS = """\
host = "127.0.0.1"
auth = "off"
data = {data}
default_model = "scripted"

[models.scripted]
kind = "openai"
model = "scripted"
base_url = "http://127.0.0.1:{upstream}/v1"
api_key = "none"

[tools.shell]
enabled = true
sandbox = "none"
approval = "allow"
"""


def main() -> None:
    """Run the program; exit with the status of the comparison."""
    parser = argparse.ArgumentParser("golden", description="Hold a fresh server against the old chat service.")
    parser.add_argument(
        "cases", nargs="?", default="", help="a file of recorded exchanges; '' for those that come along"
    )
    cuts = "how the model's text is cut into tokens: recorded (the default), char, whole, or a random seed"
    parser.add_argument("cut", nargs="?", default="recorded", help=cuts)
    asked = parser.parse_args()
    given, cut = asked.cases, asked.cut
    if given and not Path(given).is_file():
        sys.exit(f"there is no file of cases {given}; an empty name stands for those that come along: golden '' char")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="stepwell-golden-") as folder:
        cases = Path(given).resolve() if given else HERE / "agent_chat.jsonl"
        port, upstream = free_ports()
        settings = SETTINGS.format(data=json.dumps(f"{folder}/data"), upstream=upstream)
        Path(folder, "stepwell.toml").write_text(settings, encoding="utf-8")
        with server(Path(folder), port):
            address = f"http://127.0.0.1:{port}"
            options = ["--server", address, "--upstream-port", str(upstream), "--cases", str(cases)]
            replay = [sys.executable, str(HERE / "replay.py"), *options, "--cut", cut]
            if status := subprocess.run(replay, env=environment(), check=False).returncode:
                sys.exit(status)


def free_ports() -> tuple[int, int]:
    """Find two ports that nobody listens on."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def environment() -> dict[str, str]:
    """Give the programs an environment without settings, without a proxy, and with UTF-8."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("STEPWELL_") and not k.lower().endswith("_proxy")}
    return kept | {"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    """Serve while the block runs; print the end of the server's output when the block does not end well."""
    program = str(Path(sys.executable).with_name("stepwell"))
    command = [program, "serve", "--port", str(port), "--config", str(folder / "stepwell.toml")]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until_up(process, f"http://127.0.0.1:{port}/health")
        yield
    except BaseException:
        print(log.read_text(encoding="utf-8", errors="replace")[-4000:], file=sys.stderr)
        raise
    finally:
        stop(process)


def wait_until_up(process: subprocess.Popen[bytes], address: str) -> None:
    """Return when the server answers; exit when it has ended or takes too long."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError), direct.open(address, timeout=2):
            return
        time.sleep(0.05)
    sys.exit("the server has ended" if process.poll() is not None else f"the server was not up within {START:.0f} s")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server, by force when it does not go."""
    process.terminate()
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
