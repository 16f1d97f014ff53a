"""A workflow that waits for a file in the middle of its items."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path

import attrs

from workflow_runner import FlowContext, Step, Workflow, WorkflowContext, flow


@attrs.frozen
class Params:
    gate: Path


@flow
def item(ctx: FlowContext, given: tuple[int, Path]) -> None:
    number, gate = given
    if number == 5:
        logging.getLogger("sample").info("half")
        while not gate.exists():
            time.sleep(0.01)


@flow
def load(ctx: FlowContext, context: WorkflowContext) -> None:
    gate = Path(context.get_param("gate"))
    ctx.parallel(item.each((number, gate) for number in range(10)), max_concurrency=1)


nightly = Workflow("nightly", steps=[Step("fetch", lambda _: None), Step("load", load)], params=Params)


def _fetch(_: WorkflowContext) -> dict[str, int]:
    print("fetching")
    subprocess.run(["echo", "echoed"], check=True)
    for number in range(60):
        logging.getLogger("sample").info("row %d", number)
    return {"rows": 60}


def _load(_: WorkflowContext) -> None:
    print("half a line", end="")
    print(", and its end")
    raise ValueError("the warehouse is full") from OSError("disk")


noisy = Workflow("noisy", steps=[Step("fetch", _fetch)])
noisy_partial = Workflow("noisy_partial", steps=[Step("fetch", _fetch), Step("load", _load, on_error="continue")])
noisy_failing = Workflow("noisy_failing", steps=[Step("fetch", _fetch), Step("load", _load)])
