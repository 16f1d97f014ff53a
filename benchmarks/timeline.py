"""What a picture of a run costs, in time and in bytes.

Claim: a run of 100,000 steps is drawn in less than a second, and the picture is smaller than 300 kB: what is shorter
than a dot is merged with its neighbours, and a fan-out has as many lanes as ran side by side.

Measured: runs of 10, 1,000 and 100,000 records, drawn as SVG, HTML, text and as a trace (which is data: it has every
record). Two shapes: the items of one fan-out on eight threads, a few of which failed at first, and so many steps one
after the other, each of which would have a row of its own.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable
from functools import partial

from benchmarks.harness import Benchmark, Side, benchmark, take_turns
from workflow_runner.cli.gantt import columns_of, gantt
from workflow_runner.store.base import Attempt, RunRecord, StepRow
from workflow_runner.web.layout import layout
from workflow_runner.web.timeline import timeline_html, timeline_svg
from workflow_runner.web.trace import chrome_trace

Records = tuple[RunRecord, list[StepRow], list[Attempt]]

BEGAN = 1_362_090_000.0
ERROR = json.dumps({"type": "OSError", "message": "the feed is away", "notes": [], "cause": None})


def record(ended: float) -> RunRecord:
    return RunRecord(
        run_id="0" * 32,
        flow="nightly",
        input="null",
        input_hash="",
        status="completed",
        overrides=None,
        result=None,
        error=None,
        owner=None,
        fence=1,
        cancel_requested=None,
        created_at=BEGAN,
        started_at=BEGAN,
        finished_at=ended,
    )


def step(path: str, kind: str, flow: str, start: float, end: float, **more: int) -> StepRow:
    return StepRow(path=path, seq=0, kind=kind, flow=flow, started_at=start, finished_at=end, **more)


def fanout(items: int) -> Records:
    """Items on eight threads; each hundredth failed once."""
    chance = random.Random(1)
    free = [BEGAN] * 8
    rows, attempts = [], []
    for n in range(items):
        thread = free.index(min(free))
        path, start, took = f"prices/items[{n}]", free[thread], chance.expovariate(10)
        if n % 100 == 99:
            attempts.append(Attempt(path, 1, start, ERROR, start + took / 2))
        rows.append(step(path, "item", "price", start, start + took, attempt=2 if n % 100 == 99 else 1))
        free[thread] += took
    rows.append(step("prices", "step", "prices", BEGAN, max(free)))
    return record(max(free)), rows, attempts


def row(steps: int) -> Records:
    """Steps one after the other."""
    chance = random.Random(1)
    rows, at = [], BEGAN
    for n in range(steps):
        took = chance.expovariate(10)
        rows.append(step(f"step {n}", "step", f"step {n}", at, at + took))
        at += took
    return record(at), rows, []


def text(run: RunRecord, rows: list[StepRow], attempts: list[Attempt]) -> str:
    wide = 100
    timeline = layout(run, rows, attempts, width=columns_of(wide)[1], narrowest=1.0, most_lanes=100, lanes_each=4)
    return "\n".join(line.plain for line in gantt(timeline, wide))


def trace(run: RunRecord, rows: list[StepRow], attempts: list[Attempt]) -> str:
    return json.dumps(chrome_trace(run, rows, attempts))


FORMS: dict[str, Callable[[RunRecord, list[StepRow], list[Attempt]], str]] = {
    "svg": timeline_svg,
    "html": timeline_html,
    "text": text,
    "trace": trace,
}


def measure(bench: Benchmark, shape: str, records: Records, count: int) -> None:
    limited = count >= 100_000
    sides = [Side(name, partial(make, *records)) for name, make in FORMS.items()]
    for (name, make), times in zip(FORMS.items(), take_turns(sides, bench.rounds), strict=True):
        aims = limited and name != "trace"
        bench.report(
            f"{shape} of {count:,} as {name}, time",
            statistics.median(times),
            "ms",
            at_most=1000 if aims else None,
            spread=(min(times), max(times)),
        )
        size = len(make(*records).encode())
        bench.report(f"{shape} of {count:,} as {name}, size", size / 1000, "kB", at_most=300 if aims else None)


def main() -> None:
    with benchmark("timeline", rounds=5, description=__doc__) as bench:
        for count in (10, 1_000, bench.size(100_000, 2_000)):
            measure(bench, "fan-out", fanout(count), count)
            measure(bench, "row", row(count), count)


if __name__ == "__main__":
    main()
