"""What a workflow's run does, and what its result tells."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from workflow_runner import (
    ErrorCategory,
    Extension,
    QualityMetrics,
    Retry,
    Scope,
    Step,
    StepResult,
    Workflow,
    WorkflowContext,
    call,
    current,
    errors,
    flow,
    flow_meta,
    tag,
)


@pytest.fixture
def scope() -> Any:
    with Scope(max_workers=4) as scope:
        yield scope


def fails(context: WorkflowContext) -> None:
    raise ValueError("no")


def names(context: WorkflowContext) -> dict[str, Any]:
    return {"seen": list(context.step_outputs)}


# -- what bodies get and give


def test_outputs_and_updates_reach_the_next_step(scope: Scope) -> None:
    """A step's output is found under its name, its updates among the params."""
    workflow = Workflow(
        "w",
        steps=[
            Step(
                "a",
                lambda context, config: StepResult.ok({"n": config["n"]}, context_updates={"p": 2}),
                config={"n": 1},
            ),
            Step("b", lambda context: {"sum": context.get_output("a", "n") + context.get_param("p")}),
        ],
    )
    result = scope.run(workflow)
    assert result.context.get_output("b") == {"sum": 3}
    assert result.context.params == {"p": 2}
    assert result.status == "completed"


def test_none_and_mappings_are_results(scope: Scope) -> None:
    """None means done without output, which is stored as None; a mapping is the output."""
    result = scope.run(Workflow("w", steps=[Step("a", lambda context: None), Step("b", lambda context: {})]))
    assert result.context.has_output("a")
    assert result.context.get_output("a", default=1) is None
    assert result.context.get_output("b", default=1) == {}


def test_anything_else_is_refused_naming_the_step(scope: Scope) -> None:
    """A body that returns a number has made a mistake."""
    with pytest.raises(errors.WorkflowFailed, match="step 'a' returned 3"):
        scope.run(Workflow("w", steps=[Step("a", lambda context: 3)]))


def test_the_context_of_the_caller_is_not_changed(scope: Scope) -> None:
    """The runner merges into new contexts; the one that was passed in stays as it was."""
    context = WorkflowContext.new(params={"p": 1})
    result = scope.run(Workflow("w", steps=[Step("a", lambda c: StepResult.ok(context_updates={"p": 2}))]), context)
    assert context.params == {"p": 1}
    assert not context.step_outputs
    assert result.context.params == {"p": 2}


def test_a_context_started_twice_is_two_runs(scope: Scope) -> None:
    """The run's id is the execution's, and is in the context that the steps see."""
    workflow = Workflow("w", steps=[Step("a", lambda context: {"id": context.run_id})])
    context = WorkflowContext.new()
    first, second = scope.exec(workflow, context), scope.exec(workflow, context)
    assert first.result().context.get_output("a", "id") == first.id == first.result().run_id
    assert first.id != second.id == second.result().run_id


def test_a_flow_as_a_body_has_the_signal_and_the_fan_out(scope: Scope) -> None:
    """A flow step gets (ctx, context), its config under a tag, and its children's paths lie below the step's."""

    @flow
    def double(ctx: Any, n: int) -> tuple[int, str]:
        return 2 * n, ctx.id

    @flow
    def body(ctx: Any, context: WorkflowContext) -> dict[str, Any]:
        items = ctx.parallel(double.each(context.params["numbers"]))
        return {"items": items, "config": dict(ctx.get(flow_meta.config)), "token": ctx.idempotency_token}

    result = scope.run(Workflow("w", steps=[Step("a", body, config={"k": 1})]), {"numbers": [1, 2]})
    run = result.run_id
    assert result.context.get_output("a") == {
        "items": [(2, f"{run}/a/parallel[0]"), (4, f"{run}/a/parallel[1]")],
        "config": {"k": 1},
        "token": f"{run}/a",
    }


