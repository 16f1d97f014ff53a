"""What requests say about those who make them: the budget that is left, the trace that they belong to."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager

from workflow_runner._core.traceparent import from_headers, joined

RETRY_AFTER = 1
"""Seconds that a client is asked to wait when a scope is saturated."""

_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def deadline_from(headers: Mapping[str, str], *, most: float | None = None, least: float = 0.001) -> float | None:
    """How many seconds a request may still take, for ``scope.run(..., timeout=)``.

    Read, in this order: ``X-Request-Deadline`` (when the time is over, in seconds since the epoch, as a proxy would
    write it), ``X-Request-Timeout`` (seconds), ``Grpc-Timeout`` (a number and a unit, of the gRPC protocol)
    and ``X-Envoy-Expected-Rq-Timeout-Ms`` (milliseconds, as Envoy writes it). Without a number a header is passed over.

    Args:
        headers: of the request; names in any case, if the mapping does not mind.
        most: seconds; never more than that, and that if no header says anything.
        least: seconds; a budget that is used up still gives this, so that the answer is a timeout.

    Returns:
        Seconds, or None for no limit.
    """
    given = {name.lower(): value.strip() for name, value in headers.items()}
    left = next((seconds for seconds in _budgets(given) if seconds is not None), None)
    if left is None:
        return most
    return max(least, left if most is None else min(left, most))


def trace_of(headers: Mapping[str, str]) -> AbstractContextManager[None]:
    """A block in which the runs that are started belong to the trace of a request.

    They are recorded under it, and ``Traces`` makes their spans children of the caller's, or of the current span if
    that is inside the same trace.

    Args:
        headers: of the request: ``traceparent`` and ``tracestate`` as W3C Trace Context has them. Without them, or with
            some that cannot be read, the block changes nothing.
    """
    return joined(from_headers(headers))


def _budgets(given: Mapping[str, str]) -> list[float | None]:
    end = _number(given.get("x-request-deadline"))
    milliseconds = _number(given.get("x-envoy-expected-rq-timeout-ms"))
    grpc = given.get("grpc-timeout", "")
    amount = _number(grpc[:-1]) if grpc[-1:] in _UNITS and grpc[:-1].isdigit() else None
    return [
        None if end is None else end - time.time(),
        _number(given.get("x-request-timeout")),
        None if amount is None else amount * _UNITS[grpc[-1]],
        None if milliseconds is None else milliseconds / 1000,
    ]


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
