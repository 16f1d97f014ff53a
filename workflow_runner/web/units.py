"""Durations and moments in words, and the ticks of a time axis."""

from __future__ import annotations

import datetime as dt
import math

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0

# Below and above these a step of the axis is 1, 2 or 5 times a power of ten, of seconds and of days.
_STEPS = (1, 2, 5, 10, 15, 30, *(n * MINUTE for n in (1, 2, 5, 10, 15, 30)), *(n * HOUR for n in (1, 2, 3, 6, 12)))


def duration(seconds: float) -> str:
    """A length of time as people say it, such as ``1.5 s`` or ``2 h 05 min``.

    Args:
        seconds: how long.
    """
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def exactly(seconds: float) -> str:
    """A length of time that somebody has chosen, such as ``5 s`` or ``1 h 30 min``.

    Args:
        seconds: how long.
    """
    return tick_label(seconds, 1.0) if seconds >= 1 and seconds.is_integer() else duration(seconds)


def moment(at: float, zone: dt.tzinfo | None = dt.UTC) -> str:
    """A moment to the second, with its zone.

    Args:
        at: seconds since the epoch.
        zone: the zone to say it in; None: this machine's.
    """
    try:
        local = dt.datetime.fromtimestamp(at, dt.UTC).astimezone(zone)
    except (OverflowError, OSError, ValueError):  # no calendar goes there
        return f"{at:g} s since 1970"
    return f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"


def tick_step(span: float, most: int) -> float:
    """The smallest step that people count in, of which at most so many fit.

    Args:
        span: seconds.
        most: how many ticks there may be, at least 1.

    Returns:
        Seconds.
    """
    least = span / most
    if 0.5 < least <= _STEPS[-1]:
        return float(next(step for step in _STEPS if step >= least))
    unit = 1.0 if least <= 0.5 else DAY
    power = 10.0 ** math.floor(math.log10(least / unit))
    return next(n * power * unit for n in (1, 2, 5, 10) if n * power * unit >= least * (1 - 1e-9))


def tick_label(at: float, step: float) -> str:
    """What stands at a tick.

    Args:
        at: seconds from where the axis begins; a multiple of ``step``.
        step: the distance of two ticks, seconds.
    """
    if at == 0:
        return "0"
    if step < 1:
        places = max(0, -math.floor(math.log10(step) + 1e-9))
        if at < 1 and step < 0.1:
            return f"{at * 1000:.{max(0, places - 3)}f} ms"
        return f"{at:.{places}f} s"
    minutes, seconds = divmod(round(at), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d", DAY), (hours, "h", HOUR), (minutes, "min", MINUTE), (seconds, "s", 1.0))
    return " ".join(f"{count} {unit}" for count, unit, length in parts if count and (length >= step or count))
