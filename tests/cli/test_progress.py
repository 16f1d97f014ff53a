"""Progress: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import HERE, LONG, ROOT
from workflow_runner import Scope, Step, Workflow, flow
from workflow_runner.cli.progress import LINE, Lines, line, sampled
from workflow_runner.extensions.progress import FanOutProgress, RunProgress


def picture(
    *ended: str, step: str | None = None, steps: int = 6, seconds: float = 0, fanouts: tuple[Any, ...] = ()
) -> RunProgress:
    return RunProgress(
        run_id="r",
        flow="nightly",
        status="running",
        seconds=seconds,
        step=step,
        ended=ended,
        steps=steps,
        fanouts=fanouts,
    )


def test_a_line() -> None:
    """The step, the steps, the items of the outermost fan-out, the time, as far as there are any."""
    items = FanOutProgress(path="load/items", done=412, total=1000)
    inner = FanOutProgress(path="load/items[3]/x", done=1, total=2)
    stream = FanOutProgress(path="stream", done=7, total=None)
    now = picture("fetch", "check", step="load", seconds=65.4, fanouts=(items, inner))
    assert line(now) == "progress step=load steps=2/6 items=412/1000 seconds=65"
    assert line(picture(steps=0, seconds=5, fanouts=(stream,))) == "progress items=7 seconds=5"
    assert line(now, ended=1) == "progress step=fetch steps=1/6"


def test_lines_come_with_each_step_and_now_and_then() -> None:
    """One for each step that has ended, also if several have since the last look, and one when nothing was said."""
    now, said = [0.0], list[str]()
    lines = Lines(said.append, clock=lambda: now[0])
    lines.draw(picture(step="a"))
    assert said == []
    lines.draw(picture("a", "b", step="c"))
    lines.draw(picture("a", "b", step="c"))
    assert said == ["progress step=a steps=1/6", "progress step=b steps=2/6"]
    now[0] = LINE
    lines.draw(picture("a", "b", step="c", seconds=5))
    lines.draw(picture("a", "b", step="c", seconds=5))
    assert said[2:] == ["progress step=c steps=2/6 seconds=5"]


def test_the_last_picture_is_drawn(scope: Scope) -> None:
    """However short a run is, what has ended by its end is seen."""
    seen: list[RunProgress] = []

    class Sees:
        def draw(self, progress: RunProgress) -> None:
            seen.append(progress)

    execution = scope.exec(Workflow("short", steps=[Step("s", lambda _: None)]))
    with sampled(execution, Sees(), every=LONG):
        execution.result(LONG)
    assert [(one.status, one.ended) for one in seen] == [("completed", ("s",))]


def test_a_drawing_that_fails_costs_no_run(scope: Scope, caplog: pytest.LogCaptureFixture) -> None:
    """The run goes on without, and a warning says so."""

    class Fails:
        def draw(self, progress: RunProgress) -> None:
            raise OSError("no terminal")

    execution = scope.exec(flow(name="f")(lambda ctx, _: 3))
    with sampled(execution, Fails(), every=0.01):
        assert execution.result(LONG) == 3
    (record,) = [record for record in caplog.records if getattr(record, "event", "") == "progress.failed"]
    assert "no terminal" in record.getMessage()


# -- as a user sees it


class Terminal:
    """A command whose stdin, stdout and stderr are a terminal of 100 columns."""

    def __init__(self, *words: str, cwd: Path) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", "PYTHONPATH": str(ROOT)}
        program = "import sys; from workflow_runner.cli.app import main; sys.exit(main())"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words], cwd=cwd, env=environment, stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.text = ""

    def until(self, pattern: str) -> None:
        """Read until that has been written."""
        end = time.monotonic() + LONG
        while not re.search(pattern, self.text, re.DOTALL):
            assert time.monotonic() < end, self.text
            if not self._read(0.1) and self.process.poll() is not None and not self._read(0):
                assert re.search(pattern, self.text, re.DOTALL), self.text

    def end(self) -> int:
        """Read until it has ended; its code."""
        end = time.monotonic() + LONG
        while self.process.poll() is None and time.monotonic() < end:
            self._read(0.1)
        while self._read(0):
            pass
        return self.process.wait(LONG)

    def _read(self, timeout: float) -> bool:
        if not select.select([self.master], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += data.decode()
        return bool(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(LONG)
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[Any]:
    """Starts commands on terminals."""
    made: list[Terminal] = []

    def start(*words: str) -> Terminal:
        made.append(Terminal(*words, cwd=HERE))
        return made[-1]

    yield start
    for one in made:
        one.close()


def plain(text: str) -> str:
    """What is written, without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_bars_on_a_terminal(terminal: Any, tmp_path: Path) -> None:
    """Steps and items have bars while they run, log lines stand whole above them, and at the end the bars are gone."""
    gate = tmp_path / "gate"
    run = terminal("run", "sample_progress:nightly", "--gate", str(gate))
    run.until(r"nightly.*1/2.*load.*5/10")
    gate.touch()
    assert run.end() == 0
    screen = plain(run.text)
    assert re.search(r"^\d\d:\d\d:\d\d \[info +\] half +flow=item step=load *\r?$", screen, re.MULTILINE), screen
    assert "completed in" in screen.splitlines()[-1]


def test_no_bars_if_they_are_not_wanted(terminal: Any, tmp_path: Path) -> None:
    """--no-progress and --quiet."""
    gate = tmp_path / "gate"
    gate.touch()
    for option in ("--no-progress", "--quiet", "--json"):
        run = terminal("run", option, "sample_progress:nightly", "--gate", str(gate))
        assert run.end() == 0
        assert "/10" not in plain(run.text)


def test_lines_where_there_is_no_terminal(separately: Any, tmp_path: Path) -> None:
    """--progress prints a line for each step, on stderr; without it there is none."""
    gate = tmp_path / "gate"
    gate.touch()
    words = ("sample_progress:nightly", "--gate", str(gate))
    ran = separately("run", "--progress", *words)
    assert ran.code == 0
    lines = [one for one in ran.err.splitlines() if one.startswith("progress")]
    assert lines == ["progress step=fetch steps=1/2", "progress step=load steps=2/2"]
    assert "progress" not in separately("run", *words).err
