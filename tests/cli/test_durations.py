"""Lengths of time on a command line."""

from __future__ import annotations

import pytest

from workflow_runner.cli.durations import duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("90m", 5400), ("12h", 43_200), ("2d", 172_800), ("4w", 2_419_200), ("1h30m", 5400), ("0.5h", 1800)],
)
def test_a_length_of_time_has_units(text: str, seconds: float) -> None:
    """Seconds, minutes, hours, days and weeks, also together."""
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-2d", "2x", "2d and more", "1e3s", "9" * 400 + "d", "2 days"])
def test_everything_else_is_refused(text: str) -> None:
    """A number without a unit as well: nobody knows what it means."""
    with pytest.raises(ValueError, match="expected a length of time such as 2d"):
        duration(text)
