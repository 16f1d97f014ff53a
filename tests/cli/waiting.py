"""Waiting for what other processes do, and letting them go on."""

from __future__ import annotations

import time
from pathlib import Path

from .conftest import LONG


def await_file(file: Path) -> None:
    """Wait until the file is there."""
    end = time.monotonic() + LONG
    while not file.exists():
        assert time.monotonic() < end, f"{file.name} did not come"
        time.sleep(0.005)
