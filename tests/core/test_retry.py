"""Retry: the first attempt is free, the rest sleeps on the signal."""

from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from workflow_runner import FlowContext, Retry, Scope, call, errors, flow
from workflow_runner.testing import ManualClock

LONG = 20.0


class Flaky:
    """A handler that fails ``failures`` times."""

    def __init__(self, failures: int, error: Callable[[], BaseException] = lambda: ValueError("no")) -> None:
        self.failures = failures
        self.error = error
        self.attempts: list[int] = []

    def __call__(self, ctx: FlowContext, _: Any) -> str:
        self.attempts.append(ctx.attempt)
        if len(self.attempts) <= self.failures:
            raise self.error()
        return "done"


# -- the definition


def test_the_defaults_are_the_promised_ones() -> None:
    """Three attempts, 1 s doubling to at most 60 s, jitter, any Exception, the three categories."""
    assert attrs.asdict(Retry()) == {
        "attempts": 3,
        "initial": 1.0,
        "factor": 2.0,
        "max_delay": 60.0,
        "jitter": True,
        "on": (Exception,),
        "categories": ("TRANSIENT", "TIMEOUT", "DEPENDENCY"),
    }
    assert Retry(on=ValueError).on == (ValueError,)
    assert Retry(on=[ValueError, OSError]).on == (ValueError, OSError)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": -1},
        {"attempts": 2.5},
        {"attempts": True},
        {"initial": -1},
        {"initial": float("nan")},
        {"factor": 0},
        {"factor": float("inf")},
        {"max_delay": -1},
        {"max_delay": "60"},
        {"on": ("ValueError",)},
        {"on": int},
        {"on": (ValueError, 5)},
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """A DefinitionError when the Retry is made, not when the first attempt has failed."""
    with pytest.raises(errors.DefinitionError, match=f"Retry.{next(iter(options))}"):
        Retry(**options)


def test_a_missing_tenacity_is_said_when_it_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tenacity a Retry of several attempts is refused with the command that installs it; one attempt is not."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.DefinitionError, match=r"pip install 'workflow-runner\[retry\]'"):
        Retry(attempts=2)
    assert Retry(attempts=1).attempts == 1


def test_the_first_attempt_imports_no_tenacity() -> None:
    """Attempts that succeed at once cost nothing; tenacity is imported by the first failure."""
    program = """
import sys
from workflow_runner import Scope, flow, Retry
@flow(retry=Retry(attempts=2, initial=0))
def flaky(ctx, fails):
    if fails and ctx.attempt == 1:
        raise ValueError("no")
    return ctx.attempt
with Scope() as scope:
    assert scope.run(flaky, False) == 1
    assert "tenacity" not in sys.modules
    assert scope.run(flaky, True) == 2
    assert "tenacity" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


# -- attempts


def where_it_may_be_given(handler: Any, retry: Retry) -> dict[str, Callable[[FlowContext], Any]]:
    with_retry, without = flow(name="flaky", retry=retry)(handler), flow(name="flaky")(handler)
    return {
        "flow": lambda ctx: ctx.exec(with_retry),
        "exec": lambda ctx: ctx.exec(without, retry=retry),
        "key": lambda ctx: ctx.exec(with_retry, key="k"),
        "timeout": lambda ctx: ctx.exec(with_retry, timeout=LONG),
        "parallel": lambda ctx: ctx.parallel([with_retry])[0],
        "stream": lambda ctx: next(ctx.stream([with_retry])),
    }


@pytest.mark.parametrize("place", ["root", "flow", "exec", "key", "timeout", "parallel", "stream"])
def test_a_failed_attempt_is_made_again_wherever_retry_stands(scope: Scope, place: str) -> None:
    """Attempts count from 1 until one succeeds: of a root, a child, a keyed or timed one, an item."""
    handler = Flaky(2)
    retry = Retry(attempts=3, initial=0)

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        return where_it_may_be_given(handler, retry)[place](ctx)

    root = flow(name="flaky", retry=retry)(handler) if place == "root" else top
    execution = scope.exec(root)
    assert (execution.result(LONG), execution.status) == ("done", "completed")
    assert handler.attempts == [1, 2, 3]


def test_the_last_attempts_error_is_raised_as_it_is(scope: Scope) -> None:
    """When the attempts are used up: the last handler's own exception object, and no error of tenacity."""
    raised: list[BaseException] = []

    def error() -> BaseException:
        raised.append(ValueError(f"attempt {len(raised) + 1}"))
        return raised[-1]

    execution = scope.exec(flow(name="flaky", retry=Retry(attempts=3, initial=0))(Flaky(9, error)))
    with pytest.raises(ValueError, match="attempt 3") as caught:
        execution.result(LONG)
    assert caught.value is raised[2]
    assert (len(raised), execution.status) == (3, "failed")


