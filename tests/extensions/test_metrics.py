"""Metrics for prometheus_client, on a real registry."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from workflow_runner import FlowContext, Retry, Scope, Step, Workflow, flow
from workflow_runner.errors import ExecutionCancelled, ExecutionTimeout, OwnershipLost
from workflow_runner.extensions.metrics import Metrics
from workflow_runner.store.memory import MemoryStore

LONG = 20.0
Make = Callable[..., Scope]
Event = Callable[[], threading.Event]


class Registry(CollectorRegistry):
    """A registry that can be asked for one number."""

    def value(self, name: str, **labels: str) -> float | None:
        return self.get_sample_value(f"workflow_runner_{name}", labels)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@flow
def work(ctx: FlowContext, error: BaseException | None = None) -> None:
    if error is not None:
        raise error


def test_runs_are_counted_by_flow_and_status(registry: Registry, make_scope: Make, event: Event) -> None:
    """Begun, ended how, how long, and when the last one was fine."""
    scope = make_scope(extensions=[Metrics(registry)])
    for _ in range(2):
        scope.run(work)
    with pytest.raises(ValueError, match="no"):
        scope.run(work, ValueError("no"))
    started = event()

    @flow(name="work")
    def waits(ctx: FlowContext, _input: None) -> None:
        started.set()
        ctx.sleep(LONG)

    execution = scope.exec(waits)
    assert started.wait(LONG)
    assert registry.value("executions_active", scope=scope.name) == 1
    execution.cancel()
    with pytest.raises(ExecutionCancelled):
        execution.result()
    scope.close()
    assert registry.value("runs_started_total", flow="work") == 4
    counts = {s: registry.value("runs_total", flow="work", status=s) for s in ("completed", "failed", "cancelled")}
    assert counts == {"completed": 2, "failed": 1, "cancelled": 1}
    assert registry.value("run_duration_seconds_count", flow="work") == 4
    assert registry.value("ownership_lost_total", flow="work") == 0


def test_the_last_success_has_its_time(registry: Registry, make_scope: Make) -> None:
    """It is the end of the newest run that completed; a flow that never did has none."""
    scope = make_scope(extensions=[Metrics(registry)])
    with pytest.raises(ValueError, match="no"):
        scope.run(work, ValueError("no"))
    assert registry.value("last_success_timestamp_seconds", flow="work") is None
    execution = scope.exec(work)
    execution.result()
    scope.close()
    ended = execution.ctx.details.completed_at
    assert ended is not None
    assert registry.value("last_success_timestamp_seconds", flow="work") == pytest.approx(ended.timestamp())


def test_steps_and_retries(registry: Registry, make_scope: Make) -> None:
    """Each attempt of a step is observed, and those after the first are counted; so are those of a run."""
    left = [2, 1]

    def shaky(context: Any, config: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise ValueError("again")

    retry = Retry(attempts=3, initial=0.0)
    scope = make_scope(extensions=[Metrics(registry)])
    steps = [Step("one", shaky, retry=retry), Step("two", lambda context, config: None, timeout=LONG)]
    scope.run(Workflow("nightly", steps=steps), {})
    left[0] = 1
    scope.run(Workflow("hourly", steps=[Step("one", shaky)], retry=retry), {}, name="whatever")
    assert registry.value("step_duration_seconds_count", flow="nightly", step="one") == 3
    assert registry.value("retries_total", flow="nightly", step="one") == 2
    assert registry.value("retries_total", flow="nightly", step="two") == 0
    assert registry.value("retries_total", flow="hourly", step="") == 1
    assert registry.value("runs_total", flow="hourly", status="completed") == 1


def test_what_a_scope_has_is_asked_for_at_the_scrape(registry: Registry, make_scope: Make, event: Event) -> None:
    """Active, pending, free slots and abandoned threads; a closed scope is not there any more."""
    release, started = event(), event()

    @flow
    def stuck(ctx: FlowContext, _input: None) -> None:
        started.set()
        release.wait(LONG)

    scope = make_scope(max_workers=1, extensions=[Metrics(registry)])

    def gauges() -> list[float | None]:
        names = ("executions_active", "executions_pending", "slots_free", "slots", "threads_abandoned")
        return [registry.value(name, scope=scope.name) for name in names]

    assert gauges() == [0, 0, 1, 1, 0]
    first = scope.exec(stuck, timeout=0.2)
    assert started.wait(LONG)
    started.clear()
    second = scope.exec(stuck)
    assert gauges() == [1, 1, 0, 1, 0]
    with pytest.raises(ExecutionTimeout):
        first.result()
    assert started.wait(LONG)
    assert gauges() == [1, 0, 0, 1, 1]
    release.set()
    second.result()
    scope.close()
    assert gauges() == [None] * 5
    assert registry.value("runs_total", flow="stuck", status="cancelled") == 1


def test_a_lost_run_is_counted(registry: Registry, make_scope: Make) -> None:
    """A run that another process has taken over is noticed when it records something."""
    store = MemoryStore()

    @flow
    def loses(ctx: FlowContext, _input: None) -> None:
        store._set(ctx.run_id, fence=7)
        ctx.exec(work)

    scope = make_scope(store=store, extensions=[Metrics(registry)])
    with pytest.raises(OwnershipLost):
        scope.run(loses)
    assert registry.value("ownership_lost_total", flow="loses") == 1


def test_an_answer_is_no_run(registry: Registry, make_scope: Make) -> None:
    """A second start under a key, answered by what was recorded, is not counted."""
    scope = make_scope(store=MemoryStore(), extensions=[Metrics(registry)])
    for _ in range(3):
        scope.run(work, idempotency_key="k")
    assert registry.value("runs_started_total", flow="work") == 1
    assert registry.value("runs_total", flow="work", status="completed") == 1


def test_names_are_bounded(registry: Registry, make_scope: Make) -> None:
    """A program that makes flows without end does not fill the registry."""
    scope = make_scope(extensions=[Metrics(registry, max_names=2)])
    for n in range(5):
        name = f"f{n}"
        scope.run(Workflow(name, steps=[Step(f"s{n}", lambda context, config: None)]), {})
    started = {n: registry.value("runs_started_total", flow=n) for n in ("f0", "f1", "f2", "other")}
    assert started == {"f0": 1, "f1": 1, "f2": None, "other": 3}
    assert registry.value("step_duration_seconds_count", flow="other", step="other") == 3


def test_scopes_share_a_registry(registry: Registry, make_scope: Make) -> None:
    """Two scopes with an extension each count together, and are shown apart."""
    scopes = [make_scope(extensions=[Metrics(registry)], max_workers=n) for n in (1, 2)]
    for scope in scopes:
        scope.run(work)
    assert registry.value("runs_total", flow="work", status="completed") == 2
    assert [registry.value("slots", scope=scope.name) for scope in scopes] == [1, 2]


def test_the_default_is_the_default_registry(make_scope: Make) -> None:
    """Whoever exposes prometheus_client's own registry exposes this."""

    @flow(name="test-the-default-registry")
    def mine(ctx: FlowContext, _input: None) -> None: ...

    make_scope(extensions=[Metrics()]).run(mine)
    assert REGISTRY.get_sample_value("workflow_runner_runs_started_total", {"flow": mine.name}) == 1


def test_what_is_exposed_can_be_parsed(registry: Registry, make_scope: Make) -> None:
    """Each metric has a help text, and a unit at the end of its name where it has one."""
    scope = make_scope(extensions=[Metrics(registry)])
    scope.run(Workflow("nightly", steps=[Step("one", lambda context, config: None)]), {})
    families = {f.name: f for f in text_string_to_metric_families(generate_latest(registry).decode())}
    ours = {name.removeprefix("workflow_runner_") for name in families if not name.endswith("_created")}
    assert ours == {
        "runs_started",
        "runs",
        "run_duration_seconds",
        "step_duration_seconds",
        "retries",
        "ownership_lost",
        "last_success_timestamp_seconds",
        "executions_active",
        "executions_pending",
        "slots",
        "slots_free",
        "threads_abandoned",
    }
    assert all(family.documentation for family in families.values())


def test_what_is_no_step_takes_the_short_way(registry: Registry, make_scope: Make) -> None:
    """Runs, children and items cost what they cost without metrics."""
    scope = make_scope(extensions=[Metrics(registry)])
    assert [kind for kind, wraps in scope._wraps.items() if wraps] == ["step"]
