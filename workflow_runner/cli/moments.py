"""Points in time as a person writes them: ``2013-02-28``, ``2013-02-28T18:30``, ``18:30``, or an age such as ``2d``."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from cyclopts import Parameter

from workflow_runner.cli.durations import duration


def moment(text: str, now: dt.datetime) -> float:
    """Read a point in time.

    Args:
        text: a date (its beginning), a date and a time, a time of today, or an age; without an offset in local time.
        now: what an age is counted back from; aware.

    Returns:
        Seconds since the epoch.

    Raises:
        ValueError: it is none.
    """
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return dt.datetime.combine(now.astimezone().date(), dt.time.fromisoformat(text)).timestamp()
    except ValueError:
        pass
    try:
        return now.timestamp() - duration(text)
    except ValueError:
        message = f"expected a date, a time such as 2013-02-28T18:30, or an age such as 2d or 12h, got {text!r}"
        raise ValueError(message) from None


def _convert(_: Any, tokens: Any) -> float:
    try:
        return moment(tokens[-1].value, dt.datetime.now(dt.UTC))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{tokens[-1].keyword}: {error}") from None


Moment = Annotated[float | None, Parameter(converter=_convert, metavar="WHEN")]
"""The type of an option that takes one; the command gets seconds since the epoch."""
