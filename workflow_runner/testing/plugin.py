"""The pytest plugin: fixtures for tests of flows. It comes with the package, and imports nothing before it is used.

    wf_clock    a `ManualClock`
    wf_store    a SQLite store in the test's own folder
    wf_scope    a `Scope` on it; on ``wf_clock``, if the test asks for that too

``@pytest.mark.workflow(max_workers=2)`` gives the arguments of the scope.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from workflow_runner import Scope
    from workflow_runner.store.base import Store
    from workflow_runner.testing import ManualClock

# Seconds that executions which a test has left running have to stop.
GRACE = 2.0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "workflow(**options): arguments of the Scope that `wf_scope` gives")


@pytest.fixture
def wf_clock() -> ManualClock:
    """A clock that stands still until the test moves it."""
    from workflow_runner.testing import ManualClock

    return ManualClock()


@pytest.fixture
def wf_store(tmp_path: Path) -> Iterator[Store]:
    """A SQLite store in ``tmp_path``; it survives ``kill -9`` and syncs nothing."""
    from workflow_runner import open_store

    store = open_store(f"sqlite:///{tmp_path}/workflows.db?durability=process")
    yield store
    store.close()


@pytest.fixture
def wf_scope(request: pytest.FixtureRequest, wf_store: Store) -> Iterator[Scope]:
    """A scope whose runs are recorded in ``wf_store``. A test that leaves executions running fails."""
    from workflow_runner import Scope

    marker = request.node.get_closest_marker("workflow")
    options = {"name": "wf_scope", "store": wf_store, **(marker.kwargs if marker is not None else {})}
    if "wf_clock" in request.fixturenames:
        options.setdefault("clock", request.getfixturevalue("wf_clock"))
    scope = Scope(**options)
    yield scope
    left = [f"{execution.flow_name} ({execution.status}, run {execution.id})" for execution in scope.executions]
    clock = options.get("clock")
    scope.close(cancel=True, timeout=GRACE if clock is None else 0)  # a clock that stands still ends no grace
    if left:
        pytest.fail(f"the test has left executions running: {', '.join(left)}", pytrace=False)
