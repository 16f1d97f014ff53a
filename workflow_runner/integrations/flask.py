"""Flows inside a Flask application.

    scope = Scope(max_pending=100)

    def create_app():
        app = Flask(__name__)
        init_app(app, scope)
        return app

What a view starts runs on threads of its own, and the request does not go there with it: each execution, each child and
each item of a fan-out gets a *fresh* application context. Its ``g``, and with it a database session that belongs to it,
is never shared with the request or with another thread, and is torn down when the execution ends. ``request`` and
``session`` are not there; what a flow needs of them goes into its input, or, for the history, in a `snapshot`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, copy_context
from typing import Any

import attrs
import click
import flask
from flask.cli import with_appcontext

from workflow_runner._core.extension import Extension, Operation
from workflow_runner._core.scope import Scope
from workflow_runner.errors import ScopeSaturated
from workflow_runner.integrations.http import RETRY_AFTER, deadline_from

__all__ = ["Snapshot", "deadline_from", "init_app", "snapshot"]

EXTENSION = "workflow_runner"
"""The scope of an application is ``app.extensions[EXTENSION]``."""

# Flask's own context variables (flask.globals): who sees them sees the request.
_FLASKS = "flask."


def init_app(app: flask.Flask, scope: Scope) -> None:
    """Make flows of ``scope`` at home in ``app``.

    Gives each execution a fresh application context, answers ``ScopeSaturated`` with 503 and ``Retry-After``, and adds
    the command group ``flask workflow``. Several applications may share a scope: an execution belongs to the one whose
    context it was started in, or else to the last one given here that is still there.

    Args:
        app: the application; in a factory, the one that is being made.
        scope: the scope; it is the caller's to close.
    """
    extension = next((found for found in scope.extensions if isinstance(found, AppContexts)), None)
    if extension is None:
        extension = AppContexts()
        scope.use(extension)
    extension.add(app)
    app.extensions[EXTENSION] = scope
    app.register_error_handler(ScopeSaturated, _saturated)
    app.cli.add_command(_workflow)


class AppContexts(Extension):
    """The extension that `init_app` adds."""

    name = "flask"

    def __init__(self) -> None:
        # a reference to each application, the last one last; a factory in tests makes many
        self._apps: list[weakref.ref[flask.Flask]] = []

    def add(self, app: flask.Flask) -> None:
        """Let executions belong to ``app``."""
        self._apps = [known for known in self._apps if known() not in (None, app)] + [weakref.ref(app)]

    def wrap(self, scope: Any, next: Callable[[], Any], operation: Operation) -> Any:
        if operation.kind != "execution":
            return next()
        app = self._app()
        if app is None:
            return next()

        def in_context() -> Any:
            with app.app_context():
                return next()

        return _without_flask().run(in_context)

    def _app(self) -> flask.Flask | None:
        if flask.has_app_context():  # of the request, or of the execution above
            return flask.current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]
        return next((app for known in reversed(self._apps) if (app := known()) is not None), None)


def _without_flask() -> Context:
    """A copy of the context variables of this thread, without those of Flask."""
    context = Context()
    for variable, value in copy_context().items():
        if not variable.name.startswith(_FLASKS):
            context.run(variable.set, value)
    return context


@attrs.frozen(kw_only=True)
class Snapshot:
    """What a request was, as values that outlive it.

    Attributes:
        method: such as "POST".
        path: without the query.
        endpoint: the name of the view.
        args: the first value of each query parameter.
        headers: those that were asked for.
        remote_addr: who asked.
    """

    method: str
    path: str
    endpoint: str | None
    args: Mapping[str, str]
    headers: Mapping[str, str]
    remote_addr: str | None


def snapshot(*, headers: Iterable[str] = ()) -> Snapshot:
    """What the current request is, for a flow's input or its ``metadata``.

    Args:
        headers: the names of those to take; cookies and authorization stay where they are unless named.

    Raises:
        RuntimeError: there is no request, as Flask says it.
    """
    request = flask.request
    return Snapshot(
        method=request.method,
        path=request.path,
        endpoint=request.endpoint,
        args=request.args.to_dict(),
        headers={name: request.headers[name] for name in headers if name in request.headers},
        remote_addr=request.remote_addr,
    )


def _saturated(error: ScopeSaturated) -> flask.Response:
    response = flask.jsonify(error="saturated", message=str(error))
    response.status_code = 503
    response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


@click.command(
    "workflow",
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    help="The commands of workflow-runner, on the store of this application's scope.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@with_appcontext
def _workflow(words: tuple[str, ...]) -> None:
    from workflow_runner.cli.embedded import on_store

    raise SystemExit(on_store(flask.current_app.extensions[EXTENSION].store, words))
