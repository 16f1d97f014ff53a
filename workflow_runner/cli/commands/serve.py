"""``serve``: the history page."""

from __future__ import annotations

import secrets
import signal
import sys
import threading
from functools import partial
from queue import SimpleQueue
from typing import Annotated, Any

from cyclopts import Parameter

from workflow_runner.cli.document import SCHEMA
from workflow_runner.cli.durations import Limits, limits
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.options import Debug, Json, StoreUrl, opened
from workflow_runner.cli.output import Reply
from workflow_runner.cli.signals import awaited, told


def serve(
    *,
    store: StoreUrl = None,
    host: Annotated[str, Parameter(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="The port; 0: any that is free.")] = 8080,
    host_name: Annotated[
        list[str] | None, Parameter(negative=(), help="A name under which it is reached; may be repeated.")
    ] = None,
    actions: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Let people cancel, resume, retry and start runs.")
    ] = False,
    token: Annotated[
        str | None, Parameter(help="What they have to know for it; by default one is made and printed.")
    ] = None,
    max_age: Limits = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Serve the history of a store as web pages.

    They are read-only, and served to this machine alone, unless you say
    otherwise. Ctrl-C and SIGTERM end it; runs that were started here are
    handed back, to be resumed.

    Args:
        max_age: Overdue so long after the last success: a duration such as 26h, or FLOW=26h; may be repeated.
    """
    try:
        from werkzeug.serving import WSGIRequestHandler, make_server

        from workflow_runner.web.app import DESKS, make_app
    except ImportError as error:
        message = f"{error.name} is not installed"
        raise CommandError(Exit.CONFIGURATION, message, hint="pip install 'workflow-runner[web]'") from error
    if not 0 <= port <= 65535:
        raise CommandError(Exit.CONFIGURATION, f"there is no port {port}", hint="0 to 65535; 0 is any that is free")
    # a page that looks for news every second would fill the terminal
    quiet = type("Quiet", (WSGIRequestHandler,), {"log_request": lambda *_: None})
    ages = limits("--max-age", max_age)
    secret = (token or secrets.token_urlsafe(24)) if actions else None
    with opened(store) as runs:
        app = make_app(runs, actions=actions, token=secret, hosts=tuple(host_name or ()), max_age=ages)
        try:
            server = make_server(host, port, app, threaded=True, request_handler=quiet)
        except (OSError, SystemExit) as error:
            raise CommandError(Exit.CONFIGURATION, f"cannot listen at {host}:{port}: {error}") from error
        try:
            _announce(f"http://{host}:{server.port}/", None if token else secret)
            _serve_until_told(server)
        finally:
            server.server_close()
            for desk in app.extensions.get(DESKS, ()):
                desk.close()
    return Reply(
        code=Exit.DONE,
        document=partial(dict, schema=SCHEMA, status="stopped"),
        show=lambda: None,
    )


def _announce(address: str, token: str | None) -> None:
    """Say where it is, at once: a reply comes when all is over."""
    print(f"serving {address}", *([f"token {token}"] if token else []), sep="\n", file=sys.stderr, flush=True)


def _serve_until_told(server: Any) -> None:
    news: SimpleQueue[signal.Signals] = SimpleQueue()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    with told(news.put):
        thread.start()
        awaited(news)
        server.shutdown()
        thread.join(5)
