"""The server under test, as a user would run it: durable, with one model and one tool of the user's own."""

import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from stepwell.config import load
from stepwell.wiring.host import serve


def main():
    config = load(
        port=int(os.environ["PORT"]),
        auth="off",
        data=tempfile.mkdtemp(prefix="stepwell-bench-"),
        models={"main": {"base_url": os.environ["LLM_BASE"], "model": os.environ["MODEL"], "window": 1_000_000}},
        tools={"modules": ["bench_tools"], "disabled": ["calculate", "now"]},
    )
    serve(config, lambda url, key: None)


if __name__ == "__main__":
    main()
