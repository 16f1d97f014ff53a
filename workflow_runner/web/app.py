"""The history page: a Flask blueprint over a store, and a WSGI application around it.

In a Flask application, with its own authentication::

    app.register_blueprint(history(store, actions=True, authorize=lambda: current_user.is_staff), url_prefix="/history")

In front of Django, in its ``wsgi.py``; in front of any other WSGI application likewise::

    from werkzeug.middleware.dispatcher import DispatcherMiddleware
    page = make_app("sqlite:///runs.db", hosts=("*",))
    application = DispatcherMiddleware(get_wsgi_application(), {"/history": page})

Every page can be read without JavaScript and has a twin in JSON (``.json``). Pages look for news by polling: an answer
carries the version of the store as its ETag, and one that has not changed costs a single look at that. Nothing is
changed unless actions are enabled, and never by GET; see `security`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

import flask
from werkzeug.exceptions import HTTPException

from workflow_runner.errors import RunNotFound, StoreError
from workflow_runner.store import open_store
from workflow_runner.store.base import Store
from workflow_runner.web import actions as acting
from workflow_runner.web import pages, words
from workflow_runner.web.security import Guard, Token
from workflow_runner.web.style import STYLE_SHEET, STYLE_VERSION

DESKS = "workflow_runner_desks"
"""Who serves an application closes, at the end, what is in ``app.extensions[DESKS]``."""

Authorize = Callable[[], bool]


def make_app(
    store: Store | str,
    *,
    actions: bool = False,
    token: str | None = None,
    scope: Any = None,
    hosts: tuple[str, ...] = (),
    max_age: Mapping[str, float] | None = None,
    title: str = "workflow_runner",
) -> flask.Flask:
    """Make a WSGI application that shows a store.

    Args:
        store: a store, or its URL.
        actions: let people cancel, resume, retry and start runs. Needs a ``token``.
        token: what a browser has to know to do so (asked for once, kept in a cookie), and a program to send as
            ``Authorization: Bearer``. Reading needs none.
        scope: where started runs are executed; default: one of this application's own, on the store.
        hosts: the names under which it may be reached besides this machine's own (a defence against DNS rebinding);
            "*": any, if somebody in front of it sees to that.
        max_age: by the name of a flow, or "*" for all: seconds after its last success that it is overdue.
        title: at the top of every page.

    Returns:
        The application.

    Raises:
        ValueError: actions without a token.
        StoreError: the store cannot be opened.
    """
    if actions and not token:
        raise ValueError("actions need a token: whoever reaches the page could start and cancel runs")
    app = flask.Flask("workflow_runner.web", static_folder=None)
    guard = Token(token, hosts) if actions else Guard(hosts=hosts)
    app.register_blueprint(history(store, guard=guard, actions=actions, scope=scope, max_age=max_age, title=title))
    return app


def history(
    store: Store | str,
    *,
    actions: bool = False,
    authorize: Authorize | None = None,
    guard: Guard | None = None,
    scope: Any = None,
    max_age: Mapping[str, float] | None = None,
    title: str = "workflow_runner",
    name: str = "workflow_runner_history",
) -> flask.Blueprint:
    """Make a blueprint that shows a store, for an application that exists.

    Args:
        store: a store, or its URL.
        actions: let people cancel, resume, retry and start runs. Needs ``authorize``.
        authorize: whether whoever makes the current request may do that; the host's own authentication. Without
            actions it decides about nothing: protect the whole blueprint with ``before_request``.
        guard: instead of ``authorize``; see `security`.
        scope: where started runs are executed; default: one of the blueprint's own, on the store.
        max_age: as `make_app`.
        title: at the top of every page.
        name: of the blueprint.

    Raises:
        ValueError: actions without ``authorize``.
        StoreError: the store cannot be opened.
    """
    if actions and guard is None and authorize is None:
        raise ValueError("actions need authorize=: whether whoever makes the request may act")
    opened = open_store(store) if isinstance(store, str) else store
    keeper = guard or Guard(authorize=authorize, any_host=True)
    desk = acting.Desk(opened, scope) if actions else None
    blueprint = flask.Blueprint(name, __name__, template_folder="templates", static_folder="static")
    blueprint.before_request(keeper.check)
    blueprint.after_request(_headers)
    for error in (RunNotFound, StoreError, HTTPException):
        blueprint.register_error_handler(error, _refused)
    blueprint.context_processor(
        lambda: {
            "words": words,
            "title": title,
            "may_act": may_act(),
            "token_missing": desk is not None and keeper.missing(),
            "here": name,
            "style_version": STYLE_VERSION,
            "calendars": pages.calendars,
            "run_address": lambda run_id: flask.url_for(f"{name}.run", run_id=run_id),
        }
    )

    def may_act() -> bool:
        return desk is not None and keeper.may_act()

    _add_pages(blueprint, opened, max_age or {}, may_act)
    if desk is not None:
        blueprint.record(lambda state: state.app.extensions.setdefault(DESKS, []).append(desk))
        acting.add_actions(blueprint, opened, desk, keeper)
    return blueprint


def _add_pages(
    blueprint: flask.Blueprint, store: Store, max_age: Mapping[str, float], may_act: Callable[[], bool]
) -> None:
    def show(template: str, make: Callable[..., Mapping[str, Any]], **words_of_the_path: str) -> flask.Response:
        """One page, for people or for programs, or the news that there is none."""
        as_json = words_of_the_path.pop("twin", "") == "json"
        # what a visitor may do and an upgrade change a page as well; ages are told anew every ten seconds
        version = f"{store.changes()}-{int(time.time()) // 10}-{STYLE_VERSION}{'-acting' if may_act() else ''}"
        if flask.request.args.get("since_version") == version:
            return flask.Response(status=204)
        if flask.request.if_none_match.contains(version):
            answer = flask.Response(status=304)
        else:
            data = make(store, flask.request.args, **words_of_the_path)
            if as_json:
                answer = flask.Response(json.dumps(pages.as_data(data)), mimetype="application/json")
            else:
                answer = flask.make_response(flask.render_template(template, version=version, **data))
        answer.set_etag(version)
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    def page(rule: str, endpoint: str, template: str, make: Callable[..., Mapping[str, Any]]) -> None:
        blueprint.add_url_rule(rule, endpoint, lambda **found: show(template, make, **found))
        twin = f"{rule.rstrip('/') or '/runs'}.json"
        blueprint.add_url_rule(twin, f"{endpoint}_json", lambda **found: show(template, make, twin="json", **found))

    page("/", "runs", "workflow_runner/runs.html", pages.runs_page)
    page("/runs/<run_id>", "run", "workflow_runner/run.html", pages.run_page)
    page("/flows", "flows", "workflow_runner/flows.html", partial(pages.flows_page, max_age=max_age))
    page("/flows/<path:flow>", "flow", "workflow_runner/flow.html", partial(pages.flow_page, max_age=max_age))
    page("/batches/<path:batch>", "batch", "workflow_runner/batch.html", pages.batch_page)
    page("/compare", "compare", "workflow_runner/compare.html", pages.compare_page)

    @blueprint.get("/runs/<run_id>/timeline.svg")
    def timeline(run_id: str) -> flask.Response:
        answer = flask.Response(pages.timeline_page(store, run_id), mimetype="image/svg+xml")
        answer.headers["Content-Security-Policy"] = "default-src 'none'; style-src 'unsafe-inline'"
        if flask.request.args.get("v"):  # another address when it is another picture
            answer.headers["Cache-Control"] = "private, max-age=3600"
        return answer

    @blueprint.get("/style.css")
    def style() -> flask.Response:
        answer = flask.Response(STYLE_SHEET, mimetype="text/css")
        answer.headers["Cache-Control"] = "max-age=86400"
        return answer


# Nothing is loaded from elsewhere, nothing in a page is executed or styled but by our own two files, nobody frames it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def _headers(answer: flask.Response) -> flask.Response:
    answer.headers.setdefault("Content-Security-Policy", _POLICY)
    answer.headers.setdefault("X-Content-Type-Options", "nosniff")
    answer.headers.setdefault("Referrer-Policy", "same-origin")
    return answer


def _refused(error: Exception) -> tuple[str, int] | flask.Response:
    code = error.code or 500 if isinstance(error, HTTPException) else 404 if isinstance(error, RunNotFound) else 503
    message = error.description if isinstance(error, HTTPException) else str(error)
    if isinstance(error, HTTPException) and error.response is not None:
        return error.response  # type: ignore[return-value]
    if flask.request.path.endswith(".json"):
        return flask.make_response(flask.jsonify(error=message), code)
    name = HTTPStatus(code).phrase
    return flask.render_template("workflow_runner/refused.html", code=code, name=name, message=message), code


__all__ = ["history", "make_app"]
