"""OpenTelemetry spans of runs, steps, children and fan-outs. Needs opentelemetry-api, and an SDK to go anywhere.

    scope = Scope(extensions=[Traces()])

A run's span is a child of the span that is current where the run is started, or of one that a caller has sent along. A
run that brings another trace id, as each run of a batch does, has a trace of its own and a link to the span that has
started it; a run that is resumed or retried has a link to the span of what it goes on with.

A span ends once, and on time: when a deadline abandons a thread, all that is open there ends with what has timed out.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from hashlib import blake2b
from typing import Any

import attrs
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, Status, StatusCode, TraceFlags, Tracer
from opentelemetry.trace.span import TraceState

from workflow_runner import __version__
from workflow_runner._core import secrets
from workflow_runner._core.context import ExecutionContext
from workflow_runner._core.extension import Extension, Operation
from workflow_runner._core.flow import Arguments
from workflow_runner._core.flow_context import FlowContext
from workflow_runner._core.scope import Scope
from workflow_runner._core.traceparent import JOINED, TraceParent, is_trace_id
from workflow_runner._workflow.context import StepResult, WorkflowContext
from workflow_runner._workflow.definition import Workflow
from workflow_runner.errors import Aborted

_VERBS = {"execution": "exec", "step": "step", "parallel": "parallel"}
_RUN_ID, _FLOW, _ATTEMPT = "workflow_runner.run_id", "workflow_runner.flow", "workflow_runner.attempt"
# Of tracers that make no spans.
_IDLE = (trace.ProxyTracerProvider, trace.NoOpTracerProvider)


class Traces(Extension):
    """A span for each run, step, child and fan-out; without an SDK nothing at all.

    A step or a child that is retried has a span for each attempt, a run has one for all of them.

    Args:
        items: a span for each item of a fan-out, too; there may be many.
        provider: makes the tracer; default: the global one, as soon as the program has set it.
    """

    name = "traces"

    def __init__(self, *, items: bool = False, provider: trace.TracerProvider | None = None) -> None:
        self.around = ("execution", "step", "parallel", "item") if items else ("execution", "step", "parallel")
        self._provider = provider
        self._tracer: Tracer | None = None

    def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
        ctx = operation.context._context
        assert isinstance(ctx, FlowContext)
        root = ctx.root
        is_run = ctx is root and operation.kind == "execution"
        spans: _Spans | None = root.__dict__.get("_spans")
        if spans is None:
            tracer = self._find_tracer() if is_run else None
            if tracer is None:
                return next()
            assert operation.flow is not None
            spans = root.__dict__["_spans"] = _Spans(tracer, operation.flow.name)
        if is_run:
            span = spans.run = spans.run or _start_run(spans.tracer, ctx, operation)
        else:
            name = f"{_VERBS[operation.kind]} {operation.name}"
            span = spans.tracer.start_span(name, attributes=_attributes(ctx, operation, spans.flow))
        if span.is_recording():
            spans.add(span, ctx, own=operation.kind != "parallel")
        token = contexts.attach(trace.set_span_in_context(span))
        try:
            value = next()
        except BaseException as error:
            if not is_run:
                spans.end(span, str(ctx._failed_status(error)), error)
            elif operation.flow is not None and operation.flow.retry is not None and span.is_recording():
                span.add_event("attempt.failed", {_ATTEMPT: operation.attempt, "error.type": _type_of(error)})
            raise
        finally:
            contexts.detach(token)
        if not is_run:  # which ends with its status: nobody knows it before
            spans.end(span, "skipped" if type(value) is StepResult and value.skipped is not None else "completed")
        return value

    def _find_tracer(self) -> Tracer | None:
        if self._tracer is not None:
            return self._tracer
        provider = self._provider or trace.get_tracer_provider()
        if isinstance(provider, _IDLE):
            return None  # for now
        tracer = provider.get_tracer("workflow_runner", __version__)
        others = getattr(tracer, "id_generator", None)  # the SDK's tracers have one
        if others is not None:
            tracer.id_generator = _RunIds(others)  # type: ignore[attr-defined]
        self._tracer = tracer
        return tracer


# --- spans that end once ----------------------------------------------------------------------------------------------


class _Spans:
    """The open spans of one run, each with the execution that it is of. Any thread; who takes one out ends it."""

    __slots__ = ("_open", "flow", "run", "tracer")

    def __init__(self, tracer: Tracer, flow: str) -> None:
        self.tracer = tracer
        self.flow = flow
        self._open: dict[Span, FlowContext] = {}
        # of the run itself
        self.run: Span | None = None

    def add(self, span: Span, ctx: FlowContext, *, own: bool) -> None:
        """``span`` is open, and is ``own`` to ``ctx``: it ends with that if not before."""
        if span in self._open:
            return
        self._open[span] = ctx
        if not own:
            return
        task = ctx._task
        if task is not None and task.ctx is ctx:  # a run, or a child with a deadline
            with task._lock:
                if not ctx._status.terminal:
                    ctx._cleanup = (*ctx._cleanup, partial(self._settled, span, ctx))
                    return
        if ctx._status.terminal:  # its deadline was quicker
            self._settled(span, ctx)

    def _settled(self, own: Span, ctx: FlowContext) -> None:
        """End all that is open in ``ctx``, which has its final status: what is left there is on abandoned threads."""
        for span, owner in list(self._open.items()):
            if span is not own and _is_in(owner, ctx):
                self.end(span, "cancelled", ctx._error, recorded=False)
        self.end(own, str(ctx._status), ctx._error)

    def end(self, span: Span, status: str, error: BaseException | None = None, *, recorded: bool = True) -> None:
        """End ``span``, unless somebody has."""
        if self._open.pop(span, None) is None:
            return
        span.set_attribute("workflow_runner.status", status)
        if error is not None:
            span.set_attribute("error.type", _type_of(error))
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__qualname__}: {_message(error)}"))
            if recorded and not isinstance(error, Aborted):
                span.add_event("exception", _exception(error))
        span.end()


def _is_in(ctx: ExecutionContext | None, above: ExecutionContext) -> bool:
    while ctx is not None and ctx is not above:
        ctx = ctx._parent
    return ctx is above


# --- what is said of them ---------------------------------------------------------------------------------------------


def _attributes(ctx: FlowContext, operation: Operation, flow: str) -> dict[str, Any]:
    path = ctx._path
    if operation.kind == "parallel":
        path = f"{path}/{operation.name}".lstrip("/")
    attributes = {_RUN_ID: ctx.run_id, _FLOW: flow, "workflow_runner.path": path, _ATTEMPT: operation.attempt}
    if operation.kind == "execution":
        attributes |= _code(operation)
    return attributes


def _run_attributes(ctx: FlowContext, operation: Operation) -> dict[str, Any]:
    flow, input = operation.flow, operation.input
    assert flow is not None
    attributes = {_RUN_ID: ctx.run_id, _FLOW: flow.name, **_code(operation)}
    more = {"version": flow.version, "trace_id": ctx.trace_id}
    if isinstance(input, WorkflowContext):
        about = {"batch_id": input.batch_id, "partition": input.partition, "as_of_date": input.as_of_date}
        more |= {name: None if value is None else str(value) for name, value in about.items()}
    return attributes | {f"workflow_runner.{name}": value for name, value in more.items() if value is not None}


def _code(operation: Operation) -> Mapping[str, Any]:
    """Which function it is, as the semantic conventions have it."""
    function = operation.input.function if isinstance(operation.input, Arguments) else operation.flow.handler  # type: ignore[union-attr]
    if isinstance(operation.flow, Workflow) or not hasattr(function, "__qualname__"):
        return {}
    return {"code.function.name": f"{function.__module__}.{function.__qualname__}"}


def _type_of(error: BaseException) -> str:
    cls = type(error)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _message(error: BaseException) -> str:
    try:
        return secrets.mask(str(error))
    except Exception:  # of somebody's class
        return ""


def _exception(error: BaseException) -> dict[str, str]:
    """What the semantic conventions say of an exception, without secrets."""
    return {
        "exception.type": _type_of(error),
        "exception.message": _message(error),
        "exception.stacktrace": secrets.mask("".join(traceback.format_exception(error))),
    }


# --- the trace of a run -----------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Place:
    """Where the span of a run stands.

    Attributes:
        parent: the span above; an invalid one for a trace of its own.
        links: the spans that it has to do with.
        trace_id: the id of its own trace; None for any.
        span_id: its id; None for any.
    """

    parent: SpanContext
    links: tuple[Link, ...] = ()
    trace_id: int | None = None
    span_id: int | None = None


def place(
    run_id: str, trace_id: str, *, current: SpanContext, joined: TraceParent | None, follows: tuple[str, str] | None
) -> Place:
    """Decide where the span of a run stands.

    Args:
        run_id: the run.
        trace_id: the trace that it is recorded under.
        current: the current span where it was started.
        joined: what a caller has sent along.
        follows: the id, and the trace, of the run that it goes on with or retries.
    """
    parent = current
    if joined is not None and int(joined.trace_id, 16) != current.trace_id:
        parent = _remote(joined)
    links = []
    own = int(trace_id, 16) if is_trace_id(trace_id) else None
    if follows is not None:
        why = "resumes" if follows[0] == run_id else "retries"
        earlier = SpanContext(_trace_number(follows[1]), _span_number(follows[0]), is_remote=True)
        links.append(Link(earlier, {"workflow_runner.link": why, _RUN_ID: follows[0]}))
        if why == "resumes":  # the trace it is recorded under is that of the first execution, long ago
            return Place(parent=parent, links=tuple(links))
    if parent.is_valid and own is not None and own != parent.trace_id:
        links.append(Link(parent, {"workflow_runner.link": "started by"}))
        parent = trace.INVALID_SPAN_CONTEXT
    return Place(parent=parent, links=tuple(links), trace_id=own, span_id=_span_number(run_id))


def _remote(parent: TraceParent) -> SpanContext:
    return SpanContext(
        trace_id=int(parent.trace_id, 16),
        span_id=int(parent.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([parent.state]) if parent.state else None,
    )


def _trace_number(trace_id: str) -> int:
    return int(trace_id, 16) if is_trace_id(trace_id) else 0


def _span_number(run_id: str) -> int:
    """The id of the span of a run's first execution: who links to it later knows only the run."""
    return int.from_bytes(blake2b(run_id.encode(), digest_size=8).digest()) or 1


