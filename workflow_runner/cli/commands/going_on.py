"""``resume``, ``retry`` and ``cancel``: what can be done with a run that is there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import attrs
from cyclopts import Parameter

from workflow_runner import Flow, FlowExecution, Scope
from workflow_runner._core.secrets import secret_names
from workflow_runner._workflow import history
from workflow_runner._workflow.lookup import find_flow
from workflow_runner.cli import NAME, document, params
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.options import (
    Debug,
    Here,
    Json,
    Seconds,
    StoreUrl,
    checked_flow,
    checked_timeout,
    opened,
    refusing_start,
)
from workflow_runner.cli.output import Reply
from workflow_runner.cli.run import Start, run_here
from workflow_runner.cli.signals import exiting
from workflow_runner.cli.target import load, search_here
from workflow_runner.cli.telling import Telling, telling
from workflow_runner.errors import StoreError
from workflow_runner.store.base import RunRecord, Store

_HERE = Here()

Params = Annotated[
    list[str] | None,
    Parameter(
        negative=(),
        metavar="NAME=VALUE",
        help="A param that wins over all that is recorded, from now on; or a secret, which is not. May be repeated.",
    ),
]
FromStep = Annotated[str | None, Parameter(name="--from", metavar="STEP")]


def resume(
    run: str | None = None,
    /,
    *,
    last: Annotated[str | None, Parameter(metavar="FLOW")] = None,
    param: Params = None,
    from_step: FromStep = None,
    allow_changed: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    timeout: Seconds = None,
    here: Here = _HERE,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Go on with a run in this process: finished steps are not run again.

    A run that has completed answers with its result. One that another
    process executes is left alone (75). What was recorded must fit the
    code: else nothing is run (65), unless --allow-changed is given.

    Args:
        run: The run's id, or its beginning.
        last: Instead of RUN: the newest run of this flow that can be gone on with.
        from_step: Run this step again, and all that was recorded after it.
        allow_changed: Go on although the workflow's steps have changed.
        timeout: How long it may run.
    """
    if (run is None) == (last is None):
        raise CommandError(Exit.USAGE, "which run? Give RUN, or --last FLOW", hint=f"see {NAME} list")
    told = telling(here.checked(), json=json)
    limit = checked_timeout(timeout)

    def start(scope: Scope) -> FlowExecution[Any]:
        return scope.resume(
            record.run_id,
            params_override=override,
            flow=flow,
            start_from=from_step,
            allow_changed=allow_changed,
            timeout=limit,
        )

    with exiting(here.exit_on_interrupt):
        with opened(store, existing=True) as runs:
            record = history.find_run(runs, run) if run is not None else _last(runs, last or "")
        flow = _flow_of(record)
        override = _overrides(flow, param)
        return _executed(start, told, here, store, about=_about(record), debug=debug)


