"""Spans of runs, with the real SDK."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any

import attrs
import pytest
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import StatusCode
from store.records import until

from workflow_runner import FlowContext, Retry, Scope, Secret, Step, StepResult, Workflow, WorkflowContext, flow
from workflow_runner._core.traceparent import TraceParent, joined
from workflow_runner.errors import Aborted, ExecutionCancelled, ExecutionTimeout, WorkflowFailed
from workflow_runner.extensions.traces import Traces, _remote, place
from workflow_runner.store.memory import MemoryStore

LONG = 20.0
PARENT = TraceParent(trace_id="0af7651916cd43dd8448eb211c80319c", parent_id="b7ad6b7169203331", sampled=True)
Make = Callable[..., Scope]
Event = Callable[[], threading.Event]


@attrs.frozen
class Login:
    password: Annotated[str, Secret]


class Spans:
    """A tracer provider, and the spans that have ended."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def traces(self, **options: Any) -> Traces:
        return Traces(provider=self.provider, **options)

    def names(self) -> list[str]:
        return [span.name for span in self.exporter.get_finished_spans()]

    def one(self, name: str) -> ReadableSpan:
        found = [span for span in self.exporter.get_finished_spans() if span.name == name]
        assert len(found) == 1, f"{name} is there {len(found)} times: {self.names()}"
        return found[0]


