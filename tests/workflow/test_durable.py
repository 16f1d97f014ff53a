"""Runs that survive their process: what is recorded, what is answered from it, and who may go on."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import re
import sqlite3
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from store.records import LONG, die, program, until

from workflow import durable_flows
from workflow.durable_flows import double, doubles, pair
from workflow_runner import (
    ExecutionStatus,
    FlowContext,
    QualityMetrics,
    Retry,
    Scope,
    Step,
    StepResult,
    Workflow,
    WorkflowContext,
    WorkflowResult,
    call,
    current,
    errors,
    flow,
)
from workflow_runner._core import codec
from workflow_runner.store import base
from workflow_runner.store.sqlite import SQLiteStore

NOW = Retry(attempts=3, initial=0, jitter=False)


@pytest.fixture
def scope(make_scope: Callable[..., Scope], store: Any) -> Scope:
    """A scope on each kind of store."""
    return make_scope(max_workers=4, store=store)


def recorded(store: Any, run_id: str) -> list[str]:
    return [row.path for row in store.steps(run_id)]


def failed(scope: Scope, *args: Any, **options: Any) -> str:
    """Start a run that fails; its id."""
    execution = scope.exec(*args, **options)
    assert execution.exception(LONG) is not None
    assert scope.store.run(execution.id).status == "failed"
    return execution.id


class Body:
    """Step bodies that note that they ran, and fail while their name is in ``failing``."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failing: set[str] = set()

    def __call__(self, name: str, result: Any = None, **options: Any) -> Step:
        def body(context: WorkflowContext) -> Any:
            self.note(name)
            return result(context) if callable(result) else result

        return Step(name, body, **options)

    def note(self, name: str) -> None:
        self.ran.append(name)
        if name in self.failing:
            raise RuntimeError(f"{name} fails")

    def again(self) -> None:
        """From now on nothing fails, and what has run is forgotten."""
        self.ran.clear()
        self.failing.clear()


@pytest.fixture
def body() -> Body:
    return Body()


# -- what is recorded


def test_every_step_is_a_row_with_only_what_it_added(scope: Scope, store: Any, body: Body) -> None:
    """One row for each step, in order, which does not repeat what the steps before it have made."""
    steps = [
        body(f"s{n}", lambda context, n=n: StepResult.ok({"n": n}, context_updates={f"p{n}": n})) for n in range(9)
    ]
    result = scope.run(Workflow("w", steps=steps), {"x": "y" * 1000})
    rows = store.steps(result.run_id)
    assert [(row.path, row.kind, row.status, row.attempt) for row in rows] == [
        (f"s{n}", "step", "completed", 1) for n in range(9)
    ]
    assert [codec.loads(row.output) for row in rows] == [
        {"output": {"n": n}, "updates": {f"p{n}": n}} for n in range(9)
    ]
    assert all(row.started_at <= row.finished_at for row in rows)
    assert store.checkpoints(result.run_id) == rows


def test_every_child_is_a_row(scope: Scope, store: Any) -> None:
    """By name, by number from the second of a name on, or by key; below the child around it."""

    @flow
    def inner(ctx: FlowContext, n: int) -> int:
        return ctx.exec(double, n) + 1

    @flow
    def outer(ctx: FlowContext, n: int) -> int:
        ctx.exec(inner, 1)
        ctx.exec(inner, 2)
        ctx.exec(inner, 3, key="k")
        ctx.exec(inner, 4, name="named")
        ctx.exec(call(durable_flows.add, 1, b=2))
        return 0

    execution = scope.exec(outer, 0)
    execution.result(LONG)
    rows = store.steps(execution.id)
    assert [(row.path, row.flow, row.kind) for row in rows] == [
        ("inner/double", "double", "execution"),
        ("inner", "inner", "execution"),
        ("inner#2/double", "double", "execution"),
        ("inner#2", "inner", "execution"),
        ("k/double", "double", "execution"),
        ("k", "inner", "execution"),
        ("named/double", "double", "execution"),
        ("named", "inner", "execution"),
        ("add", "add", "execution"),
    ]
    assert [row.output for row in rows] == ["2", "3", "4", "5", "6", "7", "8", "9", "3"]


def test_every_item_is_a_row(scope: Scope, store: Any) -> None:
    """Of each fan-out by its number, whatever the order in which they end; of a stream as well."""

    @flow
    def fan(ctx: FlowContext, n: int) -> list[int]:
        ctx.parallel([])
        ctx.parallel_settled(double.each(range(2)), name="more")
        return [*ctx.parallel(double.each(range(n))), *ctx.stream(double.each(range(n)))]

    execution = scope.exec(fan, 3)
    assert execution.result(LONG) == [0, 2, 4, 0, 2, 4]
    rows = store.steps(execution.id)
    assert {row.path: row.output for row in rows} == {
        **{f"more[{n}]": str(2 * n) for n in range(2)},
        **{f"parallel#2[{n}]": str(2 * n) for n in range(3)},
        **{f"stream[{n}]": str(2 * n) for n in range(3)},
    }
    assert {row.kind for row in rows} == {"item"}


def test_what_lies_inside_a_step_is_recorded_below_it(scope: Scope, store: Any, body: Body) -> None:
    """Branches below their choice, with what was chosen; nested workflows, items of a map and children below a step."""

    @flow
    def asks(ctx: FlowContext, context: WorkflowContext) -> dict[str, int]:
        return {"n": ctx.exec(double, 4)}

    workflow = Workflow(
        "w",
        steps=[
            Step.choice("route", when=lambda context: True, then=[body("yes")], otherwise=[body("no")]),
            Step("nested", Workflow("inner", steps=[body("x"), body("y")])),
            Step.map("symbols", double, items="numbers"),
            Step("asks", asks),
            Step.wait("settle", seconds=0),
            body("skips", StepResult.skip("nothing to do")),
            body("cheap", checkpoint=False),
        ],
    )
    run_id = scope.run(workflow, {"numbers": [1, 2]}).run_id
    rows = {row.path: row for row in store.steps(run_id)}
    assert set(rows) == {
        *("route", "route/yes", "nested/x", "nested/y", "symbols", "symbols/items[0]", "symbols/items[1]"),
        *("asks", "asks/double", "settle", "skips"),
    }
    assert codec.loads(rows["route"].output)["output"] == {"branch": "then"}
    assert rows["skips"].status == "skipped"
    assert {row.status for path, row in rows.items() if path != "skips"} == {"completed"}


def test_a_run_is_recorded_with_all_that_it_is(scope: Scope, store: Any, ran: list[str]) -> None:
    """Flow, version, import path, input, batch, partition, date and trace; then its end and its result."""
    context = WorkflowContext.new(
        params={"x": 1},
        batch_id="batch",
        partition={"region": "EU"},
        as_of_date="2013-03-01",
        trace_id="a" * 32,
        idempotency_key="key",
    )
    result = scope.run(pair, context)
    run = store.run(result.run_id)
    assert (run.flow, run.target, run.status, run.idem_key) == (
        "pair",
        "workflow.durable_flows:pair",
        "completed",
        "key",
    )
    assert (run.batch_id, run.partition, run.as_of, run.trace_id) == ("batch", "region=EU", "2013-03-01", "a" * 32)
    assert run.created_at <= run.started_at <= run.finished_at
    assert json.loads(run.result)["completed_steps"] == ["first", "second"]
    assert store.run(scope.exec(double, 2).id).target == "workflow.durable_flows:double"


