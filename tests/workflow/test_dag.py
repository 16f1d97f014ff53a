"""Steps with ``needs``: what runs side by side, what each step sees, and how it is merged."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow_runner import Scope, Step, StepResult, Workflow, WorkflowContext, errors, flow


def seen(context: WorkflowContext) -> dict[str, Any]:
    return {"seen": list(context.step_outputs)}


def fails(context: WorkflowContext) -> None:
    raise ValueError("no")


@pytest.fixture
def scope() -> Any:
    with Scope(max_workers=4) as scope:
        yield scope


def test_independent_steps_run_side_by_side(scope: Scope) -> None:
    """Three roots meet at a barrier, which they can only pass together."""
    barrier = threading.Barrier(3, timeout=10)

    def meets(context: WorkflowContext) -> None:
        barrier.wait()

    steps = [Step(name, meets, needs=()) for name in "abc"]
    assert scope.run(Workflow("w", steps=steps)).completed_steps == ("a", "b", "c")


def test_a_dag_finishes_on_one_slot() -> None:
    """The caller works through every step itself if nobody can help."""
    steps = [Step("a", seen, needs=()), Step("b", seen, needs=()), Step("c", seen, needs=("a", "b"))]
    with Scope(max_workers=1) as scope:
        assert scope.run(Workflow("w", steps=steps)).completed_steps == ("a", "b", "c")


def test_a_step_sees_its_ancestors_only(scope: Scope) -> None:
    """Outputs and updates of steps beside it are not there, whether they have finished or not."""
    done = threading.Event()

    def beside(context: WorkflowContext) -> StepResult:
        done.set()
        return StepResult.ok({"n": 1}, context_updates={"p": 1})

    def late(context: WorkflowContext) -> dict[str, Any]:
        assert done.wait(10)
        return {"seen": list(context.step_outputs), "params": dict(context.params)}

    steps = [
        Step("root", seen, needs=()),
        Step("beside", beside, needs=()),
        Step("late", late, needs=("root",)),
        Step("last", seen, needs=("late",)),
    ]
    result = scope.run(Workflow("w", steps=steps))
    assert result.context.get_output("late") == {"seen": ["root"], "params": {}}
    assert result.context.get_output("last") == {"seen": ["root", "late"]}
    assert result.context.params == {"p": 1}


def test_declaration_order_need_not_be_topological(scope: Scope) -> None:
    """A step may need one that is declared after it; records stay in order of declaration."""
    steps = [Step("last", seen, needs=("first",)), Step("first", seen, needs=())]
    result = scope.run(Workflow("w", steps=steps))
    assert result.context.get_output("last") == {"seen": ["first"]}
    assert result.completed_steps == ("last", "first")


def test_without_needs_a_step_follows_the_one_before(scope: Scope) -> None:
    """In a DAG too, needs=None means after the previous step."""
    steps = [Step("a", seen, needs=()), Step("b", seen), Step("c", seen, needs=("a",))]
    result = scope.run(Workflow("w", steps=steps))
    assert result.context.get_output("b") == {"seen": ["a"]}
    assert result.context.get_output("c") == {"seen": ["a"]}


def test_every_finishing_order_gives_one_context() -> None:
    """Three steps side by side that finish in any of the six orders: the contexts, and their JSON texts, are equal."""
    texts = set()
    for order in itertools.permutations("abc"):
        done = {name: threading.Event() for name in "abc"}

        def body(name: str, order: Any = order, done: Any = done) -> Any:
            def run(context: WorkflowContext) -> StepResult:
                place = order.index(name)
                if place:
                    assert done[order[place - 1]].wait(10)
                done[name].set()
                return StepResult.ok({"n": name}, context_updates={name: 1, "same": 0})

            return run

        steps = [Step(name, body(name), needs=()) for name in "abc"]
        steps.append(Step("end", seen, needs=("c", "a", "b")))
        with Scope(max_workers=4) as scope:
            result = scope.run(Workflow("w", steps=steps))
        assert result.context.get_output("end") == {"seen": ["a", "b", "c"]}
        texts.add(str([result.context.to_dict()[key] for key in ("params", "step_outputs")]))
    assert len(texts) == 1


def test_two_values_for_one_param_are_a_conflict(scope: Scope) -> None:
    """Side-by-side steps that disagree on a param stop the step that needs both, with MergeConflict naming them."""
    steps = [
        Step("a", lambda c: StepResult.ok(context_updates={"p": 1}), needs=()),
        Step("b", lambda c: StepResult.ok(context_updates={"p": 2}), needs=()),
        Step("c", seen, needs=("a", "b")),
    ]
    with pytest.raises(errors.WorkflowFailed, match=r"steps 'a' and 'b' .* 'p': 1 and 2") as caught:
        scope.run(Workflow("w", steps=steps))
    assert isinstance(caught.value.__cause__, errors.MergeConflict)
    assert caught.value.result.error_step == "c"
    with pytest.raises(errors.WorkflowFailed, match="may run side by side"):
        scope.run(Workflow("w", steps=steps[:2]))


def test_equal_values_for_one_param_are_none(scope: Scope) -> None:
    """Two steps that write the same value agree."""
    steps = [Step(name, lambda c: StepResult.ok(context_updates={"p": [1]}), needs=()) for name in "ab"]
    assert scope.run(Workflow("w", steps=steps)).context.params == {"p": [1]}


def test_a_descendant_overrides_its_ancestor(scope: Scope) -> None:
    """A later value of a param wins over that of a step before it."""
    steps = [
        Step("a", lambda c: StepResult.ok(context_updates={"p": 1}), needs=()),
        Step("b", lambda c: StepResult.ok(context_updates={"p": c.params["p"] + 1}), needs=("a",)),
        Step("c", lambda c: {"p": c.params["p"]}, needs=("a", "b")),
    ]
    result = scope.run(Workflow("w", steps=steps))
    assert result.context.get_output("c") == {"p": 2}
    assert result.context.params == {"p": 2}


def test_a_failure_skips_those_that_name_it(scope: Scope) -> None:
    """With on_error="continue", steps that name the failed one are skipped, and those that name these; others run."""
    steps = [
        Step("a", fails, needs=(), on_error="continue"),
        Step("follows", seen),
        Step("names", seen, needs=("a",)),
        Step("names_again", seen, needs=("names",)),
        Step("other", seen, needs=("follows",)),
    ]
    result = scope.run(Workflow("w", steps=steps))
    assert result.status == "partial"
    assert result.completed_steps == ("follows", "other")
    assert result.skipped_steps == ("names", "names_again")
    assert result.steps["names"].reason == "it needs 'a', which did not complete"
    assert result.steps["names_again"].reason == "it needs 'names', which did not complete"


def test_a_failure_signals_the_running_steps_and_awaits_them(scope: Scope) -> None:
    """At a failure that stops, no new step starts, the running ones get the signal and are awaited."""
    running, told = threading.Event(), threading.Event()

    @flow
    def looks(ctx: Any, context: WorkflowContext) -> None:
        running.set()
        if ctx.signal.wait(10):
            told.set()
        ctx.throw_if_aborted()

    def fails_late(context: WorkflowContext) -> None:
        assert running.wait(10)
        raise ValueError("no")

    steps = [
        Step("looks", looks, needs=()),
        Step("fails", fails_late, needs=()),
        Step("after", seen, needs=("fails", "looks")),
    ]
    with pytest.raises(errors.WorkflowFailed) as caught:
        scope.run(Workflow("w", steps=steps))
    assert told.is_set()
    assert isinstance(caught.value.__cause__, ValueError)
    result = caught.value.result
    assert result.error_step == "fails"
    assert result.steps["after"].status == "pending"


def test_choices_and_fan_outs_work_inside(scope: Scope) -> None:
    """A choice in a DAG merges its branch's outputs; a fan-out in a step uses the same slots."""

    @flow
    def fan(ctx: Any, context: WorkflowContext) -> dict[str, Any]:
        return {"n": sum(ctx.parallel(one.each(range(20))))}

    @flow
    def one(ctx: Any, n: int) -> int:
        return 1

    steps = [
        Step("fan", fan, needs=()),
        Step.choice("c", when=lambda c: 1, then=[Step("t", fan), Step("t2", seen)], needs=()),
        Step("end", seen, needs=("c", "fan")),
    ]
    for _ in range(20):
        result = scope.run(Workflow("w", steps=steps))
        assert result.context.get_output("end") == {"seen": ["fan", "c", "t", "t2"]}
        assert result.context.get_output("t") == {"n": 20}