def test_current_and_the_log_context_name_the_step(scope: Scope) -> None:
    """Anywhere below a step ``current()`` is its execution, and structlog knows run, trace, workflow and step."""
    from structlog.contextvars import get_contextvars

    seen: dict[str, Any] = {}

    def body(context: WorkflowContext) -> None:
        seen.update(get_contextvars(), current=current().name, trace=context.trace_id)

    result = scope.run(Workflow("nightly", steps=[Step("a", body), Step("b", lambda context: None)]))
    assert seen == {
        "run_id": result.run_id,
        "trace_id": seen["trace"],
        "flow": "nightly",
        "step": "a",
        "current": "a",
        "trace": result.context.trace_id,
    }


# -- kinds of steps


def route(good: bool) -> Workflow:
    return Workflow(
        "w",
        steps=[
            Step.choice(
                "route",
                when=lambda context: good,
                then=[Step("load", names), Step("index", lambda c: StepResult.ok({"n": 1}, context_updates={"i": 1}))],
                otherwise=[Step("quarantine", names)],
            ),
            Step("report", names),
        ],
    )


def test_a_choice_runs_one_branch_and_skips_the_other(scope: Scope) -> None:
    """The branch's outputs and updates reach what follows; the other branch is skipped with the reason."""
    result = scope.run(route(True))
    assert result.completed_steps == ("route", "load", "index", "report")
    assert result.steps["quarantine"].status == "skipped"
    assert result.steps["quarantine"].reason == "'route' took 'then'"
    assert result.context.get_output("route") == {"branch": "then"}
    assert result.context.get_output("report") == {"seen": ["route", "load", "index"]}
    assert result.context.params == {"i": 1}
    assert scope.run(route(False)).completed_steps == ("route", "quarantine", "report")


def test_a_choice_without_the_branch_goes_on(scope: Scope) -> None:
    """With no ``otherwise``, a false condition skips ``then`` and nothing else."""
    workflow = Workflow("w", steps=[Step.choice("c", when=lambda c: 0, then=[Step("t", names)]), Step("z", names)])
    assert scope.run(workflow).completed_steps == ("c", "z")


def test_a_failure_in_a_branch_stops_the_workflow_there(scope: Scope) -> None:
    """The step in the branch is the error step, its choice has failed too, and what follows was never reached."""
    workflow = Workflow("w", steps=[Step.choice("c", when=lambda c: 1, then=[Step("t", fails)]), Step("z", names)])
    with pytest.raises(errors.WorkflowFailed) as caught:
        scope.run(workflow)
    result = caught.value.result
    assert result.error_step == "t"
    assert result.failed_steps == ("c", "t")
    assert result.steps["z"].status == "pending"


def test_a_choice_that_may_fail_absorbs_its_branch(scope: Scope) -> None:
    """With on_error="continue" on the choice the workflow goes on and ends partial."""
    choice = Step.choice("c", when=lambda c: 1, then=[Step("t", fails)], on_error="continue")
    result = scope.run(Workflow("w", steps=[choice, Step("z", names)]))
    assert result.status == "partial"
    assert result.failed_steps == ("c", "t")
    assert result.error_step is None


def test_a_map_runs_a_body_for_each_item_in_order(scope: Scope) -> None:
    """Items come from a param or a function, the body is a flow or a function, the output is in order."""

    @flow
    def double(ctx: Any, item: str) -> str:
        return item * 2

    workflow = Workflow(
        "w",
        steps=[
            Step.map("a", double, items="symbols", max_concurrency=2),
            Step.map("b", str.lower, items=lambda context: context.get_output("a", "items")),
        ],
    )
    result = scope.run(workflow, {"symbols": ["A", "B", "C"]})
    assert result.context.get_output("a") == {"items": ["AA", "BB", "CC"]}
    assert result.context.get_output("b") == {"items": ["aa", "bb", "cc"]}


def test_a_map_over_a_missing_param_names_it(scope: Scope) -> None:
    """No param of that name is an InputError that names step and param; a text is no list of items."""
    workflow = Workflow("w", steps=[Step.map("m", len, items="symbols")])
    with pytest.raises(errors.WorkflowFailed, match="step 'm': there is no param 'symbols'"):
        scope.run(workflow)
    with pytest.raises(errors.WorkflowFailed, match="items must be an iterable"):
        scope.run(workflow, {"symbols": "AAPL"})


