"""Writes the fixture of the newest schema: a file in which a run of each status has some rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

from store.records import new_run, row
from store.schemas import dump, fixture, newest
from workflow_runner.store.base import LogRow
from workflow_runner.store.sqlite import SQLiteStore


def main() -> None:
    path = fixture(newest())
    if path.exists():
        raise SystemExit(f"{path} is there, and a released schema never changes")
    with tempfile.TemporaryDirectory() as folder:
        store = SQLiteStore(Path(folder) / "runs.db")
        for status in ("completed", "failed", "cancelled", "pending", "running"):
            store.submit(new_run(status, flow="f", idem_key=status, batch_id="b", input='{"Zürich":1}'))
            store.record(status, 1, [row("a", 1), row("b/items[0]", 2, kind="item"), row("b", 3)])
            store.attempt(status, 1, "c", 1, 1.5, None)
            store.log(status, [LogRow(path="a", at=1.5, level="info", event="e", fields='{"n":1}')])
            if status == "pending":
                store.release(status, 1)
            elif status != "running":
                store.finish(status, 1, status, "[1]", '{"type":"E","message":"m","notes":[],"cause":null}')
        store.note("skipped", target="m:f", data='{"holder":"running"}')
        store.close()
        path.write_text(dump(Path(folder) / "runs.db"))


main()