def test_a_failure_is_recorded_with_its_causes(scope: Scope, store: Any) -> None:
    """Type, message, notes and what led to it; one that cannot be put into words, or is its own cause, as well."""

    class Wordless(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    @flow
    def fails(ctx: FlowContext, how: str) -> None:
        error: Exception = RuntimeError("outer") if how == "plain" else Wordless()
        error.add_note("a note")
        cause = error if how == "circle" else KeyError("inner")
        raise error from cause

    run = store.run(failed(scope, fails, "plain"))
    error = json.loads(run.error)
    assert (error["type"], error["message"], error["notes"][0]) == ("RuntimeError", "outer", "a note")
    assert (error["cause"]["type"], error["cause"]["message"]) == ("KeyError", "'inner'")
    assert json.loads(store.run(failed(scope, fails, "wordless")).error)["type"].endswith("Wordless")
    assert json.loads(store.run(failed(scope, fails, "circle")).error)["type"].endswith("Wordless")


def test_without_durability_nothing_is_recorded(scope: Scope, store: Any) -> None:
    """durable=False, for a run and all below it; keys are then kept in memory."""

    @flow
    def outer(ctx: FlowContext, n: int) -> list[Any]:
        return [ctx.exec(double, n, key="k"), ctx.exec(double, n, key="k"), ctx.parallel(double.each([1, 2]))]

    durable_flows.ran.clear()
    assert scope.run(outer, 2, durable=False) == [4, 4, [2, 4]]
    assert durable_flows.ran.count("double 2") == 2
    assert store.runs() == []
    assert scope.exec(outer, 2, durable=True).result(LONG)[0] == 4
    assert len(store.runs()) == 1


# -- resume


class Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class Order:
    symbol: str
    price: decimal.Decimal


VALUES: dict[str, Any] = {
    "none": None,
    "false": False,
    "int": 2**70,
    "float": float("inf"),
    "text": "Zürich \U0001f600",
    "bytes": b"\x00\xff",
    "tuple": (1, (2,)),
    "set": {1, 2},
    "frozenset": frozenset({"a"}),
    "keys": {1: "one", (2, 3): "two"},
    "datetime": dt.datetime(2013, 3, 1, 12, tzinfo=dt.UTC),
    "date": dt.date(2013, 3, 1),
    "time": dt.time(9, 30),
    "delta": dt.timedelta(seconds=1.5),
    "decimal": decimal.Decimal("1.10"),
    "uuid": uuid.UUID(int=7),
    "path": Path("a/b"),
    "enum": Colour.RED,
    "attrs": Order("X", decimal.Decimal("1.10")),
    "$": {"$": "tricky"},
    "empty": {},
}


def test_what_was_recorded_comes_back_with_its_types(scope: Scope, store: Any, body: Body) -> None:
    """Outputs, updates, results of children and of items, and the run's own result."""

    @flow
    def gives(ctx: FlowContext, name: str) -> Any:
        body.note(name)
        return VALUES[name]

    @flow
    def asks(ctx: FlowContext, context: WorkflowContext) -> dict[str, Any]:
        one = {name: ctx.exec(gives, name, key=f"one {name}") for name in VALUES}
        many = dict(zip(VALUES, ctx.parallel(gives.each(VALUES)), strict=True))
        body.note("asks")
        return {"one": one, "many": many}

    workflow = Workflow(
        "w",
        steps=[body("values", StepResult.ok(VALUES, context_updates=VALUES)), Step("asks", asks), body("last")],
    )
    body.failing = {"asks"}
    run_id = failed(scope, workflow)
    body.failing = {"last"}
    body.ran.clear()
    assert scope.resume(run_id, flow=workflow).exception(LONG) is not None
    assert body.ran == ["asks", "last"]
    body.again()
    result = scope.resume(run_id, flow=workflow).result(LONG)
    assert body.ran == ["last"]
    again = scope.resume(run_id, flow=workflow).result(LONG)
    assert body.ran == ["last"]
    for context in (result.context, again.context):
        for found in (
            context.get_output("values"),
            context.params,
            context.get_output("asks", "one"),
            context.get_output("asks", "many"),
        ):
            assert dict(found) == VALUES
            for name, value in VALUES.items():
                expected = (dict, type(found[name])) if isinstance(value, dict) else (type(value),)
                assert type(found[name]) in expected, name
    assert again.context == result.context


def test_resume_runs_only_the_rest(scope: Scope, store: Any, body: Body) -> None:
    """The steps that were finished are answered; their outputs and updates reach those that run now."""
    workflow = Workflow(
        "w",
        steps=[
            body("a", lambda context: StepResult.ok({"n": 1}, context_updates={"p": "from a"})),
            body("b", lambda context: {"n": context.get_output("a", "n") + 1}),
            body("c", lambda context: {"seen": [context.get_param("p"), context.get_output("b", "n")]}),
        ],
    )
    body.failing = {"c"}
    run_id = failed(scope, workflow, {"x": 1})
    body.again()
    result = scope.resume(run_id, flow=workflow).result(LONG)
    assert body.ran == ["c"]
    assert result.context.get_output("c") == {"seen": ["from a", 2]}
    assert (result.run_id, result.status) == (run_id, "completed")
    assert dict(result.context.params) == {"x": 1, "p": "from a"}
    assert store.run(run_id).status == "completed"


def test_a_resumed_run_tells_what_it_was_from_the_beginning(scope: Scope, body: Body) -> None:
    """Its result has attempts, quality, events, times and reasons of the steps that were answered."""
    quality = QualityMetrics(record_count=3, valid_count=2)
    fails_once = iter([RuntimeError("once")])

    def flaky(context: WorkflowContext) -> StepResult:
        for error in fails_once:
            raise error
        return StepResult.ok({"n": 1}, quality=quality, events=[{"at": dt.date(2013, 3, 1)}])

    workflow = Workflow(
        "w", steps=[Step("a", flaky, retry=NOW), body("skips", StepResult.skip("nothing to do")), body("b")]
    )
    body.failing = {"b"}
    execution = scope.exec(workflow)
    before = execution.exception(LONG).result  # type: ignore[union-attr]
    body.again()
    after = scope.resume(execution.id, flow=workflow).result(LONG)
    for name in ("a", "skips"):
        assert after.steps[name].to_dict() == {**before.steps[name].to_dict(), "duration": after.steps[name].duration}
    assert (after.steps["a"].attempts, after.steps["a"].quality) == (2, quality)
    assert after.steps["skips"].reason == "nothing to do"
    assert not after.context.has_output("skips")


def test_a_plain_flow_is_resumed_child_by_child(scope: Scope, ran: list[str], failing: set[str]) -> None:
    """The flow runs again, and the children that had finished are answered."""
    failing.add("double 2")
    run_id = failed(scope, doubles, 4)
    assert ran == ["doubles", "double 0", "double 1", "double 2"]
    failing.clear()
    ran.clear()
    assert scope.resume(run_id).result(LONG) == 12
    assert ran == ["doubles", "double 2", "double 3", "end"]
    ran.clear()
    assert scope.resume(run_id).result(LONG) == 12
    assert ran == []


def test_keyed_calls_are_answered_wherever_they_stand(scope: Scope, ran: list[str], failing: set[str]) -> None:
    """By their keys, in whatever order the resumed run asks; twice in one run is once."""
    order = ["a", "b"]

    @flow
    def asks(ctx: FlowContext, n: int) -> list[int]:
        values = [ctx.exec(double, ord(key), key=key) for key in order + order]
        durable_flows.reached("end")
        return values

    failing.add("end")
    run_id = failed(scope, asks, 0)
    assert ran == ["double 97", "double 98", "end"]
    failing.clear()
    ran.clear()
    order[:] = ["b", "c", "a"]
    assert scope.resume(run_id, flow=asks).result(LONG) == [196, 198, 194] * 2
    assert ran == ["double 99", "end"]


def test_of_a_thousand_items_only_the_failed_run_again(scope: Scope, store: Any, body: Body) -> None:
    """A fan-out of 1,000 of which 3 failed runs exactly 3 on resume, in a flow and in a step, and gives all 1,000."""
    bad = {"7", "500", "999"}

    @flow
    def item(ctx: FlowContext, n: int) -> int:
        body.note(str(n))
        return -n

    @flow
    def fan(ctx: FlowContext, n: int) -> list[int]:
        settled = ctx.parallel_settled(item.each(range(n)))
        if settled.stats.failed:
            raise RuntimeError(f"{settled.stats.failed} failed")
        return settled.values()

    workflow = Workflow("w", steps=[Step("fan", flow(lambda ctx, context: {"all": fan.handler(ctx, 1000)}, name="f"))])
    for start, kept in ((lambda: scope.exec(fan, 1000), "parallel"), (lambda: scope.exec(workflow), "fan/parallel")):
        body.failing = set(bad)
        execution = start()
        assert "3 failed" in str(execution.exception(LONG))
        rows = recorded(store, execution.id)
        assert sorted(rows) == sorted(f"{kept}[{n}]" for n in range(1000) if str(n) not in bad)
        body.again()
        result = scope.resume(execution.id, flow=execution.flow).result(LONG)
        assert sorted(body.ran) == sorted(bad)
        body.again()
        assert (result if isinstance(result, list) else result.context.get_output("fan", "all")) == [
            -n for n in range(1000)
        ]


def test_a_choice_is_kept(scope: Scope, store: Any, body: Body) -> None:
    """A branch that was taken is gone on with, although it would be another one now; the predicate is not asked."""

    def when(context: WorkflowContext) -> bool:
        body.note("when")
        return context.get_param("yes")

    workflow = Workflow(
        "w", steps=[Step.choice("route", when=when, then=[body("a"), body("b")], otherwise=[body("c")]), body("d")]
    )
    body.failing = {"b"}
    run_id = failed(scope, workflow, {"yes": True})
    body.again()
    result = scope.resume(run_id, flow=workflow, params_override={"yes": False}).result(LONG)
    assert body.ran == ["b", "d"]
    assert result.completed_steps == ("route", "a", "b", "d")
    assert result.skipped_steps == ("c",)
    assert result.context.get_output("route") == {"branch": "then"}


def test_nested_workflows_are_resumed_inside(scope: Scope, body: Body) -> None:
    """The finished steps of a workflow in a step, at any depth, are answered, and their updates reach the outside."""
    deep = Workflow("deep", steps=[body("x", lambda c: StepResult.ok({"x": 1}, context_updates={"p": 2})), body("y")])
    middle = Workflow("middle", steps=[body("m"), Step("deep", deep)])
    workflow = Workflow("w", steps=[Step("middle", middle), body("end", lambda context: {"p": context.get_param("p")})])
    body.failing = {"y"}
    run_id = failed(scope, workflow)
    body.again()
    result = scope.resume(run_id, flow=workflow).result(LONG)
    assert body.ran == ["y", "end"]
    assert result.context.get_output("end") == {"p": 2}
    assert result.context.get_output("middle") == {"m": None, "deep": {"x": {"x": 1}, "y": None}}


def test_a_graph_is_resumed(scope: Scope, body: Body) -> None:
    """Of steps side by side those that had finished are answered; what needs them sees their outputs."""
    workflow = Workflow(
        "w",
        steps=[
            body("a", {"n": 1}, needs=()),
            body("b", {"n": 2}, needs=()),
            body(
                "c",
                lambda context: {"n": context.get_output("a", "n") + context.get_output("b", "n")},
                needs=("a", "b"),
            ),
            body("d", {"n": 4}, needs=("a",)),
        ],
    )
    body.failing = {"b"}
    run_id = failed(scope, workflow)
    done = {row.path for row in scope.store.steps(run_id)}
    body.again()
    result = scope.resume(run_id, flow=workflow).result(LONG)
    assert set(body.ran) == {"a", "b", "c", "d"} - done
    assert not {"b", "c"} & done
    assert result.context.get_output("c") == {"n": 3}


def test_the_checkpoint_says_where_a_resumed_run_goes_on(scope: Scope, store: Any, body: Body) -> None:
    """Steps see in ``context.checkpoint`` what had been finished; in a first run there is none."""
    seen: list[Any] = []

    def look(context: WorkflowContext) -> None:
        seen.append(context.checkpoint)
        body.note("look")

    workflow = Workflow("w", steps=[body("a"), body("b"), Step("look", look)])
    body.failing = {"look"}
    run_id = failed(scope, workflow)
    body.again()
    scope.resume(run_id, flow=workflow).result(LONG)
    first, second = seen
    assert first is None
    assert (second.run_id, second.step_name, second.completed_steps) == (run_id, "b", ("a", "b"))
    assert second.created_at == dt.datetime.fromtimestamp(store.steps(run_id)[1].finished_at, dt.UTC)


def test_the_token_of_an_effect_never_changes(scope: Scope) -> None:
    """Run id and path: the same for each attempt and each resume."""
    tokens: list[str] = []

    @flow
    def effect(ctx: FlowContext, context: Any) -> dict[str, Any]:
        tokens.append(ctx.idempotency_token)
        if len(tokens) < 5:
            raise RuntimeError("not yet")
        return {}

    workflow = Workflow("w", steps=[Step("pay", effect, retry=NOW)])
    run_id = failed(scope, workflow)
    scope.resume(run_id, flow=workflow).result(LONG)
    assert tokens == [f"{run_id}/pay"] * 5


def test_a_workflows_result_is_a_value_like_others(scope: Scope, ran: list[str], failing: set[str]) -> None:
    """What a workflow gives inside a flow, with a key or without, and as the result of a child or of the run."""

    @flow
    def gives(ctx: FlowContext, n: int) -> WorkflowResult:
        return ctx.exec(pair, {"n": n})

    @flow
    def outer(ctx: FlowContext, n: int) -> WorkflowResult:
        results = [ctx.exec(pair, {}, key="k"), ctx.exec(gives, 1), *ctx.parallel(pair.each([{}]))]
        durable_flows.reached("end")
        assert [result.context.get_output("second") for result in results] == [{"n": 2}] * 3
        return results[0]

    failing.add("end")
    run_id = failed(scope, outer, 0)
    failing.clear()
    ran.clear()
    result = scope.resume(run_id, flow=outer).result(LONG)
    assert ran == ["end"]
    again = scope.resume(run_id, flow=outer).result(LONG)
    for one in (result, again):
        assert isinstance(one, WorkflowResult)
        assert (one.status, one.completed_steps) == ("completed", ("first", "second"))


def test_a_flow_gets_its_input_back_with_its_types(scope: Scope) -> None:
    """Also without an annotation, and also a workflow's context."""
    seen: list[Any] = []

    @flow
    def takes(ctx: FlowContext, value: Any) -> None:
        seen.append(value)
        if len(seen) % 2:
            raise RuntimeError("once")

    context = WorkflowContext.new(params=VALUES, partition={"region": "EU"}, as_of_date="2013-03-01", metadata={"a": 1})
    for value in (context, VALUES, VALUES["attrs"], (1, 2)):
        seen.clear()
        scope.resume(failed(scope, takes, value), flow=takes).result(LONG)
        assert seen[0] == seen[1]
        assert type(seen[0]) is type(seen[1])


def test_a_context_counts_by_what_was_asked_for(scope: Scope, body: Body) -> None:
    """As the input of a child it is the same in a resumed run, which knows where it goes on, and under a key."""

    @flow
    def child(ctx: FlowContext, context: WorkflowContext) -> int:
        body.note("child")
        return len(context.step_outputs)

    @flow
    def asks(ctx: FlowContext, context: WorkflowContext) -> dict[str, Any]:
        found = [ctx.exec(child, context), *(ctx.exec(child, context, key="k") for _ in range(2))]
        body.note("asks")
        return {"found": found, "none": ctx.exec(pair, {}, key="p") is ctx.exec(pair, {}, key="p")}

    workflow = Workflow("w", steps=[body("a"), Step("asks", asks)])
    body.failing = {"asks"}
    run_id = failed(scope, workflow, {"x": 1})
    body.again()
    result = scope.resume(run_id, flow=workflow).result(LONG)
    assert result.context.get_output("asks") == {"found": [1, 1, 1], "none": True}
    assert body.ran == ["asks"]


def test_a_completed_run_answers_in_another_process(ran: list[str], make_scope: Any, open_store: Any) -> None:
    """Resuming it runs nothing, and gives the same result with the same types."""
    first = make_scope(store=open_store())
    result = first.run(pair)
    number = first.exec(doubles, 3)
    assert number.result(LONG) == 6
    ran.clear()
    second = make_scope(store=open_store())
    execution = second.resume(result.run_id)
    assert execution.done()
    assert execution.answered
    assert execution.status is ExecutionStatus.COMPLETED
    again = execution.result()
    assert again.context == result.context
    assert [record.to_dict() for record in again.steps] == [record.to_dict() for record in result.steps]
    assert second.resume(number.id).result(LONG) == 6
    assert ran == []


# -- resume with other wishes


def test_an_override_wins_over_what_was_recorded(scope: Scope, store: Any, body: Body) -> None:
    """Over the input and over updates of finished steps, not over later ones; it is kept for the resumes to come."""
    workflow = Workflow(
        "w",
        steps=[
            body("a", StepResult.ok(context_updates={"x": "a", "y": "a", "z": "a"})),
            body("b", lambda context: {name: context.get_param(name) for name in "wxyz"}),
            body("c", StepResult.ok(context_updates={"x": "c"})),
            body("d", lambda context: {name: context.get_param(name) for name in "wxyz"}),
        ],
    )
    body.failing = {"b"}
    run_id = failed(scope, workflow, {"w": "input", "x": "input"})
    body.failing = {"d"}
    assert scope.resume(run_id, flow=workflow, params_override={"w": 1, "x": 1}).exception(LONG) is not None
    body.failing = {"d"}
    assert scope.resume(run_id, flow=workflow, params_override={"y": 2}).exception(LONG) is not None
    body.again()
    result = scope.resume(run_id, flow=workflow).result(LONG)
    assert result.context.get_output("b") == {"w": 1, "x": 1, "y": "a", "z": "a"}
    assert result.context.get_output("d") == {"w": 1, "x": "c", "y": 2, "z": "a"}
    assert json.loads(store.run(run_id).input)["params"] == {"w": "input", "x": "input"}


def test_an_override_wins_over_what_is_inside_a_choice_or_a_nested_workflow(scope: Scope, body: Body) -> None:
    """Updates of recorded steps at any depth give way."""
    inner = Workflow("inner", steps=[body("i", StepResult.ok(context_updates={"y": "inner"}))])
    workflow = Workflow(
        "w",
        steps=[
            Step.choice("route", when=lambda c: True, then=[body("t", StepResult.ok(context_updates={"x": "then"}))]),
            Step("nested", inner),
            body("end", lambda context: dict(context.params)),
        ],
    )
    body.failing = {"end"}
    run_id = failed(scope, workflow)
    body.again()
    result = scope.resume(run_id, flow=workflow, params_override={"x": 1, "y": 2}).result(LONG)
    assert result.context.get_output("end") == {"x": 1, "y": 2}


@attrs.frozen
class Params:
    region: str = "EU"
    limit: int = 1


def test_an_override_must_fit(scope: Scope, store: Any, body: Body) -> None:
    """It is made what the workflow's params are; one that does not fit, or cannot be stored, changes nothing."""
    workflow = Workflow("w", steps=[body("a"), body("b", lambda c: {"limit": c.get_param("limit")})], params=Params)
    body.failing = {"b"}
    run_id = failed(scope, workflow)
    before = store.run(run_id), store.steps(run_id)
    for bad, error in (
        ({"limit": "many"}, errors.InputError),
        ({"limits": 2}, errors.InputError),
        ({"region": object()}, errors.SerializationError),
    ):
        with pytest.raises(error):
            scope.resume(run_id, flow=workflow, params_override=bad, start_from="a")
        assert (store.run(run_id), store.steps(run_id)) == before
    body.again()
    assert scope.resume(run_id, flow=workflow, params_override={"limit": "5"}).result(LONG).context.get_output("b") == {
        "limit": 5
    }


def test_only_workflows_have_params_to_override(scope: Scope, store: Any, failing: set[str]) -> None:
    """For a plain flow it is refused, and not forgotten."""
    failing.add("double 0")
    run_id = failed(scope, doubles, 1)
    with pytest.raises(errors.InputError, match="no params"):
        scope.resume(run_id, params_override={"n": 2})
    assert store.run(run_id).status == "failed"


def test_start_from_makes_a_step_and_all_after_it_again(scope: Scope, store: Any, body: Body) -> None:
    """Of a failed run and of a completed one; what came before is answered."""
    workflow = Workflow("w", steps=[body(name, lambda c, name=name: {"n": len(body.ran)}) for name in "abcd"])
    body.failing = {"d"}
    run_id = failed(scope, workflow)
    body.again()
    assert scope.resume(run_id, flow=workflow, start_from="b").result(LONG).context.get_output("b") == {"n": 1}
    assert body.ran == ["b", "c", "d"]
    body.again()
    result = scope.resume(run_id, flow=workflow, start_from="d").result(LONG)
    assert body.ran == ["d"]
    assert result.context.get_output("d") == {"n": 1}
    assert recorded(store, run_id) == ["a", "b", "c", "d"]
    assert store.run(run_id).status == "completed"


def test_start_from_finds_a_step_wherever_it_stands(scope: Scope, store: Any, body: Body) -> None:
    """In a branch, and not what is only called like it: a child of another step."""

    @flow
    def load(ctx: FlowContext, n: int) -> int:
        body.note("child load")
        return n

    @flow
    def fetch(ctx: FlowContext, context: WorkflowContext) -> dict[str, int]:
        body.note("fetch")
        return {"n": ctx.exec(load, 1)}

    def when(context: WorkflowContext) -> bool:
        body.note("when")
        return True

    workflow = Workflow(
        "w",
        steps=[
            Step("fetch", fetch),
            Step.choice("route", when=when, then=[body("check"), body("load")]),
            body("end"),
        ],
    )
    run_id = scope.run(workflow).run_id
    for start, expected in (
        ("load", ["load", "end"]),
        ("route", ["when", "check", "load", "end"]),
        ("fetch", ["fetch", "child load", "when", "check", "load", "end"]),
        ("end", ["end"]),
    ):
        body.again()
        scope.resume(run_id, flow=workflow, start_from=start).result(LONG)
        assert body.ran == expected, start


def test_start_from_a_step_that_is_not_recorded(scope: Scope, body: Body) -> None:
    """One without a checkpoint begins with itself: the steps after it are made again."""
    workflow = Workflow("w", steps=[body("a"), body("cheap", checkpoint=False), body("b"), body("c")])
    run_id = scope.run(workflow).run_id
    body.again()
    scope.resume(run_id, flow=workflow, start_from="cheap").result(LONG)
    assert body.ran == ["cheap", "b", "c"]


def test_start_from_a_child_of_a_flow(scope: Scope, ran: list[str]) -> None:
    """By its path; a fan-out by its name."""

    @flow
    def both(ctx: FlowContext, n: int) -> Any:
        return ctx.exec(double, n), ctx.parallel(double.each([10, 20])), ctx.exec(double, n + 1)

    run_id = scope.exec(both, 1).id
    scope.resume(run_id, flow=both, wait=True).result(LONG)
    ran.clear()
    scope.resume(run_id, flow=both, start_from="parallel").result(LONG)
    assert sorted(ran) == ["double 10", "double 2", "double 20"]
    with pytest.raises(errors.JournalMismatch, match="nothing at 'nowhere'"):
        scope.resume(run_id, flow=both, start_from="nowhere")


def test_start_from_an_unknown_step_changes_nothing(scope: Scope, store: Any, body: Body) -> None:
    """JournalMismatch names the steps that there are; the run is what it was."""
    workflow = Workflow("w", steps=[body("a"), body("b")])
    body.failing = {"b"}
    run_id = failed(scope, workflow)
    before = store.run(run_id)
    body.ran.clear()
    with pytest.raises(errors.JournalMismatch, match=r"'c'.*a, b"):
        scope.resume(run_id, flow=workflow, start_from="c")
    assert (store.run(run_id), body.ran) == (before, [])


# -- retry: a new run


def test_retry_starts_a_new_run_that_uses_the_successes(scope: Scope, store: Any, body: Body) -> None:
    """It is linked to the old one, which stays as it is; its context and rows are its own."""
    workflow = Workflow("w", steps=[body("a", {"n": 1}), body("s", StepResult.skip("no")), body("b"), body("c")])
    body.failing = {"c"}
    old = failed(scope, workflow, {"x": 1}, idempotency_key="k")
    before = store.run(old), store.steps(old)
    body.again()
    execution = scope.retry(old, flow=workflow)
    result = execution.result(LONG)
    assert body.ran == ["c"]
    assert execution.id != old
    assert result.run_id == execution.id
    new = store.run(execution.id)
    assert (new.parent, new.idem_key, new.status, new.input_hash) == (old, None, "completed", before[0].input_hash)
    assert result.context.get_output("a") == {"n": 1}
    assert recorded(store, execution.id) == ["a", "s", "b", "c"]
    assert (store.run(old), store.steps(old)) == before


def test_retry_from_a_step(scope: Scope, store: Any, body: Body) -> None:
    """That step and all after it are made again in the new run; the old one keeps its rows."""
    workflow = Workflow("w", steps=[body(name) for name in "abc"])
    old = scope.run(workflow).run_id
    body.again()
    new = scope.retry(old, from_step="b", flow=workflow)
    new.result(LONG)
    assert body.ran == ["b", "c"]
    assert recorded(store, old) == recorded(store, new.id) == ["a", "b", "c"]
    with pytest.raises(errors.JournalMismatch, match="no step 'x'"):
        scope.retry(old, from_step="x", flow=workflow)
    assert len(store.runs()) == 2


def test_retry_keeps_what_was_overridden(scope: Scope, body: Body) -> None:
    """The old run's overrides hold in the new one."""
    workflow = Workflow(
        "w", steps=[body("a", StepResult.ok(context_updates={"x": "a"})), body("b", lambda c: {"x": c.get_param("x")})]
    )
    body.failing = {"b"}
    old = failed(scope, workflow)
    assert scope.resume(old, flow=workflow, params_override={"x": 5}).exception(LONG) is not None
    body.again()
    assert scope.retry(old, flow=workflow).result(LONG).context.get_output("b") == {"x": 5}


def test_retry_of_a_living_run_is_refused(scope: Scope, store: Any, event: Any) -> None:
    """RunOwned, and no new run."""
    begun, go = event(), event()

    @flow
    def waits(ctx: FlowContext, n: int) -> None:
        begun.set()
        assert go.wait(LONG)

    execution = scope.exec(waits, 1)
    assert begun.wait(LONG)
    for verb in (scope.retry, scope.resume):
        with pytest.raises(errors.RunOwned, match=execution.id):
            verb(execution.id, flow=waits)
    go.set()
    execution.result(LONG)
    assert len(store.runs()) == 1


# -- attempts again


def test_a_step_that_is_tried_again_does_not_repeat_what_it_has_finished(scope: Scope, body: Body) -> None:
    """Its children and items answer in the next attempt as they would in a resumed run."""

    @flow
    def item(ctx: FlowContext, n: int) -> int:
        body.note(f"item {n}")
        return n

    @flow
    def fan(ctx: FlowContext, context: WorkflowContext) -> dict[str, Any]:
        one = ctx.exec(item, 7)
        settled = ctx.parallel_settled(item.each(range(4)))
        body.failing.discard("item 2")
        if settled.stats.failed:
            raise RuntimeError("not all")
        return {"all": [one, *settled.values()]}

    workflow = Workflow("w", steps=[Step("fan", fan, retry=NOW)])
    body.failing = {"item 2"}
    result = scope.run(workflow)
    assert result.context.get_output("fan") == {"all": [7, 0, 1, 2, 3]}
    assert sorted(body.ran) == ["item 0", "item 1", "item 2", "item 2", "item 3", "item 7"]
    assert result.steps["fan"].attempts == 2


def test_a_run_that_is_tried_again_does_not_repeat_what_it_has_finished(scope: Scope, body: Body) -> None:
    """A workflow's own retry goes on where the attempt before has stopped; so does a flow's."""

    def once(name: str) -> None:
        body.note(name)

    def last(context: WorkflowContext) -> None:
        once("last")

    workflow = Workflow("w", steps=[body("a"), body("b"), Step("last", last)], retry=NOW)
    attempts = iter([{"last"}, set()])

    def next_attempt(context: WorkflowContext) -> None:
        body.failing = next(attempts)

    workflow = Workflow(
        "w", steps=[body("a"), Step("next", next_attempt, checkpoint=False), *workflow.steps[1:]], retry=NOW
    )
    assert scope.run(workflow).status == "completed"
    assert body.ran == ["a", "b", "last", "last"]

    @flow(retry=NOW)
    def twice(ctx: FlowContext, n: int) -> int:
        value = ctx.exec(call(noted, "x"))
        if ctx.attempt == 1:
            raise RuntimeError("once")
        return value

    def noted(name: str) -> int:
        body.note(name)
        return len(body.ran)

    body.again()
    assert scope.run(twice, 0) == 1
    assert body.ran == ["x"]


def test_a_run_whose_step_was_tried_again_can_be_resumed(scope: Scope, body: Body) -> None:
    """What the first attempt has recorded is what the second has gone on with."""
    clock = iter(range(100))

    @flow
    def ask(ctx: FlowContext, n: int) -> int:
        return next(clock)

    @flow
    def use(ctx: FlowContext, n: int) -> int:
        body.note("use")
        return n

    @flow
    def both(ctx: FlowContext, context: WorkflowContext) -> dict[str, int]:
        answer = ctx.exec(ask, 0)
        if ctx.attempt == 1:
            raise RuntimeError("once")
        used = ctx.exec(use, answer)
        body.note("end")
        return {"n": used}

    workflow = Workflow("w", steps=[Step("both", both, retry=Retry(attempts=2, initial=0, on=RuntimeError))])
    body.failing = {"end"}
    run_id = failed(scope, workflow)
    body.again()
    assert scope.resume(run_id, flow=workflow).result(LONG).context.get_output("both") == {"n": 0}
    assert body.ran == ["end"]


def test_a_child_that_is_tried_again_keeps_what_was_recorded_first(make_scope: Any, tmp_path: Path) -> None:
    """Its own children may run again; what counts, live and on resume, is what the first attempt has recorded."""
    store = SQLiteStore(tmp_path / "runs.db", durability="process")
    store._write(lambda connection: connection.execute("CREATE TABLE mine (n)").rowcount)
    clock, used = iter(range(100)), []

    @flow
    def ask(ctx: FlowContext, n: int) -> int:
        answer = next(clock)
        with ctx.transaction() as db:
            db.execute("INSERT INTO mine VALUES (?)", (answer,))
        return answer

    @flow(retry=NOW)
    def child(ctx: FlowContext, n: int) -> int:
        used.append(ctx.exec(ask, 0))
        if len(used) < 3:
            raise RuntimeError("not yet")
        return used[-1]

    @flow
    def outer(ctx: FlowContext, n: int) -> int:
        return ctx.exec(child, 0)

    execution = make_scope(store=store).exec(outer, 0)
    assert execution.result(LONG) == 0
    assert used == [0, 0, 0]
    assert store._read("SELECT n FROM mine") == [(0,)]
    assert {row.path: row.output for row in store.steps(execution.id)} == {"child/ask": "0", "child": "0"}
    store.close()


def test_two_calls_with_one_path_are_a_conflict(scope: Scope) -> None:
    """A key that is another call's name is refused when it is used, and not when the run is resumed."""

    @flow
    def outer(ctx: FlowContext, n: int) -> None:
        ctx.exec(double, 1)
        ctx.exec(doubles, 0, key="double")

    error = scope.exec(outer, 0).exception(LONG)
    assert isinstance(error, errors.JournalConflict)
    assert re.search("two calls.*'double'", str(error))


# -- steps with wishes of their own


def test_a_step_without_a_checkpoint_is_made_again(scope: Scope, store: Any, body: Body) -> None:
    """It leaves no row; a resumed run makes it again, and what it has called below is answered."""
    workflow = Workflow(
        "w",
        steps=[body("cheap", lambda context: {"n": 5}, checkpoint=False), body("b", lambda c: c.get_output("cheap"))],
    )
    body.failing = {"b"}
    run_id = failed(scope, workflow)
    assert recorded(store, run_id) == []
    body.again()
    assert scope.resume(run_id, flow=workflow).result(LONG).context.get_output("b") == {"n": 5}
    assert body.ran == ["cheap", "b"]


def test_a_step_without_a_checkpoint_must_be_storable_too(scope: Scope, body: Body) -> None:
    """Its output is part of the run's result: it fails itself, and not the run when all is done."""
    workflow = Workflow("w", steps=[body("cheap", {"lock": threading.Lock()}, checkpoint=False), body("b")])
    execution = scope.exec(workflow)
    error = execution.exception(LONG)
    assert isinstance(error, errors.WorkflowFailed)
    assert error.result.error_step == "cheap"
    assert isinstance(error.__cause__, errors.SerializationError)
    assert body.ran == ["cheap"]


def test_a_step_that_must_not_run_twice_is_not_repeated(make_scope: Any, open_store: Any, event: Any) -> None:
    """Begun and not recorded when its process died: the resumed run fails there and says so; retry runs it anew."""
    begun, go, count = event(), event(), []

    def pay(context: WorkflowContext) -> None:
        count.append(1)
        begun.set()
        assert go.wait(LONG)

    workflow = Workflow("w", steps=[Step("pay", pay, on_crash="fail"), Step("end", lambda context: None)])
    store = open_store()
    execution = make_scope(store=store).exec(workflow)
    assert begun.wait(LONG)
    die(store)
    second = make_scope(store=open_store())
    error = second.resume(execution.id, flow=workflow).exception(LONG)
    assert isinstance(error, errors.WorkflowFailed)
    assert error.result.error_step == "pay"
    assert "had begun" in str(error.__cause__)
    assert "not repeated" in str(error.__cause__)
    assert len(count) == 1
    go.set()
    assert isinstance(execution.exception(LONG), errors.OwnershipLost)
    assert second.retry(execution.id, flow=workflow).result(LONG).status == "completed"
    assert len(count) == 2


def test_a_step_that_must_not_run_twice_is_answered_once_it_is_recorded(scope: Scope, body: Body) -> None:
    """Recorded is recorded; and who says so by name has it made again."""
    workflow = Workflow("w", steps=[body("pay", {"n": 1}, on_crash="fail"), body("end")])
    body.failing = {"end"}
    run_id = failed(scope, workflow)
    body.again()
    assert scope.resume(run_id, flow=workflow).result(LONG).context.get_output("pay") == {"n": 1}
    assert body.ran == ["end"]
    body.again()
    scope.resume(run_id, flow=workflow, start_from="pay").result(LONG)
    assert body.ran == ["pay", "end"]


def test_a_failure_that_may_be_ends_the_run_as_partial(scope: Scope, store: Any, body: Body) -> None:
    """on_error="continue": the run has completed, and a second start under its key answers with it."""
    workflow = Workflow("w", steps=[body("a", on_error="continue"), body("b")])
    body.failing = {"a"}
    result = scope.run(workflow, {}, idempotency_key="k")
    assert result.status == "partial"
    assert store.run(result.run_id).status == "completed"
    body.again()
    again = scope.run(workflow, {}, idempotency_key="k")
    assert (again.status, again.failed_steps, body.ran) == ("partial", ("a",), [])
    assert "a fails" in str(again.steps["a"].error)


# -- changed code


def steps(body: Body, names: str) -> list[Step]:
    return [body(name) for name in names]


@pytest.mark.parametrize(
    ("change", "now"),
    [
        ("inserted", "axbc"),
        ("before all", "xabc"),
        ("renamed", "xbc"),
        ("removed", "ac"),
        ("reordered", "acb"),
        ("gone", "x"),
    ],
)
def test_changed_steps_are_refused(scope: Scope, store: Any, body: Body, change: str, now: str) -> None:
    """Both sides are listed, nothing is run, and the run is what it was: by resume, by retry and under its key."""
    body.failing = {"c"}
    run_id = failed(scope, Workflow("w", steps=steps(body, "abc")), {}, idempotency_key="k")
    before = store.run(run_id), store.steps(run_id)
    body.again()
    changed = Workflow("w", steps=steps(body, now))
    for verb in (
        lambda: scope.resume(run_id, flow=changed),
        lambda: scope.retry(run_id, flow=changed),
        lambda: scope.exec(changed, {}, idempotency_key="k"),
    ):
        with pytest.raises(errors.JournalMismatch) as caught:
            verb()
        assert "recorded: a, b, c" in str(caught.value)
        assert f"now:      {', '.join(now)}" in str(caught.value)
        assert "allow_changed=True" in str(caught.value)
    assert (store.run(run_id), store.steps(run_id), body.ran) == (*before, [])


def test_a_step_added_at_the_end_fits(scope: Scope, body: Body) -> None:
    """It runs after those that were recorded."""
    body.failing = {"b"}
    run_id = failed(scope, Workflow("w", steps=steps(body, "ab")))
    body.again()
    scope.resume(run_id, flow=Workflow("w", steps=steps(body, "abc"))).result(LONG)
    assert body.ran == ["b", "c"]


def test_changed_steps_can_be_allowed(scope: Scope, body: Body) -> None:
    """What is recorded under names that are still there answers, the rest runs."""
    body.failing = {"c"}
    run_id = failed(scope, Workflow("w", steps=steps(body, "abc")))
    body.again()
    result = scope.resume(run_id, flow=Workflow("w", steps=steps(body, "xca")), allow_changed=True).result(LONG)
    assert body.ran == ["x", "c"]
    assert result.completed_steps == ("x", "c", "a")


def test_changes_inside_a_nested_workflow_are_refused(scope: Scope, body: Body) -> None:
    """They are steps, too; one added at the end of it fits."""

    def around(names: str) -> Workflow:
        inner = Workflow("inner", steps=steps(body, names))
        return Workflow("w", steps=[body("a"), Step("nested", inner), body("z")])

    body.failing = {"z"}
    run_id = failed(scope, around("bc"))
    body.again()
    with pytest.raises(errors.JournalMismatch, match=r"nested/b, nested/c, z\n.*nested/b, nested/x, z"):
        scope.resume(run_id, flow=around("bx"))
    scope.resume(run_id, flow=around("bcd")).result(LONG)
    assert body.ran == ["d", "z"]


def test_another_version_alone_is_no_change(scope: Scope, body: Body) -> None:
    """The steps decide."""
    body.failing = {"b"}
    run_id = failed(scope, Workflow("w", steps=steps(body, "ab"), version="1"))
    assert scope.store.run(run_id).version == "1"
    body.again()
    assert scope.resume(run_id, flow=Workflow("w", steps=steps(body, "ab"), version="2")).result(LONG)


def test_another_flow_is_refused(scope: Scope, body: Body) -> None:
    """Whose name is not that of the run."""
    body.failing = {"b"}
    run_id = failed(scope, Workflow("w", steps=steps(body, "ab")))
    body.again()
    with pytest.raises(errors.JournalMismatch, match=r"flow 'w'.*flow 'v'"):
        scope.resume(run_id, flow=Workflow("v", steps=steps(body, "ab")))
    assert body.ran == []


def test_changed_children_are_refused(scope: Scope, store: Any, ran: list[str], failing: set[str]) -> None:
    """A recorded child that is another flow now, or has another input, is named with both; it does not run."""
    what: list[Any] = [double, 1, None]

    @flow
    def outer(ctx: FlowContext, n: int) -> int:
        value = ctx.exec(what[0], what[1], name="child", key=what[2])
        ctx.parallel([what[0].bind(what[1])])
        durable_flows.reached("end")
        return value

    failing.add("end")
    for key, error in ((None, errors.JournalMismatch), ("k", errors.JournalConflict)):
        what[:] = double, 1, key
        run_id = failed(scope, outer, 0)
        ran.clear()
        for changed, words in (((doubles, 1), "'double'.*'doubles'"), ((double, 2), "another input")):
            what[:2] = changed
            caught = scope.resume(run_id, flow=outer).exception(LONG)
            assert type(caught) is error
            assert re.search(words, str(caught)), caught
            assert ("child" if key is None else key) in str(caught)
            assert ran == []
    what[:] = double, 1, "k"
    failing.clear()
    assert scope.resume(run_id, flow=outer).result(LONG) == 2


# -- under a key


def test_a_second_start_under_a_key_is_the_same_run(scope: Scope, store: Any, event: Any, ran: list[str]) -> None:
    """While it runs, the live handle; when it has completed, its result; nothing runs twice."""
    begun, go = event(), event()

    @flow
    def waits(ctx: FlowContext, n: int) -> str:
        ran.append("waits")
        begun.set()
        assert go.wait(LONG)
        return "done"

    first = scope.exec(waits, 1, idempotency_key="k")
    assert begun.wait(LONG)
    assert scope.exec(waits, 1, idempotency_key="k") is first
    go.set()
    assert first.result(LONG) == "done"
    again = scope.exec(waits, 1, idempotency_key="k")
    assert (again.id, again.result(LONG), again.answered) == (first.id, "done", True)
    assert scope.run(waits, 1, idempotency_key="k") == "done"
    assert ran == ["waits"]
    assert len(store.runs()) == 1


@pytest.mark.parametrize("end", ["failed", "cancelled", "handed back"])
def test_a_start_under_a_key_goes_on_with_what_has_not_completed(
    make_scope: Any, store: Any, ran: list[str], failing: set[str], end: str
) -> None:
    """A failed, a cancelled and a released run is resumed: what it has recorded is answered."""

    @flow
    def outer(ctx: FlowContext, n: int) -> int:
        value = ctx.exec(double, n)
        durable_flows.reached("end")
        if end == "cancelled":
            ctx.sleep(LONG)
        if end == "handed back":
            threading.Thread(target=scope.close, kwargs={"cancel": True}).start()
            ctx.sleep(LONG)
        return value

    scope = make_scope(store=store)
    if end == "failed":
        failing.add("end")
    execution = scope.exec(outer, 2, idempotency_key="k")
    if end == "cancelled":
        until(lambda: "end" in ran, "the flow to wait")
        execution.cancel("no longer")
    assert execution.exception(LONG) is not None
    until(lambda: store.run(execution.id).status == ("pending" if end == "handed back" else end), "its end")
    ran.clear()
    failing.clear()
    end = ""
    again = make_scope(store=store).exec(outer, 2, idempotency_key="k")
    assert (again.result(LONG), again.id) == (4, execution.id)
    assert ran == ["end"]
    assert store.run(execution.id).fence == 2


def test_a_key_with_another_input_is_refused(scope: Scope, store: Any, ran: list[str]) -> None:
    """IdempotencyConflict names the key and the run; nothing runs."""
    first = scope.exec(double, 2, idempotency_key="k")
    first.result(LONG)
    ran.clear()
    with pytest.raises(errors.IdempotencyConflict, match=f"'k'.*{first.id}"):
        scope.exec(double, 3, idempotency_key="k")
    assert ran == []
    assert scope.run(doubles, 3, idempotency_key="k") == 6  # another flow's key is another key
    assert len(store.runs()) == 2


def test_what_identifies_the_input_of_a_workflow(scope: Scope, ran: list[str]) -> None:
    """Params, partition and date; not who asks, when, or in which batch."""
    first = scope.run(pair, WorkflowContext.new(params={"a": 1, "b": 2}, as_of_date="2013-03-01"), idempotency_key="k")
    same = WorkflowContext.new(params={"b": 2, "a": 1}, as_of_date="2013-03-01", batch_id="x", metadata={"m": 1})
    assert scope.run(pair, same, idempotency_key="k").run_id == first.run_id
    for other in (
        WorkflowContext.new(params={"a": 1, "b": 3}, as_of_date="2013-03-01"),
        WorkflowContext.new(params={"a": 1, "b": 2}, as_of_date="2013-03-02"),
        WorkflowContext.new(params={"a": 1, "b": 2}, as_of_date="2013-03-01", partition={"region": "EU"}),
    ):
        with pytest.raises(errors.IdempotencyConflict):
            scope.run(pair, other, idempotency_key="k")


def test_the_key_of_a_context_counts(scope: Scope, store: Any, ran: list[str]) -> None:
    """When none is given; the one that is given wins; a resumed or retried run does not ask for it again."""
    context = WorkflowContext.new(idempotency_key="mine")
    first = scope.run(pair, context)
    assert store.run(first.run_id).idem_key == "mine"
    assert scope.run(pair, context).run_id == first.run_id
    other = scope.run(pair, context, idempotency_key="given")
    assert other.run_id != first.run_id
    assert store.run(other.run_id).idem_key == "given"
    assert scope.resume(first.run_id).id == first.run_id
    assert store.run(scope.retry(first.run_id).id).idem_key is None


def test_of_many_starts_under_a_key_one_runs(make_scope: Any, open_store: Any, together: Any, ran: list[str]) -> None:
    """Threads of two scopes, each with the file open for itself: one execution, and everyone gets its result."""
    scopes = [make_scope(store=open_store()) for _ in range(2)]
    for n in range(5):
        ran.clear()
        starts = [lambda one=one, n=n: one.run(double, n, idempotency_key=f"k{n}") for one in scopes * 3]
        assert together(*starts) == [2 * n] * 6
        assert ran == [f"double {n}"]


def test_of_many_who_go_on_with_a_failed_run_one_does(
    make_scope: Any, open_store: Any, together: Any, ran: list[str], failing: set[str]
) -> None:
    """Nobody repeats what another one has finished in between."""
    scopes = [make_scope(store=open_store()) for _ in range(2)]
    for n in range(5):
        failing.add(f"double {n}")
        failed(scopes[0], double, n, idempotency_key=f"k{n}")
        failing.clear()
        ran.clear()
        starts = [lambda one=one, n=n: one.run(double, n, idempotency_key=f"k{n}") for one in scopes * 3]
        assert together(*starts) == [2 * n] * 6
        assert ran == [f"double {n}"]


def test_a_key_needs_a_durable_run(make_scope: Any, store: Any) -> None:
    """Without a store, or with durable=False, it is refused."""
    with pytest.raises(errors.StoreError, match="idempotency_key"):
        make_scope().exec(double, 1, idempotency_key="k")
    with pytest.raises(errors.StoreError, match="idempotency_key"):
        make_scope(store=store).exec(double, 1, idempotency_key="k", durable=False)
    assert store.runs() == []


def test_a_run_id_is_given_once(scope: Scope, store: Any) -> None:
    """A second run of that id is refused, the first one stays."""
    assert scope.exec(double, 1, run_id="mine").result(LONG) == 2
    with pytest.raises(errors.StoreError, match=r"'mine'.*never used twice"):
        scope.exec(double, 1, run_id="mine")
    assert store.run("mine").result == "2"


# -- other processes

# Another process that executes a run of `waits` until it is told to go on.
OTHER = """
    from workflow import durable_flows
    scope = Scope(store=f"sqlite:///{sys.argv[1]}/runs.db?durability=process")
    execution = scope.exec(durable_flows.waits, sys.argv[1], idempotency_key="k")
    say([execution.id, scope.store.run(execution.id).owner])
    try:
        said = execution.result(30)
    except BaseException as error:
        said = type(error).__name__
    say([said, str(execution.status), scope.store.run(execution.id).status])
    scope.close()
"""


@pytest.fixture
def here(make_scope: Any, open_store: Any) -> Scope:
    """A scope of this process, on the file that others use."""
    return make_scope(store=open_store())


def test_a_run_of_another_process_is_refused_or_followed(tmp_path: Path, here: Scope) -> None:
    """resume raises RunOwned and names the owner; a start under its key, and a resume that waits, follow it."""
    with program(OTHER, tmp_path) as other:
        run_id, owner = other.answer()
        until((tmp_path / "begun").exists, "the other to begin")
        with pytest.raises(errors.RunOwned, match=owner):
            here.resume(run_id)
        following = here.exec(durable_flows.waits, str(tmp_path), idempotency_key="k")
        waiting = here.resume(run_id, wait=True)
        assert not following.done()
        (tmp_path / "go").touch()
        assert other.answer() == ["went", "completed", "completed"]
        for one in (following, waiting):
            assert (one.id, one.result(LONG)) == (run_id, "went")
            assert one.status is ExecutionStatus.COMPLETED
        assert other.end() == 0


def test_a_wish_to_cancel_reaches_another_process(tmp_path: Path, here: Scope) -> None:
    """Through the store: the signal is set with the reason, and the run is cancelled on both sides."""
    with program(OTHER, tmp_path) as other:
        run_id, _ = other.answer()
        until((tmp_path / "begun").exists, "the other to begin")
        following = here.exec(durable_flows.waits, str(tmp_path), idempotency_key="k")
        assert here.store.request_cancel(run_id, "no longer needed")
        assert other.answer() == ["ExecutionCancelled", "cancelled", "cancelled"]
        assert (tmp_path / "stopped").read_text() == "no longer needed"
        assert isinstance(following.exception(LONG), errors.ExecutionCancelled)
        assert following.status is ExecutionStatus.CANCELLED
        assert "no longer needed" in here.store.run(run_id).error


def test_cancelling_the_handle_of_a_followed_run_cancels_the_run(tmp_path: Path, here: Scope) -> None:
    """The handle stands for the run, wherever that is executed."""
    with program(OTHER, tmp_path) as other:
        other.answer()
        until((tmp_path / "begun").exists, "the other to begin")
        following = here.exec(durable_flows.waits, str(tmp_path), idempotency_key="k")
        following.cancel("from here")
        assert other.answer() == ["ExecutionCancelled", "cancelled", "cancelled"]
        assert (tmp_path / "stopped").read_text() == "from here"
        assert following.exception(LONG) is not None


def test_closing_a_scope_that_follows_leaves_the_run_alone(tmp_path: Path, here: Scope) -> None:
    """Who only watches stops watching; the other process goes on."""
    with program(OTHER, tmp_path) as other:
        run_id, _ = other.answer()
        until((tmp_path / "begun").exists, "the other to begin")
        following = here.exec(durable_flows.waits, str(tmp_path), idempotency_key="k")
        here.close(cancel=True)
        assert following.status is ExecutionStatus.CANCELLED
        assert here.store.run(run_id).cancel_requested is None
        (tmp_path / "go").touch()
        assert other.answer() == ["went", "completed", "completed"]


def test_a_killed_process_is_followed_to_its_end_and_resumed(tmp_path: Path, here: Scope) -> None:
    """Its follower is told that the run was left; the run can be resumed at once, where the kill has left it."""
    with program(OTHER, tmp_path) as other:
        run_id, _ = other.answer()
        until((tmp_path / "begun").exists, "the other to begin")
        following = here.exec(durable_flows.waits, str(tmp_path), idempotency_key="k")
        other.process.kill()
        error = following.exception(LONG)
    assert run_id in str(error)
    assert here.store.run(run_id).crashed
    (tmp_path / "go").touch()
    assert here.resume(run_id).result(LONG) == "went"
    assert here.store.run(run_id).fence == 2


def test_a_run_is_resumed_in_another_process(tmp_path: Path, here: Scope, failing: set[str], ran: list[str]) -> None:
    """The flow is found by its import path; what this process has recorded is answered there."""
    failing.add("second")
    workflow = failed(here, pair)
    failing.update({"double 1"})
    plain = failed(here, doubles, 3)
    code = """
        from workflow import durable_flows
        with Scope(store=f"sqlite:///{sys.argv[1]}/runs.db") as scope:
            pair = scope.resume(sys.argv[2]).result(30)
            total = scope.resume(sys.argv[3]).result(30)
        say([pair.context.get_output("second"), total, durable_flows.ran])
    """
    with program(code, tmp_path, workflow, plain) as other:
        assert other.answer() == [{"n": 2}, 6, ["second", "doubles", "double 1", "double 2", "end"]]
    assert here.store.run(workflow).status == here.store.run(plain).status == "completed"


def test_a_zombie_is_stopped_at_its_next_record(make_scope: Any, open_store: Any, event: Any, body: Body) -> None:
    """Taken over while it was thought dead: its step's record raises OwnershipLost, and it writes nothing more."""
    begun, go = event(), event()

    def slow(context: WorkflowContext) -> dict[str, str]:
        body.note("slow")
        begun.set()
        assert go.wait(LONG)
        return {"by": threading.current_thread().name}

    workflow = Workflow("w", steps=[body("a"), Step("slow", slow), body("c")])
    store, other = open_store(), open_store()
    zombie = make_scope(store=store).exec(workflow)
    assert begun.wait(LONG)
    die(store)
    claimed = other.claim(zombie.id)
    before = other.run(zombie.id), other.steps(zombie.id)
    go.set()
    assert isinstance(zombie.exception(LONG), errors.OwnershipLost)
    assert body.ran == ["a", "slow"]
    assert (other.run(zombie.id), other.steps(zombie.id)) == before
    other.release(zombie.id, claimed.fence)
    assert make_scope(store=other).resume(zombie.id, flow=workflow).result(LONG).status == "completed"
    assert body.ran == ["a", "slow", "slow", "c"]


def test_a_zombie_with_a_result_is_not_believed(make_scope: Any, open_store: Any, event: Any) -> None:
    """A flow that ends after it was taken over does not end the run, neither with a value nor with an error."""
    begun, go = event(), event()

    @flow
    def slow(ctx: FlowContext, fails: bool) -> str:
        begun.set()
        assert go.wait(LONG)
        if fails:
            raise RuntimeError("too late")
        return "too late"

    for fails, error in ((False, errors.OwnershipLost), (True, RuntimeError)):
        begun.clear()
        go.clear()
        store, other = open_store(), open_store()
        zombie = make_scope(store=store).exec(slow, fails)
        assert begun.wait(LONG)
        die(store)
        before = other.claim(zombie.id)
        go.set()
        assert isinstance(zombie.exception(LONG), error)
        assert other.run(zombie.id) == before


# -- what cannot be stored


class Handle:
    """What has no type that could be stored."""


def test_an_output_that_cannot_be_stored_fails_its_step(scope: Scope, store: Any, body: Body) -> None:
    """SerializationError names the step and the path to the value; the run is kept, and goes on when that is mended."""
    value: list[Any] = [Handle()]
    workflow = Workflow("w", steps=[body("a"), body("b", lambda context: {"deep": [1, value[0]]}), body("c")])
    execution = scope.exec(workflow)
    error = execution.exception(LONG)
    assert isinstance(error, errors.WorkflowFailed)
    assert isinstance(error.__cause__, errors.SerializationError)
    assert "'b'" in str(error.__cause__)
    assert "['deep'][1]" in str(error.__cause__)
    assert recorded(store, execution.id) == ["a"]
    value[0] = "mended"
    body.again()
    assert scope.resume(execution.id, flow=workflow).result(LONG).context.get_output("b") == {"deep": [1, "mended"]}
    assert body.ran == ["b", "c"]


@pytest.mark.parametrize("what", ["update", "surrogate", "child", "keyed child", "item", "result"])
def test_whatever_cannot_be_stored_keeps_the_run(scope: Scope, store: Any, what: str) -> None:
    """An update, a child's result, an item's, the run's own: the run fails there, and goes on when that is mended."""
    value: Any = "\udc80" if what == "surrogate" else Handle()
    count: list[str] = []

    def give(n: int) -> Any:
        count.append("give")
        return value

    @flow
    def outer(ctx: FlowContext, n: int) -> Any:
        ctx.exec(double, 1, key="before")
        if what == "item":
            return ctx.parallel([call(give, 1)])
        if what == "result":
            return give(1)
        return ctx.exec(call(give, 1), key="k" if what == "keyed child" else None)

    started: Any = outer
    if what in ("update", "surrogate"):
        started = Workflow("w", steps=[Step("give", lambda context: StepResult.ok(context_updates={"x": give(1)}))])
    execution = scope.exec(started, {} if isinstance(started, Workflow) else 0)
    error = execution.exception(LONG)
    assert isinstance(error.__cause__ if isinstance(error, errors.WorkflowFailed) else error, errors.SerializationError)
    assert store.run(execution.id).status == "failed"
    value = "mended"
    assert scope.resume(execution.id, flow=started).result(LONG)
    assert count == ["give", "give"]


@pytest.mark.parametrize("input", [Handle(), {"a": [Handle()]}, "\ud800", float])
def test_an_input_that_cannot_be_stored_is_refused(scope: Scope, store: Any, ran: list[str], input: Any) -> None:
    """Before anything runs, and nothing is recorded."""

    @flow
    def takes_all(ctx: FlowContext, value: Any) -> None:
        ran.append("ran")

    with pytest.raises(errors.SerializationError, match="input"):
        scope.exec(takes_all, input)
    with pytest.raises(errors.SerializationError):
        scope.exec(pair, {"x": input})
    with pytest.raises(errors.SerializationError, match="input"):
        scope.exec(call(takes_all.handler, None, input))
    assert (store.runs(), ran) == ([], [])
    scope.run(takes_all, input, durable=False)
    assert ran == ["ran"]


def test_a_value_that_is_too_large_says_what_to_do(scope: Scope, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typed error names the limit and tells to store a reference; as input, output, result of a child or an item."""
    large = "x" * (base.MAX_TEXT + 1)

    @flow
    def gives(ctx: FlowContext, size: int) -> str:
        return "x" * size

    @flow
    def child(ctx: FlowContext, size: int) -> int:
        return len(ctx.exec(gives, size))

    @flow
    def item(ctx: FlowContext, size: int) -> int:
        return len(ctx.parallel([gives.bind(size)])[0])

    step = Workflow("w", steps=[Step("large", lambda context: {"value": large})])
    for start in (
        lambda: scope.run(gives, len(large)),
        lambda: scope.run(child, len(large)),
        lambda: scope.run(item, len(large)),
        lambda: scope.run(step),
        lambda: scope.run(flow(lambda ctx, value: None, name="takes"), large),
    ):
        with pytest.raises((errors.SerializationError, errors.WorkflowFailed)) as caught:
            start()
        message = str(caught.value.__cause__ or caught.value)
        assert f"{base.MAX_TEXT:,}" in message
        assert "reference" in message
    assert len(store.runs()) == 4
    assert scope.run(child, base.MAX_TEXT - 2) == base.MAX_TEXT - 2


# -- ends


def test_close_hands_unfinished_runs_back(make_scope: Any, store: Any, event: Any, body: Body) -> None:
    """What is told to stop by a closing scope is pending, also what waits for a slot; another scope goes on with it."""
    begun = event()

    @flow
    def waits(ctx: FlowContext, context: WorkflowContext) -> None:
        body.note("waits")
        begun.set()
        if "again" not in body.ran:
            ctx.sleep(LONG)

    workflow = Workflow("w", steps=[body("a"), Step("waits", waits), body("c")])
    first = make_scope(store=store, max_workers=1)
    running = first.exec(workflow)
    assert begun.wait(LONG)
    queued = first.exec(workflow)
    first.close(cancel=True)
    for execution in (running, queued):
        assert execution.status is ExecutionStatus.CANCELLED
        run = store.run(execution.id)
        assert (run.status, run.owner, run.alive) == ("pending", None, False)
    assert (recorded(store, running.id), recorded(store, queued.id)) == (["a"], [])
    body.ran[:] = ["again"]
    second = make_scope(store=store)
    assert second.resume(running.id, flow=workflow).result(LONG).status == "completed"
    assert second.resume(queued.id, flow=workflow).result(LONG).status == "completed"
    assert body.ran == ["again", "waits", "c", "a", "waits", "c"]


def test_close_with_a_grace_hands_back_what_does_not_listen(make_scope: Any, store: Any, event: Any) -> None:
    """Its thread is left behind and its late value is not recorded; the run is pending, and runs elsewhere."""
    begun, go, ended = event(), event(), event()

    @flow
    def deaf(ctx: FlowContext, n: int) -> int:
        begun.set()
        assert go.wait(LONG)
        try:
            return ctx.exec(double, n)
        finally:
            ended.set()

    first = Scope(store=store, max_workers=1)
    execution = first.exec(deaf, 4)
    assert begun.wait(LONG)
    first.close(timeout=0)
    assert execution.status is ExecutionStatus.CANCELLED
    until(lambda: store.run(execution.id).status == "pending", "the run to be handed back")
    go.set()
    assert ended.wait(LONG)
    assert recorded(store, execution.id) == []
    assert make_scope(store=store).resume(execution.id, flow=deaf).result(LONG) == 8


def test_a_deadline_is_recorded_as_cancelled(scope: Scope, store: Any, event: Any) -> None:
    """The caller is told on time; the run is cancelled with the deadline as its reason, and can be resumed at once."""
    go, ended = event(), event()

    @flow
    def slow(ctx: FlowContext, n: int) -> int:
        value = ctx.exec(double, n)
        if not go.is_set():
            assert go.wait(LONG)
            ended.set()
        return ctx.exec(double, value)

    execution = scope.exec(slow, 3, timeout=0.05)
    with pytest.raises(errors.ExecutionTimeout):
        execution.result(LONG)
    go.set()
    resumed = scope.resume(execution.id, flow=slow)  # not RunOwned, however long the record takes
    assert ended.wait(LONG)
    assert resumed.result(LONG) == 12
    assert execution.status is ExecutionStatus.CANCELLED
    run = store.run(execution.id)
    assert (run.status, run.fence, run.result) == ("completed", 2, "12")


def test_what_a_deadline_ended_stays_so(scope: Scope, store: Any, event: Any) -> None:
    """A value that comes late is not recorded, neither as a step nor as the result."""
    go, ended = event(), event()

    @flow
    def slow(ctx: FlowContext, n: int) -> int:
        assert go.wait(LONG)
        try:
            return ctx.exec(double, n)
        finally:
            ended.set()

    execution = scope.exec(slow, 3, timeout=0.05)
    assert isinstance(execution.exception(LONG), errors.ExecutionTimeout)
    until(lambda: store.run(execution.id).status == "cancelled", "the record")
    before = store.run(execution.id)
    assert "timed out" in before.error
    go.set()
    assert ended.wait(LONG)
    until(lambda: scope.stats().abandoned == 0, "the late thread to end")
    assert (store.run(execution.id), store.steps(execution.id)) == (before, [])


def test_a_late_value_of_a_timed_out_step_is_not_recorded(scope: Scope, store: Any, event: Any) -> None:
    """The step has failed; what its abandoned thread brings later is nothing."""
    go, ended = event(), event()

    def slow(context: WorkflowContext) -> dict[str, int]:
        assert go.wait(LONG)
        ended.set()
        return {"late": 1}

    workflow = Workflow(
        "w", steps=[Step("slow", slow, timeout=0.05, on_error="continue"), Step("b", lambda c: {"n": 1})]
    )
    result = scope.run(workflow)
    go.set()
    assert ended.wait(LONG)
    until(lambda: scope.stats().abandoned == 0, "the late thread to end")
    assert result.failed_steps == ("slow",)
    assert recorded(store, result.run_id) == ["b"]


def test_a_cancelled_run_is_recorded_as_cancelled(scope: Scope, store: Any, event: Any) -> None:
    """By its handle, while it waits for a slot or runs, and when it gives up by itself; with the reason."""
    begun = event()

    @flow
    def waits(ctx: FlowContext, n: int) -> None:
        begun.set()
        ctx.sleep(LONG)

    @flow
    def gives_up(ctx: FlowContext, n: int) -> None:
        raise errors.Aborted("my own will")

    running = scope.exec(waits, 0)
    assert begun.wait(LONG)
    many = [scope.exec(waits, n) for n in range(5)]
    for execution in (*many, running):
        execution.cancel("enough")
    own = scope.exec(gives_up, 0)
    for execution in (running, *many, own):
        assert isinstance(execution.exception(LONG), errors.ExecutionCancelled)
        assert store.run(execution.id).status == "cancelled"
    assert "enough" in store.run(running.id).error
    assert "my own will" in store.run(own.id).error


def test_a_wish_to_cancel_reaches_a_run_of_this_process(scope: Scope, store: Any, event: Any) -> None:
    """Again and again, in a scope whose runs come and go."""
    for n in range(3):
        begun = event()

        @flow
        def waits(ctx: FlowContext, n: int, begun: threading.Event = begun) -> None:
            begun.set()
            ctx.sleep(LONG)

        execution = scope.exec(waits, n)
        assert begun.wait(LONG)
        assert store.request_cancel(execution.id, f"reason {n}")
        assert f"reason {n}" in str(execution.exception(LONG))
        assert not store.request_cancel(execution.id, "late")
        scope.run(double, n)


def test_a_refused_run_is_never_run(make_scope: Any, store: Any, event: Any) -> None:
    """Who was told that the scope is full does not find his work done later: the run is cancelled, and not pending."""
    go = event()

    @flow
    def waits(ctx: FlowContext, n: int) -> None:
        assert go.wait(LONG)

    scope = make_scope(store=store, max_workers=1, max_pending=0)
    first = scope.exec(waits, 0)
    with pytest.raises(errors.ScopeSaturated):
        scope.exec(waits, 1)
    with pytest.raises(errors.ScopeSaturated):
        scope.exec(waits, 2, idempotency_key="k")
    assert [run.status for run in store.runs()] == ["cancelled", "cancelled", "running"]
    go.set()
    first.result(LONG)
    assert scope.exec(waits, 2, idempotency_key="k").exception(LONG) is None


def test_a_run_whose_end_cannot_be_recorded_can_be_resumed(make_scope: Any, tmp_path: Path, ran: list[str]) -> None:
    """The caller gets a StoreError; when the store works again, the same process goes on with what is recorded."""
    store = SQLiteStore(tmp_path / "runs.db")
    broken = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    broken.execute(
        "CREATE TRIGGER broken BEFORE UPDATE OF finished_at ON runs BEGIN SELECT raise(ABORT, 'no room'); END"
    )
    scope = make_scope(store=store)
    execution = scope.exec(doubles, 2)
    error = execution.exception(LONG)
    assert isinstance(error, errors.StoreError)
    assert "no room" in str(error)
    assert str(tmp_path / "runs.db") in str(error)
    broken.execute("DROP TRIGGER broken")
    broken.close()
    ran.clear()
    assert scope.resume(execution.id).result(LONG) == 2
    assert ran == ["doubles", "end"]
    store.close()


def test_a_store_that_cannot_record_a_step_fails_the_run(make_scope: Any, tmp_path: Path, body: Body) -> None:
    """The step is not taken for done; the run can be resumed when the store works again."""
    store = SQLiteStore(tmp_path / "runs.db")
    broken = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    broken.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON steps WHEN new.path = 'b' BEGIN SELECT raise(ABORT, 'no'); END"
    )
    workflow = Workflow("w", steps=[body("a"), body("b"), body("c")])
    scope = make_scope(store=store)
    run_id = failed(scope, workflow)
    assert recorded(store, run_id) == ["a"]
    broken.execute("DROP TRIGGER broken")
    broken.close()
    body.again()
    assert scope.resume(run_id, flow=workflow).result(LONG).status == "completed"
    assert body.ran == ["b", "c"]
    store.close()


def test_pruning_leaves_what_runs(scope: Scope, store: Any, event: Any) -> None:
    """A run that is being executed stays, also a completed one that runs again; it ends as if nothing had been."""
    begun, go = event(), event()

    @flow
    def waits(ctx: FlowContext, n: int) -> int:
        begun.set()
        assert go.wait(LONG)
        return ctx.exec(double, n)

    execution = scope.exec(waits, 5)
    assert begun.wait(LONG)
    assert scope.exec(double, 1).result(LONG) == 2
    assert store.prune(keep_failed=False) == 1
    go.set()
    assert execution.result(LONG) == 10
    assert recorded(store, execution.id) == ["double"]
    assert store.prune() == 1
    with pytest.raises(errors.RunNotFound):
        scope.resume(execution.id)


def test_a_closed_scope_closes_the_store_that_it_has_opened(tmp_path: Path) -> None:
    """One given as a URL, once all its runs have ended; one given as an object is left to its owner."""
    with Scope(store=f"sqlite:///{tmp_path}/runs.db") as scope:
        executions = [scope.exec(double, n) for n in range(5)]
    assert [execution.result() for execution in executions] == [0, 2, 4, 6, 8]
    assert scope.store._committer._connection is None  # type: ignore[union-attr]
    store = SQLiteStore(tmp_path / "runs.db")
    assert {run.status for run in store.runs()} == {"completed"}
    with Scope(store=store) as scope:
        scope.run(double, 1)
    assert store._committer._connection is not None
    store.close()


def test_a_close_beside_a_close_does_not_close_the_store_early(tmp_path: Path, event: Any) -> None:
    """Who gives up waiting for another one's close leaves the store to the runs that are still being executed."""
    begun, go = event(), event()

    @flow
    def waits(ctx: FlowContext, n: int) -> int:
        begun.set()
        assert go.wait(LONG)
        return n

    scope = Scope(store=f"sqlite:///{tmp_path}/runs.db")
    execution = scope.exec(waits, 7)
    assert begun.wait(LONG)
    closing = threading.Thread(target=scope.close)
    closing.start()
    until(lambda: scope._closer, "the first close")
    scope.close(timeout=0)
    assert scope.store.run(execution.id).alive  # type: ignore[union-attr]
    go.set()
    closing.join(LONG)
    assert execution.result(LONG) == 7


# -- finding the flow


def test_a_flow_made_inside_a_function_says_so(scope: Scope, ran: list[str]) -> None:
    """It cannot be imported; the error tells how to give it, and then it is resumed."""

    @flow
    def local(ctx: FlowContext, n: int) -> int:
        durable_flows.reached("local")
        return n

    durable_flows.failing.add("local")
    run_id = failed(scope, local, 3)
    for verb in (scope.resume, scope.retry):
        with pytest.raises(errors.StoreError, match=r"'local'.*inside a function.*flow=\.\.\."):
            verb(run_id)
    durable_flows.failing.clear()
    assert scope.resume(run_id, flow=local).result(LONG) == 3


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("workflow.durable_flows:gone", "durable_flows:gone.*no attribute 'gone'"),
        ("gone_module:flow", "gone_module"),
        ("workflow.durable_flows:no_flow", "is no flow: 7"),
    ],
)
def test_a_flow_that_is_gone_says_so(scope: Scope, store: Any, failing: set[str], target: str, words: str) -> None:
    """What stood at its import path is not there, or is something else; the run stays as it was."""
    new = base.NewRun(run_id="r", flow="f", target=target, input="1", input_hash="h")
    store.submit(new)
    store.finish("r", 1, "failed", None, "{}")
    with pytest.raises(errors.StoreError, match=words):
        scope.resume("r")
    assert store.run("r").status == "failed"


