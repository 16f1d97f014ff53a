"""Cron schedules in the words of others: systemd's calendar, and what every cron and Kubernetes understand."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise, product
from typing import Any
from zoneinfo import ZoneInfo

import attrs

from workflow_runner._workflow.schedule import ticks
from workflow_runner.errors import InputError

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WEEK = frozenset(range(7))
_MONTH = frozenset(range(1, 32))


@attrs.frozen
class Days:
    """Days of a month that are certain days of the week.

    Attributes:
        weekdays: 0 is Monday.
        days: counted from 1.
        from_end: counted from the last day of the month on: 1 is that day.
    """

    weekdays: frozenset[int] = _WEEK
    days: frozenset[int] = _MONTH
    from_end: bool = False

    def and_(self, other: Days) -> Days:
        """The days that are both.

        Raises:
            InputError: one counts from the first day of the month and the other from the last.
        """
        weekdays = self.weekdays & other.weekdays
        if self.days == _MONTH:
            return Days(weekdays, other.days, other.from_end)
        if other.days == _MONTH:
            return Days(weekdays, self.days, self.from_end)
        if self.from_end != other.from_end:
            raise InputError("days of a month and its last weekday together have no calendar expression")
        return Days(weekdays, self.days & other.days, self.from_end)


def on_calendar(schedule: str, zone: str | None = None) -> list[str]:
    """A schedule as expressions for ``OnCalendar=``, each of which starts the job: systemd.time(7).

    In cron a day of the month and a day of the week are alternatives if both are given and none begins with a star;
    systemd knows only both at once, so that they become two expressions.

    Args:
        schedule: a cron expression with five fields; also with L, LW and # for the last and the nth days.
        zone: the time zone in which it is meant, by its IANA name; None: the machine's.

    Raises:
        InputError: it is none, or cannot be expressed.
    """
    cron = parse(schedule)
    time = f"{_values(cron.hours, 0, 23)}:{_values(cron.minutes, 0, 59)}:00" + (f" {zone}" if zone else "")
    month = _values(cron.months, 1, 12)
    of_month, of_week = list(_of_month(cron.days)), list(_of_week(cron.weekdays))
    if cron.day_and:
        days = [one.and_(other) for one, other in product(of_month, of_week)]
    else:
        days = [*of_month, *of_week]
    # A part that no day fits has nothing to say, such as the second Monday in a field that has the 1st.
    found = [f"{_weekdays(d)}*-{month}{_dates(d)} {time}" for d in days if d.weekdays and d.days]
    if not found:
        raise InputError(f"{schedule!r} is no schedule: it never comes")
    return list(dict.fromkeys(found))


def portable(schedule: str) -> str:
    """A schedule in the words that every cron and Kubernetes know: Sunday is 0, and a step has a range before it.

    Raises:
        InputError: it is none, or has L, LW or #, which they do not know.
    """
    from cronsim.cronsim import SYMBOLIC_DAYS, SYMBOLIC_MONTHS

    cron = parse(schedule)
    special = [item for item in (*cron.days, *cron.weekdays) if isinstance(item, tuple) or item < 0]
    if special:
        raise InputError(f"{schedule!r}: neither cron nor Kubernetes know L, LW and #; systemd does")
    *fields, months, weekdays = schedule.upper().split()
    months = _numbered(months, SYMBOLIC_MONTHS, first=1)
    weekdays = _numbered(weekdays, SYMBOLIC_DAYS, first=0)
    if re.search("[7/]", weekdays) and not weekdays.startswith("*"):
        weekdays = ",".join(str(day) for day in sorted({day % 7 for day in cron.weekdays}))
    limits = zip([*fields, months], (59, 23, 31, 12), strict=True)
    return " ".join([*(re.sub(r"(?<![-*\d])(\d+)/", rf"\1-{last}/", field) for field, last in limits), weekdays])


def _numbered(field: str, names: Sequence[str], *, first: int) -> str:
    for number, name in enumerate(names, first):
        field = field.replace(name, str(number))
    return field


def parse(schedule: str) -> Any:
    """What cronsim makes of a schedule: ``minutes``, ``hours``, ``days``, ``months``, ``weekdays``, ``day_and``.

    Raises:
        InputError: it is none.
    """
    from cronsim import CronSim

    now = dt.datetime.now(dt.UTC)
    ticks(schedule, ZoneInfo("UTC"), after=now, until=now)  # says what is wrong
    return CronSim(schedule, now)


def _of_month(days: Collection[int]) -> Iterator[Days]:
    from cronsim import CronSim

    plain = frozenset(day for day in days if day > 0)
    if plain:
        yield Days(_WEEK, plain)
    if CronSim.LAST in days:
        yield Days(_WEEK, frozenset([1]), from_end=True)
    if CronSim.LAST_WEEKDAY in days:  # the last day; or the Friday before, if that is a Saturday or Sunday
        yield Days(frozenset(range(5)), frozenset([1]), from_end=True)
        yield Days(frozenset([4]), frozenset([2, 3]), from_end=True)


def _of_week(weekdays: Iterable[int | tuple[int, int]]) -> Iterator[Days]:
    from cronsim import CronSim

    plain = frozenset((day + 6) % 7 for day in weekdays if isinstance(day, int))
    if plain:
        yield Days(plain)
    for day, nth in sorted(item for item in weekdays if isinstance(item, tuple)):
        one = frozenset([(day + 6) % 7])
        if nth == CronSim.LAST:
            yield Days(one, frozenset(range(1, 8)), from_end=True)
        else:
            yield Days(one, frozenset(range(7 * nth - 6, min(7 * nth, 31) + 1)))


def _weekdays(days: Days) -> str:
    if days.weekdays == _WEEK:
        return ""
    found = sorted(days.weekdays)
    if len(found) > 2 and found[-1] - found[0] == len(found) - 1:
        return f"{_DAYS[found[0]]}..{_DAYS[found[-1]]} "
    return ",".join(_DAYS[day] for day in found) + " "


def _dates(days: Days) -> str:
    return ("~" if days.from_end else "-") + _values(days.days, 1, 31)


def _values(values: Collection[int], first: int, last: int) -> str:
    """Numbers as systemd writes them: all, a range, a range with a step, or one by one."""
    found = sorted(values)
    if len(found) == last - first + 1:
        return "*"
    steps = {after - before for before, after in pairwise(found)}
    if len(found) > 2 and len(steps) == 1:
        step = steps.pop()
        return f"{found[0]:02}..{found[-1]:02}" + (f"/{step}" if step > 1 else "")
    return ",".join(f"{value:02}" for value in found)
