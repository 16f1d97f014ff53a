"""What a retry reuses of the run that it retries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from workflow_runner import FlowContext, Scope, Step, StepResult, Workflow, WorkflowContext, errors, flow
from workflow_runner.store.base import Store

ran: list[str] = []


def first(context: WorkflowContext) -> StepResult:
    ran.append("first")
    return StepResult.ok(context_updates={"limit": f"{context.get_param('limit')}+"})


def second(context: WorkflowContext) -> dict[str, Any]:
    ran.append("second")
    if not context.get_param("good"):
        raise ValueError("bad")
    return {"limit": context.get_param("limit")}


steps = Workflow("steps", steps=[Step("first", first), Step("second", second)])


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    """Each test counts for itself."""
    ran.clear()


def test_a_retry_without_reuse_runs_everything(make_scope: Callable[..., Scope], store: Store) -> None:
    """With the same input, in a run of its own."""
    scope = make_scope(store=store)
    old = scope.exec(steps, {"limit": "5"})
    assert isinstance(old.exception(), errors.WorkflowFailed)
    new = scope.retry(old.id, reuse=False)
    assert isinstance(new.exception(), errors.WorkflowFailed)
    assert ran == ["first", "second", "first", "second"]
    assert store.run(new.id).parent == old.id
    assert scope.retry(old.id).exception() is not None
    assert ran[4:] == ["second"]


def test_overrides_win_over_what_is_reused_and_not_over_what_is_made(
    make_scope: Callable[..., Scope], store: Store
) -> None:
    """A param that was given at resume stays the input of a retry; steps that run anew change it as they do."""
    scope = make_scope(store=store)
    old = scope.exec(steps, {"limit": "5"})
    assert old.exception() is not None
    assert scope.resume(old.id, params_override={"limit": "7"}).exception() is not None
    new = scope.retry(old.id, reuse=False)
    assert new.exception() is not None
    # 'first' is answered from its record now, and what it has made of the override counts
    resumed = scope.resume(new.id, params_override={"good": True})
    assert resumed.result().context.get_output("second", "limit") == "7+"
    reused = scope.retry(old.id)
    assert reused.exception() is not None
    assert scope.resume(reused.id, params_override={"good": True}).result().context.params["limit"] == "7"


@flow
def stuck(ctx: FlowContext, fail: bool) -> None:
    if not ran:
        ran.append("failed")
        raise ValueError("once")
    ctx.sleep(3600)


def test_a_retry_has_a_timeout(make_scope: Callable[..., Scope], store: Store) -> None:
    """Of running time, as every start."""
    scope = make_scope(store=store)
    old = scope.exec(stuck, True)
    assert isinstance(old.exception(), ValueError)
    with pytest.raises(errors.ExecutionTimeout):
        scope.retry(old.id, timeout=0.01).result()