def test_one_attempt_is_no_retry(scope: Scope) -> None:
    """``attempts=1`` runs once."""
    handler = Flaky(1)
    with pytest.raises(ValueError, match="no"):
        scope.run(flow(name="flaky", retry=Retry(attempts=1))(handler))
    assert handler.attempts == [1]


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (ValueError("no"), 3),
        (UnicodeError("a ValueError too"), 3),
        (KeyError("no"), 1),
        (SystemExit(3), 1),
        (errors.Aborted("mine"), 1),
    ],
)
def test_only_the_given_types_are_worth_another_attempt(scope: Scope, error: BaseException, attempts: int) -> None:
    """``on=`` is a set of types, subclasses included; everything else is raised at once."""
    handler = Flaky(9, lambda: error)
    execution = scope.exec(flow(name="flaky", retry=Retry(attempts=3, initial=0, on=ValueError))(handler))
    assert execution.exception(LONG) is not None
    assert len(handler.attempts) == attempts


def test_aborted_is_never_retried(scope: Scope) -> None:
    """Not even when ``on=`` names BaseException."""
    handler = Flaky(9, lambda: errors.Aborted("mine"))
    execution = scope.exec(flow(name="flaky", retry=Retry(attempts=3, initial=0, on=BaseException))(handler))
    with pytest.raises(errors.ExecutionCancelled):
        execution.result(LONG)
    assert handler.attempts == [1]


# -- waiting


def drive(clock: ManualClock, execution: Any, delays: list[float]) -> None:
    for delay in delays:
        clock.block_until(delay)
        assert not execution.done()
        clock.advance(delay)


def test_the_waits_grow_by_the_factor_up_to_the_limit(make_scope: Callable[..., Scope], clock: ManualClock) -> None:
    """Before attempt n + 1: initial * factor ** (n - 1) seconds, at most max_delay."""
    scope = make_scope(clock=clock)
    retry = Retry(attempts=7, initial=0.5, factor=3.0, max_delay=20.0, jitter=False)
    execution = scope.exec(flow(name="flaky", retry=retry)(Flaky(6)))
    drive(clock, execution, [0.5, 1.5, 4.5, 13.5, 20.0, 20.0])
    assert execution.result(LONG) == "done"


