"""The commands: each reads its words, calls plain functions, prints what they give, and returns the exit code."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from workflow_runner import Flow, PartitionKey, WorkflowContext, __version__
from workflow_runner._core.clock import seconds
from workflow_runner.cli import NAME, document, logs, params, render
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.output import Reply, give, stdout_for
from workflow_runner.cli.run import run_here
from workflow_runner.cli.signals import die_of
from workflow_runner.cli.target import EXAMPLE, load
from workflow_runner.errors import IdempotencyConflict, InputError, StoreError

# The options of ``run`` that take no value.
_FLAGS = ("--json", "--debug", "--help")


def dispatch(words: Sequence[str]) -> int:
    """Run the command that the words name; the one place where an error becomes a message and an exit code.

    Args:
        words: without the name of the program.

    Returns:
        The exit code.
    """
    words = _fence_target(words)
    options = words[: words.index("--")] if "--" in words else words
    app = params.new_app(
        NAME,
        help="Run flows and workflows in this process, on threads.",
        help_format="plaintext",
        help_epilogue=f"Example:\n\n  {NAME} run --as-of-date 2013-02-28 \\\n    {EXAMPLE}",
        version=__version__,
        version_flags=["--version"],
    )
    app.command(run)
    with stdout_for(only_us="--json" in options) as stdout:
        try:
            reply: Reply | None = app(words)
            if reply is not None:
                give(reply, stdout, as_json="--json" in options)
        except KeyboardInterrupt:
            return die_of(signal.SIGINT)
        except Exception as error:
            if "--debug" in options:
                traceback.print_exception(error.__cause__ or error)
            reply = _refusal(error, words)
            give(reply, stdout, as_json="--json" in options)
    if reply is None:  # a help page has been printed
        return Exit.DONE
    return die_of(reply.signal) if reply.signal is not None else _leave(reply.code)


def _refusal(error: Exception, words: Sequence[str]) -> Reply:
    """What to say when nothing was run."""
    if isinstance(error, cyclopts.CycloptsError):
        error = CommandError(Exit.USAGE, params.explain(error, words), hint=_usage_hint(words))
    elif not isinstance(error, CommandError):
        hint = "this is a bug of ours; --debug shows the traceback"
        error = CommandError(Exit.BUG, f"{type(error).__name__}: {error}", hint=hint)
    return Reply(
        code=error.code,
        document=partial(document.refusal, error),
        show=lambda: None,
        complain=partial(render.show_refusal, error),
    )


def _usage_hint(words: Sequence[str]) -> str:
    if ":" in words[0]:
        return f"did you mean: {NAME} run {' '.join(words)}"
    return f"see {NAME} run --help" if words[0] == "run" else f"see {NAME} --help"


def _fence_target(words: Sequence[str]) -> list[str]:
    """Put a ``--`` before the target of ``run``: what follows it is the flow's, whatever it looks like."""
    words = list(words)
    if words[:1] != ["run"]:
        return words
    position = 1
    while position < len(words) and words[position].startswith("-"):
        if words[position] == "--":
            return words
        position += 1 if words[position] in _FLAGS or "=" in words[position] else 2
    return [*words[:position], "--", *words[position:]]