def test_cancelling_a_dag_ends_it(scope: Scope) -> None:
    """The signal reaches the running steps; no other step starts; the execution is cancelled."""
    both = threading.Barrier(3, timeout=10)
    after = threading.Event()

    @flow
    def waits(ctx: Any, context: WorkflowContext) -> None:
        both.wait()
        ctx.sleep(3600)

    steps = [Step("a", waits, needs=()), Step("b", waits, needs=()), Step("c", lambda c: after.set(), needs=("a",))]
    execution = scope.exec(Workflow("w", steps=steps))
    both.wait()
    execution.cancel()
    with pytest.raises(errors.ExecutionCancelled):
        execution.result(10)
    assert not after.is_set()


@st.composite
def dags(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """For each step the steps before it that it needs."""
    size = draw(st.integers(1, 12))
    return [tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=3)))) if i else () for i in range(size)]


@settings(max_examples=60, deadline=None)
@given(needs=dags(), workers=st.sampled_from([1, 2, 8]))
def test_random_dags_finish_and_see_exactly_their_ancestors(needs: list[tuple[int, ...]], workers: int) -> None:
    """On any number of slots every step runs once, after all its ancestors, and sees them and nobody else."""
    ran: list[str] = []

    def body(context: WorkflowContext, config: Any) -> dict[str, Any]:
        ran.append(config["name"])
        return {"seen": sorted(context.step_outputs)}

    steps = [
        Step(f"s{i:02}", body, config={"name": f"s{i:02}"}, needs=tuple(f"s{n:02}" for n in before))
        for i, before in enumerate(needs)
    ]
    with Scope(max_workers=workers) as scope:
        result = scope.run(Workflow("w", steps=steps))
    ancestors: list[set[int]] = []
    for before in needs:
        ancestors.append(set(before).union(*(ancestors[b] for b in before)))
    assert sorted(ran) == [step.name for step in steps]
    for i, expected in enumerate(ancestors):
        assert result.context.get_output(f"s{i:02}") == {"seen": [f"s{a:02}" for a in sorted(expected)]}
