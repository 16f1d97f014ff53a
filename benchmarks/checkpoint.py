"""What recording costs: steps in a row and from eight threads, items of a fan-out, bytes on the disk.

Claims: with durability "power", which syncs, a workflow records at least 0.6 as many steps per second as a raw loop
appends 4 KiB and calls ``fdatasync``, on one thread; eight workflows at once record at least 1.4 as many, because
they share syncs. Items of a fan-out are recorded in batches, at least 10 times the raw rate and below 40 us each. A
step is at least 5 times as fast as one of DBOS on SQLite, and 15 times with eight workflows at once. Only what a step
adds is written, never the context.

Measured: all sides write into one directory on the disk of the working directory (``--directory``), in turns. The raw
loop is the least that anybody who promises to survive a power cut has to do. A step returns one small mapping. DBOS
runs as its documentation shows for Python and SQLite, one ``@DBOS.step`` called in a loop by a ``@DBOS.workflow``.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness import Side, benchmark
from workflow_runner import FlowContext, Scope, Step, Workflow, WorkflowContext, flow

WORKERS = 8
OUTPUT = {"rows": 1000, "path": "/data/2013-02-28.csv", "checksum": "9f86d081884c7d65"}


def body(context: WorkflowContext) -> dict[str, Any]:
    return OUTPUT


@flow
def noop(ctx: FlowContext, n: int) -> int:
    return n


@flow
def fan(ctx: FlowContext, n: int) -> int:
    return len(ctx.parallel(noop.each(range(n)), max_concurrency=WORKERS))


def raw(directory: Path, times: int) -> Callable[[], None]:
    """Append 4 KiB and sync, so many times."""
    block = b"x" * 4096

    def run() -> None:
        with open(directory / "raw", "ab", buffering=0) as file:
            for _ in range(times):
                file.write(block)
                os.fdatasync(file.fileno())

    return run


def dbos(directory: Path, steps: int, at_once: int) -> Callable[[], object]:
    from dbos import DBOS, SetWorkflowID

    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{directory}/dbos.sqlite", "log_level": "ERROR"})

    @DBOS.step()
    def step(n: int) -> dict[str, Any]:
        return OUTPUT

    @DBOS.workflow()
    def workflow(count: int) -> None:
        for n in range(count):
            step(n)

    DBOS.launch()
    numbers = itertools.count()

    def run() -> None:
        handles = []
        for _ in range(at_once):
            with SetWorkflowID(f"run-{os.getpid()}-{next(numbers)}"):
                handles.append(DBOS.start_workflow(workflow, steps))
        for handle in handles:
            handle.get_result()

    return run


def written() -> int:
    """Bytes that this process has caused to be written to the disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"])


def main() -> None:
    with benchmark("checkpoint", rounds=7, description=__doc__, directory=".") as bench:
        directory = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=bench.options.directory))
        try:
            measure(bench, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def measure(bench: Any, directory: Path) -> None:
    steps, items = bench.size(400, 5), bench.size(10_000, 50)
    workflow = Workflow("steps", steps=[Step(f"s{n}", body) for n in range(steps)])
    power = Scope(store=f"sqlite:///{directory}/power.db", max_workers=WORKERS)
    process = Scope(store=f"sqlite:///{directory}/process.db?durability=process", max_workers=WORKERS)

    def one(scope: Scope) -> Callable[[], object]:
        return lambda: scope.run(workflow)

    def eight(scope: Scope) -> Callable[[], object]:
        return lambda: [execution.result() for execution in [scope.exec(workflow) for _ in range(WORKERS)]]

    with power, process:
        baseline = Side("append + fdatasync", raw(directory, steps), per=steps)
        single = bench.peer("DBOS on SQLite", lambda: dbos(directory, steps, 1), per=steps)
        bench.compare(
            "a step, power, one thread", Side("", one(power), per=steps), baseline, single, at_most=[1 / 0.6, 1 / 5]
        )
        crowd = bench.peer("DBOS on SQLite", lambda: dbos(directory, steps, WORKERS), per=steps * WORKERS)
        bench.compare(
            "a step, power, eight workflows at once",
            Side("", eight(power), per=steps * WORKERS),
            baseline,
            crowd,
            at_most=[1 / 1.4, 1 / 15],
        )
        bench.compare("a step, process, one thread", Side("", one(process), per=steps), baseline, None)
        bench.compare(
            "a recorded item of ctx.parallel",
            Side("", lambda: power.run(fan, items), per=items),
            baseline,
            at_most=1 / 10,
            ours_at_most=40,
        )
        _bytes(bench, directory, workflow, steps)


def _bytes(bench: Any, directory: Path, workflow: Workflow, steps: int) -> None:
    """Bytes written for each step, against writing the whole context after each step."""
    with Scope(store=f"sqlite:///{directory}/bytes.db") as scope:
        before = written()
        context = scope.run(workflow).context
        ours = (written() - before) / steps
    before = written()
    file = os.open(directory / "context", os.O_CREAT | os.O_WRONLY)
    for n in range(1, steps + 1):
        partial = WorkflowContext.new(
            step_outputs={name: context.step_outputs[name] for name in workflow.step_names[:n]}
        )
        os.pwrite(file, json.dumps(partial.to_dict()).encode(), 0)
        os.fdatasync(file)
    os.close(file)
    theirs = (written() - before) / steps
    bench.report(f"bytes written for each of {steps} steps", ours, "B")
    bench.report("the same, rewriting the context", theirs, "B")


if __name__ == "__main__":
    main()
