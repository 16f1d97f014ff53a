"""``backfill`` and ``catchup``: many runs of one flow, each under a key of its own."""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import attrs
from cyclopts import Parameter

from workflow_runner import Flow, WorkflowContext
from workflow_runner._core import secrets
from workflow_runner._workflow.backfill import Backfill, Only, Slot, distinct, identity_by, plan, slots
from workflow_runner._workflow.partitions import DAYS, WEEKDAYS, dates, read_partitions
from workflow_runner._workflow.schedule import Missed, Policy, missed, ticks, zone
from workflow_runner.cli import NAME, params
from workflow_runner.cli.backfill import Report, carry_out, command_line, reply, slot_data
from workflow_runner.cli.durations import Duration
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.inputs import input_of, key_of
from workflow_runner.cli.options import Debug, Here, Json, Seconds, StoreUrl, checked_timeout, convert_date, opened
from workflow_runner.cli.output import Reply
from workflow_runner.cli.signals import exiting
from workflow_runner.cli.target import load
from workflow_runner.cli.telling import Telling, telling
from workflow_runner.errors import InputError
from workflow_runner.store import sqlite_path
from workflow_runner.store.base import Store

Date = Annotated[dt.date, Parameter(converter=convert_date)]
Count = Annotated[int | None, Parameter(converter=params.convert, metavar="N")]

# Beside the runs that are to be at work at once there are at least so many workers for what they fan out.
_FAN_OUT = 4

# So far catchup looks back, and so far it can, in seconds.
WEEK = 7 * 86_400.0
LONGEST_WINDOW = 520 * WEEK


class Order(StrEnum):
    """Which dates come first."""

    FORWARD = "forward"
    BACKWARD = "backward"


class AsOf(StrEnum):
    """The business date of a scheduled time."""

    SAME_DAY = "same-day"
    PREVIOUS_DAY = "previous-day"


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Many:
    """What many runs have in common."""

    store: StoreUrl = None
    batch_id: Annotated[str | None, Parameter(metavar="ID", help="What the runs are found by; default: a new one.")] = (
        None
    )
    timeout: Annotated[Seconds, Parameter(help="How long each run may take.")] = None
    dry_run: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Print what would be done, and do nothing.")
    ] = False
    json: Json = False
    debug: Debug = False


MANY, HERE = Many(), Here()


def backfill(
    target: str,
    /,
    *parameters: str,
    from_: Annotated[Date, Parameter(name="--from")],
    to: Date,
    calendar: Annotated[str, Parameter(metavar="NAME|FILE")] = DAYS,
    partitions: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    only: Only | None = None,
    max_active: Count = 1,
    order: Order = Order.FORWARD,
    stop_after_failures: Count = None,
    key: Annotated[str | None, Parameter(metavar="TEMPLATE")] = None,
    many: Many = MANY,
    here: Here = HERE,
) -> Reply | None:
    """Run a workflow for every date of a range, each as a run of its own.

    Each date, with each partition if there are any, has a key in the
    store. Given again, the command goes on: it answers what is done, and
    runs what is missing, failed or was interrupted. The flow's own
    parameters come last, after "--".

    Exit codes: 0 all done, 1 some failed, 3 some are partial, 75 some were
    left to another process. Ctrl-C and SIGTERM hand back what runs, and the
    process dies of the signal.

    Args:
        target: What to run, as module:attribute.
        parameters: The flow's own, after "--".
        from_: The first date.
        to: The last date; it belongs to the range.
        calendar: Which dates count: days, weekdays, or a file with a date on each line.
        partitions: A file with a partition on each line, as "region=EU desk=FX", or a .csv file with a line of names.
        only: Run what is missing (never run, or left unfinished), failed (or left unfinished), or all: what has
            completed as well, as new runs, once for each batch id. Default: all that is not done.
        max_active: So many run at once.
        order: The oldest date first, or the newest.
        stop_after_failures: After so many failures begin no more.
        key: The key of each run; default: {flow}/{as_of_date}, with partitions {flow}/{as_of_date}/{partition}.
    """
    at_once = _counted(max_active, "--max-active") or 1
    most_failures = _counted(stop_after_failures, "--stop-after-failures")
    with exiting(here.exit_on_interrupt):
        job = _begin("backfill", target, parameters, many, here)
        if job is None:
            return None
        template = key or ("{flow}/{as_of_date}" if partitions is None else "{flow}/{as_of_date}/{partition}")
        with _usage(None if calendar in (DAYS, WEEKDAYS) else "--calendar is days, weekdays, or a file of dates"):
            days = dates(from_, to, calendar)
        with _usage():
            coordinates = [] if partitions is None else read_partitions(partitions)
        with _usage("--key needs what tells them apart: {as_of_date}, with partitions {partition}"):
            key_by = partial(key_of, template, job.flow.name)
            wanted = slots(days, coordinates, key=key_by, backward=order is Order.BACKWARD)
        if not wanted:
            raise CommandError(Exit.NOT_FOUND, f"there is no date from {from_} to {to} in the calendar {calendar}")
        options = {
            "from": from_,
            "to": to,
            "calendar": None if calendar == DAYS else calendar,
            "partitions": partitions,
            "only": only,
            "max-active": None if max_active == 1 else max_active,
            "order": None if order is Order.FORWARD else order,
            "stop-after-failures": stop_after_failures,
            "batch-id": job.batch_id,
            "key": key,
        }
        facts = {"from": from_.isoformat(), "to": to.isoformat(), "calendar": calendar}
        with _store(many) as store:
            return job.done(
                wanted,
                store,
                only=only,
                options=options,
                facts=facts,
                max_active=at_once,
                stop_after_failures=most_failures,
            )


