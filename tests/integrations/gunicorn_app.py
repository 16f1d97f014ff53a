"""A service for gunicorn: a scope that is made before the fork, a few views. Where it is and what it does: see env."""

from __future__ import annotations

import os
import time
from pathlib import Path

import flask

from workflow_runner import FlowContext, Scope, Step, Workflow, WorkflowContext, call, errors, flow
from workflow_runner.extensions.store_metrics import CONTENT_TYPE, metrics_text
from workflow_runner.integrations.flask import init_app

FOLDER = Path(os.environ["SERVICE_FOLDER"])
scope = Scope(name="service", max_workers=4, store=f"sqlite:///{FOLDER}/runs.db?durability=process")
# used before the fork
assert scope.run(call(int)) == 0


def note(what: str) -> None:
    with (FOLDER / "notes").open("a") as file:
        file.write(f"{what}\n")


@flow
def once(ctx: FlowContext, n: int) -> int:
    note(f"job {os.getpid()}")
    return n


@flow
def fan(ctx: FlowContext, n: int) -> list[int]:
    return ctx.parallel([call(pow, i, 2) for i in range(n)])


def first(context: WorkflowContext) -> dict[str, int]:
    note("first")
    return {"n": 1}


@flow
def second(ctx: FlowContext, context: WorkflowContext) -> dict[str, int]:
    note("second begins")
    while not (FOLDER / "go").exists():
        ctx.sleep(0.02)
    note("second ends")
    return {"n": 2}


two_steps = Workflow("two_steps", steps=[Step("first", first), Step("second", second)])


@flow
def never_looks(ctx: FlowContext, n: int) -> None:
    note("stuck begins")
    time.sleep(600)


def create_app() -> flask.Flask:
    app = flask.Flask("service")
    init_app(app, scope)

    @app.get("/fan")
    def _fan() -> dict[str, object]:
        return {"pid": os.getpid(), "squares": scope.run(fan, 5)}

    @app.get("/metrics")
    def _metrics() -> flask.Response:
        return flask.Response(f"# {os.getpid()}\n{metrics_text(scope.store)}", content_type=CONTENT_TYPE)

    @app.get("/slow")
    def _slow() -> tuple[str, int] | str:
        try:
            scope.run(two_steps, {}, idempotency_key="slow")
        except errors.ExecutionCancelled as error:
            return str(error), 503
        return "done"

    @app.get("/background")
    def _background() -> str:
        return scope.exec(two_steps, {}, idempotency_key="background").id

    @app.get("/waits")
    def _waits() -> tuple[str, int] | str:
        scope.exec(two_steps, {}, idempotency_key="waits").result()
        return "done"

    @app.get("/stuck")
    def _stuck() -> tuple[str, int] | str:
        try:
            scope.exec(never_looks, 1).result()
        except errors.ExecutionCancelled as error:
            return str(error), 503
        return "done"

    return app


def post_worker_init(worker: object) -> None:
    """Every worker starts the same job."""
    if os.environ.get("SERVICE_JOB"):
        scope.exec(once, 7, idempotency_key="job").result(20)
    note(f"worker {os.getpid()}")
