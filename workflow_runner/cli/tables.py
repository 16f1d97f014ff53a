"""What people read of the history: lists of runs, one run, log records, and how flows are."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from workflow_runner._workflow import history_data
from workflow_runner._workflow.health import FlowHealth, Trouble
from workflow_runner._workflow.history import (
    RESUMABLE,
    RunList,
    RunSummary,
    RunView,
    output_of,
    process_of,
    walk,
)
from workflow_runner._workflow.step_tree import StepView
from workflow_runner.cli.render import STYLES, cell, name_values, new_console, new_table, parts_of, seconds, titled
from workflow_runner.store.base import LogRow

# Of an output so many characters stand in a table, and on a narrow terminal so much of its width.
_SHORT = 60
_PART = 1 / 4

# Wider than any terminal.
_ANY = 10_000

_OUR_ID = re.compile(r"[0-9a-f]{32}")


def short(run_id: str) -> str:
    """The beginning of a run id, which every command takes for the whole: the time in milliseconds and 16 bits more."""
    return run_id[:16] if _OUR_ID.fullmatch(run_id) else run_id


def local(at: float | None) -> str:
    """A time as the clock on the wall has shown it."""
    return "" if at is None else dt.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


def about(run: RunSummary) -> str:
    """What a run was about: its date and its partition."""
    return " ".join(text for text in (run.as_of, run.partition) if text)


# --- a list -----------------------------------------------------------------------------------------------------------


def show_list(found: RunList) -> None:
    """Print runs, one a line."""
    console = new_console()
    if not found.runs:
        console.print("no runs")
        return
    runs = found.runs
    ids = _shortest([*(run.run_id for run in runs), *(run.retry_of for run in runs if run.retry_of)])
    columns = {
        "run": [Text(ids[run.run_id]) for run in runs],
        "flow": [Text(cell(run.flow)) for run in runs],
        "status": [_status(run.status) for run in runs],
        "about": [Text(cell(about(run))) for run in runs],
        "key": [Text(cell(run.key)) for run in runs],
        "batch": [Text(cell(run.batch_id)) for run in runs],
        "started": [Text(local(run.started_at)[:-3]) for run in runs],
        "time": [Text("" if run.duration is None else seconds(run.duration)) for run in runs],
        "retry of": [Text(ids[run.retry_of] if run.retry_of else "") for run in runs],
    }
    table = _columns(columns)
    for name in ("batch", "key", "retry of"):  # on a narrow terminal: `show` has them
        if console.measure(table, options=console.options.update(max_width=_ANY)).maximum > console.width:
            del columns[name]
            table = _columns(columns)
    console.print(_fitting(columns, console.width, least=("time", "started", "about")))
    if found.more:
        at_least = "at least " if found.at_least else ""
        console.print(Text(f"and {at_least}{found.more} more: --limit shows them", "dim"))


def _shortest(run_ids: Sequence[str]) -> dict[str, str]:
    """The beginnings of ids that tell them apart."""
    length = next(n for n in range(12, 33) if n == 32 or len({i[:n] for i in run_ids}) == len(set(run_ids)))
    return {run_id: run_id[:length] if _OUR_ID.fullmatch(run_id) else run_id for run_id in run_ids}


# What stands in one line, whatever it takes; of an output the beginning is enough.
_WHOLE = ("run", "status", "started", "time", "retry of", "attempts", "output", "health", "last success", "age")
# Between two columns so much is blank.
_BETWEEN = 3


def _fitting(columns: Mapping[str, Sequence[Text]], width: int, *, least: Sequence[str]) -> Table:
    """A table for a terminal of this width, without those of the ``least`` columns for which there is no room.

    Without this rich would cut what nobody can do without: the names.
    """
    left = dict(columns)
    for name in least:
        if _narrowest(left, width) <= width:
            break
        left.pop(name, None)
    return _columns(left, width=width)


def _narrowest(columns: Mapping[str, Sequence[Text]], width: int) -> int:
    """How wide a table has to be so that no word in it is cut."""
    widths = []
    for name, texts in columns.items():
        if any(texts):
            words = [
                name,
                *(part for text in texts for part in ([text.plain] if name in _WHOLE else text.plain.split())),
            ]
            widest = max(map(cell_len, words))
            widths.append(min(widest, int(width * _PART)) if name == "output" else widest)
    return sum(widths) + _BETWEEN * (len(widths) - 1)


def _columns(columns: Mapping[str, Sequence[Text]], *, width: int = _ANY) -> Table:
    """A table without the columns in which nothing stands, for a terminal of this width."""
    filled = {name: texts for name, texts in columns.items() if any(texts)}
    table = new_table()
    for name in filled:
        table.add_column(
            name,
            overflow="ellipsis" if name == "output" else "fold",
            no_wrap=name in _WHOLE,
            max_width=int(width * _PART) if name == "output" else None,
            justify="right" if name in ("time", "attempts", "attempt", "age") else "left",
        )
    for row in zip(*filled.values(), strict=True):
        table.add_row(*row)
    return table


def _status(status: str) -> Text:
    return Text(status, STYLES.get(status, "dim"))


# --- one run ----------------------------------------------------------------------------------------------------------


def show_run(view: RunView, *, outputs: bool, options: str) -> None:
    """Print one run.

    Args:
        view: the run.
        outputs: print whole outputs, each below the name of its step.
        options: what the next command on this store needs behind it.
    """
    console = new_console()
    run = view.run
    ending = Text.assemble(_status(run.status), "" if run.duration is None else f" in {seconds(run.duration)}")
    words = (Text(run.flow, "bold"), Text(cell(about(run))), ending, Text(f"run {run.run_id}", "dim"))
    console.print(Text("  ").join(word for word in words if word), soft_wrap=True)
    console.print(name_values({name: value for name, value in _header(view).items() if value}))
    whole = view.input if isinstance(view.input, dict) else {"input": view.input} if view.input is not None else {}
    _print_parts(console, "params", whole)
    for override in view.overrides:
        _print_parts(console, "params given at resume", override)
    if view.steps:
        console.print()
        console.print(titled("steps", _steps(view.steps, console.width)))
    failures = [(step, noted) for _, step in walk(view.steps) for noted in step.failures]
    if failures:
        console.print()
        console.print(titled("failed attempts", _failures(failures)))
    for _, step in walk(view.steps) if outputs else ():
        _print_parts(console, step.path, output_of(step))
    if run.status == "completed" and not any(step.kind == "step" for step in view.steps):
        _print_parts(console, "result", view.result)
    if run.error is not None:
        console.print()
        _print_error(console, run.error)
    console.print()
    for command in _going_on(run):
        console.print(Text(f"workflow-runner {command} {short(run.run_id)}{options}", "dim"), soft_wrap=True)


def _header(view: RunView) -> dict[str, str]:
    run = view.run
    crashed = run.status == "crashed"
    claims = f"{view.resumed} time{'s' if view.resumed > 1 else ''}" if view.resumed else ""
    return {
        "key": run.key or "",
        "batch": run.batch_id or "",
        "tags": ", ".join(f"{name}={value}" for name, value in run.tags.items()),
        "version": run.version or "",
        "target": run.target or "",
        "trace": run.trace_id or "",
        "started": local(run.started_at),
        "ended": local(run.finished_at),
        "owner": "" if run.owner is None else process_of(run.owner) + (", which has died" if crashed else ""),
        "cancel": "" if run.cancel_requested is None else f"requested {run.cancel_requested}".rstrip(),
        "retry of": run.retry_of or "",
        "retried by": ", ".join(view.retried_by),
        "resumed": claims,
    }


def _going_on(run: RunSummary) -> Iterator[str]:
    if run.status in RESUMABLE:
        yield "resume"
    if run.status in ("failed", "cancelled", "partial"):
        yield "retry"
    if run.status == "running":
        yield "cancel"
    yield "logs"


def _steps(steps: Sequence[StepView], width: int) -> Table:
    every = list(walk(steps))
    return _fitting(
        {
            "step": [Text("  " * depth + cell(step.name)) for depth, step in every],
            "status": [_status(step.status) for _, step in every],
            "attempts": [Text(str(step.attempts or "")) for _, step in every],
            "time": [Text(_took(step)) for _, step in every],
            "output": [Text(_shortened(step)) for _, step in every],
            "note": [Text(_note(step)) for _, step in every],
        },
        width,
        least=("output", "attempts", "time"),
    )


def _took(step: StepView) -> str:
    if step.status == "running" and step.started_at is not None and step.kind == "step":
        return seconds(max(0.0, time.time() - step.started_at))
    return "" if step.duration is None else seconds(step.duration)


def _shortened(step: StepView) -> str:
    output = output_of(step)
    if output is None:
        return ""
    text = " ".join(cell(output).split())
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 1]}…"


def _note(step: StepView) -> str:
    if step.kind == "items":
        return f"{step.count} done"
    if step.error is not None:
        return _said(step.error)
    return cell(step.reason)


def _said(error: Mapping[str, Any]) -> str:
    return cell(f"{error['type']}: {error['message']}")


def _failures(failures: Sequence[tuple[StepView, Any]]) -> Table:
    return _columns(
        {
            "step": [Text(cell(step.path)) for step, _ in failures],
            "attempt": [Text(str(noted.attempt)) for _, noted in failures],
            "at": [Text(local(noted.finished_at)) for _, noted in failures],
            "error": [Text(_said(json.loads(noted.error))) for _, noted in failures],
        }
    )


def show_step(step: StepView) -> None:
    """Print one step of a run, with its whole output."""
    console = new_console()
    data = history_data.step_data(step)
    ending = Text.assemble(_status(step.status), "" if step.duration is None else f" in {seconds(step.duration)}")
    console.print(Text("  ").join((Text(cell(step.path), "bold"), ending)), soft_wrap=True)
    header = {
        "flow": step.flow if step.flow != step.name else "",
        "attempts": str(step.attempts or ""),
        "started": local(step.started_at),
        "items": f"{step.count} done" if step.kind == "items" else "",
        "reason": step.reason or "",
    }
    console.print(name_values({name: value for name, value in header.items() if value}))
    for name in ("output", "updates", "quality"):
        _print_parts(console, name, data[name])
    if step.steps:
        console.print()
        console.print(titled("steps", _steps(step.steps, console.width)))
    if step.failures:
        console.print()
        console.print(titled("failed attempts", _failures([(step, noted) for noted in step.failures])))
    if step.error is not None:
        console.print()
        _print_error(console, step.error)


def _print_parts(console: Console, title: str, data: Any) -> None:
    if data is None or data in ({}, []):
        return
    console.print()
    if not isinstance(data, dict):
        console.print(Text(title, "bold"))
        title = ""
    for part in parts_of(data, title):
        console.print(part)


def _print_error(console: Console, error: Mapping[str, Any] | None) -> None:
    """An error and its causes, the last thing first; what only says where it was has been said."""
    first = True
    while error is not None:
        if not (error["type"] == "WorkflowFailed" and error["cause"] is not None):
            start = Text("error: ", "bold red") if first else Text("  caused by ")
            console.print(Text.assemble(start, _said(error)), soft_wrap=True)
            for note in error["notes"]:
                console.print(Text(f"    {cell(note)}", "dim"), soft_wrap=True)
            first = False
        error = error["cause"]


# --- logs -------------------------------------------------------------------------------------------------------------

_LEVEL_STYLES = {"warning": "yellow", "error": "red", "critical": "bold red"}


def show_logs(rows: Iterator[LogRow]) -> None:
    """Print log records as they come."""
    console = new_console()
    for row in rows:
        fields: dict[str, Any] = json.loads(row.fields) if row.fields else {}
        below = [str(fields.pop(name)) for name in ("exception", "stack") if name in fields]
        words = [f"{name}={_value(value)}" for name, value in fields.items()]
        line = Text.assemble(
            (local(row.at), "dim"),
            " ",
            (f"{row.level:<8}", _LEVEL_STYLES.get(row.level, "")),
            cell(row.event),
            ("".join(f" {cell(word)}" for word in words), "dim"),
            (f" step={cell(row.path)}" if row.path and "step" not in fields else "", "dim"),
        )
        console.print(line, soft_wrap=True)
        for text in below:
            console.print(Text("\n".join(f"    {cell(part)}" for part in text.splitlines())), soft_wrap=True)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False) if not text or re.search(r"[\s\"=]", text) else text


# --- health -----------------------------------------------------------------------------------------------------------


def show_health(flows: Sequence[FlowHealth]) -> None:
    """Print how flows are, one a line."""
    console = new_console()
    if not flows:
        console.print("no runs")
        return
    columns = {
        "flow": [Text(cell(health.flow)) for health in flows],
        "health": [Text("ok", "green") if health.healthy else Text("unhealthy", "bold red") for health in flows],
        "last success": [Text(_last_success(health)) for health in flows],
        "age": [Text("" if health.age is None else seconds(health.age)) for health in flows],
        "last run": [_status(health.last.status) if health.last else Text("") for health in flows],
        "running": [Text(str(len(health.running) or "")) for health in flows],
    }
    reasons = {health.flow: "; ".join(reason(trouble) for trouble in health.troubles) for health in flows}
    whole = columns | {"reason": [Text(reasons[health.flow]) for health in flows]}
    if console.measure(_columns(whole), options=console.options.update(max_width=_ANY)).maximum <= console.width:
        console.print(_columns(whole))
        return
    console.print(_fitting(columns, console.width, least=("running", "age", "last success")))
    for flow, why in reasons.items():
        if why:
            console.print(Text(f"\n{cell(flow)}: {why}"))


def _last_success(health: FlowHealth) -> str:
    return "never" if health.last_success is None else local(health.last_success.finished_at)[:-3]


def reason(trouble: Trouble) -> str:
    """What is wrong, in words."""
    run = f"run {short(trouble.run_id or '')}"
    took = "" if trouble.seconds is None else seconds(trouble.seconds)
    limit = "" if trouble.limit is None else seconds(trouble.limit)
    return {
        "crashed": f"{run} has crashed",
        "failed": f"the last {run} failed",
        "timed out": f"the last {run} timed out",
        "interrupted": f"the last {run} was interrupted and waits to be resumed",
        "overdue": f"overdue: the last success is older than {limit}",
        "never succeeded": "it has never succeeded",
        "stuck": f"{run} seems stuck: it has been running for {took}, longer than {limit}",
    }[trouble.kind]
