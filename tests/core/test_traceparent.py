"""W3C Trace Context, and how a trace comes to a run."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from workflow_runner import FlowContext, Scope, Workflow, WorkflowContext, flow
from workflow_runner._core.traceparent import (
    TraceParent,
    current_trace_id,
    from_environment,
    from_headers,
    is_trace_id,
    joined,
    parse,
)
from workflow_runner._workflow.definition import Step
from workflow_runner.store.memory import MemoryStore

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"
PARENT = TraceParent(trace_id=TRACE, parent_id=SPAN, sampled=True)


def test_a_traceparent_is_read_and_written() -> None:
    """The value of a header comes back as it was."""
    assert parse(HEADER) == PARENT
    assert str(PARENT) == HEADER
    assert str(parse(f"00-{TRACE}-{SPAN}-00")) == f"00-{TRACE}-{SPAN}-00"


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)])
def test_of_the_flags_only_the_known_one_counts(flags: str, sampled: bool) -> None:
    """The flags are bits, of which version 00 knows the lowest."""
    parent = parse(f"00-{TRACE}-{SPAN}-{flags}")
    assert parent is not None
    assert parent.sampled is sampled


@pytest.mark.parametrize(
    "text",
    [
        "",
        "junk",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-what-comes-later",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE}-{SPAN}-0A",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01x",
        f"cc-{TRACE}-{SPAN}-01.what-comes-later",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE[:-1]}\N{ARABIC-INDIC DIGIT ONE}-{SPAN}-01",
        f"{HEADER},{HEADER}",
    ],
)
def test_what_does_not_fit_is_passed_over(text: str) -> None:
    """Lengths, digits, separators and zeros are as the recommendation says, or there is no parent."""
    assert parse(text) is None


@pytest.mark.parametrize(
    "text", [f"cc-{TRACE}-{SPAN}-01", f"01-{TRACE}-{SPAN}-01-what-comes-later", f"01-{HEADER[3:]}-"]
)
def test_of_a_later_version_the_known_fields_are_read(text: str) -> None:
    """A higher version may say more behind a dash; the rest is as in version 00, and 00 is written again."""
    parent = parse(text)
    assert parent == PARENT
    assert str(parent) == HEADER


def test_headers_are_found_in_any_case() -> None:
    """A request's headers give the parent, with what tracing systems send along."""
    parent = from_headers({"TraceParent": f" {HEADER} ", "TRACESTATE": "congo=t61rcWkgMzE"})
    assert parent == TraceParent(trace_id=TRACE, parent_id=SPAN, sampled=True, state="congo=t61rcWkgMzE")
    assert from_headers({}) is None
    assert from_headers({"traceparent": "nonsense", "tracestate": "a=b"}) is None


def test_the_environment_gives_a_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRACEPARENT is that of the process."""
    monkeypatch.delenv("TRACEPARENT", raising=False)
    assert from_environment() is None
    monkeypatch.setenv("TRACEPARENT", HEADER)
    monkeypatch.setenv("TRACESTATE", "a=b")
    assert from_environment() == from_headers({"traceparent": HEADER, "tracestate": "a=b"})


@pytest.mark.parametrize("text", ["", "order-17", "0" * 32, TRACE.upper(), TRACE + "0"])
def test_what_is_no_trace_id(text: str) -> None:
    """An id has 32 lower-case digits and is not zero."""
    assert not is_trace_id(text)
    assert is_trace_id(TRACE)


def test_joining_ends_with_its_block() -> None:
    """Inside the block there is a trace, and none in another thread or behind it."""
    seen: list[str | None] = []
    with joined(PARENT):
        with joined(None):
            assert current_trace_id() == TRACE
        thread = threading.Thread(target=lambda: seen.append(current_trace_id()))
        thread.start()
        thread.join()
    assert current_trace_id() is None
    assert seen == [None]


@flow
def trace_of(ctx: FlowContext, _input: None) -> str:
    return ctx.trace_id


def test_runs_belong_to_the_trace_that_was_joined(make_scope: Callable[..., Scope]) -> None:
    """Flows and workflows that are started in the block run under its trace id, and are stored with it."""
    store = MemoryStore()
    scope = make_scope(store=store)
    nightly = Workflow("nightly", steps=[Step("one", lambda context, config: {"trace": context.trace_id})])
    with joined(PARENT):
        plain, execution = scope.exec(trace_of), scope.exec(nightly, {})
    assert plain.result() == TRACE
    assert execution.result().context.get_output("one", "trace") == TRACE
    assert {run.trace_id for run in store.runs()} == {TRACE}
    outside = scope.exec(trace_of)
    assert outside.result() == outside.id
    assert store.run(outside.id).trace_id is None


def test_a_run_of_a_batch_is_a_trace_of_its_own() -> None:
    """A context with a batch, or with a trace of its own, does not join."""
    with joined(PARENT):
        assert WorkflowContext.new().trace_id == TRACE
        assert WorkflowContext.new(batch_id="b").trace_id != TRACE
        assert WorkflowContext.new(trace_id="t").trace_id == "t"


def test_a_resumed_run_keeps_its_trace(make_scope: Callable[..., Scope]) -> None:
    """What was recorded is the trace of the run in each of its executions; a retry is a run of its own."""
    store = MemoryStore()
    scope = make_scope(store=store)
    fail = [True]
    traces: list[str] = []

    @flow
    def once(ctx: FlowContext, _input: None) -> str:
        traces.append(ctx.trace_id)
        if fail.pop() if fail else False:
            raise ValueError("no")
        return ctx.trace_id

    with joined(PARENT):
        execution = scope.exec(once)
    assert isinstance(execution.exception(), ValueError)
    assert scope.resume(execution.id, flow=once).result() == TRACE
    again = scope.retry(execution.id, flow=once)
    assert again.result() == again.id


def test_opentelemetry_is_not_imported() -> None:
    """Who does not use it does not pay for it."""
    code = "import sys, workflow_runner as w; w.Scope().run(w.call(int)); print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