def test_a_wait_ends_when_the_run_is_cancelled(scope: Scope) -> None:
    """A waiting step looks at the signal: cancelling ends it at once and what follows does not start."""
    waiting, after = threading.Event(), threading.Event()
    workflow = Workflow(
        "w",
        steps=[
            Step("a", lambda c: waiting.set()),
            Step.wait("pause", seconds=3600),
            Step("b", lambda c: after.set()),
        ],
    )
    execution = scope.exec(workflow)
    assert waiting.wait(10)
    execution.cancel("enough")
    with pytest.raises(errors.ExecutionCancelled) as caught:
        execution.result(10)
    assert caught.value.reason == "enough"
    assert not after.is_set()


def test_a_workflow_nests(scope: Scope) -> None:
    """Its outputs by step name are the step's output, its updates reach the outer params, its records are kept."""
    inner = Workflow(
        "inner",
        steps=[Step("x", lambda c: StepResult.ok({"n": c.params["n"]}, context_updates={"n": 5})), Step("y", names)],
    )
    result = scope.run(Workflow("outer", steps=[Step("a", names), Step("nest", inner), Step("z", names)]), {"n": 1})
    assert result.context.get_output("nest") == {"x": {"n": 1}, "y": {"seen": ["a", "x"]}}
    assert result.context.get_output("z") == {"seen": ["a", "nest"]}
    assert result.context.params == {"n": 5}
    assert [record.name for record in result.steps["nest"].steps] == ["x", "y"]


def test_a_workflow_that_a_step_returns_runs_in_its_place(scope: Scope) -> None:
    """A body may decide at run time which workflow does its work."""
    inner = Workflow("inner", steps=[Step("x", lambda c: {"n": 1})])
    assert scope.run(Workflow("w", steps=[Step("a", lambda c: inner)])).context.get_output("a") == {"x": {"n": 1}}


def test_a_nested_failure_tells_its_steps(scope: Scope) -> None:
    """The outer step has failed with the inner WorkflowFailed and keeps the inner records."""
    inner = Workflow("inner", steps=[Step("x", names), Step("y", fails)])
    with pytest.raises(errors.WorkflowFailed) as caught:
        scope.run(Workflow("outer", steps=[Step("nest", inner)]))
    record = caught.value.result.steps["nest"]
    assert isinstance(record.error, errors.WorkflowFailed)
    assert isinstance(record.error.__cause__, ValueError)
    assert [(r.name, str(r.status)) for r in record.steps] == [("x", "completed"), ("y", "failed")]


def test_a_partial_nested_workflow_makes_the_outer_one_partial(scope: Scope) -> None:
    """A failure that an inner step may have is told by the outer result."""
    inner = Workflow("inner", steps=[Step("x", fails, on_error="continue")])
    result = scope.run(Workflow("outer", steps=[Step("nest", inner)]))
    assert result.status == "partial"
    assert result.steps["nest"].status == "completed"


# -- failures


def test_a_raised_failure_is_the_cause(scope: Scope) -> None:
    """WorkflowFailed comes from the step's own exception object, and its result tells everything up to there."""
    error = ValueError("no")

    def raises(context: WorkflowContext) -> None:
        raise error

    with pytest.raises(errors.WorkflowFailed) as caught:
        scope.run(Workflow("w", steps=[Step("a", names), Step("b", raises), Step("c", names)]))
    assert caught.value.__cause__ is error
    result = caught.value.result
    assert result.status == "failed"
    assert (result.completed_steps, result.failed_steps, result.error_step) == (("a",), ("b",), "b")
    assert result.error is error
    assert result.steps["c"].status == "pending"
    assert result.context.has_output("a")


def test_a_returned_failure_is_a_step_failed(scope: Scope) -> None:
    """StepResult.fail becomes StepFailed with step and category; its output and quality are in the record."""
    quality = QualityMetrics(record_count=2, invalid_count=2, passed=False)

    def body(context: WorkflowContext) -> StepResult:
        return StepResult.fail("bad bars", category=ErrorCategory.DATA_QUALITY, output={"n": 2}, quality=quality)

    with pytest.raises(errors.WorkflowFailed) as caught:
        scope.run(Workflow("w", steps=[Step("a", body)]))
    cause = caught.value.__cause__
    assert isinstance(cause, errors.StepFailed)
    assert (cause.step, cause.category) == ("a", ErrorCategory.DATA_QUALITY)
    record = caught.value.result.steps["a"]
    assert (record.output, record.quality, record.category) == ({"n": 2}, quality, ErrorCategory.DATA_QUALITY)


