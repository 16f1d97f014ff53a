"""What people read: tables of any result, the steps of a run, and errors with their causes."""

from __future__ import annotations

import json
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

import workflow_runner
from workflow_runner._core.secrets import mask, mask_data
from workflow_runner._workflow.result import StepRecord
from workflow_runner.cli.document import plain
from workflow_runner.cli.exits import CommandError
from workflow_runner.cli.run import Outcome
from workflow_runner.cli.texts import STYLES as STYLES
from workflow_runner.cli.texts import ending
from workflow_runner.cli.texts import seconds as seconds
from workflow_runner.errors import Aborted, WorkflowFailed

# A table is for reading; a program takes --json, which has every row.
MOST_ROWS = 50


# --- results ----------------------------------------------------------------------------------------------------------


def show(outcome: Outcome, *, about: str = "") -> None:
    """Print what was computed, the steps, and how it ended.

    Args:
        outcome: the run.
        about: what the run was about, for the last line: a date, a partition.
    """
    console = new_console()
    for part in parts_of(plain(outcome.result)):
        console.print(part)
        console.print()
    if outcome.steps:
        console.print(titled("steps", _steps(outcome.steps)))
        console.print()
    console.print(Text.assemble(*ending(outcome, about)), soft_wrap=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would end the process, and with 1


def new_console(*, stderr: bool = False) -> Console:
    """A console that changes nothing in what it is given: no markup, no colours for numbers, no lines cut in a file."""
    console = _Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 1000
    return console


def parts_of(data: Any, title: str = "") -> Iterator[Any]:
    """Plain data as tables and lines: a list of mappings is a table, a mapping a list of names and values."""
    if data is None:
        return
    if _is_rows(data):
        yield titled(title, _table(data), *_more(len(data)))
    elif isinstance(data, dict) and data:
        scalars = {name: value for name, value in data.items() if not _is_rows(value) and not isinstance(value, dict)}
        if scalars:
            yield titled(title, name_values(scalars))
        for name, value in data.items():
            if name not in scalars:
                yield from parts_of(value, f"{title}.{name}".lstrip("."))
    elif isinstance(data, list) and data:
        yield Group(*(Text(cell(item)) for item in data[:MOST_ROWS]), *_more(len(data)))
    else:
        yield Text(cell(data))


def new_table() -> Table:
    """A table in our way: a line below the heads, and nothing around it."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def titled(title: str, *parts: Any) -> Group:
    """Parts below a title, if there is one."""
    return Group(*([Text(title, "bold")] if title else []), *parts)


def _is_rows(data: Any) -> bool:
    return isinstance(data, list) and bool(data) and all(isinstance(row, dict) for row in data)


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = new_table()
    shown = rows[:MOST_ROWS]
    columns = {name: [row.get(name) for row in shown] for name in dict.fromkeys(name for row in shown for name in row)}
    for name, values in columns.items():
        numbers = all(_is_number(value) or value is None for value in values)
        table.add_column(Text(name), justify="right" if numbers else "left", overflow="fold", no_wrap=numbers)
        places = _decimals(values)
        columns[name] = [cell(value, places) for value in values]
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*(Text(text) for text in cells))
    return table


def name_values(pairs: Mapping[str, Any]) -> Table:
    """Names and their values, a line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(Text(name), Text(cell(value)))
    return grid


def _more(count: int) -> list[Text]:
    return [Text(f"and {count - MOST_ROWS} more: --json has them all", "dim")] if count > MOST_ROWS else []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _decimals(values: Iterable[Any]) -> int | None:
    """How many decimal places show every number of a column to six digits; None without a fraction among them."""
    texts = [cell(value) for value in values if isinstance(value, float)]
    if any("e" in text for text in texts):
        return None
    return max((len(text.partition(".")[2]) for text in texts), default=None)


def cell(value: Any, places: int | None = None) -> str:
    """Plain data as a text that changes nothing in a terminal, and has no secrets.

    Args:
        value: plain data.
        places: how many decimal places a float gets; None: as many as it needs, up to six digits.
    """
    if value is None:
        return ""
    value = mask_data(value)
    if isinstance(value, float):
        if places is None:
            return f"{value:.0f}" if 1e6 <= abs(value) < 1e15 else f"{value:.6g}"
        return f"{value:.{places}f}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # Whatever a terminal would obey is shown instead.
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _steps(steps: Sequence[StepRecord]) -> Table:
    table = new_table()
    table.add_column("step", overflow="fold")
    table.add_column("status")
    table.add_column("attempts", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for depth, step in _flat(steps):
        began = step.attempts > 0
        table.add_row(
            Text("  " * depth + step.name),
            Text(step.status, STYLES.get(step.status, "dim")),
            Text(str(step.attempts) if began else ""),
            Text(seconds(step.duration) if began else ""),
            Text(_note(step)),
        )
    return table


def _flat(steps: Iterable[StepRecord], depth: int = 0) -> Iterator[tuple[int, StepRecord]]:
    for step in steps:
        yield depth, step
        yield from _flat(step.steps, depth + 1)


def _note(step: StepRecord) -> str:
    if step.error is None:
        return step.reason or ""
    return cell(f"{step.category}: {_reason(step.error)}")


def _reason(error: BaseException) -> str:
    """An error's own words, without those that only say where it was."""
    text = str(error) or type(error).__name__
    step = getattr(error, "step", None)
    return text.removeprefix(f"step {step!r} failed: ")


# --- errors -----------------------------------------------------------------------------------------------------------


def show_error(outcome: Outcome, *, whole: bool = False, tail: Sequence[str] = ()) -> None:
    """Print what a run failed with, what that was caused by, and how to go on with it, to stderr.

    Args:
        outcome: the run.
        whole: the traceback.
        tail: the last lines of its log.
    """
    console = new_console(stderr=True)
    if outcome.error is not None and whole:
        sys.stderr.write(mask("".join(traceback.format_exception(outcome.error))))
    elif outcome.error is not None:
        _show_causes(console, outcome, outcome.error)
    if tail:
        console.print(Text(f"the last {len(tail)} lines of the log:", "bold"))
        for line in tail:
            console.print(Text(f"  {cell(line)}"), soft_wrap=True)
    if outcome.resume is not None:
        console.print(Text.assemble(("go on with it: ", "bold"), outcome.resume), soft_wrap=True)


def _show_causes(console: Console, outcome: Outcome, failure: BaseException) -> None:
    where = f" in step {outcome.error_step!r}" if outcome.error_step is not None else ""
    console.print(Text.assemble(("error:", "bold red"), f" {outcome.flow} {outcome.status}{where}"), soft_wrap=True)
    for n, error in enumerate(_causes(failure)):
        console.print(Text(f"  {'caused by ' if n else ''}{type(error).__name__}: {cell(str(error))}"), soft_wrap=True)
        place = _place(error)
        if place:
            console.print(Text(f"    at {place}", "dim"), soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            if outcome.run_id not in note:  # which the last line has said
                console.print(Text(f"    {cell(note)}"), soft_wrap=True)


def show_refusal(error: CommandError) -> None:
    """Print why a command ran nothing to stderr."""
    console = new_console(stderr=True)
    console.print(Text.assemble(("error:", "bold red"), f" {cell(str(error))}"), soft_wrap=True)
    if error.hint:
        console.print(Text(f"  {cell(error.hint)}"), soft_wrap=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the last thing first, without those that only repeat it.

    A `WorkflowFailed` says where its cause was, which the line above says as well; an `Aborted` is how a flow obeyed.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        cause = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if not (isinstance(current, WorkflowFailed) and cause is not None) and not isinstance(current, Aborted):
            yield current
        current = cause


_OURS = tuple(str(Path(workflow_runner.__file__).parent / part) for part in ("_core", "_workflow"))
_INSTALLED = tuple(sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib"))


def _place(error: BaseException) -> str | None:
    """Where in the author's own code an error came from; where it was raised, if none of that is on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*_OURS, *_INSTALLED, "<"))]
    last = (own or frames)[-1:]
    return f"{last[0].filename}:{last[0].lineno} in {last[0].name}" if last else None
