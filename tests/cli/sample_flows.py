"""What the tests of the command run: one flow for each way to behave."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import subprocess
import threading
import time
from decimal import Decimal
from enum import Enum
from typing import Any

import attrs
import structlog

from workflow_runner import FlowContext, PartitionKey, Retry, Step, StepResult, Workflow, WorkflowContext, flow

# Set by a test to let go of `stuck`.
let_go = threading.Event()


class Side(Enum):
    BUY = "b"
    SELL_SHORT = "s"


@attrs.frozen
class Venue:
    code: str
    fee: float = 0.5


@attrs.frozen
class Order:
    """An order.

    Args:
        ticker: The share to trade.
        quantity: How many shares, of which
            there must be at least one.
    """

    ticker: str
    quantity: int = attrs.field(validator=attrs.validators.ge(1))
    day: dt.date = dt.date(2013, 2, 28)
    side: Side = Side.BUY
    limit: Decimal | None = None
    valid: dt.timedelta = dt.timedelta(hours=1)
    dry_run: bool = False
    notes: tuple[str, ...] = attrs.field(default=(), metadata={"help": "Anything to remember."})
    venue: Venue | None = None
    prices: dict[str, float] = attrs.field(factory=dict)
    _secret: str = "x"


@flow
def place(ctx: FlowContext, order: Order) -> Order:
    """Place an order at once.

    This is not for the help page.
    """
    return order


@flow
def double(ctx: FlowContext, number: int) -> int:
    return 2 * number


@flow
def add(ctx: FlowContext, numbers: list[int]) -> int:
    return sum(numbers)


@flow
def anything(ctx, data):  # type: ignore[no-untyped-def]
    return data


@flow
def named(ctx: FlowContext, data: dict[str, Any]) -> dict[str, Any]:
    return data


@flow
def nothing(ctx: FlowContext, _input: None = None) -> None: ...


@flow
def misspelt(ctx: FlowContext, order: Ordre) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@flow
def prints(ctx: FlowContext, _input: None = None) -> str:
    print("printed")
    subprocess.run(["echo", "echoed"], check=True)
    logging.getLogger("sample").info("logged")
    structlog.get_logger().info("structured", answer=42)
    return "result"


@flow
def fails(ctx: FlowContext, _input: None = None) -> None:
    try:
        {}["key"]
    except KeyError as error:
        raise RuntimeError("no such [red]key[/red]") from error


@flow
def stuck(ctx: FlowContext, _input: None = None) -> None:
    let_go.wait(3600)


@flow
def stuck_beside(ctx: FlowContext, _input: None = None) -> None:
    threading.Thread(target=time.sleep, args=(3600,)).start()
    time.sleep(3600)


@flow
def chatters(ctx: FlowContext, _input: None = None) -> None:
    while True:
        print("still here")


@flow
def interrupted(ctx: FlowContext, number: int) -> str:
    os.kill(os.getpid(), number)
    ctx.sleep(3600)
    return "not reached"


@flow
def stubborn(ctx: FlowContext, number: int) -> None:
    ctx.signal.on_abort(lambda: os.kill(os.getpid(), number))
    os.kill(os.getpid(), number)
    time.sleep(3600)


@flow
def deaf(ctx: FlowContext, number: int) -> str:
    os.kill(os.getpid(), number)
    return "went on"


@flow
def about(ctx: FlowContext, context: WorkflowContext) -> dict[str, Any]:
    return {"date": context.as_of_date, "partition": str(context.partition), **context.params}


def plain_function() -> None: ...


number = signal.SIGTERM.value


def one(context: WorkflowContext) -> dict[str, Any]:
    partition = context.partition or PartitionKey()
    return {"params": dict(context.params), "date": context.as_of_date, "partition": dict(partition)}


def two(context: WorkflowContext) -> StepResult:
    raise ValueError("bad \x1b[31mdata") from OSError("disk")


free = Workflow("free", steps=[Step("one", one), Step("quiet", lambda context: None)])
typed = Workflow("typed", params=Order, steps=[Step("one", one)])
partial = Workflow("partial", steps=[Step("two", two, on_error="continue"), Step("one", one)])
broken = Workflow(
    "broken", steps=[Step("one", one), Step("two", two, retry=Retry(attempts=2, initial=0.0)), Step("three", one)]
)
skips = Workflow(
    "skips",
    steps=[
        Step("look", lambda context: StepResult.skip("nothing to do")),
        Step.choice("way", when=lambda context: False, then=[Step("one", one)]),
    ],
)
outer = Workflow("outer", steps=[Step("inner", free)])


@flow
def interrupted_stuck(ctx: FlowContext, _input: None = None) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3600)