def _start_run(tracer: Tracer, ctx: FlowContext, operation: Operation) -> Span:
    where = place(
        ctx.run_id,
        ctx.trace_id,
        current=trace.get_current_span().get_span_context(),
        joined=JOINED.get(),
        follows=ctx._follows,
    )
    parent = trace.get_current_span()
    if where.parent is not parent.get_span_context():
        parent = NonRecordingSpan(where.parent)
    token = _WANTED.set(where)
    try:
        return tracer.start_span(
            f"run {operation.flow.name}",  # type: ignore[union-attr]
            context=trace.set_span_in_context(parent),
            attributes=_run_attributes(ctx, operation),
            links=where.links,
        )
    finally:
        _WANTED.reset(token)
        JOINED.set(None)  # from here on the current span says it


class _RunIds:
    """A tracer's generator of ids, in which a run finds those that it is recorded under.

    That is what leads from a run to its trace, and from a resumed one to the span of its first execution.
    """

    def __init__(self, others: Any) -> None:
        self._others = others

    def generate_trace_id(self) -> int:
        wanted = _WANTED.get()
        trace_id: int = (wanted and wanted.trace_id) or self._others.generate_trace_id()
        return trace_id

    def generate_span_id(self) -> int:
        wanted = _WANTED.get()
        span_id: int = (wanted and wanted.span_id) or self._others.generate_span_id()
        return span_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._others, name)


_WANTED: ContextVar[Place | None] = ContextVar("workflow_runner_span_ids", default=None)
