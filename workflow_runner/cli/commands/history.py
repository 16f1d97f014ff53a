"""``list``, ``show``, ``logs`` and ``status``: what a store knows about runs."""

from __future__ import annotations

import difflib
import shlex
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Literal

from cyclopts import Parameter

from workflow_runner._workflow import health as judge
from workflow_runner._workflow import history, history_data
from workflow_runner.cli import document, tables
from workflow_runner.cli.defaults import defaults
from workflow_runner.cli.durations import Limits, limits
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.moments import Moment
from workflow_runner.cli.options import AsOfDate, Debug, Json, StoreUrl, checked_flow, opened
from workflow_runner.cli.output import Reply
from workflow_runner.store.base import LogRow

Status = Literal["completed", "partial", "failed", "cancelled", "running", "crashed", "pending"]
Level = Literal["debug", "info", "warning", "error", "critical"]


# --- list -------------------------------------------------------------------------------------------------------------


def list_(
    *,
    flow: str | None = None,
    status: Annotated[list[Status] | None, Parameter(negative=())] = None,
    partition: str | None = None,
    as_of_date: AsOfDate = None,
    batch: str | None = None,
    tag: Annotated[str | None, Parameter(metavar="NAME=VALUE")] = None,
    key: str | None = None,
    since: Moment = None,
    until: Moment = None,
    limit: int = 20,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """List runs, newest first.

    A run whose process has died is "crashed"; "partial" is one that
    completed with a failed step. The beginning of a run's id stands for
    the whole in every command.

    Args:
        flow: Of this flow only.
        status: With this status only; may be repeated.
        partition: Of this partition only, such as region=EU.
        as_of_date: Of this business date only.
        batch: Of this batch only.
        tag: With this tag only.
        key: With this key only.
        since: Begun then or later: a date, a time, or an age such as 2d or 12h.
        until: Begun before.
        limit: At most so many.
    """
    if limit < 1:
        raise CommandError(Exit.USAGE, f"--limit is 1 or more, not {limit}")
    with opened(store, existing=True) as runs:
        found = history.list_runs(
            runs,
            status=status or (),
            limit=limit,
            flow=flow,
            partition=partition,
            as_of=None if as_of_date is None else as_of_date.isoformat(),
            batch_id=batch,
            tag=None if tag is None else _tag(tag),
            key=key,
            since=since,
            until=until,
        )
        if flow is not None and not found.runs:
            checked_flow(flow, runs)
    return Reply(
        code=Exit.DONE,
        document=lambda: {
            "schema": document.SCHEMA,
            "runs": [history_data.run_data(run) for run in found.runs],
            "more": found.more,
            "at_least": found.at_least,
        },
        show=partial(tables.show_list, found),
    )


def _tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise CommandError(Exit.USAGE, f"--tag is NAME=VALUE, not {text!r}", hint="such as --tag team=risk")
    return name, value


# --- show -------------------------------------------------------------------------------------------------------------


def show(
    run: str,
    /,
    *,
    outputs: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    step: str | None = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Show one run: params, steps, attempts, outputs, its error with causes.

    Args:
        run: The run's id, or its beginning.
        outputs: Print whole outputs.
        step: Show this step only, with its whole output.
    """
    with opened(store, existing=True) as runs:
        view = history.read_run(runs, history.find_run(runs, run).run_id)
    if step is None:
        return Reply(
            code=Exit.DONE,
            document=lambda: {"schema": document.SCHEMA, **history_data.view_data(view)},
            show=partial(tables.show_run, view, outputs=outputs, options=options_of(store)),
        )
    found = history.find_step(view.steps, step)
    if found is None:
        names = [one.path for _, one in history.walk(view.steps)]
        near = difflib.get_close_matches(step, names, n=3) or names[:5]
        hint = f"there is {', '.join(near)}" if near else "it has recorded none"
        raise CommandError(Exit.NOT_FOUND, f"run {view.run.run_id} has no step {step!r}", hint=hint)
    return Reply(
        code=Exit.DONE,
        document=lambda: {
            "schema": document.SCHEMA,
            "run_id": view.run.run_id,
            "step": history_data.step_data(found),
        },
        show=partial(tables.show_step, found),
    )


def options_of(store: str | None) -> str:
    """What a command on the same store needs behind it: nothing, if the store is set outside of the command line."""
    return "" if store is None or defaults().get("store") == store else f" --store {shlex.quote(store)}"


# --- logs -------------------------------------------------------------------------------------------------------------


def logs(
    run: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative=(), show_default=False)] = False,
    step: str | None = None,
    level: Level = "debug",
    last: int | None = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Print what was logged under a run.

    With --follow it goes on until the run has ended, and --json prints one
    object a line instead of one document.

    Args:
        run: The run's id, or its beginning.
        follow: Go on until the run has ended.
        step: Of this step, and what it called, only.
        level: From this level on.
        last: Only so many of what is there already.
    """
    if last is not None and last < 0:
        raise CommandError(Exit.USAGE, f"--last is 0 or more, not {last}")
    keep = _kept(step, level)
    with opened(store, existing=True) as runs:
        run_id = history.find_run(runs, run).run_id
        rows = [] if follow else list(history.read_logs(runs, run_id, keep=keep, last=last))

    def following() -> Iterator[LogRow]:
        with opened(store, existing=True) as runs:
            yield from history.follow_logs(runs, run_id, keep=keep, last=last)

    return Reply(
        code=Exit.DONE,
        document=lambda: {
            "schema": document.SCHEMA,
            "run_id": run_id,
            "logs": [history_data.log_data(row) for row in rows],
        },
        lines=(lambda: map(history_data.log_data, following())) if follow else None,
        show=lambda: tables.show_logs(following() if follow else iter(rows)),
    )


_LEVELS = ("debug", "info", "warning", "error", "critical")


def _kept(step: str | None, level: str) -> Callable[[LogRow], bool]:
    levels = _LEVELS[_LEVELS.index(level) :]

    def keep(row: LogRow) -> bool:
        return row.level in levels and (step is None or history.is_within(row.path, step))

    return keep


# --- status -----------------------------------------------------------------------------------------------------------


def status(
    flow: str | None = None,
    /,
    *,
    max_age: Limits = None,
    max_running: Limits = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Say whether flows do what is expected; exit with 1 if one does not.

    A flow is unhealthy if a run of it has crashed, if its last run failed,
    timed out or was interrupted, if it is overdue, or if a run is stuck:
    without --max-running one that takes 3 times as long as 95 of 100 did.

    Args:
        flow: This flow only.
        max_age: Overdue so long after the last success: a duration such as 26h, or FLOW=26h; may be repeated.
        max_running: Stuck after running so long: a duration, or FLOW=DURATION; may be repeated.
    """
    ages, running = limits("--max-age", max_age), limits("--max-running", max_running)
    with opened(store, existing=True) as runs:
        if flow is not None and flow not in ages:
            checked_flow(flow, runs)
        found = judge.read_for_health(runs, flow)
    judged = judge.health(found, time.time(), max_age=ages, max_running=running)
    flows = [one for one in judged if flow is None or one.flow == flow]
    healthy = all(one.healthy for one in flows)
    return Reply(
        code=Exit.DONE if healthy else Exit.FAILED,
        document=lambda: {
            "schema": document.SCHEMA,
            "healthy": healthy,
            "flows": [
                {**history_data.health_data(one), "reasons": [tables.reason(trouble) for trouble in one.troubles]}
                for one in flows
            ],
        },
        show=partial(tables.show_health, flows),
    )