def catchup(
    target: str,
    /,
    *parameters: str,
    schedule: Annotated[str, Parameter(metavar="CRON")],
    policy: Policy = Policy.ALL,
    window: Duration = None,
    most: Annotated[Count, Parameter(name="--max")] = None,
    as_of: AsOf = AsOf.SAME_DAY,
    timezone: Annotated[str | None, Parameter(metavar="NAME")] = None,
    key: Annotated[str, Parameter(metavar="TEMPLATE")] = "{flow}/{as_of_date}",
    many: Many = MANY,
    here: Here = HERE,
) -> Reply | None:
    """Make up for the runs that a schedule has missed since its last success.

    Each scheduled time is one run under a key in the store, as of "run
    --key". Those after the newest that has completed are missed. They are
    run one after the other, the oldest first; a failure ends that, and the
    next catchup goes on there. The flow's own parameters come last, after
    "--".

    Exit codes: 0 done, or nothing was missed, 1 one failed, 3 some are
    partial, 75 some were left to another process.

    Args:
        target: What to run, as module:attribute.
        parameters: The flow's own, after "--".
        schedule: When it should have run, as in a crontab: five fields.
        policy: Run all that was missed, the latest only, or skip it; what is skipped is noted in the store.
        window: Do not look back further; default: 7d.
        most: Run so many at most, the oldest first.
        as_of: The business date of a scheduled time: its own, or the day before, for jobs that run after midnight.
        timezone: Where the schedule is meant, such as America/New_York; default: this machine's time zone.
        key: The key of each run. More than one a day needs {scheduled_at}, which is in UTC.
    """
    limit = _counted(most, "--max")
    if window is not None and window > LONGEST_WINDOW:
        raise CommandError(Exit.USAGE, "--window must be at most 520w")
    with exiting(here.exit_on_interrupt):
        job = _begin("catchup", target, parameters, many, here)
        if job is None:
            return None
        now = dt.datetime.now(dt.UTC)
        with _usage("such as --schedule '30 18 * * MON-FRI' --timezone America/New_York"):
            back = dt.timedelta(seconds=WEEK if window is None else window)
            times = ticks(schedule, zone(timezone), after=now - back, until=now)
        with _usage("--key needs what tells them apart: such as '{flow}/{scheduled_at}'"):
            scheduled = distinct(_scheduled(time, job.flow.name, key, as_of) for time in times)
        options = {
            "schedule": schedule,
            "policy": policy,
            "window": f"{back.total_seconds():.0f}s",
            "max": most,
            "as-of": as_of,
            "timezone": timezone,
            "key": key,
        }
        with _store(many) as store:
            newest = next(iter(store.runs(flow=job.flow.name, status="completed", limit=1)), None)
            found = missed(scheduled, partial(store.find, job.flow.name), newest, policy=policy, most=limit)
            facts = {"schedule": schedule, "policy": str(policy), **_data(found)}
            notes = tuple(_notes(found))
            answer = job.done(found.run, store, options=options, facts=facts, notes=notes, stop_after_failures=1)
            if not many.dry_run:
                _note_skipped(store, target, found.skipped)
            return answer


# --- what both do -----------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class _Job:
    """Many runs of one flow, as far as both commands have them in common."""

    command: str
    target: str
    parameters: Sequence[str]
    flow: Flow[Any, Any]
    given: Callable[[], Any]
    many: Many
    here: Here
    told: Telling
    batch_id: str

    def make(self, slot: Slot) -> Any:
        """A new input, with a capture of its own."""
        made: WorkflowContext = input_of(
            self.flow, self.given(), as_of_date=slot.as_of_date, partition=slot.partition, batch_id=self.batch_id
        )
        at = slot.scheduled_at
        return made if at is None else made.with_metadata({"scheduled_at": at.astimezone(dt.UTC)})

    def done(
        self,
        wanted: Sequence[Slot],
        store: Store,
        *,
        options: Mapping[str, object],
        facts: Mapping[str, Any],
        notes: tuple[str, ...] = (),
        only: Only | None = None,
        max_active: int = 1,
        stop_after_failures: int | None = None,
    ) -> Reply:
        """Do it, unless it is a dry run, and say what came of it."""
        many, here = self.many, self.here
        identity, find = identity_by(self.flow, self.make), partial(store.find, self.flow.name)
        try:
            # held on to: its secrets are known, and not shown, as long as it lives
            first = self.flow.prepare(self.make(wanted[0])) if wanted else None
            planned = plan(wanted, find, identity=identity, batch_id=self.batch_id, only=only)
        except InputError as error:
            raise CommandError(Exit.PARAMETERS, str(error)) from error
        again = {**options, "timeout": many.timeout, "max-workers": here.max_workers, "store": many.store}
        report = Report(
            flow=self.flow.name,
            plan=planned,
            again=secrets.mask(command_line(self.command, self.target, again, self.parameters)),
            show_run=f"{NAME} show --store {many.store}",
            exit_on_interrupt=here.exit_on_interrupt,
            facts=facts,
            notes=notes,
        )
        del first
        if many.dry_run:
            return reply(report)
        if wanted:
            make = partial(
                Backfill,
                flow=self.flow,
                plan=planned,
                make=self.make,
                max_active=max_active,
                stop_after_failures=stop_after_failures,
                timeout=many.timeout,
            )
            if here.max_workers is None and max_active > 1:
                here = attrs.evolve(here, max_workers=max_active + max(_FAN_OUT, os.cpu_count() or 1))
            watch = not here.quiet and here.progress is not False
            report = carry_out(report, make, store, here=here, told=self.told, watch=watch, bar=not many.json)
        else:
            report = attrs.evolve(report, ended=())
        return reply(report, quiet=here.quiet)


