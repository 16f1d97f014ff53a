"""Metrics of the scopes of this process, for prometheus_client.

    scope = Scope(extensions=[Metrics()])

Runs and steps are counted as they end; what a scope has at the moment is asked for when somebody scrapes. For workers
that are forked, and for jobs that end before anybody scrapes them, see ``store_metrics``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from workflow_runner._core.execution import FlowExecution
from workflow_runner._core.extension import Extension, Operation
from workflow_runner._core.scope import Scope, ScopeStats
from workflow_runner._core.status import COMPLETED, RUNNING, ExecutionStatus
from workflow_runner._workflow.durable import FollowedExecution
from workflow_runner.errors import OwnershipLost

OTHER = "other"
"""Stands for the names that are too many."""

# Seconds: from a call inside a request to a job of a night.
BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0)


# What is read from a scope's statistics.
_GAUGES = {
    "executions_active": ("active", "Executions that run."),
    "executions_pending": ("pending", "Executions that wait for a slot."),
    "slots": ("max_workers", "Slots in all."),
    "slots_free": ("free", "Slots that nobody uses."),
    "threads_abandoned": ("abandoned", "Threads that a deadline has left behind."),
}


class Metrics(Extension):
    """Counts runs and steps, and shows what a scope has at the moment.

    One may serve any number of scopes, and those of one registry count together.

    ===================================================  ==================  ==========================================
    ``workflow_runner_runs_started_total``               flow                runs that have begun, or were gone on with
    ``workflow_runner_runs_total``                       flow, status        runs that have ended
    ``workflow_runner_run_duration_seconds``             flow                a histogram
    ``workflow_runner_step_duration_seconds``            flow, step          a histogram, of each attempt
    ``workflow_runner_retries_total``                    flow, step          attempts after the first; of a run: no step
    ``workflow_runner_ownership_lost_total``             flow                runs that another process has taken over
    ``workflow_runner_last_success_timestamp_seconds``   flow                when a run has last completed
    ``workflow_runner_executions_active``                scope               executions that run
    ``workflow_runner_executions_pending``               scope               executions that wait for a slot
    ``workflow_runner_slots``                            scope               slots in all
    ``workflow_runner_slots_free``                       scope               slots that nobody uses
    ``workflow_runner_threads_abandoned``                scope               threads that a deadline has left behind
    ===================================================  ==================  ==========================================

    Args:
        registry: where they are registered.
        buckets: upper bounds of the histograms, in seconds; those of the first on a registry count.
        max_names: so many flows, and pairs of flow and step, get labels of their own; the rest are "other".
    """

    name = "metrics"
    around = ("step",)

    def __init__(
        self, registry: CollectorRegistry = REGISTRY, *, buckets: Iterable[float] = BUCKETS, max_names: int = 200
    ) -> None:
        with _lock:
            families = _families.get(registry)
            if families is None:
                families = _families[registry] = _Families(registry, tuple(buckets))
        self._families = families
        self._flows: dict[str, _Flow] = {}
        self._steps: dict[tuple[str, str], _Step] = {}
        self._max_names = max_names

    def init(self, scope: Scope) -> None:
        with _lock:
            self._families.scopes.add(scope)

    def dispose(self, scope: Scope) -> None:
        with _lock:
            self._families.scopes.discard(scope)

    def on_status(self, execution: FlowExecution[Any], status: ExecutionStatus) -> None:
        if execution.answered or isinstance(execution, FollowedExecution):
            return  # nothing runs here
        flow = self._flow(execution.flow_name)
        if status is RUNNING:
            flow.started.inc()
            return
        ctx, error = execution.ctx, execution._error
        flow.ended[status].inc()
        if ctx._attempt > 1:
            flow.retries.inc(ctx._attempt - 1)
        if ctx._started is not None and ctx._ended is not None:
            flow.duration.observe(max(0.0, ctx._ended - ctx._started))
        if status is COMPLETED:
            flow.succeeded(ctx._ended or 0.0)
        if isinstance(error, OwnershipLost) or (error is not None and isinstance(error.__cause__, OwnershipLost)):
            flow.lost.inc()

    def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
        step = self._step(_flow_of(operation), operation.name)
        if operation.attempt > 1:
            step.retries.inc()
        began = time.perf_counter()
        try:
            return next()
        finally:
            step.duration.observe(time.perf_counter() - began)

    def _flow(self, name: str) -> _Flow:
        flow = self._flows.get(name)
        if flow is None:
            if len(self._flows) >= self._max_names:
                name = OTHER
            flow = self._flows.setdefault(name, _Flow(self._families, name))
        return flow

    def _step(self, flow: str, name: str) -> _Step:
        step = self._steps.get((flow, name))
        if step is None:
            if len(self._steps) >= self._max_names:
                flow = name = OTHER
            step = self._steps.setdefault((flow, name), _Step(self._families, flow, name))
        return step


def _flow_of(operation: Operation) -> str:
    """The name of the run's flow; what an execution is called anybody may choose."""
    root = operation.context._context.root
    task = root._task
    return task.flow_name if isinstance(task, FlowExecution) else root.name