@pytest.fixture
def spans() -> Spans:
    return Spans()


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def about(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(f"workflow_runner.{name}")


def current_span() -> int:
    return trace.get_current_span().get_span_context().span_id


def double(context: WorkflowContext, config: Any) -> StepResult:
    return StepResult.ok({"span": current_span()})


@flow
def leaf(ctx: FlowContext, value: int) -> tuple[int, int]:
    return value, current_span()


@flow
def tree(ctx: FlowContext, _input: None) -> Any:
    return ctx.exec(leaf, 1), ctx.parallel(leaf.each(range(20)), name="many"), current_span()


# -- the tree


def test_a_run_has_a_span_with_its_steps_below(spans: Spans, make_scope: Make) -> None:
    """Run and steps, each with where it stands in the run, all in one trace."""
    nightly = Workflow("nightly", version="7", steps=[Step("one", double), Step("two", double)])
    scope = make_scope(extensions=[spans.traces()])
    context = WorkflowContext.new(partition={"region": "EU"}, as_of_date="2013-02-28")
    result = scope.run(nightly, context)
    run, one, two = spans.one("run nightly"), spans.one("step one"), spans.one("step two")
    assert parent_of(run) is None
    assert [parent_of(one), parent_of(two)] == [run.context.span_id] * 2
    assert result.context.get_output("one", "span") == one.context.span_id
    assert dict(run.attributes or {}) == {
        "workflow_runner.run_id": result.run_id,
        "workflow_runner.flow": "nightly",
        "workflow_runner.version": "7",
        "workflow_runner.trace_id": context.trace_id,
        "workflow_runner.partition": "region=EU",
        "workflow_runner.as_of_date": "2013-02-28",
        "workflow_runner.status": "completed",
    }
    assert dict(two.attributes or {}) == {
        "workflow_runner.run_id": result.run_id,
        "workflow_runner.flow": "nightly",
        "workflow_runner.path": "two",
        "workflow_runner.attempt": 1,
        "workflow_runner.status": "completed",
    }
    assert run.status.status_code is StatusCode.UNSET


def test_the_trace_of_a_span_is_the_one_that_the_run_is_recorded_under(spans: Spans, make_scope: Make) -> None:
    """Who knows a run's trace id finds its trace."""
    scope = make_scope(extensions=[spans.traces()])
    nightly = Workflow("nightly", steps=[Step("one", double)])
    context = WorkflowContext.new()
    scope.run(nightly, context)
    assert format(spans.one("run nightly").context.trace_id, "032x") == context.trace_id
    plain = scope.exec(tree)
    plain.result()
    scope.close()
    assert format(spans.one("run tree").context.trace_id, "032x") == plain.id


def test_children_and_whole_fan_outs_have_spans_and_items_have_none(spans: Spans, make_scope: Make) -> None:
    """The handlers of items see the span of their fan-out, whatever thread they are on."""
    scope = make_scope(max_workers=4, extensions=[spans.traces()])
    (_, child), items, own = scope.run(tree)
    run, leaf_span, many = spans.one("run tree"), spans.one("exec leaf"), spans.one("parallel many")
    assert sorted(spans.names()) == ["exec leaf", "parallel many", "run tree"]
    assert (child, own) == (leaf_span.context.span_id, run.context.span_id)
    assert {span for _, span in items} == {many.context.span_id}
    assert [parent_of(leaf_span), parent_of(many)] == [run.context.span_id] * 2
    assert (leaf_span.attributes or {})["code.function.name"].endswith("test_traces.leaf")
    assert about(many, "path") == "many"


def test_items_have_spans_on_request(spans: Spans, make_scope: Make, event: Event) -> None:
    """Each item is a child of the fan-out, also those that helpers run."""
    met, threads = threading.Barrier(2), set()

    @flow
    def meeting(ctx: FlowContext, index: int) -> int:
        threads.add(threading.get_ident())
        met.wait(LONG)
        return current_span()

    @flow
    def root(ctx: FlowContext, _input: None) -> list[int]:
        return ctx.parallel(meeting.each(range(2)))

    scope = make_scope(max_workers=2, extensions=[spans.traces(items=True)])
    seen = scope.run(root)
    fan = spans.one("parallel parallel")
    items = [span for span in spans.exporter.get_finished_spans() if span.name == "exec meeting"]
    assert len(threads) == 2
    assert {span.context.span_id for span in items} == set(seen)
    assert [parent_of(span) for span in items] == [fan.context.span_id] * 2
    assert {about(span, "path") for span in items} == {"parallel[0]", "parallel[1]"}


def test_steps_side_by_side_and_with_deadlines_are_below_the_run(spans: Spans, make_scope: Make) -> None:
    """The current span goes along to the threads of helpers and of timed steps."""
    side = Workflow(
        "side", steps=[Step("a", double, needs=()), Step("b", double, needs=()), Step("c", double, timeout=LONG)]
    )
    scope = make_scope(max_workers=2, extensions=[spans.traces()])
    result = scope.run(side, {})
    run = spans.one("run side")
    for name in "abc":
        step = spans.one(f"step {name}")
        assert parent_of(step) == run.context.span_id
        assert result.context.get_output(name, "span") == step.context.span_id


def test_the_span_around_a_start_is_the_parent(spans: Spans, make_scope: Make) -> None:
    """A run that a request starts is a part of the request's trace, and is recorded under it."""
    store = MemoryStore()
    scope = make_scope(store=store, extensions=[spans.traces()])
    with spans.tracer.start_as_current_span("request") as request:
        execution = scope.exec(tree)
        execution.result()
        mine = scope.exec(Workflow("nightly", steps=[Step("one", double)]), {})
        mine.result()
    scope.close()
    for name in ("run tree", "run nightly"):
        assert parent_of(spans.one(name)) == request.get_span_context().span_id
    trace_id = format(request.get_span_context().trace_id, "032x")
    assert {run.trace_id for run in store.runs()} == {trace_id}


def test_a_run_inside_a_run_is_below_the_step(spans: Spans, make_scope: Make) -> None:
    """A run that a flow starts belongs to its trace."""

    @flow
    def outer(ctx: FlowContext, _input: None) -> Any:
        return scope.run(leaf, 1)

    scope = make_scope(extensions=[spans.traces()])
    scope.run(outer)
    assert parent_of(spans.one("run leaf")) == spans.one("run outer").context.span_id


def test_a_remote_parent(spans: Spans, make_scope: Make) -> None:
    """What a caller has sent is the parent, its flags and state included; a span inside that trace is nearer."""
    scope = make_scope(extensions=[spans.traces()])
    with joined(attrs.evolve(PARENT, state="a=b")):
        scope.run(leaf, 1)
    run = spans.one("run leaf")
    assert run.parent is not None
    assert (format(run.parent.trace_id, "032x"), format(run.parent.span_id, "016x")) == (
        PARENT.trace_id,
        PARENT.parent_id,
    )
    assert run.parent.is_remote
    assert run.context.trace_state.to_header() == "a=b"


def test_what_a_caller_does_not_sample_makes_no_spans(make_scope: Make) -> None:
    """The sampler decides, and the context goes on to those who are called."""
    spans = Spans(sampler=ParentBased(ALWAYS_OFF))
    scope = make_scope(extensions=[spans.traces()])
    seen: list[int] = []

    @flow
    def root(ctx: FlowContext, _input: None) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        ctx.exec(leaf, 1)

    with joined(attrs.evolve(PARENT, sampled=False)):
        scope.run(root)
    assert seen == [int(PARENT.trace_id, 16)]
    assert spans.names() == []


# -- links


def test_runs_of_a_batch_have_traces_of_their_own(spans: Spans, make_scope: Make) -> None:
    """A thousand runs are no trace that anybody can read: each links to the span that has started it."""
    scope = make_scope(extensions=[spans.traces()])
    nightly = Workflow("nightly", steps=[Step("one", double)])
    with spans.tracer.start_as_current_span("backfill") as backfill:
        for _ in range(2):
            scope.run(nightly, WorkflowContext.new(batch_id="b"))
    runs = [span for span in spans.exporter.get_finished_spans() if span.name == "run nightly"]
    assert len({run.context.trace_id for run in runs} | {backfill.get_span_context().trace_id}) == 3
    for run in runs:
        assert parent_of(run) is None
        assert [link.context for link in run.links] == [backfill.get_span_context()]
        assert about(run, "batch_id") == "b"


def test_resumed_and_retried_runs_link_to_what_they_go_on_with(spans: Spans, make_scope: Make) -> None:
    """The link names the very span of the first execution, which may have been in another process."""
    store, fail = MemoryStore(), [True]

    def once(context: WorkflowContext, config: Any) -> None:
        if fail.pop() if fail else False:
            raise ValueError("no")

    nightly = Workflow("nightly", steps=[Step("one", once)])
    first = make_scope(store=store, extensions=[spans.traces()])
    execution = first.exec(nightly, {})
    assert isinstance(execution.exception(), WorkflowFailed)
    first.close()
    original = spans.one("run nightly")
    for verb in ("resume", "retry"):
        spans.exporter.clear()
        scope = make_scope(store=store, extensions=[spans.traces()])
        fail[:] = [True]
        again = getattr(scope, verb)(execution.id, flow=nightly)
        assert isinstance(again.exception(), WorkflowFailed)
        scope.close()
        span = spans.one("run nightly")
        assert span.context.trace_id != original.context.trace_id
        assert [link.context.trace_id for link in span.links] == [original.context.trace_id]
        assert [link.context.span_id for link in span.links] == [original.context.span_id]
        assert dict(span.links[0].attributes or {}) == {
            "workflow_runner.link": f"{verb.removesuffix('y')}{'ies' if verb == 'retry' else 's'}",
            "workflow_runner.run_id": execution.id,
        }


def test_an_odd_trace_id_hinders_nobody() -> None:
    """A text that is no W3C id leaves the run where it is started."""
    current = trace.SpanContext(1, 2, is_remote=False)
    assert place("r", "order-17", current=current, joined=None, follows=None).parent is current
    linked = place("r", "order-17", current=current, joined=None, follows=("q", "order-17"))
    assert linked.links[0].context.trace_id == 0


# -- how spans end


def test_failures_are_recorded(spans: Spans, make_scope: Make) -> None:
    """Step and run have the status ERROR, the type of the error and the exception."""

    def fails(context: WorkflowContext, config: Any) -> None:
        raise ValueError("bad row")

    scope = make_scope(extensions=[spans.traces()])
    with pytest.raises(WorkflowFailed):
        scope.run(Workflow("nightly", steps=[Step("one", fails)]), {})
    step, run = spans.one("step one"), spans.one("run nightly")
    for span, kind in ((step, "ValueError"), (run, "workflow_runner.errors.WorkflowFailed")):
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == kind
        assert about(span, "status") == "failed"
        (recorded,) = span.events
        assert (recorded.attributes or {})["exception.type"] == kind
        assert "bad row" in str((recorded.attributes or {})["exception.stacktrace"])
    assert step.status.description == "ValueError: bad row"


def test_a_skipped_step(spans: Spans, make_scope: Make) -> None:
    """A step that had nothing to do says so."""
    nothing = Workflow("nightly", steps=[Step("one", lambda context, config: StepResult.skip("no data"))])
    make_scope(extensions=[spans.traces()]).run(nothing, {})
    assert about(spans.one("step one"), "status") == "skipped"


def test_each_attempt_of_a_step_has_a_span_and_a_run_has_one_for_all(spans: Spans, make_scope: Make) -> None:
    """Attempts are counted on the spans of steps, and are events of a run."""
    left = [2]

    def shaky(context: WorkflowContext, config: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise ValueError("again")

    scope = make_scope(extensions=[spans.traces()])
    steps = [Step("one", shaky, retry=Retry(attempts=3, initial=0.0))]
    scope.run(Workflow("nightly", steps=steps), {})
    attempts = [about(s, "attempt") for s in spans.exporter.get_finished_spans() if s.name == "step one"]
    assert attempts == [1, 2, 3]
    spans.exporter.clear()
    left[0] = 2
    scope.run(Workflow("nightly", steps=[Step("one", shaky)], retry=Retry(attempts=3, initial=0.0)), {})
    run = spans.one("run nightly")
    assert [event.name for event in run.events] == ["attempt.failed"] * 2
    assert run.status.status_code is StatusCode.UNSET


def test_a_cancelled_run(spans: Spans, make_scope: Make, event: Event) -> None:
    """The status names the reason, and what is below has ended, too."""
    started = event()

    @flow
    def waits(ctx: FlowContext, _input: None) -> None:
        started.set()
        ctx.sleep(LONG)

    @flow
    def root(ctx: FlowContext, _input: None) -> None:
        ctx.exec(waits)

    scope = make_scope(extensions=[spans.traces()])
    execution = scope.exec(root)
    assert started.wait(LONG)
    execution.cancel("the shop is closed")
    with pytest.raises(ExecutionCancelled):
        execution.result()
    scope.close()
    for span in (spans.one("exec waits"), spans.one("run root")):
        assert about(span, "status") == "cancelled"
        assert span.status.status_code is StatusCode.ERROR
        assert "the shop is closed" in str(span.status.description)


def test_spans_of_an_abandoned_run_end_at_its_deadline(
    spans: Spans, make_scope: Make, event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Run and step end while the thread is still stuck, and its late end changes nothing."""
    release = event()
    late: list[bool] = []

    def stuck(context: WorkflowContext, config: Any) -> None:
        span = trace.get_current_span()
        release.wait(LONG)
        late.append(span.is_recording())
        raise ValueError("late")

    scope = make_scope(extensions=[spans.traces()])
    execution = scope.exec(Workflow("nightly", steps=[Step("one", stuck)]), {}, timeout=0.05)
    with pytest.raises(ExecutionTimeout):
        execution.result()
    # a spare thread ends them, after the waiter was released
    until(lambda: len(spans.names()) == 2, "the spans to end")
    assert sorted(spans.names()) == ["run nightly", "step one"]
    for name in spans.names():
        span = spans.one(name)
        assert about(span, "status") == "cancelled"
        assert (span.attributes or {})["error.type"] == "workflow_runner.errors.ExecutionTimeout"
        assert "0.05 s" in str(span.status.description)
    release.set()
    scope.close()
    assert late == [False]
    assert len(spans.names()) == 2
    assert "ended span" not in caplog.text


def test_spans_of_an_abandoned_child_end_at_its_deadline(
    spans: Spans, make_scope: Make, event: Event, caplog: pytest.LogCaptureFixture
) -> None:
    """The run goes on; the child, and what it had called, have ended."""
    release = event()

    @flow
    def stuck(ctx: FlowContext, _input: None) -> None:
        release.wait(LONG)

    @flow
    def calls(ctx: FlowContext, _input: None) -> None:
        ctx.exec(stuck)

    @flow
    def root(ctx: FlowContext, _input: None) -> str:
        try:
            ctx.exec(calls, timeout=0.05)
        except ExecutionTimeout:
            return "went on"
        return "?"

    scope = make_scope(extensions=[spans.traces()])
    assert scope.run(root) == "went on"
    release.set()
    scope.close()
    assert sorted(spans.names()) == ["exec calls", "exec stuck", "run root"]
    assert about(spans.one("exec stuck"), "status") == "cancelled"
    assert about(spans.one("run root"), "status") == "completed"
    assert "ended span" not in caplog.text


def test_the_losers_of_a_fan_out_have_no_exception(spans: Spans, make_scope: Make) -> None:
    """An item that only obeyed is cancelled; the one that failed says why."""
    met = threading.Barrier(2)

    @flow
    def item(ctx: FlowContext, index: int) -> None:
        met.wait(LONG)
        if index == 0:
            raise ValueError("no")
        ctx.signal.wait(LONG)
        ctx.throw_if_aborted()

    @flow
    def root(ctx: FlowContext, _input: None) -> None:
        ctx.parallel(item.each(range(2)))

    scope = make_scope(max_workers=2, extensions=[spans.traces(items=True)])
    with pytest.raises(ValueError, match="no"):
        scope.run(root)
    found = {about(s, "path"): s for s in spans.exporter.get_finished_spans()}
    assert about(found["parallel[0]"], "status") == "failed"
    loser = found["parallel[1]"]
    assert (about(loser, "status"), loser.events) == ("cancelled", ())
    assert (loser.attributes or {})["error.type"].endswith(Aborted.__qualname__)


def test_secrets_are_not_in_spans(spans: Spans, make_scope: Make) -> None:
    """What is masked in a log is masked here."""

    @flow
    def login(ctx: FlowContext, input: Login) -> None:
        raise ValueError(f"wrong: {input.password}")

    scope = make_scope(extensions=[spans.traces()])
    with pytest.raises(ValueError, match="wrong"):
        scope.run(login, Login("hunter2-hunter2"))
    assert "hunter2" not in spans.one("run login").to_json()


def test_an_error_without_text_ends_its_span(spans: Spans, make_scope: Make) -> None:
    """An exception whose ``__str__`` fails is the one that the caller gets."""

    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    @flow
    def odd(ctx: FlowContext, _input: None) -> None:
        raise Odd

    @flow
    def root(ctx: FlowContext, _input: None) -> None:
        ctx.exec(odd)

    with pytest.raises(Odd):
        make_scope(extensions=[spans.traces()]).run(root)
    assert spans.names() == ["exec odd", "run root"]


def test_nothing_is_left_of_a_run(spans: Spans, make_scope: Make) -> None:
    """A thousand runs leave no open span behind."""
    scope = make_scope(extensions=[spans.traces()])
    executions = [scope.exec(leaf, n) for n in range(100)]
    for execution in executions:
        execution.result()
    scope.close()
    assert len(spans.names()) == 100
    assert all(not e.ctx.__dict__["_spans"]._open for e in executions)


def test_without_an_sdk_nothing_happens() -> None:
    """With the API alone the extension is a no-op, until a program sets a provider."""
    code = """
    import sys
    from opentelemetry import trace
    from workflow_runner import Scope, call
    from workflow_runner.extensions.traces import Traces
    scope = Scope(extensions=[Traces()])
    print(scope.run(call(trace.get_current_span)).is_recording(), "opentelemetry.sdk" in sys.modules)
    from opentelemetry.sdk.trace import TracerProvider
    trace.set_tracer_provider(TracerProvider())
    print(scope.run(call(trace.get_current_span)).name)
    """
    program = "\n".join(line[4:] for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "run", "get_current_span"]


def test_what_is_nearer_wins(spans: Spans, make_scope: Make) -> None:
    """A span inside the caller's trace is the parent; inside a run, what it was started with counts no more."""
    scope = make_scope(extensions=[spans.traces()])

    @flow
    def apart(ctx: FlowContext, _input: None) -> int:
        with spans.tracer.start_as_current_span("apart", context=contexts.Context()) as span:
            scope.run(leaf, 1)
            return span.get_span_context().span_id

    with joined(PARENT), spans.tracer.start_as_current_span("elsewhere"):
        remote = contexts.attach(trace.set_span_in_context(trace.NonRecordingSpan(_remote(PARENT))))
        with spans.tracer.start_as_current_span("view") as view:
            inside = scope.run(apart)
        contexts.detach(remote)
        scope.run(tree)
    assert parent_of(spans.one("run apart")) == view.get_span_context().span_id
    assert parent_of(spans.one("run leaf")) == inside
    assert parent_of(spans.one("run tree")) == int(PARENT.parent_id, 16)
