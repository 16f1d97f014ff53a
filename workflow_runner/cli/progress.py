"""Progress of a run on stderr: bars on a terminal, a line now and then elsewhere, drawn by a thread that samples."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from workflow_runner import FlowExecution
from workflow_runner.extensions.progress import RunProgress, snapshot

# How often a run is looked at, and how often a line is printed of one that goes on in the same step. Seconds.
SAMPLE = 0.1
LINE = 5.0

# A run may have any number of fan-outs under way; so many have a bar.
MOST_FANOUTS = 5


class Drawing(Protocol):
    """Shows a run as it is."""

    def draw(self, progress: RunProgress) -> object: ...


@contextmanager
def shown(execution: FlowExecution[Any]) -> Iterator[None]:
    """Show how far an execution is while the block runs: bars if stderr is a terminal, lines otherwise."""
    with _bars() if sys.stderr.isatty() else _lines() as drawing, sampled(execution, drawing):
        yield


@contextmanager
def sampled(execution: FlowExecution[Any], drawing: Drawing, *, every: float = SAMPLE) -> Iterator[None]:
    """Draw an execution while the block runs, from a thread of its own, and once more at the end.

    Args:
        execution: of this process.
        drawing: gets its pictures, one after the other; if it fails the run goes on without.
        every: seconds.
    """
    over = threading.Event()

    def sample() -> None:
        try:
            going_on = True
            while going_on:
                going_on = not over.wait(every)
                drawing.draw(snapshot(execution))
        except Exception as error:
            from workflow_runner._core import log

            log.warning("progress.failed", error=repr(error))

    thread = threading.Thread(target=sample, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)


class Lines:
    """A line for each step that has ended, and one every few seconds.

    Args:
        write: takes a line.
        clock: monotonic seconds.
    """

    def __init__(self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._said = clock()
        self._ended = 0

    def draw(self, progress: RunProgress) -> None:
        for number in range(self._ended, len(progress.ended)):
            self._say(line(progress, ended=number + 1))
        self._ended = len(progress.ended)
        if self._clock() - self._said >= LINE:
            self._say(line(progress))

    def _say(self, text: str) -> None:
        self._said = self._clock()
        self._write(text)


def line(progress: RunProgress, *, ended: int | None = None) -> str:
    """``progress step=load steps=3/6 items=412/1000``.

    Args:
        progress: the run.
        ended: say what it was when so many steps had ended, of which this is the last; None: what it is now.
    """
    done = len(progress.ended) if ended is None else ended
    step = progress.step if ended is None else progress.ended[ended - 1]
    words = ["progress"]
    if progress.steps:
        words += [f"step={step}", f"steps={done}/{progress.steps}"]
    if ended is None:
        for fanout in progress.fanouts[:1]:  # those that came later are mostly inside of it
            words.append(f"items={fanout.done}" + ("" if fanout.total is None else f"/{fanout.total}"))
        words.append(f"seconds={progress.seconds:.0f}")
    return " ".join(words)


@contextmanager
def _lines() -> Iterator[Lines]:
    def write(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    yield Lines(write)


@contextmanager
def _bars() -> Iterator[Drawing]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[at]}", markup=False),
    )
    # Lines that are logged meanwhile go above the bars: `redirect_stderr`. What is printed as a result goes to stdout
    # as it is.
    bars = Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True, redirect_stdout=sys.stdout.isatty()
    )
    with bars:
        yield _Bars(bars)


class _Bars:
    """One bar for the steps, one for each fan-out under way."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._steps: Any = None
        self._fanouts: dict[str, Any] = {}

    def draw(self, progress: RunProgress) -> None:
        bars = self._bars
        if self._steps is None:
            self._steps = bars.add_task(progress.flow, total=progress.steps or None, at="")
        steps, at = progress.steps or None, progress.step or ""
        bars.update(self._steps, completed=len(progress.ended), total=steps, at=at)
        under_way = {fanout.path: fanout for fanout in progress.fanouts[:MOST_FANOUTS]}
        for path in [path for path in self._fanouts if path not in under_way]:
            bars.remove_task(self._fanouts.pop(path))
        for path, fanout in under_way.items():
            if path not in self._fanouts:
                name = path.removesuffix("/items").removesuffix("/parallel")  # what a fan-out without a name has
                self._fanouts[path] = bars.add_task(f"  {name}", total=fanout.total, at="")
            bars.update(self._fanouts[path], completed=fanout.done, total=fanout.total)
        bars.refresh()