class _Flow:
    """What is counted of one flow, from 0 on."""

    def __init__(self, families: _Families, name: str) -> None:
        self.started = families.started.labels(name)
        self.ended = {s: families.ended.labels(name, str(s)) for s in ExecutionStatus if s.terminal}
        self.duration = families.run_duration.labels(name)
        self.retries = families.retries.labels(name, "")
        self.lost = families.lost.labels(name)
        self._families, self._name = families, name
        self._last_success: Gauge | None = None  # made by the first: 0 would be 1970

    def succeeded(self, moment: float) -> None:
        if self._last_success is None:
            self._last_success = self._families.last_success.labels(self._name)
        self._last_success.set(moment)


class _Step:
    """What is counted of one step, from 0 on."""

    def __init__(self, families: _Families, flow: str, name: str) -> None:
        self.retries = families.retries.labels(flow, name)
        self.duration = families.step_duration.labels(flow, name)


class _Families(Collector):
    """The metrics on one registry. As a collector it looks at the scopes when somebody scrapes."""

    def __init__(self, registry: CollectorRegistry, buckets: tuple[float, ...]) -> None:
        self.scopes: WeakSet[Scope] = WeakSet()
        prefix, flow = "workflow_runner_", ["flow"]
        self.started = Counter(f"{prefix}runs_started", "Runs that have begun.", flow, registry=registry)
        self.ended = Counter(f"{prefix}runs", "Runs that have ended.", ["flow", "status"], registry=registry)
        self.lost = Counter(
            f"{prefix}ownership_lost", "Runs that another process has taken over.", flow, registry=registry
        )
        self.retries = Counter(f"{prefix}retries", "Attempts after the first.", ["flow", "step"], registry=registry)
        self.run_duration = Histogram(
            f"{prefix}run_duration_seconds", "Running time of runs.", flow, registry=registry, buckets=buckets
        )
        self.step_duration = Histogram(
            f"{prefix}step_duration_seconds",
            "Time of steps, each attempt.",
            ["flow", "step"],
            registry=registry,
            buckets=buckets,
        )
        self.last_success = Gauge(
            f"{prefix}last_success_timestamp_seconds",
            "When a run has last completed.",
            flow,
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        registry.register(self)

    def describe(self) -> list[GaugeMetricFamily]:
        return self._gauges([])

    def collect(self) -> list[GaugeMetricFamily]:
        with _lock:
            scopes = sorted(self.scopes, key=lambda scope: scope.name)
        return self._gauges(scopes)

    def _gauges(self, scopes: list[Scope]) -> list[GaugeMetricFamily]:
        found: dict[str, list[ScopeStats]] = {}
        for scope in scopes:  # those of one name are shown as one
            found.setdefault(scope.name, []).append(scope.stats())
        gauges = []
        for name, (count, help) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"workflow_runner_{name}", help, labels=["scope"])
            for scope_name, stats in found.items():
                gauge.add_metric([scope_name], sum(getattr(each, count) for each in stats))
            gauges.append(gauge)
        return gauges


_families: WeakKeyDictionary[CollectorRegistry, _Families] = WeakKeyDictionary()
_lock = threading.Lock()
