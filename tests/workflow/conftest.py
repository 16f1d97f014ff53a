"""Stores for durable runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from workflow import durable_flows
from workflow_runner.store.memory import MemoryStore
from workflow_runner.store.sqlite import SQLiteStore


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A store of each kind."""
    store = MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "runs.db", durability="process")
    yield store
    store.close()


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[[], SQLiteStore]]:
    """Opens SQLite stores on one file, each as a process of its own would."""
    opened: list[SQLiteStore] = []

    def open_one() -> SQLiteStore:
        opened.append(SQLiteStore(tmp_path / "runs.db", durability="process"))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def ran() -> Iterator[list[str]]:
    """What the flows of ``durable_flows`` have done in this test."""
    durable_flows.ran.clear()
    yield durable_flows.ran
    durable_flows.ran.clear()
    durable_flows.failing.clear()


@pytest.fixture
def failing(ran: list[str]) -> set[str]:
    """The names of what fails in ``durable_flows``."""
    return durable_flows.failing
