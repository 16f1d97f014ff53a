"""``prune`` and ``doctor``: retention, and the examination of a store."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Annotated, Any
from urllib.parse import parse_qsl

import attrs
from cyclopts import Parameter

from workflow_runner.cli import checkup, document, params, retention
from workflow_runner.cli.durations import Duration
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.options import Debug, Json, StoreUrl, checked_flow, opened
from workflow_runner.cli.output import Reply
from workflow_runner.store import doctor as clinic
from workflow_runner.store import sqlite_path
from workflow_runner.store.doctor import Finding, Level

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


def prune(
    *,
    older_than: Duration = None,
    keep_last: Annotated[int | None, Parameter(converter=params.convert, metavar="N")] = None,
    flow: str | None = None,
    failed: Flag = False,
    dry_run: Flag = False,
    vacuum: Flag = False,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Delete old runs with their steps, logs and events.

    At least one limit is needed; a run goes if every limit lets it go. What
    is running, or waits to be resumed, never goes. Others write meanwhile.

    Args:
        older_than: Only what ended so long ago, such as 90d, 12h, 4w. Skipped starts of that age go as well.
        keep_last: Of each flow so many of the newest stay.
        flow: Only runs of this flow.
        failed: Also failed and cancelled runs, which could be resumed.
        dry_run: List what would go, and delete nothing.
        vacuum: Give the space back to the disk; every writer waits for it.
    """
    if keep_last is not None and keep_last < 1:
        raise CommandError(Exit.USAGE, f"--keep-last is at least 1, not {keep_last}", hint="--older-than 0s keeps none")
    limited = older_than is not None or keep_last is not None
    if not limited and (not vacuum or dry_run or flow is not None or failed):
        message = "prune needs a limit: --older-than or --keep-last"
        raise CommandError(Exit.USAGE, message, hint="such as --older-than 90d; --older-than 0s deletes all that ended")
    with opened(store, existing=True) as runs:
        choice: dict[str, Any] = {
            "older_than": older_than,
            "keep_last": keep_last or 0,
            "keep_failed": not failed,
            "flow": None if flow is None else checked_flow(flow, runs),
        }
        if dry_run:
            done = retention.plan(runs, **choice)
        else:
            done = retention.carry_out(runs, vacuum=vacuum, limited=limited, **choice)
    return Reply(
        code=Exit.DONE,
        document=partial(retention.document, done),
        show=partial(retention.show, done),
    )


def doctor(
    *,
    store: StoreUrl = None,
    fix: Flag = False,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Examine a store, the disk and clock below it, and this installation.

    Nothing is changed, and what runs is not disturbed.

    Exit codes: 0 if there is no problem, warnings or not, 1 if there is.

    Args:
        fix: Remove the files that dead processes have left, and copy the write-ahead log into the file.
    """
    found: list[Finding] = []
    done: list[str] = []
    if store is not None:
        path = sqlite_path(store)
        if path is None:
            raise CommandError(Exit.USAGE, f"--store: doctor examines files, not {store!r}", hint="sqlite:///runs.db")
        look = partial(clinic.look, path, network=dict(parse_qsl(store.partition("?")[2])).get("network", "refuse"))
        facts = look()
        if fix:
            try:
                done = clinic.mend(facts)
            except (OSError, sqlite3.Error) as error:
                raise CommandError(Exit.STORE, f"store {path} cannot be mended: {error}") from error
            facts = look()
        found = clinic.judge(facts)
    found += checkup.installation()
    worst = max((finding.level for finding in found), key=list(Level).index)
    code = Exit.FAILED if worst is Level.PROBLEM else Exit.DONE
    return Reply(
        code=code,
        document=lambda: {
            "schema": document.SCHEMA,
            "status": worst,
            "exit_code": int(code),
            "fixed": done,
            "findings": [attrs.asdict(finding) for finding in found],
        },
        show=partial(checkup.show, found, done),
    )
