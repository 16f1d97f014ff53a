"""Flows that wait for files, so that a test says when they go on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs

from workflow_runner import FlowContext, Step, Workflow, WorkflowContext, current, flow

# So long a flow waits for its file, should the test have died.
PATIENCE = 60.0

# What somebody who is not to import this module would see.
print("sample_waits is imported", file=sys.stderr)


@attrs.frozen
class Folder:
    folder: Path
    limit: int = 5


def _begin(folder: Path, name: str) -> None:
    """Tell the test, and wait for it; when told to stop, tell it that, and go on waiting."""
    current().signal.on_abort((folder / f"{name}.told").touch)
    (folder / f"{name}.begun").touch()
    end = time.monotonic() + PATIENCE
    while not (folder / f"{name}.go").exists() and time.monotonic() < end:
        time.sleep(0.005)


def first(context: WorkflowContext) -> dict[str, Any]:
    _begin(Path(context.params["folder"]), "first")
    return {"n": 1}


def second(context: WorkflowContext) -> dict[str, Any]:
    folder = Path(context.params["folder"])
    (folder / "second.ran").touch()
    if (folder / "second.fails").exists():
        raise ValueError("second fails")
    return {"n": 2, "limit": context.params["limit"], "folder": Folder(folder)}


two = Workflow("two", params=Folder, steps=[Step("first", first), Step("second", second)])


@flow
def item(ctx: FlowContext, place: tuple[str, int]) -> int:
    folder, number = place
    if number:
        _begin(Path(folder), f"item{number}")
    return number


@flow
def many(ctx: FlowContext, folder: Path) -> int:
    return sum(ctx.parallel(item.each([(str(folder), n) for n in range(4)]), max_concurrency=2))


@flow
def children(ctx: FlowContext, folder: Path) -> int:
    """Starts a program that outlives it."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    (folder / "child").write_text(str(process.pid))
    _begin(folder, "children")
    return process.pid
