"""Retention: what goes, and what to say of it."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from workflow_runner.cli.document import SCHEMA
from workflow_runner.cli.render import MOST_ROWS, new_console, parts_of
from workflow_runner.cli.texts import seconds
from workflow_runner.store import sqlite_path
from workflow_runner.store.base import RunRecord, Store, Usage
from workflow_runner.store.doctor import MB, size


@attrs.frozen(kw_only=True)
class Pruned:
    """What a prune did, or would do.

    Attributes:
        dry_run: nothing was deleted.
        runs: how many were, or would be.
        run_ids: which would be, oldest first; only of a dry run.
        first: the first of them.
        before: the space that the store took; None of a dry run.
        after: the space that it takes now.
        vacuum: seconds that giving the space back took; None if it was not asked for.
    """

    dry_run: bool = False
    runs: int = 0
    run_ids: tuple[str, ...] = ()
    first: tuple[RunRecord, ...] = ()
    before: Usage | None = None
    after: Usage | None = None
    vacuum: float | None = None

    @property
    def freed(self) -> int:
        """Bytes that what was deleted took."""
        return max(0, self.before.used - self.after.used) if self.before and self.after else 0


def plan(store: Store, **choice: Any) -> Pruned:
    """What a prune would delete; the arguments are those of ``Store.prunable``."""
    doomed = store.prunable(**choice)
    first = tuple(store.run(run_id) for run_id in doomed[:MOST_ROWS])
    return Pruned(dry_run=True, runs=len(doomed), run_ids=tuple(doomed), first=first)


def carry_out(store: Store, *, vacuum: bool, limited: bool, older_than: float | None, **choice: Any) -> Pruned:
    """Delete runs, and give the space back.

    Args:
        store: what is pruned.
        vacuum: give the space back.
        limited: delete at all.
        older_than: as in ``Store.prune``, and so are the others.
    """
    before = store.usage()
    count = store.prune(older_than=older_than, **choice) if limited else 0
    path = sqlite_path(store.url)
    if path is not None and older_than is not None and choice.get("flow") is None:
        forget_locks(Path(f"{path}.locks"), older_than)
    took = None
    if vacuum:
        began = time.monotonic()
        store.vacuum()
        took = time.monotonic() - began
    return Pruned(runs=count, before=before, after=store.usage(), vacuum=took)


def forget_locks(folder: Path, older_than: float) -> int:
    """Remove the files of locks that nobody has taken for so long: there is one for each key.

    Args:
        folder: where they are; it need not be there.
        older_than: seconds.

    Returns:
        How many were removed.
    """
    removed = 0
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(OSError):  # held, or removed by somebody else
            if time.time() - file.stat().st_mtime < older_than:
                continue
            descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
            try:
                # Who waits for it meanwhile finds that the file is gone, and makes another.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(file.stat(), os.fstat(descriptor)):
                    file.unlink()
                    removed += 1
            finally:
                os.close(descriptor)
    return removed


def document(done: Pruned) -> dict[str, Any]:
    """What was done, as the data of one document."""
    return {
        "schema": SCHEMA,
        "dry_run": done.dry_run,
        "runs": done.runs,
        "run_ids": list(done.run_ids) if done.dry_run else None,
        "freed": None if done.dry_run else done.freed,
        "free": done.after.free if done.after else None,
        "vacuum": done.vacuum,
    }


def show(done: Pruned) -> None:
    """Print what was done, for people."""
    console = new_console()
    runs = f"{done.runs} {'run' if done.runs == 1 else 'runs'}"
    if done.dry_run:
        rows = [
            {"run": run.run_id, "flow": run.flow, "status": run.status, "key": run.idem_key, "ended": _day(run)}
            for run in done.first
        ]
        for part in parts_of(rows) if rows else ():
            console.print(part)
            console.print()
        more = f", the {len(done.first)} oldest are shown" if done.runs > len(done.first) else ""
        console.print(f"{runs} would be deleted{more}")
        return
    assert done.before is not None
    assert done.after is not None
    said = f"deleted {runs}, {size(done.freed)}"
    if done.vacuum is None:
        hint = "; --vacuum gives that to the disk" if done.after.free > 10 * MB else ""
        console.print(f"{said}; {size(done.after.free)} are free inside the file{hint}")
    else:
        given = max(0, sum(attrs.astuple(done.before)) - sum(attrs.astuple(done.after)))
        console.print(f"{said}; gave {size(given)} back to the disk in {seconds(done.vacuum)}")


def _day(run: RunRecord) -> str:
    return "" if run.finished_at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(run.finished_at))
