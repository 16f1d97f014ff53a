"""What headers say about time and trace."""

from __future__ import annotations

import time

import pytest

from workflow_runner import FlowContext, Scope, flow
from workflow_runner.integrations.http import deadline_from, trace_of


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"X-Request-Timeout": "2.5"}, 2.5),
        ({"x-request-timeout": " 2 "}, 2.0),
        ({"Grpc-Timeout": "150m"}, 0.15),
        ({"grpc-timeout": "2H"}, 7200.0),
        ({"X-Envoy-Expected-Rq-Timeout-Ms": "300"}, 0.3),
        ({"X-Request-Timeout": "soon", "Grpc-Timeout": "1S"}, 1.0),
        ({"X-Request-Timeout": "nan"}, None),
        ({"Grpc-Timeout": "1.5S"}, None),
        ({"X-Request-Timeout": "-1"}, 0.001),
        ({"X-Request-Deadline": "12"}, 0.001),
    ],
)
def test_a_budget_is_read_off_the_headers(headers: dict[str, str], seconds: float | None) -> None:
    """By the usual names in any case; what is no number is passed over, and what is used up is a moment."""
    assert deadline_from(headers) == seconds


def test_a_deadline_is_the_time_that_is_left() -> None:
    """Not more than what is allowed, which counts as well where nobody says anything."""
    left = deadline_from({"X-Request-Deadline": str(time.time() + 60)})
    assert left is not None
    assert 0 < left <= 60
    assert deadline_from({"X-Request-Deadline": str(time.time() + 60)}, most=5) == 5
    assert deadline_from({}, most=5) == 5


def test_runs_join_the_trace_of_a_request(scope: Scope) -> None:
    """What is started in the block belongs to the caller's trace; a request without one changes nothing."""

    @flow
    def trace(ctx: FlowContext, _input: None) -> str:
        return ctx.trace_id

    given = "0af7651916cd43dd8448eb211c80319c"
    with trace_of({"Traceparent": f"00-{given}-b7ad6b7169203331-01"}):
        assert scope.run(trace) == given
    with trace_of({"Traceparent": "00-what-ever"}):
        execution = scope.exec(trace)
        assert execution.result() == execution.id