def test_a_returned_failure_keeps_its_exception_as_cause(scope: Scope) -> None:
    """StepResult.fail(exception) chains the exception below StepFailed."""
    error = OSError("disk")
    with pytest.raises(errors.WorkflowFailed) as caught:
        scope.run(Workflow("w", steps=[Step("a", lambda c: StepResult.fail(error))]))
    assert caught.value.__cause__.__cause__ is error  # type: ignore[union-attr]


def test_on_error_continue_goes_on_and_ends_partial(scope: Scope) -> None:
    """The failed step has no output, what follows runs, and the execution is completed."""
    workflow = Workflow("w", steps=[Step("a", fails, on_error="continue"), Step("b", names)])
    execution = scope.exec(workflow)
    result = execution.result()
    assert result.status == "partial"
    assert result.failed_steps == ("a",)
    assert result.context.get_output("b") == {"seen": []}
    assert execution.status == "completed"


def test_a_skipped_step_has_no_output(scope: Scope) -> None:
    """StepResult.skip is a success without output; what follows runs, also what needs it by name."""
    workflow = Workflow(
        "w", steps=[Step("a", lambda c: StepResult.skip("closed"), needs=()), Step("b", names, needs=("a",))]
    )
    result = scope.run(workflow)
    assert result.status == "completed"
    assert result.steps["a"].reason == "closed"
    assert result.skipped_steps == ("a",)
    assert result.context.get_output("b") == {"seen": []}


def test_cancel_between_steps_starts_no_further_step(scope: Scope) -> None:
    """A plain step that does not look at the signal ends; the next one does not start."""
    entered, go, after = threading.Event(), threading.Event(), threading.Event()

    def body(context: WorkflowContext) -> None:
        entered.set()
        assert go.wait(10)

    execution = scope.exec(Workflow("w", steps=[Step("a", body), Step("b", lambda c: after.set())]))
    assert entered.wait(10)
    execution.cancel()
    go.set()
    with pytest.raises(errors.ExecutionCancelled):
        execution.result(10)
    assert not after.is_set()


# -- retries and time


def test_attempts_are_counted(scope: Scope) -> None:
    """A step that fails twice and then works has three attempts, and ``ctx.attempt`` has counted them."""
    seen = []

    @flow
    def flaky(ctx: Any, context: WorkflowContext) -> None:
        seen.append(ctx.attempt)
        if len(seen) < 3:
            raise ConnectionError

    result = scope.run(Workflow("w", steps=[Step("a", flaky, retry=Retry(attempts=3, initial=0))]))
    assert result.steps["a"].attempts == 3
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(("category", "attempts"), [("TRANSIENT", 3), ("VALIDATION", 1)])
def test_a_returned_failure_is_retried_by_its_category(scope: Scope, category: str, attempts: int) -> None:
    """TRANSIENT is worth another attempt, VALIDATION is not."""
    workflow = Workflow(
        "w", steps=[Step("a", lambda c: StepResult.fail("x", category=category), retry=Retry(attempts=3, initial=0))]
    )
    with pytest.raises(errors.WorkflowFailed) as caught:
        scope.run(workflow)
    assert caught.value.result.steps["a"].attempts == attempts


def test_a_step_s_timeout_is_per_attempt(scope: Scope) -> None:
    """An attempt that is stuck is abandoned and the next one is made; its late result is dropped."""
    stuck = threading.Event()
    calls = []

    def body(context: WorkflowContext) -> dict[str, Any]:
        calls.append(None)
        if len(calls) == 1:
            assert stuck.wait(10)
            return {"late": True}
        return {"n": len(calls)}

    result = scope.run(Workflow("w", steps=[Step("a", body, timeout=0.05, retry=Retry(attempts=2, initial=0))]))
    stuck.set()
    assert result.context.get_output("a") == {"n": 2}
    assert result.steps["a"].attempts == 2


