"""``timeline`` and ``graph``: pictures of runs and of workflows."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console

from workflow_runner._workflow.dot import digraph
from workflow_runner._workflow.history import find_run
from workflow_runner._workflow.mermaid import flowchart
from workflow_runner.cli import document, pictures
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.gantt import columns_of, gantt
from workflow_runner.cli.options import Debug, Json, StoreUrl, opened
from workflow_runner.cli.output import Reply
from workflow_runner.cli.render import new_console
from workflow_runner.cli.target import load
from workflow_runner.web.graph import as_workflow, graph_data, graph_svg, graph_text
from workflow_runner.web.layout import layout
from workflow_runner.web.timeline import timeline_data, timeline_html, timeline_svg
from workflow_runner.web.trace import chrome_trace

Output = Annotated[
    Path | None, Parameter(metavar="FILE", help="Write it to this file, whose name tells the format if nothing does.")
]

_TIMELINES = {".txt": "text", ".svg": "svg", ".html": "html", ".htm": "html", ".json": "chrome-trace"}
_GRAPHS = {".txt": "text", ".mmd": "mermaid", ".dot": "dot", ".gv": "dot", ".svg": "svg"}


def timeline(
    run: str,
    /,
    *,
    format: Literal["text", "svg", "html", "chrome-trace"] | None = None,
    output: Output = None,
    store: StoreUrl = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Draw what a run did, and when.

    The items of a fan-out share lanes, what is too short to be seen is
    merged with its neighbours, and the time in which nobody was at the run
    is cut out. The html is one file to mail; the chrome-trace has every
    record, and opens in ui.perfetto.dev and chrome://tracing.

    Args:
        run: The run's id, or its beginning.
        format: What to draw it as; default: what the output's name says, or text.
    """
    form = pictures.format_of(format, output, _TIMELINES)
    with opened(store, existing=True) as runs:
        record = find_run(runs, run)
        known = (
            record,
            runs.steps(record.run_id),
            runs.attempts(record.run_id),
            runs.events(run_id=record.run_id),
        )
    wide = pictures.columns()

    def lines(console: Console) -> None:
        laid_out = layout(*known, width=columns_of(wide)[1], narrowest=1.0, most_lanes=100, lanes_each=4)
        for line in gantt(laid_out, wide, ascii_only=pictures.ascii_only(output)):
            console.print(line, soft_wrap=True)

    make: dict[str, Callable[[], str]] = {
        "text": lambda: _captured(lines),
        "svg": lambda: timeline_svg(*known, zone=None),
        "html": lambda: timeline_html(*known, zone=None),
        "chrome-trace": lambda: jsonlib.dumps(chrome_trace(*known)) + "\n",
    }
    return _reply(
        make[form],
        output,
        form,
        lambda: timeline_data(layout(*known)),
        show=(lambda: lines(new_console())) if form == "text" else None,
    )


def graph(
    target: str,
    /,
    *,
    format: Literal["text", "mermaid", "dot", "svg"] | None = None,
    output: Output = None,
    json: Json = False,
    debug: Debug = False,
) -> Reply:
    """Draw the steps of a workflow and what they need; nothing runs.

    Args:
        target: What to draw, as module:attribute. The working directory is searched first.
        format: What to draw it as; default: what the output's name says, or text.
    """
    form = pictures.format_of(format, output, _GRAPHS)
    flow = load(target)
    workflow = as_workflow(flow)
    make: dict[str, Callable[[], str]] = {
        "text": lambda: graph_text(flow, ascii_only=pictures.ascii_only(output)),
        "mermaid": lambda: flowchart(workflow),
        "dot": lambda: digraph(workflow),
        "svg": lambda: graph_svg(flow),
    }
    return _reply(make[form], output, form, lambda: graph_data(flow))


def _reply(
    make: Callable[[], str],
    output: Path | None,
    form: str,
    data: Callable[[], Mapping[str, Any]],
    *,
    show: Callable[[], None] | None = None,
) -> Reply:
    """A picture for stdout, or one in a file and a line that says so; as a document what it shows."""
    if output is not None:
        pictures.write(output, make)
    return Reply(
        code=Exit.DONE,
        document=lambda: {
            "schema": document.SCHEMA,
            **data(),
            "output": None if output is None else str(output),
        },
        show=show or (lambda: sys.stdout.write(make())) if output is None else partial(_show_written, output, form),
    )


def _show_written(output: Path, form: str) -> None:
    size = f", {output.stat().st_size:,} bytes" if output.is_file() else ""
    new_console().print(f"wrote {output} ({form}{size})", soft_wrap=True)


def _captured(draw: Callable[[Console], None]) -> str:
    """What is drawn, without colours."""
    console = Console(width=1000, color_system=None, markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        draw(console)
    return capture.get()
