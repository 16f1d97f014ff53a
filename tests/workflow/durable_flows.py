"""Flows at the top of a module, which other processes can import; and what they call."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from workflow_runner import FlowContext, Step, Workflow, WorkflowContext, flow

LONG = 30.0
# Names of what has run in this process.
ran: list[str] = []
# Names of what fails.
failing: set[str] = set()


def reached(name: str) -> None:
    ran.append(name)
    if name in failing:
        raise RuntimeError(f"{name} fails")


@flow
def double(ctx: FlowContext, n: int) -> int:
    reached(f"double {n}")
    return 2 * n


@flow
def doubles(ctx: FlowContext, n: int) -> int:
    reached("doubles")
    total = sum(ctx.exec(double, i) for i in range(n))
    reached("end")
    return total


def first(context: WorkflowContext) -> dict[str, Any]:
    reached("first")
    return {"n": 1}


def second(context: WorkflowContext) -> dict[str, Any]:
    reached("second")
    return {"n": context.get_output("first", "n") + 1}


pair = Workflow("pair", steps=[Step("first", first), Step("second", second)])


def add(a: int, b: int = 0) -> int:
    reached("add")
    return a + b


@flow
def waits(ctx: FlowContext, folder: str) -> str:
    """Says that it has begun, and ends when it is told to: by a file, or by the signal."""
    begun, go = Path(folder) / "begun", Path(folder) / "go"
    begun.touch()
    end = time.monotonic() + LONG
    while not go.exists() and time.monotonic() < end:
        if ctx.signal.wait(0.002):
            (Path(folder) / "stopped").write_text(str(ctx.signal.reason))
            ctx.throw_if_aborted()
    return "went"


no_flow = 7
