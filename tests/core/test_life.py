"""The whole life of executions against the table of transitions, in random order."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workflow_runner import ExecutionStatus, Extension, FlowContext, FlowExecution, Scope, errors, flow
from workflow_runner._core.status import TRANSITIONS
from workflow_runner.testing import ManualClock

LONG = 20.0


@attrs.define(eq=False)
class Model:
    """What one execution should be doing."""

    timeout: float | None
    status: str = "pending"
    told: bool = False
    # moments on the clock
    due: float | None = None
    grace: float | None = None
    # whether the handler has been let go
    released: bool = False
    error: str | None = None
    execution: FlowExecution[Any] = None  # type: ignore[assignment]
    go: threading.Event = attrs.field(factory=threading.Event)
    begun: threading.Event = attrs.field(factory=threading.Event)
    outcome: Any = None
    # the news of each subscriber, and what it should have been told
    news: list[tuple[list[str], list[str]]] = attrs.field(factory=list)

    def becomes(self, status: str, error: str | None = None) -> None:
        self.status, self.error = status, error
        for _, expected in self.news:
            expected.append(status)


class Life(RuleBasedStateMachine):
    """One slot, a manual clock, and every rule that may change an execution."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.changed = threading.Condition()
        machine = self

        class Observes(Extension):
            def on_status(self, execution: Any, status: Any) -> None:
                with machine.changed:
                    machine.history.setdefault(execution, ["pending"]).append(status.value)
                    machine.changed.notify_all()

        self.history: dict[Any, list[str]] = {}
        self.scope = Scope(max_workers=1, max_abandoned=1000, clock=self.clock, extensions=[Observes()])
        self.models: list[Model] = []

    def teardown(self) -> None:
        for model in self.models:
            model.go.set()
        self.scope.close(timeout=LONG)
        for model in self.models:
            assert model.execution.done()
        stats = self.scope.stats()
        assert (stats.free, stats.pending, stats.deadlines, stats.active) == (1, 0, 0, 0)

    # -- the model

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def live(self, *statuses: str) -> list[Model]:
        return [model for model in self.models if model.status in statuses]

    def go_on(self) -> None:
        """Let the next one run if nobody does."""
        while not self.live("running") and (waiting := self.live("pending")):
            model = waiting[0]
            model.becomes("running")
            if model.timeout is not None:
                model.due = self.now + model.timeout
            if model.released:
                self.end(model)

    def end(self, model: Model) -> None:
        """The handler of a running one ends."""
        if model.outcome == "return":
            model.becomes("completed")
        elif model.told or model.outcome == "abort":
            model.becomes("cancelled", "cancelled")
        else:
            model.becomes("failed", "raised")

    # -- the rules

    @rule(timeout=st.none() | st.sampled_from([1.0, 5.0, 20.0]))
    def start(self, timeout: float | None) -> None:
        model = Model(timeout)

        def handler(ctx: FlowContext, _: Any) -> str:
            model.begun.set()
            assert model.go.wait(LONG)
            if model.outcome == "raise":
                raise ValueError("no")
            if model.outcome == "abort":
                raise errors.Aborted("by itself")
            return "done"

        self.models.append(model)
        model.execution = self.scope.exec(flow(handler), timeout=timeout)
        self.go_on()

    @precondition(lambda self: self.live("pending", "running"))
    @rule(data=st.data(), outcome=st.sampled_from(["return", "raise", "abort"]))
    def release(self, data: st.DataObject, outcome: str) -> None:
        """Let a handler end: now, or as soon as it begins."""
        model = data.draw(st.sampled_from(self.live("pending", "running")))
        if model.released:
            return
        model.released, model.outcome = True, outcome
        model.go.set()
        if model.status == "running":
            self.end(model)
            self.go_on()

    @precondition(lambda self: any(model.begun.is_set() and not model.released for model in self.live("cancelled")))
    @rule(data=st.data(), outcome=st.sampled_from(["return", "raise", "abort"]))
    def release_an_abandoned_one(self, data: st.DataObject, outcome: str) -> None:
        """Its late outcome changes nothing."""
        late = [model for model in self.live("cancelled") if model.begun.is_set() and not model.released]
        model = data.draw(st.sampled_from(late))
        model.released, model.outcome = True, outcome
        model.go.set()

    @precondition(lambda self: self.models)
    @rule(data=st.data(), grace=st.none() | st.sampled_from([0.0, 2.0, 10.0]))
    def cancel(self, data: st.DataObject, grace: float | None) -> None:
        model = data.draw(st.sampled_from(self.models))
        assert model.execution.cancel("why", grace=grace) == (model.status in ("pending", "running"))
        if model.status == "pending":
            model.becomes("cancelled", "cancelled")
        elif model.status == "running":
            model.told = True
            if grace is not None:
                model.grace = min(self.now + grace, model.grace if model.grace is not None else float("inf"))
                self.expire()

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 30.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.expire()

    def expire(self) -> None:
        """Deadlines and graces that have come; the next one begins its own time now."""
        for model in self.live("running"):
            grace, due = model.grace, model.due
            if grace is not None and grace <= self.now and (due is None or grace < due or due > self.now):
                model.becomes("cancelled", "cancelled")
            elif due is not None and due <= self.now:
                model.becomes("cancelled", "timed out")
        self.go_on()

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def subscribe(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(self.models))
        news: list[str] = []

        def callback(status: ExecutionStatus, execution: Any) -> None:
            with self.changed:
                news.append(status.value)
                self.changed.notify_all()

        model.news.append((news, [model.status] if model.status in ("completed", "failed", "cancelled") else []))
        model.execution.on_status_change(callback)
        if model.status == "running":
            model.execution.on_status_change(callback)  # registers once

    # -- what must hold

    @invariant()
    def the_model_is_right(self) -> None:
        """After each rule every execution is where the model says, and everybody was told so."""
        with self.changed:
            assert self.changed.wait_for(self.agrees, LONG), [
                (model.status, model.execution.status.value, model.news) for model in self.models
            ]
        for model in self.models:
            history = self.history.get(model.execution, ["pending"])
            for before, after in itertools.pairwise(history):
                assert ExecutionStatus(after) in TRANSITIONS[ExecutionStatus(before)]
            assert history[-1] == model.status
            if model.execution.done():
                self.check_outcome(model)
        self.changed_slots()

    def agrees(self) -> bool:
        return all(
            model.execution.status.value == model.status
            and self.history.get(model.execution, ["pending"])[-1] == model.status
            and all(news == expected for news, expected in model.news)
            and (model.status != "running" or model.begun.is_set())
            for model in self.models
        )

    def check_outcome(self, model: Model) -> None:
        error = model.execution.exception(0)
        if model.error is None:
            assert error is None
            assert model.execution.result(0) == "done"
        elif model.error == "raised":
            assert isinstance(error, ValueError)
        else:
            assert isinstance(error, errors.ExecutionCancelled)
            assert isinstance(error, errors.ExecutionTimeout) == (model.error == "timed out")

    def changed_slots(self) -> None:
        stats = self.scope.stats()
        assert stats.pending == len(self.live("pending"))
        assert stats.active == len(self.live("running")) <= 1


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
