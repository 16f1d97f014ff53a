"""What going on costs: answering recorded steps from their rows.

Claim: resuming is linear in what is recorded: 100,000 steps take no longer for each than 1,000.

Measured: a flow that makes so many children, one after the other, all of which are recorded. It is resumed by a scope
that has not seen the run; the time includes reading the rows. Whether a child ran again is counted: none may.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Side, benchmark, take_turns
from workflow_runner import FlowContext, Scope, flow
from workflow_runner.store.base import StepRow

ran = itertools.count()


@flow
def child(ctx: FlowContext, n: int) -> dict[str, int]:
    next(ran)
    return {"n": n}


@flow
def parent(ctx: FlowContext, n: int) -> int:
    return sum(ctx.exec(child, i)["n"] for i in range(n))


@flow(name="parent")
def fails(ctx: FlowContext, n: int) -> None:
    raise RuntimeError("to be resumed")


def recorded(url: str, steps: int) -> str:
    """A failed run with so many recorded children; its id."""
    with Scope(store=url) as scope:
        execution = scope.exec(fails, steps)
        execution.exception()
        store = scope.store
        assert store is not None
        claimed = store.claim(execution.id)
        rows = [
            StepRow(
                path="child" if n == 0 else f"child#{n + 1}",
                seq=n + 1,
                kind="execution",
                flow="child",
                output=f'{{"n":{n}}}',
                started_at=0.0,
                finished_at=0.0,
            )
            for n in range(steps)
        ]
        for start in range(0, steps, 1000):
            store.record(execution.id, claimed.fence, rows[start : start + 1000])
        store.release(execution.id, claimed.fence)
        return execution.id


def main() -> None:
    with benchmark("resume", rounds=5, description=__doc__, directory=".") as bench:
        directory = Path(tempfile.mkdtemp(prefix="resume-", dir=bench.options.directory))
        try:
            measure(bench, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def measure(bench: Any, directory: Path) -> None:
    few, many = bench.size(1_000, 10), bench.size(100_000, 100)
    number = itertools.count()

    def side(steps: int) -> Side:
        url = f"sqlite:///{directory}/{steps}.db?durability=process"
        prepared: list[str] = []

        def prepare() -> None:
            prepared.append(recorded(url, steps))

        def run() -> None:
            with Scope(store=url, name=f"resume-{next(number)}") as scope:
                assert scope.resume(prepared[-1], flow=parent).result() == steps * (steps - 1) // 2

        return Side(f"{steps:,} steps", run, per=steps, prepare=prepare)

    small, large = take_turns([side(few), side(many)], bench.rounds)
    bench.report(f"resume of {few:,} recorded steps, each", statistics.median(small), "us")
    bench.report(f"resume of {many:,} recorded steps, each", statistics.median(large), "us")
    bench.report(
        "the larger against the smaller, for each step",
        statistics.median(large) / statistics.median(small),
        at_most=1.5,
    )
    bench.check("no recorded step ran again", next(ran) == 0)


if __name__ == "__main__":
    main()
