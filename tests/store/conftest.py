"""Stores to test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workflow_runner.store.memory import MemoryStore
from workflow_runner.store.sqlite import SQLiteStore

BACK_ENDS = ["power", "process", "memory"]


def make_store(kind: str, folder: Path) -> Any:
    return MemoryStore() if kind == "memory" else SQLiteStore(folder / "runs.db", durability=kind)


@pytest.fixture(params=BACK_ENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A store of each kind."""
    store = make_store(request.param, tmp_path)
    yield store
    store.close()


@pytest.fixture
def open_sqlite(tmp_path: Path) -> Iterator[Callable[..., SQLiteStore]]:
    """Opens SQLite stores on one file, each as a process of its own would, and closes them after the test."""
    opened: list[SQLiteStore] = []

    def open_one(**options: Any) -> SQLiteStore:
        opened.append(SQLiteStore(tmp_path / "runs.db", **{"durability": "process", **options}))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()
