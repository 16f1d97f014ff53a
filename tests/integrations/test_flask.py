"""A real Flask application; each trap on a bare pool first, so that the test could fail."""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import flask
import pytest

from workflow_runner import FlowContext, Scope, call, errors, flow
from workflow_runner.integrations.flask import AppContexts, deadline_from, init_app, snapshot

LONG = 20.0


@pytest.fixture
def app() -> flask.Flask:
    return flask.Flask("service")


@pytest.fixture
def at_home(app: flask.Flask, make_scope: Callable[..., Scope]) -> Scope:
    """A scope of the application."""
    scope = make_scope(max_workers=4)
    init_app(app, scope)
    return scope


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def session() -> object:
    """A database session, as extensions keep one in ``g``."""
    if "session" not in flask.g:
        flask.g.session = object()
    return flask.g.session


def test_the_requests_session_is_not_shared_with_a_worker(
    app: flask.Flask, at_home: Scope, pool: ThreadPoolExecutor
) -> None:
    """On a bare pool with the context copied it is, and without it there is none; here each execution has its own."""

    @app.get("/")
    def view() -> Any:
        mine = session()
        with pytest.raises(RuntimeError, match="application context"):
            pool.submit(session).result(LONG)
        shared = pool.submit(copy_context().run, session).result(LONG) is mine
        own = at_home.exec(call(session)).result(LONG) is mine or at_home.run(call(session)) is mine
        return {"bare": shared, "ours": own}

    assert app.test_client().get("/").json == {"bare": True, "ours": False}


def test_each_child_and_each_item_has_a_session_of_its_own(app: flask.Flask, at_home: Scope) -> None:
    """Also inline children, and two runs of the same flow."""
    kept: list[object] = []

    @flow
    def fan(ctx: FlowContext, n: int) -> None:
        kept.extend([session(), ctx.exec(call(session)), ctx.exec(call(session), timeout=5)])
        kept.extend(ctx.parallel([call(session) for _ in range(20)]))
        kept.append(session())

    with app.app_context():
        kept.append(session())
        at_home.run(fan, 1)
        at_home.exec(fan, 1).result(LONG)
    # the session before and after the children is the parent's
    assert len(kept) == 1 + 2 * 24
    assert len({id(one) for one in kept}) == 1 + 2 * 23


def test_a_session_is_torn_down_when_its_execution_ends(app: flask.Flask, at_home: Scope) -> None:
    """Once for each, in its own thread, also after a failure."""
    torn: list[tuple[object, int]] = []
    app.teardown_appcontext(lambda error: torn.append((flask.g.get("session"), threading.get_ident())))

    def fails() -> None:
        session()
        raise ValueError("no")

    with app.app_context():
        ran = at_home.exec(call(lambda: (session(), threading.get_ident()))).result(LONG)
        assert torn == [ran]
        with pytest.raises(ValueError, match="no"):
            at_home.exec(call(fails)).result(LONG)
        assert len(torn) == 2
    assert len(torn) == 3


def test_the_request_does_not_go_along(app: flask.Flask, at_home: Scope, pool: ThreadPoolExecutor) -> None:
    """On a bare pool with the context copied a worker reads a request that may be over; here only a snapshot goes."""

    def path() -> str:
        return flask.request.path

    @app.post("/orders")
    def view() -> Any:
        bare = pool.submit(copy_context().run, path).result(LONG)
        with pytest.raises(RuntimeError, match="request context"):
            at_home.exec(call(path)).result(LONG)
        taken = snapshot(headers=["X-Request-Id", "X-Absent"])
        ours = at_home.exec(call(lambda: (taken.method, taken.path, dict(taken.args), dict(taken.headers))))
        return {"bare": bare, "ours": ours.result(LONG)}

    answer = app.test_client().post("/orders?n=1", headers={"X-Request-Id": "7", "Authorization": "secret"})
    assert answer.json == {"bare": "/orders", "ours": ["POST", "/orders", {"n": "1"}, {"X-Request-Id": "7"}]}


def test_an_execution_outlives_its_request(app: flask.Flask, at_home: Scope, event: Any) -> None:
    """What a view has started goes on after the answer, with an application and without the request."""
    answered = event()

    def later() -> str:
        assert answered.wait(LONG)
        return flask.current_app.name

    started: list[Any] = []
    app.get("/")(lambda: started.append(at_home.exec(call(later))) or "accepted")  # type: ignore[func-returns-value]
    assert app.test_client().get("/").text == "accepted"
    answered.set()
    assert started[0].result(LONG) == "service"


def test_other_context_variables_go_along(app: flask.Flask, at_home: Scope) -> None:
    """Flask's own stay behind, those of logging and tracing do not."""
    import structlog

    @app.get("/")
    def view() -> Any:
        with structlog.contextvars.bound_contextvars(request_id="r7"):
            return at_home.exec(call(structlog.contextvars.get_contextvars)).result(LONG)

    assert app.test_client().get("/").json["request_id"] == "r7"


