"""What recording costs: steps in a row and from eight threads, items of a fan-out, bytes on the disk.

Claims: with durability "power", which syncs, a workflow records at least 0.6 as many steps per second as a raw loop
appends 4 KiB and calls ``fdatasync``, on one thread; eight workflows at once record at least 1.4 as many, because
they share syncs. Items of a fan-out are recorded in batches, at least 10 times the raw rate and below 40 us each. A
step is at least 5 times as fast as one of DBOS on SQLite, and 15 times with eight workflows at once. It takes at most
1.3 times as long as a bare commit that syncs, from the first step of a new file on. Only what a step adds is written,
never the context.

Measured: all sides write into one directory on the disk of the working directory (``--directory``), in turns. The raw
loop is the least that anybody who promises to survive a power cut has to do. A step returns one small mapping. DBOS
runs as its documentation shows for Python and SQLite, one ``@DBOS.step`` called in a loop by a ``@DBOS.workflow``.
A bare commit inserts one row with the same text into an SQLite file with WAL and ``synchronous=FULL``. dura calls
``engine.checkpoint`` in a loop in a task that this thread claims and processes. It leaves ``synchronous`` to SQLite,
whose default is FULL: it syncs each checkpoint, as we do, and is left out where the default is another. The first steps
are those of a file that was made just before, outside the time; making it has rows of its own. A file in use has been
written to until its WAL grows no more.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Side, benchmark, ratio
from workflow_runner import FlowContext, Scope, Step, Workflow, WorkflowContext, flow

WORKERS = 8
FIRST = 250
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

    if sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42):
        raise ImportError("with Python 3.12 and later it needs SQLite 3.42")
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


# What runs on a file of its own, as long as the context is entered.
Open = AbstractContextManager[Callable[[], object]]


@contextmanager
def recorded(path: Path, steps: int) -> Iterator[Callable[[], object]]:
    workflow = Workflow("steps", steps=[Step(f"s{n}", body) for n in range(steps)])
    with Scope(store=f"sqlite:///{path}") as scope:
        yield lambda: scope.run(workflow)


@contextmanager
def bare(path: Path, commits: int) -> Iterator[Callable[[], object]]:
    """The least that SQLite does for a row that is safe."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE rows (n INTEGER PRIMARY KEY, output TEXT)")
    row = (json.dumps(OUTPUT),)

    def run() -> None:
        for _ in range(commits):
            connection.execute("INSERT INTO rows (output) VALUES (?)", row)

    yield run
    connection.close()


@contextmanager
def dura(path: Path, steps: int) -> Iterator[Callable[[], object]]:
    from dura import ClaimedTask, DurableEngine, process_task

    engine = DurableEngine(path)
    with closing(sqlite3.connect(path)) as other:
        if other.execute("PRAGMA synchronous").fetchone() != (2,):
            raise ImportError("SQLite's default is not synchronous=FULL, so it would not sync")

    def task(engine: DurableEngine, task: ClaimedTask) -> None:
        for n in range(steps):
            engine.checkpoint(task_id=task.task_id, step_name=f"s{n}", fn=lambda: OUTPUT)

    def run() -> None:
        engine.spawn_task(name="task", params=None)
        claimed = engine.claim_task(worker_id="worker")
        assert claimed is not None
        process_task(engine, handlers={"task": task}, task=claimed)

    yield run
    engine.close()


class Files:
    """Sides that write into files of their own in ``directory``. ``stack`` closes the files."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack, self._numbers = directory, stack, itertools.count()

    def _new(self) -> Path:
        return self._directory / f"{next(self._numbers)}.db"

    def used(self, open_: Callable[[Path, int], Open], steps: int) -> Callable[[], object]:
        """On one file, whose WAL grows no more."""
        run = self._stack.enter_context(open_(self._new(), steps))
        for _ in range(3):
            run()
        return run

    def first(self, name: str, open_: Callable[[Path, int], Open], steps: int) -> Side:
        """On a new file in each turn."""
        file = self._stack.enter_context(ExitStack())
        run: Callable[[], object] = print

        def prepare() -> None:
            nonlocal run
            file.close()
            run = file.enter_context(open_(self._new(), steps))

        return Side(name, lambda: run(), steps, prepare)

    def made(self, name: str, open_: Callable[[Path, int], Open]) -> Side:
        """Making and closing a file."""

        def run() -> None:
            with open_(self._new(), 1):
                pass

        return Side(name, run)


def written() -> int:
    """Bytes that this process has caused to be written to the disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"])


def main() -> None:
    with benchmark("checkpoint", rounds=7, description=__doc__, directory=".") as bench:
        directory = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=bench.options.directory))
        try:
            with ExitStack() as stack:
                against_commits(bench, Files(directory, stack))
            measure(bench, directory)  # last: DBOS leaves threads behind
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def against_commits(bench: Any, files: Files) -> None:
    steps, few = bench.size(400, 5), bench.size(FIRST, 5)
    peer = bench.peer("dura", lambda: files.used(dura, steps), per=steps)
    commit = Side("a bare commit", files.used(bare, steps), steps)

    def compare(claim: str, *sides: Side | None, at_most: list[float | None]) -> None:
        times = bench.compare(claim, *sides, at_most=at_most, rounds=3 * bench.rounds)
        if peer is not None:
            found = ratio(times[-1], times[1])
            bench.report(f"{claim}: dura / bare", found.value, spread=(found.low, found.high))

    ours = Side("", files.used(recorded, steps), steps)
    compare("a step, power, file in use", ours, commit, peer, at_most=[1.3, None])
    compare(
        f"one of the first {few} steps, power",
        files.first("", recorded, few),
        commit,
        files.first("one of the first bare commits", bare, few),
        peer and files.first("dura", dura, few),
        at_most=[1.3, None, None],
    )
    bench.compare(
        "making the file",
        files.made("", recorded),
        files.made("a bare one", bare),
        peer and files.made("dura", dura),
        unit="ms",
    )


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
