"""The kept logs of earlier versions, and what the encoder makes of a log."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from stepwell.events import Recorded, decode
from stepwell.runs.channel import Item
from stepwell.server.agui.encoder import Asking, Encoder
from tests.server.agui.client_of_agui import Object

LOGS = sorted((Path(__file__).parents[2] / "logs/v1").glob("*.jsonl"))


def read(path: Path) -> list[Recorded]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        Recorded(row["seq"], row["time"], row["run"], decode(json.dumps(row["event"])), row.get("path", ""))
        for row in rows
    ]


def runs_of(items: Iterable[Item], run: int) -> list[list[Object]]:
    """Return the AG-UI runs that a run becomes."""
    encoder = Encoder("0" * 32, run, Asking("t", "r", {}))
    found: list[list[bytes]] = []
    for item in items:
        if not found or encoder.over:
            found.append(encoder.begin())
        found[-1] += encoder.take(item)
    return [[json.loads(each) for each in events] for events in found]
