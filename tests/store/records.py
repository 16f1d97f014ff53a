"""Records to write, other processes to write them, and waiting for what must happen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from workflow_runner.store.base import NewRun, StepRow
from workflow_runner.store.sqlite import SQLiteStore

# So long a test waits for what must happen; far beyond what it takes.
LONG = 30.0
ROOT = Path(__file__).parents[2]


def new_run(run_id: str = "r1", **changes: Any) -> NewRun:
    return NewRun(**{"run_id": run_id, "flow": "f", "input": "1", "input_hash": "h", **changes})


def row(path: str = "a", seq: int = 1, **changes: Any) -> StepRow:
    fields = {"kind": "step", "flow": path, "output": f'"{path}"', "started_at": 1.0, "finished_at": 2.0}
    return StepRow(path=path, seq=seq, **{**fields, **changes})


def paths(store: Any, run_id: str = "r1") -> list[str]:
    return [step.path for step in store.steps(run_id)]


def die(store: SQLiteStore) -> None:
    """What the kernel does for a process that has died: its lock is gone. The store goes on as another owner."""
    store._owner.forked()


def until(condition: Callable[[], object], what: str) -> None:
    """Look at ``condition`` every millisecond until it holds."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, f"waited {LONG:g} s for {what}"
        time.sleep(0.001)


class Program:
    """Another process. ``answer`` reads the next line that it prints, as JSON; ``go`` lets its ``wait()`` return."""

    def __init__(self, code: str, *args: object, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + textwrap.dedent(code), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
            **options,
        )
        self.pid = self.process.pid

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it has ended with {self.process.wait(LONG)} and said nothing"
        return json.loads(line)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Wait for its end; its exit code."""
        return self.process.wait(LONG)


PREAMBLE = """
import json, os, signal, sys, threading, time
from workflow_runner import *
from workflow_runner.errors import *
from workflow_runner.store.base import NewRun, StepRow
from workflow_runner.store.sqlite import SQLiteStore

def say(value):
    print(json.dumps(value), flush=True)

def wait():
    assert sys.stdin.readline(), "the test has ended"

def new_run(run_id="r1", **changes):
    return NewRun(**{"run_id": run_id, "flow": "f", "input": "1", "input_hash": "h", **changes})

def row(path="a", seq=1, **changes):
    fields = {"kind": "step", "flow": path, "output": "1", "started_at": 1.0, "finished_at": 2.0}
    return StepRow(path=path, seq=seq, **{**fields, **changes})
"""


@contextmanager
def program(code: str, *args: object, **options: Any) -> Iterator[Program]:
    """Run ``code`` in another process, which is killed at the end of the block if it still lives."""
    running = Program(code, *args, **options)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait(LONG)
        for pipe in (running.process.stdin, running.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
