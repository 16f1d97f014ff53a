"""A flow that fails the first time, and then waits until it is told to stop."""

from __future__ import annotations

from pathlib import Path

from workflow_runner import FlowContext, flow


@flow
def again(ctx: FlowContext, folder: Path) -> None:
    if not (folder / "failed").exists():
        (folder / "failed").touch()
        raise ConnectionError("not the first time")
    (folder / "begun").touch()
    ctx.signal.wait(60.0)
    ctx.throw_if_aborted()
