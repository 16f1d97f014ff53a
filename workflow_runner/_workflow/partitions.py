"""Which dates and which partitions: calendars, and the files that list them."""

from __future__ import annotations

import csv
import datetime as dt
import shlex
from collections.abc import Iterator
from pathlib import Path

from workflow_runner._workflow.context import PartitionKey
from workflow_runner.errors import InputError

DAYS, WEEKDAYS = "days", "weekdays"


def dates(first: dt.date, last: dt.date, calendar: str = DAYS) -> list[dt.date]:
    """The dates of a calendar, from the first to the last, both included.

    Args:
        first: the oldest.
        last: the newest.
        calendar: "days" for every day, "weekdays" for Monday to Friday, or the path of a file, see `read_dates`.

    Returns:
        The dates, oldest first, each once.

    Raises:
        InputError: the last comes before the first, or a file cannot be read.
    """
    if last < first:
        raise InputError(f"the last date, {last}, is before the first, {first}")
    if calendar not in (DAYS, WEEKDAYS):
        return [date for date in sorted(read_dates(Path(calendar))) if first <= date <= last]
    days = map(dt.date.fromordinal, range(first.toordinal(), last.toordinal() + 1))
    return [date for date in days if calendar == DAYS or date.weekday() < 5]


def read_dates(file: Path) -> set[dt.date]:
    """Read a calendar: one ISO date a line; what follows a ``#`` is a comment.

    Raises:
        InputError: the file cannot be read, or a line is no date; names the line.
    """
    found = set()
    for number, line in _lines(file):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            found.add(dt.date.fromisoformat(text))
        except ValueError:
            raise InputError(f"{file}:{number}: expected a date such as 2013-02-28, got {text!r}") from None
    return found


def read_partitions(file: Path) -> list[PartitionKey]:
    """Read a list of partitions.

    Each line is one, as ``region=EU desk=FX``; values with spaces stand in quotes, what follows a ``#`` is a comment.
    A ``.csv`` file names the coordinates in its first line instead. Values that are dates become dates.

    Returns:
        The partitions in the order of the file.

    Raises:
        InputError: the file cannot be read, has none or has one twice, or a line is wrong; names the line.
    """
    places: dict[PartitionKey, int] = {}
    for number, texts in _rows(file) if file.suffix.lower() == ".csv" else _words(file):
        try:
            key = PartitionKey.parse(*texts)
        except InputError as error:
            raise InputError(f"{file}:{number}: {error}") from None
        if key in places:
            raise InputError(f"{file}:{number}: {key} is there twice, first in line {places[key]}")
        places[key] = number
    if not places:
        raise InputError(f"{file} has no partitions")
    return list(places)


def _words(file: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in _lines(file):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise InputError(f"{file}:{number}: {error}") from None
        if words:
            yield number, words


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    lines = csv.reader(line for _, line in _lines(file))
    names = next(lines, [])
    for row in lines:
        if not row:
            continue
        if len(row) != len(names):
            raise InputError(f"{file}:{lines.line_num}: expected {len(names)} values, got {len(row)}")
        yield lines.line_num, [f"{name}={value}" for name, value in zip(names, row, strict=True)]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield from enumerate(lines, 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{file} cannot be read: {reason}") from error
