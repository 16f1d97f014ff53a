"""What the history page costs: its largest run, its longest list, and the answer that nothing is new.

Claims: the page of a run of 100,000 recorded steps has less than 300 kB and is made in less than half a second; the
list over 100,000 runs in less than a fifth of a second; that nothing has changed is answered many times a second.

Measured: whole requests, inside one process, without a network. The records are written as the library writes them, in
two shapes: the items of one fan-out on eight threads, and so many steps one after the other. Each listed run has a
result of two thousand characters, one in ten has failed.
"""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, Side, benchmark, loop, take_turns
from benchmarks.timeline import BEGAN, ERROR, fanout, row
from workflow_runner.store import open_store
from workflow_runner.store.base import NewRun, Store
from workflow_runner.web.app import make_app

FLOWS = [f"flow_{n}" for n in range(20)]
HERE = {"Host": "localhost"}


def fill(store: Store, path: Path, runs: int) -> None:
    """Insert ended runs, a minute apart, as they would be after they were submitted and finished."""
    chance = random.Random(1)
    submitted, _ = store.submit(NewRun(run_id="0", flow=FLOWS[0], input="null", input_hash=""))
    store.finish(submitted.run_id, submitted.fence, "completed", "null", None)
    result = json.dumps({"status": "completed", "steps": [], "text": "x" * 2000})
    shape, input = json.dumps(["a", "b"]), json.dumps({"params": {"n": 1}})

    def one(n: int) -> tuple[Any, ...]:
        at, failed = BEGAN + 60.0 * n, n % 10 == 9
        took = chance.expovariate(0.1)
        outcome = ("failed", None, ERROR) if failed else ("completed", result, None)
        tags = json.dumps({"env": "prod"})
        return (f"{n:032x}", FLOWS[n % len(FLOWS)], shape, input, "", tags, *outcome, at, at, at + took)

    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO runs (run_id, flow, shape, input, input_hash, tags, status, result, error, created_at,"
            " started_at, finished_at, fence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
            (one(n + 1) for n in range(runs)),
        )
    connection.close()


def add_run(store: Store, records: Any, flow: str) -> str:
    """Record a run as it is recorded while it is executed; gives its id."""
    _, rows, attempts = records
    run, _ = store.submit(NewRun(run_id=flow, flow=flow, input="null", input_hash=""))
    for first in range(0, len(rows), 10_000):
        part = rows[first : first + 10_000]
        store.record(run.run_id, run.fence, [one._replace(seq=first + n) for n, one in enumerate(part)])
    for noted in attempts:
        store.attempt(run.run_id, run.fence, noted.path, noted.attempt, noted.started_at, noted.error)
    store.finish(run.run_id, run.fence, "completed", "null", None)
    return run.run_id


def measure(bench: Benchmark, client: Any, claim: str, path: str, *, seconds: float, size: float | None = None) -> None:
    """Time one page, and weigh it."""
    answer = client.get(path, headers=HERE)
    bench.check(f"{claim}, answered", answer.status_code == 200)
    (times,) = take_turns([Side(claim, lambda: client.get(path, headers=HERE))], bench.rounds)
    spread = min(times), max(times)
    bench.report(f"{claim}, time", statistics.median(times), "ms", at_most=1e3 * seconds, spread=spread)
    bench.report(f"{claim}, size", len(answer.data) / 1000, "kB", at_most=size)


def main() -> None:
    with benchmark("web", description=__doc__) as bench, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        store = open_store(f"sqlite:///{path}?durability=process")
        client = make_app(store).test_client()
        count = bench.size(100_000, 500)
        fill(store, path, count)
        for claim, query in (
            ("the list", ""),
            ("those of a flow", "?flow=flow_3"),
            ("those that failed", "?status=failed"),
            ("those with a tag", "?tag=env=prod"),
        ):
            measure(bench, client, f"{claim} over {count:,} runs", f"/{query}", seconds=0.2, size=300)
        measure(bench, client, f"a flow of {count // len(FLOWS):,} runs", "/flows/flow_3", seconds=0.5, size=300)
        measure(bench, client, f"{len(FLOWS)} flows of {count:,} runs", "/flows", seconds=0.5, size=300)
        shapes = {"the items of a fan-out": fanout, "steps in a row": row}
        for n, (shape, make) in enumerate(shapes.items()):
            run_id = add_run(store, make(count), f"large_{n}")
            measure(bench, client, f"a run of {count:,} {shape}", f"/runs/{run_id}", seconds=0.5, size=300)
        answer = client.get("/", headers=HERE)
        again = {**HERE, "If-None-Match": answer.headers["ETag"]}
        bench.check("nothing is new: 304", client.get("/", headers=again).status_code == 304)
        side = Side("304", loop(lambda: client.get("/", headers=again), 1000), 1000)
        (times,) = take_turns([side], bench.rounds)
        bench.report("answers that nothing is new, a second", 1 / statistics.median(times), "")
        store.close()


if __name__ == "__main__":
    main()