def test_with_jitter_each_wait_is_drawn_below_that(
    make_scope: Callable[..., Scope], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full jitter: evenly between 0 and the wait without jitter."""
    import random

    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high / 4

    monkeypatch.setattr(random, "uniform", uniform)
    scope = make_scope(clock=clock)
    execution = scope.exec(flow(name="flaky", retry=Retry(attempts=4, initial=4.0))(Flaky(3)))
    drive(clock, execution, [1.0, 2.0, 4.0])
    assert execution.result(LONG) == "done"
    assert drawn == [(0, 4.0), (0, 8.0), (0, 16.0)]


@pytest.mark.parametrize("child", [False, True])
def test_cancelled_means_stop_at_once(make_scope: Callable[..., Scope], clock: ManualClock, child: bool) -> None:
    """Cancelled while it waits for the next attempt: it ends without another one, and without its wait."""
    scope = make_scope(clock=clock)
    handler = Flaky(9)
    flaky = flow(name="flaky", retry=Retry(attempts=3, initial=50, jitter=False))(handler)

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        return ctx.exec(flaky)

    execution = scope.exec(top if child else flaky)
    clock.block_until(50)
    execution.cancel("enough")
    with pytest.raises(errors.ExecutionCancelled, match="enough"):
        execution.result(LONG)
    assert (execution.status, handler.attempts) == ("cancelled", [1])


def test_cancelled_during_an_attempt_makes_no_further_one(scope: Scope, event: Any) -> None:
    """An attempt that fails after the signal is the last."""
    started, go = event(), event()
    attempts: list[int] = []

    @flow(retry=Retry(attempts=3, initial=0))
    def flaky(ctx: FlowContext, _: Any) -> None:
        attempts.append(ctx.attempt)
        started.set()
        assert go.wait(LONG)
        raise ValueError("no")

    execution = scope.exec(flaky)
    assert started.wait(LONG)
    execution.cancel("enough")
    go.set()
    with pytest.raises(errors.ExecutionCancelled) as caught:
        execution.result(LONG)
    assert isinstance(caught.value.__cause__, ValueError)
    assert attempts == [1]


def test_a_failed_attempt_is_logged(scope: Scope, caplog: pytest.LogCaptureFixture) -> None:
    """``attempt.failed``: which of how many, and the error."""
    caplog.set_level(logging.WARNING, "workflow_runner")
    scope.run(flow(name="flaky", retry=Retry(attempts=3, initial=0))(Flaky(2)))
    assert [(r.event, r.attempt, r.attempts, r.error) for r in caplog.records] == [  # type: ignore[attr-defined]
        ("attempt.failed", 1, 3, "ValueError('no')"),
        ("attempt.failed", 2, 3, "ValueError('no')"),
    ]


# -- with deadlines


@pytest.mark.parametrize("categories", [("TIMEOUT",), ()])
def test_a_childs_timeout_is_per_attempt(
    make_scope: Callable[..., Scope], clock: ManualClock, event: Any, categories: tuple[str, ...]
) -> None:
    """Each attempt has the whole time; a timed-out one is retried if TIMEOUT is among the categories."""
    scope, go = make_scope(clock=clock), event()
    begun: list[threading.Event] = [event() for _ in range(3)]

    @flow(timeout=10, retry=Retry(attempts=3, initial=0, on=ValueError, categories=categories))
    def slow(ctx: FlowContext, _: Any) -> str:
        begun[ctx.attempt - 1].set()
        if ctx.attempt < 3:
            assert go.wait(LONG)
        return "done"

    @flow
    def top(ctx: FlowContext, _: Any) -> str:
        return ctx.exec(slow)

    execution = scope.exec(top)
    assert begun[0].wait(LONG)
    clock.advance(10)
    if categories:
        assert begun[1].wait(LONG)
        clock.advance(9.5)
        assert not begun[2].is_set()
        clock.advance(0.5)
        assert execution.result(LONG) == "done"
    else:
        with pytest.raises(errors.ExecutionTimeout):
            execution.result(LONG)
        assert not begun[1].is_set()
    go.set()


def test_a_roots_timeout_is_for_all_attempts(make_scope: Callable[..., Scope], clock: ManualClock) -> None:
    """The deadline of a root ends its waits between attempts as well."""
    scope = make_scope(clock=clock)
    handler = Flaky(9)
    execution = scope.exec(flow(name="flaky", timeout=70, retry=Retry(initial=50, jitter=False))(handler))
    clock.block_until(50)
    clock.advance(50)
    clock.block_until(20)  # the deadline
    clock.block_until(60)  # the second wait
    clock.advance(20)
    with pytest.raises(errors.ExecutionTimeout, match="flaky timed out after 70 s"):
        execution.result(LONG)
    assert handler.attempts == [1, 2]


def test_a_call_may_be_retried(scope: Scope) -> None:
    """``retry=`` of ``ctx.exec`` works for plain functions, which see no ctx."""
    attempts: list[int] = []

    def fails_once() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("gone")
        return "back"

    @flow
    def top(ctx: FlowContext, _: Any) -> str:
        return ctx.exec(call(fails_once), retry=Retry(attempts=2, initial=0))

    assert scope.run(top) == "back"
