"""The flows that are killed. Importable, so that another process finds them again."""

from __future__ import annotations

import time
from typing import Any

from crash import outside
from crash.failpoints import reach
from workflow_runner import FlowContext, Retry, Step, StepResult, Workflow, WorkflowContext, current, flow


def effect(token: str) -> None:
    """What every body does: leave its traces outside."""
    path = token.partition("/")[2]
    reach(f"before body {path}")
    outside.note("begin", token)
    outside.apply(token)
    reach(f"in body {path}")
    outside.note("end", token)
    reach(f"after body {path}")


def plain(context: WorkflowContext, config: Any) -> dict[str, int]:
    effect(current().idempotency_token)  # type: ignore[attr-defined]
    return {"n": config["n"]}


# -- every kind of row a run has


@flow
def child(ctx: FlowContext, n: int) -> int:
    effect(ctx.idempotency_token)
    return 2 * n


@flow
def parent(ctx: FlowContext, context: WorkflowContext) -> StepResult:
    effect(ctx.idempotency_token)
    return StepResult.ok({"n": ctx.exec(child, 3)}, context_updates={"seen": True})


@flow
def item(ctx: FlowContext, n: int) -> int:
    effect(ctx.idempotency_token)
    return n * n


@flow
def ledger(ctx: FlowContext, context: WorkflowContext) -> dict[str, int]:
    """Writes to a table of its own, in the transaction of its record."""
    effect(ctx.idempotency_token)
    with ctx.transaction() as db:
        db.execute("CREATE TABLE IF NOT EXISTS ledger (token TEXT)")
        db.execute("INSERT INTO ledger VALUES (?)", (ctx.idempotency_token,))
    return {"n": 5}


@flow
def total(ctx: FlowContext, context: WorkflowContext) -> dict[str, int]:
    effect(ctx.idempotency_token)
    outputs = (context.get_output(name, "n", 0) for name in ("first", "second", "third", "ledger"))
    return {"total": sum(outputs) + sum(context.get_output("items", "items")) + context.params["seen"]}


ITEMS = 3
# first 1, second 6, third 2, ledger 5, items 0 + 1 + 4, seen 1
TOTAL = 20

everything = Workflow(
    "everything",
    steps=[
        Step("first", plain, config={"n": 1}),
        Step("second", parent),
        Step.choice(
            "route",
            when=lambda context: context.params["seen"],
            then=[Step("third", plain, config={"n": 2})],
            otherwise=[Step("never", plain, config={"n": 1000})],
        ),
        Step.map("items", item, items=lambda context: range(ITEMS), max_concurrency=2),
        Step("ledger", ledger),
        Step("last", total),
    ],
)


def on_date(context: WorkflowContext) -> dict[str, str]:
    token = current().idempotency_token  # type: ignore[attr-defined]
    outside.note("day", f"{context.as_of_date} {token}")
    effect(token)
    return {"day": str(context.as_of_date)}


dated = Workflow("dated", steps=[Step("work", on_date)])

once = Workflow(
    "once",
    steps=[
        Step("first", plain, config={"n": 1}),
        Step("pay", plain, config={"n": 2}, on_crash="fail"),
        Step("last", plain, config={"n": 3}),
    ],
)

# -- many steps: in a row, side by side, as items

ROW, WIDE, MANY = 120, 200, 1500


def short(context: WorkflowContext, config: Any) -> dict[str, int]:
    effect(current().idempotency_token)  # type: ignore[attr-defined]
    time.sleep(config.get("seconds", 0))
    return {"n": config["n"]}


def add_up(context: WorkflowContext) -> dict[str, int]:
    effect(current().idempotency_token)  # type: ignore[attr-defined]
    return {"total": sum(output["n"] for output in context.step_outputs.values())}


row = Workflow("row", steps=[*(Step(f"s{n}", short, config={"n": n}) for n in range(ROW)), Step("last", add_up)])

wide = Workflow(
    "wide",
    steps=[
        *(Step(f"s{n}", short, config={"n": n, "seconds": 0.001}, needs=()) for n in range(WIDE)),
        Step("last", add_up, needs=[f"s{n}" for n in range(WIDE)]),
    ],
)


@flow
def short_item(ctx: FlowContext, n: int) -> int:
    effect(ctx.idempotency_token)
    time.sleep(0.001)
    return n


@flow
def many(ctx: FlowContext, size: int) -> int:
    return sum(ctx.parallel(short_item.each(range(size))))


def capture(context: WorkflowContext) -> None:
    outside.note("capture", str(context.capture_id))
    effect(current().idempotency_token)  # type: ignore[attr-defined]


capturing = Workflow("capturing", steps=[Step("first", capture), Step("last", capture)])

# -- for signals


@flow
def waiting(ctx: FlowContext, context: WorkflowContext) -> dict[str, int]:
    """Works until it is told to stop, or may go on."""
    effect(ctx.idempotency_token)
    while not outside.exists("go"):
        ctx.sleep(0.002)
    return {"n": 7}


@flow
def stubborn(ctx: FlowContext, context: WorkflowContext) -> dict[str, int]:
    """Looks at no signal, but ends after one came."""
    effect(ctx.idempotency_token)
    while not (ctx.signal.aborted or outside.exists("go")):
        time.sleep(0.002)
    return {"n": 7}


@flow
def deaf(ctx: FlowContext, context: WorkflowContext) -> dict[str, int]:
    """Does not stop."""
    effect(ctx.idempotency_token)
    while not outside.exists("go"):
        time.sleep(0.002)
    return {"n": 7}


@flow
def waiting_item(ctx: FlowContext, n: int) -> int:
    effect(ctx.idempotency_token)
    while n >= 20 and not outside.exists("go"):
        ctx.sleep(0.002)
    return n


def flaky(context: WorkflowContext) -> dict[str, int]:
    effect(current().idempotency_token)  # type: ignore[attr-defined]
    if not outside.exists("go"):
        outside.note("failed", "flaky")
        raise OSError("not yet")
    return {"n": 7}


def _between(step: Step, name: str) -> Workflow:
    return Workflow(name, steps=[Step("first", plain, config={"n": 1}), step, Step("last", add_up)])


in_step = _between(Step("middle", waiting), "in_step")
in_stubborn_step = _between(Step("middle", stubborn), "in_stubborn_step")
in_deaf_step = _between(Step("middle", deaf), "in_deaf_step")
in_retry = _between(Step("middle", flaky, retry=Retry(attempts=3, initial=600.0, jitter=False)), "in_retry")
in_fan_out = Workflow(
    "in_fan_out",
    steps=[
        Step("first", plain, config={"n": 1}),
        Step.map("items", waiting_item, items=lambda context: range(28), max_concurrency=8),
        Step("last", plain, config={"n": 2}),
    ],
)
in_commit = _between(Step("middle", plain, config={"n": 7}), "in_commit")

# -- flows without steps


@flow
def body(ctx: FlowContext, n: int) -> int:
    effect(ctx.idempotency_token)
    return n + 1


@flow
def ticking(ctx: FlowContext, number: int) -> int:
    """Records one row after the other until it may stop."""
    count = 0
    while not outside.exists("stop"):
        count += ctx.exec(body, number) - number
    return count


@flow
def three(ctx: FlowContext, n: int) -> int:
    return sum(ctx.exec(body, n + k) for k in range(3))
