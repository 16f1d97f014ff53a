"""``run``: one run in this process."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from cyclopts import Parameter

from workflow_runner.cli import NAME, document, logs, params, render
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.inputs import input_of, key_of
from workflow_runner.cli.options import (
    AsOfDate,
    Debug,
    Json,
    Partitions,
    Seconds,
    StoreUrl,
    checked_partition,
    checked_timeout,
    refusing,
)
from workflow_runner.cli.output import Reply
from workflow_runner.cli.run import run_here
from workflow_runner.cli.target import load
from workflow_runner.errors import IdempotencyConflict, InputError


def run(
    target: str,
    /,
    *parameters: Annotated[str, Parameter(allow_leading_hyphen=True)],
    as_of_date: AsOfDate = None,
    partition: Partitions = None,
    timeout: Seconds = None,
    store: StoreUrl = None,
    key: Annotated[str | None, Parameter(metavar="TEMPLATE")] = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply | None:
    """Run a flow or a workflow in this process.

    Options before the target are the runner's. What follows it are the
    flow's own parameters; "workflow-runner run TARGET --help" lists them.
    Results go to stdout, logs and errors to stderr.

    Exit codes: 0 done, 1 failed, 3 partial (a step failed that may),
    64 usage, 65 parameters, 66 no such flow, 69 the store, 70 a bug of
    ours, 75 try again later (another process is at it), 78 configuration,
    124 timeout. Ctrl-C and SIGTERM end the run, and the process dies of the
    signal.

    Args:
        target: What to run, as module:attribute. The working directory is searched first.
        parameters: The flow's own, as --name value.
        timeout: How long it may run.
        key: One run per key in the store, such as {as_of_date}: it is gone on with, or answers with its result.
    """
    logs.configure()
    limit = checked_timeout(timeout)
    coordinates = checked_partition(partition)
    flow = load(target)
    given = params.read(flow, parameters, command=f"{NAME} run {target}")
    if given is None:
        return None
    input = input_of(flow, given(), as_of_date=as_of_date, partition=coordinates)
    if key is not None and store is None:
        raise CommandError(Exit.USAGE, "--key needs a --store", hint="such as --store sqlite:///runs.db")
    filled_in = None if key is None else key_of(key, flow.name, as_of_date, coordinates)
    with refusing():
        try:
            outcome = run_here(flow, input, timeout=limit, store=store, key=filled_in)
        except (InputError, IdempotencyConflict) as error:
            raise CommandError(Exit.PARAMETERS, str(error)) from error
    about = " ".join(str(part) for part in (as_of_date, coordinates) if part)
    return Reply(
        code=outcome.code,
        document=partial(document.document, outcome),
        show=partial(render.show, outcome, about=about),
        complain=partial(render.show_error, outcome, whole=debug),
        signal=outcome.interrupted_by,
    )