def test_a_timed_out_step_has_the_category_timeout(scope: Scope) -> None:
    """Without a retry the step has failed with ExecutionTimeout, and the workflow with it."""
    stuck = threading.Event()
    with pytest.raises(errors.WorkflowFailed) as caught:
        scope.run(Workflow("w", steps=[Step("a", lambda c: {"set": stuck.wait(10)}, timeout=0.02)]))
    stuck.set()
    assert isinstance(caught.value.__cause__, errors.ExecutionTimeout)
    assert caught.value.result.steps["a"].category == "TIMEOUT"


def test_the_defaults_of_a_flow_as_a_body_hold(scope: Scope) -> None:
    """A flow's own retry, timeout and tags count where the step gives none."""
    mine = tag(str, label="mine")
    seen = []

    @flow(retry=Retry(attempts=2, initial=0), tags=[mine("yes")])
    def body(ctx: Any, context: WorkflowContext) -> None:
        seen.append(ctx.get(mine))
        if len(seen) == 1:
            raise ConnectionError

    assert scope.run(Workflow("w", steps=[Step("a", body)])).steps["a"].attempts == 2
    assert seen == ["yes", "yes"]


# -- the result


def test_a_result_is_json(scope: Scope) -> None:
    """``to_dict`` is strict JSON with status, times, steps, attempts and the context."""
    workflow = Workflow("w", steps=[Step("a", lambda c: {"d": (1, 2)}), Step("b", fails, on_error="continue")])
    result = scope.run(workflow, WorkflowContext.new(as_of_date="2013-02-28"))
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["status"] == "partial"
    assert data["run_id"] == result.run_id
    assert [step["name"] for step in data["steps"]] == ["a", "b"]
    error = {"type": "ValueError", "module": "builtins", "message": "no", "notes": [], "cause": None}
    assert data["steps"][1]["error"] == error
    assert WorkflowContext.from_dict(data["context"]) == result.context


def test_times_are_aware_and_add_up(scope: Scope) -> None:
    """Started and completed are in UTC, and the steps lie inside."""
    result = scope.run(Workflow("w", steps=[Step("a", names)]))
    assert result.started_at.utcoffset() is not None
    assert (result.completed_at - result.started_at).total_seconds() == pytest.approx(result.duration, abs=1e-5)
    assert 0 <= result.steps["a"].duration <= result.duration
    assert result.steps["a"].started_at is not None


def test_records_are_found_by_name_and_by_index(scope: Scope) -> None:
    """``steps`` is a tuple that also takes a name."""
    result = scope.run(Workflow("w", steps=[Step("a", names)]))
    assert result.steps["a"] is result.steps[0]
    with pytest.raises(KeyError):
        result.steps["b"]


def test_extensions_see_steps(scope: Scope) -> None:
    """Each attempt of a step is an operation of kind "step" around which an extension can wrap."""
    seen = []

    class Recorder(Extension):
        def wrap(self, scope: Scope, next: Any, operation: Any) -> Any:
            seen.append((operation.kind, operation.name, operation.attempt))
            return next()

    with Scope(extensions=[Recorder()]) as own:
        own.run(
            Workflow(
                "w",
                steps=[
                    Step("a", names),
                    Step.choice("c", when=lambda c: 1, then=[Step("t", names)]),
                    Step.map("m", len, items="x"),
                ],
            ),
            {"x": ["a"]},
        )
    assert seen == [
        ("execution", "w", 1),
        ("step", "a", 1),
        ("step", "c", 1),
        ("step", "t", 1),
        ("step", "m", 1),
        ("parallel", "items", 1),
        ("execution", "len", 1),
    ]


def test_a_workflow_is_a_flow(scope: Scope) -> None:
    """It runs as a child, in a fan-out, and as a plain call."""
    workflow = Workflow("w", steps=[Step("a", lambda c: {"n": c.params["n"]})])

    @flow
    def parent(ctx: Any, n: int) -> list[Any]:
        results = [ctx.exec(workflow, {"n": n}), *ctx.parallel(workflow.each([{"n": 2}, {"n": 3}]))]
        return [result.context.get_output("a", "n") for result in results]

    assert scope.run(parent, 1) == [1, 2, 3]
    assert scope.run(call(lambda: workflow.name)) == "w"