def run(
    target: str,
    /,
    *parameters: Annotated[str, Parameter(allow_leading_hyphen=True)],
    as_of_date: Annotated[dt.date | None, Parameter(converter=params.convert)] = None,
    partition: Annotated[list[str] | None, Parameter(negative=(), metavar="NAME=VALUE")] = None,
    timeout: Annotated[float | None, Parameter(converter=params.convert, metavar="SECONDS")] = None,
    store: Annotated[str | None, Parameter(metavar="URL")] = None,
    key: Annotated[str | None, Parameter(metavar="TEMPLATE")] = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    debug: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> Reply | None:
    """Run a flow or a workflow in this process.

    Options before the target are the runner's. What follows it are the
    flow's own parameters; "workflow-runner run TARGET --help" lists them.
    Results go to stdout, logs and errors to stderr.

    Exit codes: 0 done, 1 failed, 3 partial (a step failed that may),
    64 usage, 65 parameters, 66 no such target, 69 the store, 70 a bug of
    ours, 78 not fully installed, 124 timeout. Ctrl-C and SIGTERM end the
    run, and the process dies of the signal.

    Args:
        target: What to run, as module:attribute. The working directory is searched first.
        parameters: The flow's own, as --name value.
        as_of_date: The business date.
        partition: A coordinate of the partition; may be repeated.
        timeout: How long it may run.
        store: Where the run is recorded, such as sqlite:///runs.db.
        key: One run per key in the store, such as {as_of_date}: it is gone on with, or answers with its result.
        json: Print one JSON document, no tables; what the flow prints goes to stderr.
        debug: Print tracebacks.
    """
    logs.configure()
    limit = _checked_timeout(timeout)
    coordinates = _checked_partition(partition)
    flow = load(target)
    given = params.read(flow, parameters, command=f"{NAME} run {target}")
    if given is None:
        return None
    input = _input(flow, given(), as_of_date, coordinates)
    try:
        outcome = run_here(flow, input, timeout=limit, store=store, key=_key(key, store, flow, as_of_date, coordinates))
    except (InputError, IdempotencyConflict) as error:
        raise CommandError(Exit.PARAMETERS, str(error)) from error
    except StoreError as error:
        raise CommandError(Exit.STORE, str(error)) from error
    about = " ".join(str(part) for part in (as_of_date, coordinates) if part)
    return Reply(
        code=outcome.code,
        document=partial(document.document, outcome),
        show=partial(render.show, outcome, about=about),
        complain=partial(render.show_error, outcome, whole=debug),
        signal=outcome.interrupted_by,
    )


def _checked_timeout(timeout: float | None) -> float | None:
    try:
        return None if timeout is None else seconds(timeout, what="--timeout")
    except ValueError as error:
        raise CommandError(Exit.USAGE, str(error)) from error


def _checked_partition(texts: Sequence[str] | None) -> PartitionKey | None:
    try:
        return PartitionKey.parse(*texts) if texts else None
    except InputError as error:
        raise CommandError(Exit.USAGE, f"--{error}", hint="such as --partition region=EU") from error


def _key(
    template: str | None,
    store: str | None,
    flow: Flow[Any, Any],
    as_of_date: dt.date | None,
    partition: PartitionKey | None,
) -> str | None:
    """The key that the template means."""
    if template is None:
        return None
    if store is None:
        raise CommandError(Exit.USAGE, "--key needs a --store", hint="such as --store sqlite:///runs.db")
    fields = {"flow": flow.name, "as_of_date": as_of_date, "partition": partition}
    known = {name: value for name, value in fields.items() if value is not None}
    try:
        return template.format(**known)
    except (KeyError, IndexError, ValueError) as error:
        there = ", ".join(f"{{{name}}}" for name in known)
        raise CommandError(
            Exit.USAGE, f"--key {template!r} cannot be filled in: {error}", hint=f"there is {there}"
        ) from error


def _input(flow: Flow[Any, Any], given: Any, as_of_date: dt.date | None, partition: PartitionKey | None) -> Any:
    if params.takes_context(flow):
        return WorkflowContext.new(params=given, as_of_date=as_of_date, partition=partition)
    for option, value in (("--as-of-date", as_of_date), ("--partition", partition)):
        if value is not None:
            raise CommandError(
                Exit.USAGE, f"{option} is for workflows; {flow.name!r} is a flow with an input of its own"
            )
    return given


def _leave(code: Exit) -> int:
    """End at the deadline, also if the flow has started threads of its own that the interpreter would wait for."""
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    if code is Exit.TIMEOUT and others:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    return code
