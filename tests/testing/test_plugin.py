"""The pytest plugin: its fixtures, what they close, and what they do not let pass."""

from __future__ import annotations

import subprocess
import sys

import pytest

from workflow_runner import Scope, flow
from workflow_runner.store.base import Store
from workflow_runner.testing import ManualClock

pytest_plugins = ["pytester"]


@flow
def double(ctx: object, n: int) -> int:
    """What the tests run."""
    return 2 * n


def test_the_scope_records_in_the_store(wf_scope: Scope, wf_store: Store) -> None:
    """Both are there without an import."""
    execution = wf_scope.exec(double, 21)
    assert execution.result() == 42
    assert wf_store.run(execution.id).status == "completed"
    assert wf_store.url.endswith("durability=process")


@pytest.mark.workflow(max_workers=1, name="narrow")
def test_a_marker_gives_the_arguments_of_the_scope(wf_scope: Scope) -> None:
    """Any that `Scope` takes."""
    assert (wf_scope.max_workers, wf_scope.name) == (1, "narrow")


def test_the_scope_is_on_the_clock_of_the_test(wf_scope: Scope, wf_clock: ManualClock) -> None:
    """If it asks for both."""

    @flow
    def sleeps(ctx: object, seconds: float) -> str:
        ctx.sleep(seconds)  # type: ignore[attr-defined]
        return "done"

    execution = wf_scope.exec(sleeps, 3600)
    wf_clock.block_until(3600)
    wf_clock.advance(3600)
    assert execution.result(20) == "done"


def test_it_comes_with_the_package(pytestconfig: pytest.Config) -> None:
    """Once, by its entry point."""
    names = [name for name, plugin in pytestconfig.pluginmanager.list_name_plugin() if plugin is not None]
    assert names.count("workflow_runner") == 1
    assert "workflow_runner.testing.plugin" not in names


def test_a_test_that_leaves_something_running_fails(pytester: pytest.Pytester) -> None:
    """It says what, and the next test has a scope of its own."""
    pytester.makepyfile(
        """
        import threading
        from workflow_runner import flow

        @flow
        def waits(ctx, event):
            ctx.signal.wait(20)

        def test_leaves(wf_scope):
            wf_scope.exec(waits, durable=False)

        def test_next(wf_scope):
            assert wf_scope.executions == ()

        def test_on_a_clock(wf_scope, wf_clock):
            wf_scope.exec(waits, durable=False)
        """
    )
    ran = pytester.runpytest_inprocess("-q", "--strict-markers")
    ran.assert_outcomes(passed=3, errors=2)
    ran.stdout.fnmatch_lines(["*the test has left executions running: waits (running, run *"])


def test_nothing_heavy_is_imported_when_pytest_starts() -> None:
    """Whoever tests something else pays nothing."""
    code = (
        "import sys, pytest, workflow_runner.testing.plugin\n"
        "print([name for name in sys.modules if name.startswith('workflow_runner.')])\n"
        "print(any(name in sys.modules for name in ('cattrs', 'structlog', 'sqlite3')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ran.stdout.splitlines() == ["['workflow_runner.testing', 'workflow_runner.testing.plugin']", "False"]
