"""Which trace work belongs to, as W3C Trace Context (https://www.w3.org/TR/trace-context/) writes it.

A context variable holds what a caller has sent along; whoever starts a run reads it. Nothing here needs OpenTelemetry:
its current span is asked for only where a program has imported it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import attrs

_FIELDS = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED = 0x01

_is_trace_id = re.compile(r"(?!0{32})[0-9a-f]{32}", re.ASCII).fullmatch


@attrs.frozen(kw_only=True)
class TraceParent:
    """The span of somebody else that work is a part of.

    Attributes:
        trace_id: 32 lower-case hexadecimal digits.
        parent_id: the span, 16 of them.
        sampled: whether the caller may have recorded it.
        state: what tracing systems send along for themselves (``tracestate``), as it came.
    """

    trace_id: str
    parent_id: str
    sampled: bool = False
    state: str = ""

    def __str__(self) -> str:
        """The value of a ``traceparent`` header."""
        return f"00-{self.trace_id}-{self.parent_id}-{int(self.sampled):02x}"


JOINED: ContextVar[TraceParent | None] = ContextVar("workflow_runner_traceparent", default=None)


def parse(text: str, state: str = "") -> TraceParent | None:
    """Read a ``traceparent``.

    Of a version above 00 the fields are read that 00 has; what follows them is passed over, as the recommendation says.

    Args:
        text: the value of the header.
        state: that of ``tracestate``.

    Returns:
        None for one that is to be ignored: of the wrong form, with upper-case digits, or with an id of zeros.
    """
    found = _FIELDS.fullmatch(text)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not is_trace_id(trace_id) or not int(parent_id, 16):
        return None
    return TraceParent(
        trace_id=trace_id, parent_id=parent_id, sampled=bool(int(flags, 16) & _SAMPLED), state=state.strip()
    )


def is_trace_id(text: str) -> bool:
    """Whether ``text`` can be the id of a trace: 32 lower-case hexadecimal digits, not all of them zeros."""
    return _is_trace_id(text) is not None


def from_headers(headers: Mapping[str, str]) -> TraceParent | None:
    """What a request says about its trace.

    Args:
        headers: of the request; names in any case.

    Returns:
        None if it says nothing, or nothing that can be read.
    """
    given = {name.lower(): value for name, value in headers.items()}
    return parse(given.get("traceparent", "").strip(), given.get("tracestate", ""))


def from_environment(environ: Mapping[str, str] | None = None) -> TraceParent | None:
    """What the variables ``TRACEPARENT`` and ``TRACESTATE`` say about the trace of this process.

    Args:
        environ: default: ``os.environ``.
    """
    given = os.environ if environ is None else environ
    return parse(given.get("TRACEPARENT", "").strip(), given.get("TRACESTATE", ""))


@contextmanager
def joined(parent: TraceParent | None) -> Iterator[None]:
    """Let the runs that are started in the block belong to a trace.

    Args:
        parent: what they are a part of; None changes nothing.
    """
    if parent is None:
        yield
        return
    token = JOINED.set(parent)
    try:
        yield
    finally:
        JOINED.reset(token)


def current_trace_id() -> str | None:
    """The trace that a run started here belongs to: what was joined, or else that of OpenTelemetry's current span."""
    parent = JOINED.get()
    if parent is not None:
        return parent.trace_id
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return None
    span = opentelemetry.get_current_span().get_span_context()
    return format(span.trace_id, "032x") if span.is_valid else None