def test_a_module_that_fails_to_import_is_a_store_error(
    scope: Scope, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises is told, with what to do."""
    (tmp_path / "breaks_on_import.py").write_text("raise ZeroDivisionError('at import')")
    monkeypatch.syspath_prepend(tmp_path)
    store.submit(base.NewRun(run_id="r", flow="f", target="breaks_on_import:f", input="1", input_hash="h"))
    store.finish("r", 1, "failed", None, "{}")
    with pytest.raises(errors.StoreError, match=r"ZeroDivisionError: at import.*flow=\.\.\."):
        scope.resume("r")


def test_a_call_of_a_function_is_durable(scope: Scope, store: Any, ran: list[str], failing: set[str]) -> None:
    """It is found by its import path and resumed with its arguments; one that cannot be found runs all the same."""
    failing.add("add")
    run_id = failed(scope, call(durable_flows.add, 1, b=2))
    assert store.run(run_id).target == "workflow.durable_flows:add"
    failing.clear()
    assert scope.resume(run_id).result(LONG) == 3
    assert scope.run(call(lambda a: a + 1, 5)) == 6
    assert scope.run(call("a-b".split, "-")) == ["a", "b"]
    assert scope.run(call(durable_flows.add, 1), idempotency_key="k") == 1
    with pytest.raises(errors.IdempotencyConflict):
        scope.run(call(durable_flows.add, 2), idempotency_key="k")


def test_verbs_without_a_store_say_what_they_need(make_scope: Any) -> None:
    """resume, retry and durable=True."""
    scope = make_scope()
    for verb in (
        lambda: scope.resume("r"),
        lambda: scope.retry("r"),
        lambda: scope.exec(double, 1, durable=True),
        lambda: scope.run(double, 1, idempotency_key="k"),
    ):
        with pytest.raises(errors.StoreError, match="store"):
            verb()


def test_an_unknown_run_names_near_ones(scope: Scope) -> None:
    """RunNotFound, by resume and by retry."""
    scope.run(double, 1, run_id="nightly-1")
    for verb in (scope.resume, scope.retry):
        with pytest.raises(errors.RunNotFound, match=r"'nightly-2'.*nightly-1"):
            verb("nightly-2")


@pytest.mark.parametrize(
    "url", ["memory:", "sqlite:///{folder}/runs.db", "sqlite:///{folder}/runs.db?durability=process"]
)
def test_a_scope_takes_a_url(tmp_path: Path, url: str) -> None:
    """Of every kind of store."""
    with Scope(store=url.format(folder=tmp_path)) as scope:
        run_id = scope.exec(double, 2).id
        assert scope.resume(run_id, wait=True).result(LONG) == 4


def test_a_scope_that_cannot_be_made_leaves_no_store_open(tmp_path: Path) -> None:
    """A wrong option after a good URL closes what was opened."""
    with pytest.raises(ValueError, match="max_workers"):
        Scope(store=f"sqlite:///{tmp_path}/runs.db", max_workers=0)
    assert not (tmp_path / "runs.db-wal").exists()
    with pytest.raises(errors.StoreError, match="runs.db"):
        Scope(store="runs.db")


# -- a step's own writes


@pytest.fixture
def database(tmp_path: Path) -> Any:
    """A scope on a file, and a way to read what steps have written to it."""
    store = SQLiteStore(tmp_path / "runs.db", durability="process")
    store._write(lambda connection: connection.execute("CREATE TABLE mine (n)").rowcount)
    yield store
    store.close()


def mine(store: SQLiteStore) -> list[int]:
    return [n for (n,) in store._read("SELECT n FROM mine ORDER BY n")]


def put(ctx: Any, n: int) -> None:
    with ctx.transaction() as db:
        db.execute("INSERT INTO mine VALUES (?)", (n,))


def test_a_steps_own_writes_are_there_with_its_record(make_scope: Any, database: SQLiteStore, body: Body) -> None:
    """In a step, a child, a keyed child and an item; a resumed run does not write them again."""

    @flow
    def writes(ctx: FlowContext, n: Any) -> int:
        put(ctx, n if isinstance(n, int) else 1)
        return 0

    @flow
    def children(ctx: FlowContext, context: WorkflowContext) -> None:
        ctx.exec(writes, 2)
        ctx.exec(writes, 3, key="k")
        ctx.parallel(writes.each(range(4, 9)), max_concurrency=3)

    def plain(context: WorkflowContext) -> None:
        put(current(), 9)

    workflow = Workflow(
        "w",
        steps=[
            Step("step", flow(lambda ctx, context: put(ctx, 1), name="s")),
            Step("children", children),
            Step("plain", plain),
            body("last"),
        ],
    )
    scope = make_scope(store=database, max_workers=4)
    body.failing = {"last"}
    run_id = failed(scope, workflow)
    assert mine(database) == list(range(1, 10))
    body.again()
    scope.resume(run_id, flow=workflow).result(LONG)
    assert mine(database) == list(range(1, 10))


def test_a_steps_own_writes_go_with_its_failure(make_scope: Any, database: SQLiteStore) -> None:
    """After the block, in it, or because the output cannot be stored: nothing of them is there."""
    how = ["after", "inside", "output", "fine"]

    @flow
    def writes(ctx: FlowContext, context: WorkflowContext) -> Any:
        with ctx.transaction() as db:
            db.execute("INSERT INTO mine VALUES (?)", (len(how),))
            if how[0] == "inside":
                raise RuntimeError("inside")
        if how[0] == "after":
            raise RuntimeError("after")
        return {"n": Handle() if how[0] == "output" else 1}

    workflow = Workflow("w", steps=[Step("writes", writes)])
    scope = make_scope(store=database)
    run_id = failed(scope, workflow)
    while len(how) > 1:
        assert mine(database) == []
        how.pop(0)
        scope.resume(run_id, flow=workflow).exception(LONG)
    assert mine(database) == [1]
    assert database.run(run_id).status == "completed"


def test_a_transaction_is_refused_where_nothing_would_end_it(make_scope: Any, database: SQLiteStore) -> None:
    """In a flow itself, in a step without a checkpoint, in a plain block: an error at once, and no writer waits."""

    @flow
    def root(ctx: FlowContext, n: int) -> None:
        put(ctx, n)

    @flow
    def block(ctx: FlowContext, n: int) -> None:
        ctx.exec("block", lambda inner: put(inner, n))

    cheap = Workflow("w", steps=[Step("cheap", lambda context: put(current(), 1), checkpoint=False)])
    scope = make_scope(store=database)
    for started in (root, block, cheap):
        error = scope.exec(started, {} if started is cheap else 1).exception(LONG)
        error = error.__cause__ if isinstance(error, errors.WorkflowFailed) else error
        assert isinstance(error, errors.ContextError)
        assert "not recorded by itself" in str(error)
    assert mine(database) == []
    assert scope.run(double, 1) == 2


def test_what_would_wait_for_its_own_transaction_is_refused(make_scope: Any, database: SQLiteStore) -> None:
    """A child, a fan-out, a second run or another write inside an open transaction is an error, and no deadlock."""
    inside: list[Callable[[FlowContext], Any]] = [
        lambda ctx: ctx.exec(double, 1),
        lambda ctx: ctx.exec(double, 1, key="k"),
        lambda ctx: ctx.parallel(double.each(range(5))),
        lambda ctx: list(ctx.stream(double.each(range(5)))),
        lambda ctx: ctx._scope.run(double, 1),
        lambda ctx: ctx._scope.store.prune(),  # type: ignore[attr-defined]
        lambda ctx: ctx.reset_journal(),
    ]

    @flow
    def writes(ctx: FlowContext, context: WorkflowContext) -> None:
        put(ctx, 1)
        inside[context.params["what"]](ctx)

    workflow = Workflow("w", steps=[Step("writes", writes)])
    scope = make_scope(store=database, max_workers=4)
    for what in range(len(inside)):
        error = scope.exec(workflow, {"what": what}).exception(LONG)
        assert isinstance(error, errors.WorkflowFailed), what
        assert isinstance(error.__cause__, (errors.ContextError, errors.StoreError)), what
        assert "transaction" in str(error.__cause__), what
    assert mine(database) == []


def test_a_deadline_takes_an_open_transaction_back(make_scope: Any, database: SQLiteStore, event: Any) -> None:
    """Of a step and of the whole run: the abandoned thread keeps no writer waiting, and nothing of it is written."""
    go = event()

    @flow
    def stuck(ctx: FlowContext, context: WorkflowContext) -> None:
        with ctx.transaction() as db:
            db.execute("INSERT INTO mine VALUES (1)")
            assert go.wait(LONG)
            db.execute("INSERT INTO mine VALUES (2)")

    scope = make_scope(store=database)
    step = Workflow("w", steps=[Step("stuck", stuck, timeout=0.05)])
    assert isinstance(scope.exec(step).exception(LONG), errors.WorkflowFailed)
    assert scope.run(double, 1) == 2
    run = Workflow("v", steps=[Step("stuck", stuck)])
    assert isinstance(scope.exec(run, timeout=0.05).exception(LONG), errors.ExecutionTimeout)
    assert scope.run(double, 2) == 4
    go.set()
    until(lambda: scope.stats().abandoned == 0, "the late threads to end")
    assert mine(database) == []


def test_a_transaction_needs_a_database(make_scope: Any, store: Any) -> None:
    """Without a store, and with one that has none, it says so."""

    @flow
    def writes(ctx: FlowContext, context: WorkflowContext) -> None:
        put(ctx, 1)

    workflow = Workflow("w", steps=[Step("writes", writes)])
    error = make_scope().exec(workflow).exception(LONG)
    assert isinstance(error.__cause__, errors.ContextError)  # type: ignore[union-attr]
    if store.url == "memory:":
        error = make_scope(store=store).exec(workflow).exception(LONG)
        assert isinstance(error.__cause__, errors.StoreError)  # type: ignore[union-attr]
        assert "memory:" in str(error.__cause__)  # type: ignore[union-attr]


# -- attempts that failed


def attempts_of(store: Any, run_id: str) -> list[tuple[str, int, str | None]]:
    """Path, number and message of each attempt that failed."""
    noted = [one for one in store.attempts(run_id) if one.error is not None]
    assert all(one.finished_at >= one.started_at > 0 for one in noted)
    return [(one.path, one.attempt, json.loads(one.error)["message"]) for one in noted]


def test_each_failed_attempt_of_a_step_is_noted(scope: Scope, store: Any) -> None:
    """Those that were repeated and the last one, of steps with retries, with a deadline each, and without."""
    tries: list[int] = []

    def flaky(_: WorkflowContext) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError(f"try {len(tries)}")

    def bad(_: WorkflowContext) -> None:
        raise ValueError("never")

    steps = [Step("flaky", flaky, retry=NOW), Step("timed", bad, timeout=LONG, on_error="continue"), Step("bad", bad)]
    run_id = failed(scope, Workflow("noted", steps=steps))
    assert attempts_of(store, run_id) == [
        ("flaky", 1, "try 1"),
        ("flaky", 2, "try 2"),
        ("timed", 1, "never"),
        ("bad", 1, "never"),
    ]


def test_a_child_that_failed_is_noted_and_an_item_is_not(scope: Scope, store: Any) -> None:
    """Recorded calls have their attempts; the failures of items are in what the fan-out gives."""

    @flow
    def bad(ctx: FlowContext, n: int) -> None:
        raise ValueError(f"bad {n}")

    @flow
    def top(ctx: FlowContext, _: Any) -> int:
        with pytest.raises(ValueError, match="bad 1"):
            ctx.exec(bad, 1, retry=Retry(attempts=2, initial=0))
        return ctx.parallel_settled(bad.each([2, 3])).stats.failed

    execution = scope.exec(top)
    assert execution.result(LONG) == 2
    assert attempts_of(store, execution.id) == [("bad", 1, "bad 1"), ("bad", 2, "bad 1")]


def test_what_was_told_to_stop_has_not_failed(scope: Scope, store: Any, event: Callable[[], threading.Event]) -> None:
    """A step that obeys the signal with an exception is no failed attempt."""
    waits = event()

    @flow
    def obeys(ctx: FlowContext, _: Any) -> None:
        waits.set()
        ctx.signal.wait(LONG)
        raise RuntimeError("stopped")

    execution = scope.exec(Workflow("obeys", steps=[Step("obeys", obeys)]))
    assert waits.wait(LONG)
    execution.cancel("enough")
    assert execution.exception(LONG) is not None
    assert store.attempts(execution.id) == []


def test_a_resumed_run_is_not_confused_by_failed_attempts(scope: Scope, store: Any) -> None:
    """A failed attempt is no start: the step runs again, and its attempts count from 1 again."""
    tries: list[int] = []

    def second_day(_: WorkflowContext) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError(f"try {len(tries)}")

    workflow = Workflow("again", steps=[Step("load", second_day, retry=Retry(attempts=2, initial=0))])
    run_id = failed(scope, workflow)
    assert scope.resume(run_id, flow=workflow).result(LONG).status == "completed"
    assert attempts_of(store, run_id) == [("load", 1, "try 1"), ("load", 2, "try 2")]


def test_an_attempt_that_fails_in_its_transaction_waits_for_nothing(
    make_scope: Callable[..., Scope], open_store: Callable[[], SQLiteStore]
) -> None:
    """The transaction is undone before the failure is noted, although the step has left its block."""
    store = open_store()

    @flow
    def writes(ctx: FlowContext, _: Any) -> None:
        with ctx.transaction():
            pass
        raise ValueError("after it")

    run_id = failed(make_scope(store=store), Workflow("writes", steps=[Step("writes", writes)]))
    assert attempts_of(store, run_id) == [("writes", 1, "after it")]


def test_who_has_lost_the_run_fails_as_before(scope: Scope, store: Any) -> None:
    """A failure that cannot be noted, since another has taken the run over, is the failure that it was."""

    def bad(context: WorkflowContext) -> None:
        store.release(context.run_id, 1)
        store.claim(context.run_id)
        raise ValueError("late")

    execution = scope.exec(Workflow("lost", steps=[Step("bad", bad)]))
    error = execution.exception(LONG)
    assert isinstance(error, errors.WorkflowFailed)
    assert isinstance(error.__cause__, ValueError)
    assert store.attempts(execution.id) == []


# -- what is told


def test_the_log_says_how_a_run_goes_on(
    make_scope: Callable[..., Scope], store: Any, caplog: pytest.LogCaptureFixture, event: Callable[[], threading.Event]
) -> None:
    """A run that goes on is resumed, one that had ended answers, and one of somebody else is followed."""
    caplog.set_level("INFO", "workflow_runner")
    tries: list[int] = []
    there, go_on = event(), event()

    def load(_: WorkflowContext) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("away")
        there.set()
        assert go_on.wait(LONG)

    def runs() -> list[str]:
        return [one.event for one in caplog.records if getattr(one, "event", "").startswith("run.")]

    def closed(scope: Scope, started: Any) -> None:
        started.exception(LONG)
        scope.close()

    workflow = Workflow("told", steps=[Step("load", load)])
    first, second, third, fourth = (make_scope(store=store) for _ in range(4))
    closed(first, first.exec(workflow, idempotency_key="k"))
    assert runs() == ["run.started", "run.failed"]
    resumed = second.exec(workflow, idempotency_key="k")
    assert there.wait(LONG)
    following = third.exec(workflow, idempotency_key="k")
    go_on.set()
    closed(second, resumed)
    closed(third, following)
    assert sorted(runs()[2:]) == ["run.answered", "run.completed", "run.followed", "run.resumed"]
    closed(fourth, fourth.exec(workflow, idempotency_key="k"))
    assert runs()[6:] == ["run.answered"]
