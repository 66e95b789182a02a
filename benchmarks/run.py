#!/usr/bin/env python3
"""Measures Stepwell against hand-written floors and prints one table.

    scripts/bench [--rounds N] [--only turn,serve,...] [--out DIR]

Each figure is a median over rounds; a ratio is taken inside a round, where floor and project run seconds apart.
The process under test is on core 0, the scripted model and the load on core 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
os.environ.setdefault("STEPWELL_PYTHON", sys.executable)

import bench

FLOOR, STREAM_FLOOR = "floor-aiohttp", "floor-aiohttp-stream"
OURS, DURABLE, WRITE = "stepwell", "stepwell-durable", "stepwell-write"
COMPACTING, UNSUMMARISED = "stepwell-compacting", "stepwell-unsummarised"


class Bench:
    """Runs workers and keeps what they print, so that a figure is measured once a round."""

    def __init__(self, base, out):
        self.base, self.out = base, out
        self.peers = json.load(open(f"{HERE}/peers.json"))

    def __call__(self, peer, metric, *args):
        found = bench.one(peer, self.peers[peer], metric, list(args), self.base, 300)
        found.update(peer=peer, metric=metric, args=args)
        with open(f"{self.out}/runs.jsonl", "a") as file:
            file.write(json.dumps(found) + "\n")
        if "fail" in found:
            raise SystemExit(f"{peer} {metric} failed: {found['fail']}")
        return found


def turn(run):
    floor, ours = run(STREAM_FLOOR, "turn", "--n", "300"), run(OURS, "turn", "--n", "300")
    yield f"one turn, CPU, against {STREAM_FLOOR}", ours["cpu_us"] / floor["cpu_us"], "x", "<= 1.4"
    yield "one turn, CPU", ours["cpu_us"], "us", ""


def stream(run):
    floor, ours = run(FLOOR, "stream"), run(OURS, "stream")
    yield "streamed token, burst, CPU", ours["burst_cpu_us_tok"] / floor["burst_cpu_us_tok"], "x", "<= 1.2"
    yield "time to the first token", ours["ttft_us"] / floor["ttft_us"], "x", "<= 1.4"
    yield "time to the first token", ours["ttft_us"], "us", ""


def sconc(run):
    args = ("--conc", "500", "--tokens", "100")
    floor, ours = run(FLOOR, "sconc", *args), run(OURS, "sconc", *args)
    yield "streamed token, 500 streams at 50 tokens/s, CPU", ours["cpu_us_tok"] / floor["cpu_us_tok"], "x", "<= 1.4"


def long(run):
    floor, ours = run(FLOOR, "long", "--steps", "1000"), run(OURS, "long", "--steps", "1000")
    yield "one run of 1000 tool steps, CPU", ours["cpu_s"] / floor["cpu_s"], "x", "<= 1.6"
    yield "one run of 1000 tool steps, CPU", ours["cpu_s"], "s", ""


def context(run):
    runs = {steps: run(COMPACTING, "long", "--steps", str(steps)) for steps in (1000, 5000, 10_000)}
    yield "one run of 1000 tool steps, window of 8k, CPU", runs[1000]["cpu_s"], "s", "<= 1.2"
    later = runs[5000]["last_tenth_us"] / runs[5000]["first_tenth_us"]
    yield "a step near 5000 against one near 100, window of 8k, time", later, "x", "<= 1.3"
    off, on = run(UNSUMMARISED, "stream")["ttft_us"], run(OURS, "stream")["ttft_us"]
    yield "time to the first token, summaries on against off", on / off, "x", "<= 1.1"
    yield "RSS growth of a run of 10,000 steps, window of 8k", runs[10_000]["rss_grow_mb"], "MB", "<= 30"


def people(run):
    """What people feel of a run; there is no floor for it, so the goals are figures."""
    found = {}
    for part in ("reach", "waiting", "tasks"):
        command = ["taskset", "-c", "0", sys.executable, f"{HERE}/people_bench.py", part]
        found.update(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    with open(f"{run.out}/runs.jsonl", "a") as file:
        file.write(json.dumps({"metric": "people", **found}) + "\n")
    yield "an approval reaches a waiting run, durable", found["approval_ms"], "ms", "<= 20"
    yield "an interruption reaches a running one, durable", found["interrupt_ms"], "ms", "<= 20"
    yield "start-up with 10,000 waiting runs", found["startup_s"], "s", "<= 2"
    yield "memory of a waiting run then", found["bytes_each"] / 1000, "kB", "<= 1"
    yield "plan engine: added CPU a step", found["plan_added_ms"], "ms", "<= 0.3"


def conc(run):
    args = ("--conc", "1000", "--n", "3000")
    floor, streamed, ours, durable = (run(peer, "conc", *args) for peer in (FLOOR, STREAM_FLOOR, OURS, DURABLE))
    yield "1000 runs at once in memory, turns/s", ours["turns_s"] / floor["turns_s"], "x", ">= 0.7"
    yield f"the same against {STREAM_FLOOR}", ours["turns_s"] / streamed["turns_s"], "x", ""
    yield "1000 runs at once durable, turns/s", durable["turns_s"] / floor["turns_s"], "x", ">= 0.5"
    yield "1000 runs at once durable", durable["turns_s"], "turns/s", ""


def persist(run):
    for steps in (300, 1000):
        args = ("--steps", str(steps))
        plain = run(OURS, "long", *args)
        for peer, name, goal in ((DURABLE, "pure", "<= 0.3"), (WRITE, "write", "<= 0.5")):
            kept = run(peer, "persist", *args)
            added = (kept["cpu_s"] - plain["cpu_s"]) / steps * 1e3
            yield f"durable: added CPU a step with a {name} tool, {steps} steps", added, "ms", goal
            if steps == 300 and name == "pure":
                yield "durable: database after 300 steps", kept["db_kB"], "kB", "<= 260"


def imports(run):
    memory, durable = run(OURS, "turn", "--n", "1", "--warm", "0"), run(DURABLE, "turn", "--n", "1", "--warm", "0")
    yield "from stepwell import Agent, tool: CPU", run(OURS, "import")["import_cpu_ms"], "ms", "<= 40"
    yield "the same with a first turn: CPU", memory["import_cpu_ms"] + memory["first_turn_cpu_ms"], "ms", "<= 150"
    yield "RSS then, in memory", memory["rss_after_first_mb"], "MB", "<= 42"
    yield "RSS then, durable", durable["rss_after_first_mb"], "MB", "<= 46"


def serve(run):
    with tempfile.TemporaryDirectory() as folder:
        command = [f"{bench.VENVS}floor/bin/python", f"{HERE}/serve_bench.py", "run", "--rounds", "1", "--out", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = open(f"{folder}/serve.jsonl").read()
    with open(f"{run.out}/runs.jsonl", "a") as file:
        file.write(lines)
    rows = {(row["peer"], row["metric"]): row for row in map(json.loads, lines.splitlines())}
    for row in rows.values():
        if "fail" in row or row["errors"]:
            raise SystemExit(f"{row['peer']} {row['metric']} failed: {row.get('fail') or row['why']}")

    def ratio(metric, figure):
        return rows["stepwell", metric][figure] / rows["floor-fastapi", metric][figure]

    yield "server: burst, tokens/s a core", ratio("burst@32", "tok_s"), "x", ">= 1.3"
    yield "server: burst", rows["stepwell", "burst@32"]["tok_s"], "tokens/s", ""
    yield "server: CPU a token at 200 paced streams", ratio("paced@200", "cpu_us_tok"), "x", "<= 1.6"
    yield "server: p99 first token of 200", ratio("paced@200", "ttf_p99_ms"), "x", "<= 2.5"


def mcp(run):
    """A tool of an MCP server; the floor is the client of the protocol's own SDK."""
    command = ["taskset", "-c", "0,1", sys.executable, f"{HERE}/mcp_bench.py"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    with open(f"{run.out}/runs.jsonl", "a") as file:
        file.write(json.dumps({"metric": "mcp", **found}) + "\n")
    yield "a call of an MCP tool over pipes, added to the SDK's own", found["added_us"] / 1000, "ms", "<= 2"


PARTS = (turn, stream, sconc, long, context, people, conc, persist, imports, serve, mcp)
METRICS = {each.__name__: each for each in PARTS}


def holds(value, goal):
    if not goal:
        return ""
    sign, _, bound = goal.partition(" ")
    return "yes" if (value <= float(bound) if sign == "<=" else value >= float(bound)) else "NO"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(METRICS), help="of: " + ", ".join(METRICS))
    parser.add_argument("--out", default="bench-data", help="folder of the raw figures")
    args = parser.parse_args()
    subprocess.run(["sh", f"{HERE}/setup_venvs.sh"], check=True)
    os.makedirs(args.out, exist_ok=True)
    os.sched_setaffinity(0, {1})
    fake, base = bench.start_fake()
    figures = {}
    try:
        run = Bench(base, args.out)
        for name in args.only.split(","):
            for number in range(args.rounds):
                print(f"{name}, round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
                for title, value, unit, goal in METRICS[name](run):
                    figures.setdefault((title, unit, goal), []).append(value)
    finally:
        fake.send_signal(signal.SIGTERM)
        fake.wait()
    rows = [
        (
            title,
            f"{bench.med(values):,.2f} {unit}",
            f"{min(values):,.2f} to {max(values):,.2f}",
            goal,
            holds(bench.med(values), goal),
        )
        for (title, unit, goal), values in figures.items()
    ]
    bench.table(["metric", "median", "range", "goal", "met"], [list(row) for row in rows])


if __name__ == "__main__":
    main()