def test_applications_of_a_factory_share_a_scope(make_scope: Callable[..., Scope]) -> None:
    """An execution belongs to the application it was started in, else to the last that is there; none is kept alive."""
    scope = make_scope(max_workers=2)

    def create_app(name: str) -> flask.Flask:
        app = flask.Flask(name)
        init_app(app, scope)
        return app

    def name() -> str:
        return flask.current_app.name

    one, two = create_app("one"), create_app("two")
    init_app(one, scope)
    assert len([extension for extension in scope.extensions if isinstance(extension, AppContexts)]) == 1
    with two.app_context():
        assert scope.exec(call(name)).result(LONG) == "two"
    assert scope.exec(call(name)).result(LONG) == "one"
    del one
    gc.collect()
    assert scope.exec(call(name)).result(LONG) == "two"
    del two
    gc.collect()
    with pytest.raises(RuntimeError, match="application context"):
        scope.exec(call(name)).result(LONG)


def test_a_saturated_scope_is_a_503(app: flask.Flask, make_scope: Callable[..., Scope], event: Any) -> None:
    """At once, with Retry-After, and as soon as there is room again the view works."""
    scope = make_scope(max_workers=1, max_pending=0)
    init_app(app, scope)
    begun, go = event(), event()
    app.get("/")(lambda: (scope.exec(call(int)).result(LONG) and "") or "fine")
    busy = scope.exec(call(lambda: (begun.set(), go.wait(LONG))))
    assert begun.wait(LONG)
    refused = app.test_client().get("/")
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json["error"] == "saturated"
    go.set()
    busy.result(LONG)
    assert app.test_client().get("/").text == "fine"


def test_a_requests_budget_ends_the_flow(app: flask.Flask, make_scope: Callable[..., Scope], event: Any) -> None:
    """A view that is stuck in a blocking call answers when its caller's time is over, and the slot is given back.

    On a bare pool the answer comes as well, and the thread is gone for all others.
    """
    scope, go = make_scope(max_workers=1), event()
    init_app(app, scope)
    with ThreadPoolExecutor(1) as pool:
        bare = event()
        for work in (bare.wait, int):
            with pytest.raises(TimeoutError):
                pool.submit(work).result(0.05)
        bare.set()

    @app.get("/")
    def view() -> Any:
        try:
            return str(scope.run(call(go.wait, LONG), timeout=deadline_from(flask.request.headers, most=LONG)))
        except errors.ExecutionTimeout:
            return flask.jsonify(abandoned=scope.stats().abandoned), 504

    slow = app.test_client().get("/", headers={"X-Request-Timeout": "0.05"})
    assert (slow.status_code, slow.json) == (504, {"abandoned": 1})
    assert scope.run(call(int)) == 0
    go.set()
    assert app.test_client().get("/").text == "True"


def test_a_copied_request_has_the_g_of_its_execution(
    app: flask.Flask, at_home: Scope, pool: ThreadPoolExecutor
) -> None:
    """Who wants the request all the same copies it, as on a bare pool; its session stays behind also then."""

    @app.get("/orders")
    def view() -> Any:
        mine = session()

        @flask.copy_current_request_context
        def path() -> tuple[str, bool]:
            return flask.request.path, session() is mine

        return {
            "bare": pool.submit(path).result(LONG),
            "ours": [at_home.exec(call(path)).result(LONG), at_home.run(call(path))],
        }

    answer = app.test_client().get("/orders").json
    assert answer == {"bare": ["/orders", False], "ours": [["/orders", False]] * 2}


def test_an_application_context_in_a_flow_is_one_more(app: flask.Flask, at_home: Scope) -> None:
    """Old code pushes one of its own; children have another, and what was there before comes back."""

    @flow
    def pushes(ctx: FlowContext, n: int) -> tuple[bool, bool, bool]:
        outer = session()
        with app.app_context():
            inner = session()
            child = ctx.exec(call(session))
        return inner is not outer, child not in (inner, outer), session() is outer

    with app.app_context():
        assert at_home.exec(pushes, 1).result(LONG) == at_home.run(pushes, 1) == (True, True, True)


def test_a_teardown_that_fails_fails_its_execution(app: flask.Flask, at_home: Scope, pool: ThreadPoolExecutor) -> None:
    """A session that could not be put away is no success, as in a context by hand; thread and slot are free again."""

    @app.teardown_appcontext
    def put_away(error: BaseException | None) -> None:
        raise ConnectionError("no commit")

    def by_hand() -> None:
        with app.app_context():
            pass

    with pytest.raises(ConnectionError):
        pool.submit(by_hand).result(LONG)
    for execution in [at_home.exec(call(int)) for _ in range(8)]:
        with pytest.raises(ConnectionError):
            execution.result(LONG)
    with pytest.raises(ConnectionError):
        at_home.run(call(int))
    assert not flask.has_app_context()
    assert at_home.stats().free == at_home.max_workers


def test_the_command_is_there_as_flask_workflow(
    app: flask.Flask, make_scope: Callable[..., Scope], tmp_path: Any
) -> None:
    """On the store of the application's scope, without a trace in the environment."""
    scope = make_scope(store=f"sqlite:///{tmp_path}/runs.db?durability=process")
    init_app(app, scope)
    run_id = scope.exec(call(int)).id
    runner = app.test_cli_runner()
    before = dict(os.environ)
    assert "workflow" in runner.invoke(args=["--help"]).output
    listed = runner.invoke(args=["workflow", "list", "--json"])
    assert listed.exit_code == 0
    assert [run["run_id"] for run in json.loads(listed.stdout)["runs"]] == [run_id]
    assert runner.invoke(args=["workflow", "show", "nope"]).exit_code == 66
    assert dict(os.environ) == before
