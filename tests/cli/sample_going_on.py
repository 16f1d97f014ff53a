"""What the tests of going on go on with."""

from __future__ import annotations

import datetime as dt
from typing import Any

import attrs

from workflow_runner import FlowContext, Retry, Step, StepResult, Workflow, WorkflowContext, flow

# The steps and items that have run in this process.
ran: list[str] = []


@attrs.frozen
class Params:
    """What it is asked to do.

    Args:
        region: Where.
        good: Whether all goes well.
        days: Which days.
    """

    region: str
    good: bool = False
    days: tuple[dt.date, ...] = ()


def read(context: WorkflowContext) -> dict[str, Any]:
    ran.append("read")
    return {"rows": [1, 2, 3], "note": "\x1b[31mred"}


@flow
def price(ctx: FlowContext, number: int) -> int:
    ran.append(f"price {number}")
    return number * 10


@flow
def compute(ctx: FlowContext, context: WorkflowContext) -> StepResult:
    prices = ctx.parallel(price.each([1, 2]))
    if not context.get_param("good"):
        raise ValueError("bad [red]data") from OSError("disk")
    ran.append("compute")
    return StepResult.ok({"total": sum(prices), "days": context.get_param("days")})


def load(context: WorkflowContext) -> dict[str, Any]:
    ran.append("load")
    return {"loaded": context.get_output("compute", "total")}


mend = Workflow(
    "mend",
    params=Params,
    version="7",
    steps=[Step("read", read), Step("compute", compute, retry=Retry(attempts=2, initial=0.0)), Step("load", load)],
)


@flow
def waits(ctx: FlowContext, _input: None = None) -> None:
    """Says that it has begun, and waits to be told to stop."""
    print("begun", flush=True)
    ctx.sleep(3600)
