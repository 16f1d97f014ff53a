"""The figures at the end, and children that do not outlive their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crash.harness import FIGURES, Child


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes some seconds; runs by default")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    shown = [
        *("kills", "records lost", "records doubled", "bodies repeated", "repeats absorbed by the token"),
        *("keys started twice at once", "of them executed twice"),
        *("forks under load", "power cuts", "files corrupt", "acknowledged rows lost in a power cut"),
        "acknowledged rows lost with durability=process (allowed)",
    ]
    if not any(FIGURES[name] for name in shown):
        return
    terminalreporter.section("crash safety")
    for name in shown:
        terminalreporter.write_line(f"{FIGURES[name]:>8,}  {name}")


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Starts programs in this test's directory, and kills after the test what still runs."""
    started: list[Child] = []

    def start(directory: Path = tmp_path, **command: Any) -> Child:
        started.append(Child(directory, **command))
        return started[-1]

    yield start
    for one in started:
        one.close()
