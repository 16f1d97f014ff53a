"""A workflow for many dates, told by files what it is to do."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated, Any

import attrs

from workflow_runner import Secret, Step, StepResult, Workflow, WorkflowContext, current

LONG = 20.0


@attrs.frozen
class Params:
    """Where the files are.

    Args:
        folder: The folder: "failing" lists dates that fail, "partial" dates that half fail, "stop" those that wait,
            "together" says how many runs wait for each other.
        token: What only the flow may know.
    """

    folder: Path
    token: Annotated[str | None, Secret] = None


def listed(context: WorkflowContext, name: str) -> bool:
    file = Params(**context.params).folder / name
    return file.exists() and str(context.as_of_date) in file.read_text()


def work(context: WorkflowContext) -> dict[str, Any]:
    folder = Params(**context.params).folder
    with (folder / "ran").open("a") as ran:
        ran.write(f"{context.as_of_date} {context.partition} {context.metadata.get('scheduled_at')}\n")
    if listed(context, "stop"):
        (folder / "begun").touch()
        end = time.monotonic() + LONG
        while time.monotonic() < end and not current().signal.wait(0.01):  # type: ignore[union-attr]
            pass
        current().throw_if_aborted()  # type: ignore[union-attr]
    if (folder / "together").exists():
        end = time.monotonic() + LONG
        while len((folder / "ran").read_text().splitlines()) < int((folder / "together").read_text()):
            assert time.monotonic() < end, "the others do not come"
            time.sleep(0.005)
    logging.getLogger("sample").info("at work")
    if listed(context, "failing"):
        token = context.params["token"]
        raise ValueError(f"no bars of {context.as_of_date}" + (f" for {token}" if token else ""))
    return {"day": str(context.as_of_date), "region": getattr(context.partition, "region", None)}


def extra(context: WorkflowContext) -> StepResult:
    return StepResult.fail("not today") if listed(context, "partial") else StepResult.ok()


nightly = Workflow(
    "night", params=Params, steps=[Step("work", work), Step("extra", extra, on_error="continue")], version="1"
)