def retry(
    run: str,
    /,
    *,
    param: Params = None,
    from_step: FromStep = None,
    failed_only: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    timeout: Seconds = None,
    here: Here = _HERE,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Start a new run with the input of an ended one, which stays as it is.

    Everything runs again, unless --from or --failed-only says what is
    reused. The new run names the old one as the one that it retries.

    Args:
        run: The id of the old run, or its beginning.
        from_step: Reuse what was recorded before this step.
        failed_only: Reuse all that has succeeded: only the steps and items of a fan-out that have not run again.
        timeout: How long it may run.
    """
    told = telling(here.checked(), json=json)
    limit = checked_timeout(timeout)

    def start(scope: Scope) -> FlowExecution[Any]:
        return scope.retry(
            record.run_id,
            from_step=from_step,
            reuse=failed_only or from_step is not None,
            params_override=override,
            flow=flow,
            timeout=limit,
        )

    with exiting(here.exit_on_interrupt):
        with opened(store, existing=True) as runs:
            record = history.find_run(runs, run)
        flow = _flow_of(record)
        override = _overrides(flow, param)
        about = f"{_about(record)}  retry of {record.run_id}".lstrip()
        reply = _executed(start, told, here, store, about=about, debug=debug)
    return attrs.evolve(reply, document=lambda: {**reply.document(), "retry_of": record.run_id})


def cancel(
    run: str,
    /,
    *,
    reason: str = "",
    wait: Seconds = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Cancel a run, whichever process executes it.

    That process is asked, and tells its steps to stop; a run that nobody
    executes is cancelled at once. It is no error if the run has ended.

    Args:
        run: The run's id, or its beginning.
        reason: Recorded with the run.
        wait: Wait so long for its end; exit with 75 if that does not come.
    """
    limit = checked_timeout(wait, option="--wait", zero=True)
    with opened(store, existing=True) as runs:
        before = history.find_run(runs, run)
        asked = runs.request_cancel(before.run_id, reason)
        now = runs.run(before.run_id)
        if limit is not None:
            now = history.await_end(runs, before.run_id, timeout=limit)
            if now.crashed:  # its process died before it saw the request: nobody else would cancel it
                runs.request_cancel(before.run_id, reason)
                now = runs.run(before.run_id)
    code = Exit.TEMPORARY if limit is not None and now.alive else Exit.DONE
    said = _said(before, now, asked=asked, waited=limit is not None)
    return Reply(
        code=code,
        document=lambda: {
            "schema": document.SCHEMA,
            "run_id": now.run_id,
            "asked": asked,
            "owner": now.owner if now.alive else None,
            "status": history.status_of(now),
        },
        show=lambda: print(said),
    )


def _said(before: RunRecord, now: RunRecord, *, asked: bool, waited: bool) -> str:
    run = f"run {now.run_id} of {now.flow}"
    if not asked:
        return f"{run} had ended before: {history.status_of(now)}"
    if not now.alive:
        was = f" ({history.status_of(before)}: nobody executed it)" if not before.alive else ""
        return f"{run} is {history.status_of(now)}{was}"
    who = history.process_of(now.owner or "")
    return f"{run}: {who} was asked to cancel it" + (", and has not yet" if waited else "")


# --- what they share --------------------------------------------------------------------------------------------------


def _executed(start: Start, told: Telling, here: Here, store: str | None, *, about: str, debug: bool) -> Reply:
    with refusing_start():
        outcome = run_here(
            start,
            store=store,
            max_workers=here.max_workers,
            grace=here.grace,
            extensions=told.extensions,
            watch=told.watch,
        )
    return told.ended(outcome, about=about, debug=debug, exit_on_interrupt=here.exit_on_interrupt)


def _about(record: RunRecord) -> str:
    return " ".join(text for text in (record.as_of, record.partition) if text)


def _last(store: Store, flow: str) -> RunRecord:
    """The newest run of a flow that can be gone on with."""
    found = history.list_runs(store, flow=flow, status=history.RESUMABLE, limit=1)
    if not found.runs:
        checked_flow(flow, store)
        message = f"no run of flow {flow!r} can be gone on with"
        raise CommandError(Exit.NOT_FOUND, message, hint=f"see {NAME} list --flow {flow}")
    return store.run(found.runs[0].run_id)


def _flow_of(record: RunRecord) -> Flow[Any, Any]:
    """The flow that a run is one of, imported."""
    run = f"run {record.run_id}"
    if record.target is None:
        message = f"the flow {record.flow!r} of {run} was made inside a function, so it cannot be imported"
        hint = f"go on with it in Python: scope.resume({record.run_id!r}, flow=...)"
        raise CommandError(Exit.NOT_FOUND, message, hint=hint)
    search_here()
    try:
        return find_flow(record.target, record.flow, record.run_id)
    except StoreError as error:
        try:
            load(record.target)  # says better why
        except CommandError as why:
            hint = f"modules are looked for in {os.getcwd()} first"
            raise CommandError(Exit.NOT_FOUND, f"{run} is one of {record.target}: {why}", hint=hint) from why
        raise CommandError(Exit.NOT_FOUND, str(error)) from error


def _overrides(flow: Flow[Any, Any], texts: Sequence[str] | None) -> dict[str, Any] | None:
    """``--param`` as params of their types, or as the secrets of an input, which are all that is not recorded of it."""
    if not texts:
        return None
    if not (params.takes_context(flow) or (attrs.has(flow.input_type) and secret_names(flow.input_type))):
        message = f"--param is for workflows, and for secrets; {flow.name!r} is a flow with an input that is recorded"
        raise CommandError(Exit.USAGE, message)
    words = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise CommandError(Exit.USAGE, f"--param is NAME=VALUE, not {text!r}", hint="such as --param limit=5")
        words.append(f"--{name.replace('_', '-')}={value}")
    given = params.read(flow, words, command=f"{NAME} run {flow.name}", some=True)
    return None if given is None else dict(given())
