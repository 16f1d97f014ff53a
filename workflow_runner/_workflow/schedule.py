"""Cron schedules: when a flow should have run, and what of that was missed."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from zoneinfo import ZoneInfo

import attrs

from workflow_runner._workflow.backfill import Find, Slot
from workflow_runner.errors import InputError
from workflow_runner.store.base import RunRecord

LOCAL_TIME = Path("/etc/localtime")

# Before the last success so many scheduled times are looked at for gaps.
_GAPS = 100


class Policy(StrEnum):
    """Which of the missed runs are made up for: none, the newest, all."""

    SKIP = "skip"
    LATEST = "latest"
    ALL = "all"


@attrs.frozen(kw_only=True)
class Missed:
    """What a schedule has missed. All oldest first.

    Attributes:
        last_success: the scheduled time of the newest run that has completed; of one with another key its business
            date, or the aware time when it was begun.
        run: what is to be made up for now.
        skipped: what is given up, by the policy.
        left_out: what is too much for now.
        gaps: what has not completed and lies before the last success: a backfill's business.
    """

    last_success: dt.date | None
    run: tuple[Slot, ...]
    skipped: tuple[Slot, ...]
    left_out: tuple[Slot, ...]
    gaps: tuple[Slot, ...]


def zone(name: str | None) -> ZoneInfo:
    """A time zone by its IANA name; None: this machine's.

    Raises:
        InputError: there is no such zone.
    """
    name = name or os.environ.get("TZ", "").removeprefix(":")
    try:
        if name:
            return ZoneInfo(name)
        with LOCAL_TIME.open("rb") as file:
            return ZoneInfo.from_file(file)
    except FileNotFoundError:  # no file of that name: a machine that has set nothing is in UTC
        if not name:
            return ZoneInfo("UTC")
        raise InputError(f"there is no time zone {name!r}") from None
    except (LookupError, ValueError, OSError) as error:
        raise InputError(f"there is no time zone {name!r}") from error


def ticks(schedule: str, zone: ZoneInfo, *, after: dt.datetime, until: dt.datetime) -> list[dt.datetime]:
    """The times of a schedule.

    Where clocks are changed it is as in Debian's cron: what falls into the hour that is left out runs right after it,
    and what falls into the hour that comes twice runs once, unless it runs every hour.

    Args:
        schedule: a cron expression with five fields.
        zone: in which its times are meant.
        after: an aware time before the first.
        until: an aware time, not before the last.

    Returns:
        Aware times in that zone, oldest first.

    Raises:
        InputError: the expression is none.
    """
    from cronsim import CronSim, CronSimError

    if len(schedule.split()) != 5:
        raise InputError(f"{schedule!r} is no schedule: it has five fields, such as '30 18 * * MON-FRI'")
    try:
        times = CronSim(schedule, after.astimezone(zone))
    except CronSimError as error:
        raise InputError(f"{schedule!r} is no schedule: {error}") from error
    found: list[dt.datetime] = []
    for time in times:
        # Two times of one zone compare as their clocks show them, which go back once a year.
        if time.astimezone(dt.UTC) > until.astimezone(dt.UTC):
            break
        if time.astimezone(dt.UTC) > after.astimezone(dt.UTC):
            found.append(time)
    return found


def missed(
    slots: Sequence[Slot], find: Find, newest: RunRecord | None, *, policy: Policy, most: int | None = None
) -> Missed:
    """Decide what is to be made up for.

    Missed is what has not completed since the last success: the newest scheduled time whose run has completed. If none
    has, it is told by the newest run that has completed under whatever key: by its business date, or by when it was
    begun.

    Args:
        slots: what was scheduled, oldest first.
        find: gives the run under a key.
        newest: the newest run that has completed.
        policy: what to make up for.
        most: so many of them at most: the oldest, so that the next time goes on behind them.
    """
    start = 0
    last_success: dt.date | None = None
    for index in range(len(slots) - 1, -1, -1):
        if _completed(find(slots[index].key)):
            start, last_success = index + 1, slots[index].scheduled_at
            break
    else:
        if newest is not None:
            begun = dt.datetime.fromtimestamp(newest.created_at).astimezone()
            last_success = begun if newest.as_of is None else dt.date.fromisoformat(newest.as_of)
            start = sum(not _is_later(slot, newest) for slot in slots)
    before = list(slots[max(0, start - 1 - _GAPS) : max(0, start - 1)])
    while before and not _completed(find(before[0].key)):  # when it was not yet at work
        del before[0]
    gaps = tuple(slot for slot in before if not _completed(find(slot.key)))
    later = tuple(slots[start:])
    wanted = {Policy.SKIP: (), Policy.LATEST: later[-1:], Policy.ALL: later}[policy]
    run = wanted[:most]
    return Missed(
        last_success=last_success,
        run=run,
        skipped=later[: len(later) - len(wanted)],
        left_out=wanted[len(run) :],
        gaps=gaps,
    )


def _completed(run: RunRecord | None) -> bool:
    return run is not None and run.status == "completed"


def _is_later(slot: Slot, run: RunRecord) -> bool:
    """Whether a slot comes after a run that has another key."""
    if run.as_of is not None:
        return slot.as_of_date.isoformat() > run.as_of
    return slot.scheduled_at is None or slot.scheduled_at.timestamp() > run.created_at
