"""Power cuts: what the store has synced is replayed, and what it has not is dropped, reordered or torn at random."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

pytest.importorskip("apsw")

from crash import flows, outside
from crash.harness import FIGURES, recorded
from crash.power import Disk, Log, cuts, driver
from workflow_runner import Scope, WorkflowContext
from workflow_runner.store import commit, sqlite
from workflow_runner.store.sqlite import SQLiteStore

CUTS = 400
# so often the run is resumed from what is left, on the real disk
RESUMED_EVERY = 80

Written = Callable[..., tuple[Log, dict[str, tuple[Any, ...]]]]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Written:
    """Runs flows on a store whose disk writes everything down; the log, and all rows by their token."""

    def run(durability: str, synchronous: str | None = None) -> tuple[Log, dict[str, tuple[Any, ...]]]:
        disk = Disk()
        outside.use(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "sqlite3", driver(disk.name, synchronous))
            patch.setattr(commit, "_CHECKPOINT_EVERY", 20)
            for cls, verb in ((SQLiteStore, "record"), (sqlite._OpenTransaction, "commit"), (SQLiteStore, "finish")):
                patch.setattr(cls, verb, acknowledging(disk.log, getattr(cls, verb)))
            store = SQLiteStore(tmp_path / "runs.db", durability=durability)
            with Scope(store=store, max_workers=8) as scope:
                for number in range(4):
                    scope.run(flows.everything, WorkflowContext.new(), run_id=f"everything-{number}")
                scope.run(flows.wide, WorkflowContext.new(), run_id="wide")
                scope.run(flows.many, 200, run_id="many")
                scope.run(flows.row, WorkflowContext.new(), run_id="row")
            rows = recorded(tmp_path)
            store.close()
        return disk.log, rows

    return run


def acknowledging(log: Log, verb: Any) -> Any:
    """``verb``, which writes to the log what it has acknowledged."""

    def call(self: Any, *args: Any) -> None:
        verb(self, *args)
        if verb.__name__ == "finish":
            log.acknowledged(f"{args[0]} {args[2]}")
            return
        run_id = self._run[0] if verb.__name__ == "commit" else args[0]
        for row in args[-1]:
            log.acknowledged(f"{run_id}/{row.path}")

    return call


@attrs.define
class Found:
    """What there was after all cuts."""

    lost: int = 0
    corrupt: int = 0
    resumed: int = 0


def look(directory: Path, left: dict[str, bytes]) -> tuple[dict[str, tuple[Any, ...]], set[str]] | None:
    """The rows and the ended runs on a disk that was cut; None if its file is corrupt."""
    for old in directory.glob("runs.db*"):
        if old.is_file():
            old.unlink()
    for name, content in left.items():
        (directory / name).write_bytes(content)
    db = sqlite3.connect(directory / "runs.db")
    try:
        if db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            return None
        if not db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'steps'").fetchone()[0]:
            return {}, set()
        rows = db.execute("SELECT run_id || '/' || path, fence, seq, status, output FROM steps").fetchall()
        ended = db.execute("SELECT run_id || ' ' || status FROM runs WHERE status = 'completed'").fetchall()
        return {token: tuple(rest) for token, *rest in rows}, {text for (text,) in ended}
    except sqlite3.DatabaseError:
        return None
    finally:
        db.close()


def cut(directory: Path, log: Log, rows: dict[str, tuple[Any, ...]], seed: int) -> Found:
    """Cut the power again and again and look what is left."""
    directory.mkdir()
    found = Found()
    for number, (left, acked) in enumerate(cuts(log, random.Random(seed), CUTS)):
        seen = look(directory, left)
        if seen is None:
            found.corrupt += 1
            continue
        there, ended = seen
        found.lost += len(acked - there.keys() - ended)
        assert all(rows[token] == row for token, row in there.items()), "a row is not what was written"
        for run in ("everything-0", "row"):
            numbers = sorted(row[1] for token, row in there.items() if token.startswith(f"{run}/"))
            assert numbers == list(range(1, len(numbers) + 1)), f"{run} has a hole: {numbers}"
        if number % RESUMED_EVERY == 0:
            found.resumed += resume_all(directory)
    return found


def resume_all(directory: Path) -> int:
    """Go on with every run that has not ended; how many there were."""
    with Scope(store=f"sqlite:///{directory}/runs.db", max_workers=8) as scope:
        assert scope.store is not None
        unfinished = [run for run in scope.store.runs() if run.status != "completed"]
        for run in unfinished:
            assert run.crashed
            result = scope.resume(run.run_id).result(30)
            if run.flow == "everything":
                assert result.context.get_output("last") == {"total": flows.TOTAL}
    return len(unfinished)


def seed() -> int:
    chosen = random.randrange(2**32)
    print(f"seed {chosen}")
    return chosen


@pytest.mark.slow
def test_power_keeps_what_was_acknowledged(tmp_path: Path, written: Written) -> None:
    """With durability "power" nothing acknowledged is lost in a power cut, and the file is never corrupt."""
    log, rows = written("power")
    found = cut(tmp_path / "cut", log, rows, seed())
    FIGURES.add("power cuts", CUTS)
    FIGURES.add("files corrupt", found.corrupt)
    FIGURES.add("acknowledged rows lost in a power cut", found.lost)
    assert (found.corrupt, found.lost) == (0, 0)
    assert found.resumed


@pytest.mark.slow
def test_process_is_never_corrupt(tmp_path: Path, written: Written) -> None:
    """With durability "process" a power cut may take the last rows, without a hole, and the file is never corrupt."""
    log, rows = written("process")
    found = cut(tmp_path / "cut", log, rows, seed())
    FIGURES.add("power cuts", CUTS)
    FIGURES.add("files corrupt", found.corrupt)
    FIGURES.add("acknowledged rows lost with durability=process (allowed)", found.lost)
    assert found.corrupt == 0
    assert found.lost, "a simulation in which nothing is ever lost proves nothing"


def test_the_simulation_finds_what_is_wrong(tmp_path: Path, written: Written) -> None:
    """A store that never syncs does not pass."""
    log, rows = written("power", "OFF")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "CUTS", 100)
        patch.setitem(globals(), "RESUMED_EVERY", 1000)
        found = cut(tmp_path / "cut", log, rows, 1)
    assert found.lost or found.corrupt


def test_one_sync_for_one_step(tmp_path: Path, written: Written) -> None:
    """With durability "power" a step of a row costs one sync, but for those before which the WAL was copied."""
    log, _ = written("power")
    ends = [n for n, event in enumerate(log.events) if event[0] == "ack" and event[1].startswith("row/s")]
    syncs = [log.syncs(first, last) for first, last in itertools.pairwise(ends)]
    assert len(syncs) == flows.ROW - 1
    assert sorted(syncs)[len(syncs) // 2] == 1
    assert sum(count == 1 for count in syncs) >= len(syncs) * 17 // 20
