"""The service of ``benchmarks.service``: one view, once on a scope and once on a bare pool. Served by gunicorn."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor, TimeoutError

import flask

from workflow_runner import FlowContext, Scope, flow
from workflow_runner.integrations.flask import init_app

WIDTH = 4
CALL_SECONDS = 0.02
HANG_SECONDS = 60.0
TIMEOUT_SECONDS = 0.2
WORKERS = 64
# one call in twenty hangs
EVERY = 20

_never = threading.Event()
_count = itertools.count(1).__next__


def upstream(hanging: bool) -> int:
    """A call to somebody else, which takes its time, or hangs."""
    _never.wait(HANG_SECONDS if hanging and _count() % EVERY == 0 else CALL_SECONDS)
    return 1


@flow
def call_upstream(ctx: FlowContext, hanging: bool) -> int:
    return upstream(hanging)


@flow
def healthy(ctx: FlowContext, width: int) -> int:
    return sum(ctx.parallel(call_upstream.each([False] * width)))


@flow
def patient(ctx: FlowContext, width: int) -> int:
    settled = ctx.parallel_settled(call_upstream.each([True] * width), timeout=TIMEOUT_SECONDS)
    return settled.stats.succeeded


def on_scope() -> flask.Flask:
    """The view on a scope."""
    app = flask.Flask("scope")
    scope = Scope(max_workers=WORKERS, max_abandoned=100_000)
    init_app(app, scope)
    app.get("/healthy", endpoint="healthy")(lambda: str(scope.run(healthy, WIDTH)))
    app.get("/hanging", endpoint="hanging")(lambda: str(scope.run(patient, WIDTH)))
    return app


def on_pool() -> flask.Flask:
    """The same on a bare pool, as it is usually written."""
    app = flask.Flask("pool")
    pool = ThreadPoolExecutor(WORKERS)

    def view(hanging: bool) -> str:
        done = 0
        for future in [pool.submit(upstream, hanging) for _ in range(WIDTH)]:
            try:
                done += future.result(TIMEOUT_SECONDS if hanging else None)
            except TimeoutError:
                future.cancel()
        if not done:
            flask.abort(503)
        return str(done)

    app.get("/healthy", endpoint="healthy")(lambda: view(False))
    app.get("/hanging", endpoint="hanging")(lambda: view(True))
    return app
