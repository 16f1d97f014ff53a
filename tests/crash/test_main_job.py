"""The nightly job, killed at every step by turns; the same command is given again until it ends."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from crash.harness import Child, Watch, parallel, places, recorded, rows


def command(directory: Path, **more: Any) -> Child:
    return Child(directory, do="main_job", **more)


def warehouse(directory: Path) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(directory / "warehouse.db")
    try:
        return db.execute("SELECT * FROM daily_figures ORDER BY ticker, capture_id").fetchall()
    finally:
        db.close()


def ended(child: Child) -> dict[str, Any]:
    with child:
        answer = child.answer()
        assert child.wait() == 0, child.errors()
    return answer


def killed_by_turns(directory: Path, turns: list[str]) -> None:
    """Give the command once for each place, in the order in which a run passes them; it dies there."""
    watch = Watch(directory, threads=8)
    for place in turns:
        command(directory, at={place: "kill"}).expect_killed()
        watch.killed()
    answer = ended(command(directory))
    watch.ended()
    assert answer["status"] == "completed"


@pytest.mark.slow
def test_killed_at_every_step(tmp_path: Path) -> None:
    """Each step is there once, and the warehouse has the rows of a night on which nothing happened."""
    calm = tmp_path / "calm"
    answer = ended(command(calm, trace=True))
    assert answer["status"] == "completed"
    expected = {token.partition("/")[2] for token in recorded(calm)}
    passed = places(calm)
    # of the items of a fan-out, one: those that are in a batch with it are recorded with it
    commits = [place for place in passed if " COMMIT " in place and "#" not in place]
    commits = [place for place in commits if "parallel" not in place or "[0]" in place]
    turns = {when: [place for place in commits if place.startswith(when)] for when in ("before", "after")}
    assert all(len(found) >= 8 for found in turns.values())
    parallel(lambda when=when: killed_by_turns(tmp_path / when, turns[when]) for when in turns)
    for when in turns:
        assert {token.partition("/")[2] for token in recorded(tmp_path / when)} == expected
        assert rows(tmp_path / when, "SELECT status FROM runs") == [("completed",)]
        assert warehouse(tmp_path / when) == warehouse(calm)
    assert len(warehouse(calm)) == 5
