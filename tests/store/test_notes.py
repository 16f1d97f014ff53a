"""Notes without the store: the same events as with it, or a no."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

import pytest

from workflow_runner import open_store
from workflow_runner.store import notes


def test_a_note_is_an_event_of_the_store(tmp_path: Path) -> None:
    """Whoever opens the store finds it, with target, kind, data and time."""
    path = str(tmp_path / "runs.db")
    store = open_store(f"sqlite:///{path}")
    try:
        assert notes.note(path, "skipped", target="a:b", data="{}")
        store.note("skipped", target="a:b", data="{}")
        one, two = store.events(kind="skipped")
        assert (one.target, one.data, one.run_id) == (two.target, two.data, two.run_id) == ("a:b", "{}", None)
        assert two.at - one.at < 60
    finally:
        store.close()


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A store that nobody has made is left to those who can make it."""
    assert not notes.note(str(tmp_path / "runs.db"), "skipped", target="a:b")
    assert not notes.note(str(tmp_path / "no" / "runs.db"), "skipped", target="a:b")
    assert list(tmp_path.iterdir()) == []


def test_an_older_store_is_left_alone(tmp_path: Path) -> None:
    """A file without the table is one that the store has to bring up to date first."""
    path = tmp_path / "runs.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE runs (run_id TEXT)")
    connection.close()
    assert not notes.note(str(path), "skipped", target="a:b")


def test_nobody_waits_for_ever_for_one_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another one holds the lock of all writers there is no note after a while."""
    path = str(tmp_path / "runs.db")
    open_store(f"sqlite:///{path}").close()
    monkeypatch.setattr(notes, "_PATIENCE", 0.0)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not notes.note(path, "skipped", target="a:b")
    finally:
        os.close(lock)
    assert notes.note(path, "skipped", target="a:b")