def _begin(command: str, target: str, parameters: Sequence[str], many: Many, here: Here) -> _Job | None:
    """Check what both have in common; None if the help page of the flow was asked for."""
    told = telling(here.checked(), json=many.json)
    checked_timeout(many.timeout)
    flow = _flow(target)
    given = params.read(flow, parameters, command=f"{NAME} {command} {target} [OPTIONS] --")
    if given is None:
        return None
    return _Job(
        command=command,
        target=target,
        parameters=parameters,
        flow=flow,
        given=given,
        many=many,
        here=here,
        told=told,
        batch_id=many.batch_id or _new_batch(command),
    )


def _flow(target: str) -> Flow[Any, Any]:
    flow = load(target)
    if not params.takes_context(flow):
        raise CommandError(
            Exit.USAGE,
            f"{flow.name!r} is a flow with an input of its own: it has no business date to be run for",
            hint="workflows have one, and flows that are annotated with WorkflowContext",
        )
    return flow


@contextmanager
def _store(many: Many) -> Iterator[Store]:
    """The store; a dry run makes no file."""
    file = sqlite_path(many.store or "")
    is_new = file is not None and not Path(file).exists()
    with opened("memory:" if many.dry_run and is_new else many.store) as store:
        yield store


@contextmanager
def _usage(hint: str | None = None) -> Iterator[None]:
    """What is wrong with dates, files and schedules as errors of the command."""
    try:
        yield
    except InputError as error:
        raise CommandError(Exit.USAGE, str(error), hint=hint) from error


def _counted(value: int | None, option: str) -> int | None:
    if value is not None and value < 1:
        raise CommandError(Exit.USAGE, f"{option} must be at least 1, got {value}")
    return value


def _new_batch(command: str) -> str:
    return f"{command}-{dt.datetime.now():%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"


# --- what only catchup does -------------------------------------------------------------------------------------------


def _scheduled(at: dt.datetime, flow: str, template: str, as_of: AsOf) -> Slot:
    date = at.date() if as_of is AsOf.SAME_DAY else at.date() - dt.timedelta(days=1)
    return Slot(key=key_of(template, flow, date, None, scheduled_at=at), as_of_date=date, scheduled_at=at)


def _data(found: Missed) -> dict[str, Any]:
    return {
        "last_success": None if found.last_success is None else found.last_success.isoformat(),
        **{name: [slot_data(slot) for slot in getattr(found, name)] for name in ("skipped", "left_out", "gaps")},
    }


def _notes(found: Missed) -> Iterator[str]:
    """What people are told of a schedule."""
    last = found.last_success
    since = f" since {last:%Y-%m-%d %H:%M}" if isinstance(last, dt.datetime) else f" since {last}" if last else ""
    if not (found.run or found.skipped):
        yield f"nothing was missed{since}"
    if found.skipped:
        yield f"{len(found.skipped)} missed{since} and skipped: {_named(found.skipped)}"
    if found.left_out:
        yield f"{len(found.left_out)} more were missed{since}, and are left for the next time: {_named(found.left_out)}"
    if found.gaps:
        dates = [slot.as_of_date for slot in found.gaps]
        yield (
            f"{len(found.gaps)} before the last success have not completed: {_named(found.gaps)};"
            f" backfill --from {min(dates)} --to {max(dates)} runs them"
        )


def _named(some: Sequence[Slot]) -> str:
    names = [f"{slot.scheduled_at:%Y-%m-%d %H:%M}" for slot in some]
    return ", ".join(names) if len(names) <= 5 else f"{names[0]} to {names[-1]}"


def _note_skipped(store: Store, target: str, skipped: Sequence[Slot]) -> None:
    """Note what is given up, once for each."""
    noted = {json.loads(event.data or "{}").get("key") for event in store.events(target=target, kind="skipped")}
    for slot in skipped:
        if slot.key not in noted:
            store.note("skipped", target=target, data=json.dumps({"reason": "missed", **slot_data(slot)}))
