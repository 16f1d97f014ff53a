"""What stands on each page, as values: functions of a store and of what the address says. They render nothing."""

from __future__ import annotations

import datetime as dt
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import attrs
from markupsafe import Markup

from workflow_runner._workflow.health import EVERY, FlowHealth, health, read_for_health
from workflow_runner._workflow.history import (
    RESUMABLE,
    STATUSES,
    RunRecords,
    RunSummary,
    RunView,
    find_run,
    list_runs,
    output_of,
    read_records,
    read_run,
    retries,
    summary,
    view_of,
    walk,
)
from workflow_runner._workflow.history_data import log_data, run_data, view_data
from workflow_runner.errors import RunNotFound
from workflow_runner.store.base import LogRow, RunRecord, Store
from workflow_runner.web.calendar import calendar_svg
from workflow_runner.web.timeline import timeline_svg

Arguments = Mapping[str, str]

# So many runs a page lists, and so many log records it shows.
LISTED = 50
LOGGED = 500
# So many of the newest runs of a flow tell its rates and its calendar.
JUDGED = 1000
# So many steps of a tree are listed; the picture has them all.
TREE = 500
# The picture of a run with more records comes by itself, after the page.
LARGE = 5000
# So wide is it: as the page is on a desk. Dots.
WIDE = 1100
# The calendar has so many lines, of a year each.
YEARS = 3


def as_data(page: Mapping[str, Any]) -> dict[str, Any]:
    """A page as JSON-ready data: the same, without its pictures."""
    return {"schema": 1, **{name: _data(value) for name, value in page.items() if not isinstance(value, Markup)}}


def _data(value: Any) -> Any:
    if isinstance(value, RunSummary):
        return run_data(value)
    if isinstance(value, RunView):
        return view_data(value)
    if isinstance(value, LogRow):
        return log_data(value)
    if attrs.has(type(value)):
        return {field.name: _data(getattr(value, field.name)) for field in attrs.fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): _data(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_data(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- the list ---------------------------------------------------------------------------------------------------------

FILTERS = ("flow", "status", "partition", "batch", "tag", "since", "until")


def runs_page(store: Store, arguments: Arguments) -> dict[str, Any]:
    """Runs, newest first, with the filters of the address; times are dates or ISO moments in this machine's zone."""
    given = {name: text for name in FILTERS if (text := arguments.get(name, "").strip())}
    wrong: dict[str, str] = {}
    filters: dict[str, Any] = {"ahead": 1}
    for name in ("flow", "partition"):
        if name in given:
            filters[name] = given[name]
    if "batch" in given:
        filters["batch_id"] = given["batch"]
    if "tag" in given:
        name, equals, value = given["tag"].partition("=")
        if equals:
            filters["tag"] = (name, value)
        else:
            wrong["tag"] = "a tag is NAME=VALUE"
    for name in ("since", "until"):
        if name in given:
            try:
                filters[name] = dt.datetime.fromisoformat(given[name]).timestamp()
            except ValueError:
                wrong[name] = "a date such as 2013-02-28, or with a time: 2013-02-28T18:30"
    if given.get("status", "") not in ("", *STATUSES):
        wrong["status"] = f"one of {', '.join(STATUSES)}"
    status = (given["status"],) if "status" in given and "status" not in wrong else ()
    limit = int(arguments["limit"]) if arguments.get("limit", "").isdigit() else LISTED
    found = list_runs(store, status=status, limit=max(1, min(limit, 1000)), **filters)
    usual = medians(store, {run.flow for run in found.runs})
    return {
        "runs": found.runs,
        "more": found.more,
        "older": dt.datetime.fromtimestamp(found.runs[-1].created_at).isoformat() if found.more else None,
        "usual": usual,
        "given": given,
        "wrong": wrong,
        "flows": store.flows(),
        "statuses": STATUSES,
        "longest": max((run.duration or 0.0 for run in found.runs), default=0.0),
    }


def medians(store: Store, flows: Iterable[str]) -> dict[str, float]:
    """The median duration of the newest completed runs of each flow, seconds; flows without one are left out."""
    now = time.time()
    found = {}
    for flow in flows:
        good = store.runs(flow=flow, status="completed", limit=25, brief=True)
        durations = [run.duration for run in (summary(run, now) for run in good) if run.duration is not None]
        if durations:
            found[flow] = statistics.median(durations)
    return found


# --- one run ----------------------------------------------------------------------------------------------------------


def run_page(store: Store, arguments: Arguments, run_id: str) -> dict[str, Any]:
    """One run: what it is, its picture, its steps, what it has logged, and the commands that go on with it.

    Of many steps the first; so many as the address says with ``steps=``.
    """
    known = read_records(store, find_run(store, run_id).run_id)
    record = known.run
    most = arguments.get("steps", "")
    view = view_of(store, known, most_steps=int(most) if most.isdigit() else TREE)
    large = len(known.rows) > LARGE
    run = view.run
    return {
        "view": view,
        "run": run,
        "picture": None if large else Markup(_timeline(known, style=False)),
        "picture_version": f"{record.fence}-{record.finished_at or int(time.time() / 30)}",
        "large": large,
        "steps": [{"depth": depth, "step": step, "output": output_of(step)} for depth, step in walk(view.steps)],
        "more_steps": view.more_steps,
        "logs": [log for log in known.logs if log.event != "thread.abandoned"][-LOGGED:],
        "more_logs": max(0, len(known.logs) - LOGGED),
        "abandoned": [log_data(log) for log in known.logs if log.event == "thread.abandoned"],
        "causes": causes(run.error),
        "resumed_at": [event.at for event in known.events if event.kind == "claimed"],
        "commands": commands(run, store.url),
        "live": run.status in ("running", "pending"),
        "resumable": run.status in RESUMABLE,
        "retry_of": _above(store, record),
        "retried_by": [summary(other, time.time()) for other in retries(store, record)[:20]],
        "before": _before(store, record),
    }


def timeline_page(store: Store, run_id: str) -> str:
    """The picture of a run, as a file of its own."""
    return _timeline(read_records(store, find_run(store, run_id).run_id), style=True)


def _timeline(known: RunRecords, *, style: bool) -> str:
    records = known.run, known.rows, known.attempts, known.events
    # the page says above what the heading would
    return timeline_svg(*records, style=style, heading=style, zone=None, width=WIDE)


def causes(error: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """An error and its causes, the last thing first."""
    found: list[Mapping[str, Any]] = []
    while error is not None and len(found) < 20:
        found.append(error)
        error = error.get("cause")
    return found


def commands(run: RunSummary, store: str) -> list[tuple[str, str]]:
    """What can be done with a run in a shell: a label and the command."""
    here = f"{run.run_id} --store '{store}'"
    found = [("show", f"workflow-runner show {here}"), ("logs", f"workflow-runner logs {here}")]
    if run.status in ("running", "pending"):
        found.append(("cancel", f"workflow-runner cancel {here}"))
    if run.status in RESUMABLE:
        found.append(("resume", f"workflow-runner resume {here}"))
    if run.status not in ("running", "pending"):
        found.append(("retry", f"workflow-runner retry {here}"))
    return found


def _above(store: Store, record: RunRecord) -> list[RunSummary]:
    """The runs that this one retries, the first one first."""
    now, known = time.time(), record
    above: list[RunSummary] = []
    while known.parent is not None and len(above) < 20:
        try:
            known = store.run(known.parent)
        except RunNotFound:  # pruned
            break
        above.insert(0, summary(known, now))
    return above


def _before(store: Store, record: RunRecord) -> str | None:
    """The last run of this flow that completed before this one: what one compares with."""
    found = store.runs(flow=record.flow, status="completed", until=record.created_at, limit=1, brief=True)
    return found[0].run_id if found else None


# --- flows ------------------------------------------------------------------------------------------------------------


def flows_page(store: Store, arguments: Arguments, max_age: Mapping[str, float]) -> dict[str, Any]:
    """Every flow: how it is, and its last run."""
    return {"flows": [_health_row(known) for known in health(read_for_health(store), time.time(), max_age=max_age)]}


def _health_row(known: FlowHealth) -> dict[str, Any]:
    return {
        "flow": known.flow,
        "healthy": known.healthy,
        "last": known.last,
        "last_success": known.last_success,
        "age": known.age,
        "running": list(known.running),
        "troubles": list(known.troubles),
    }


@attrs.frozen(kw_only=True)
class Rates:
    """What the newest runs of a flow tell.

    Attributes:
        runs: how many ended.
        succeeded: the fraction of those that completed.
        p50: the median duration, seconds.
        p95: seconds that 95 of 100 stay below.
    """

    runs: int
    succeeded: float | None
    p50: float | None
    p95: float | None


def rates(runs: Sequence[RunSummary]) -> Rates:
    """Count what has ended."""
    ended = [run for run in runs if run.status in ("completed", "partial", "failed", "cancelled", "crashed")]
    good = [run for run in ended if run.status in ("completed", "partial")]
    durations = sorted(run.duration for run in good if run.duration is not None)
    return Rates(
        runs=len(ended),
        succeeded=len(good) / len(ended) if ended else None,
        p50=statistics.median(durations) if durations else None,
        p95=durations[math.ceil(0.95 * len(durations)) - 1] if durations else None,
    )


def flow_page(store: Store, arguments: Arguments, max_age: Mapping[str, float], flow: str) -> dict[str, Any]:
    """One flow: its rates, its calendar of business dates, its partitions, its newest runs."""
    now = time.time()
    runs = newest(store, flow)
    if not runs:
        raise RunNotFound(f"there is no run of a flow {flow!r}")
    limits = {name: limit for name, limit in max_age.items() if name in (EVERY, flow)}
    (known,) = health(read_for_health(store, flow), now, max_age=limits)
    days = by_day(runs)
    return {
        "flow": flow,
        "health": _health_row(known),
        "rates": rates(runs),
        "runs": runs[:LISTED],
        "more": max(0, len(runs) - LISTED),
        "usual": medians(store, [flow]),
        "longest": max(run.duration or 0.0 for run in runs[:LISTED]),
        "days": {day.isoformat(): {"status": run.status, "run_id": run.run_id} for day, run in days.items()},
        "missing": [day.isoformat() for day in missing(days)],
        "cells": [] if days else [cell for cell in partitions(runs) if cell["run"].partition],
    }


def calendars(flow: str, days: Mapping[str, Mapping[str, str]], address: Callable[[str], str]) -> list[Markup]:
    """The calendar of a flow's page, a picture for each year, the newest first.

    Args:
        flow: its name.
        days: as the page has them.
        address: of a run.
    """
    known = {dt.date.fromisoformat(day): run for day, run in days.items()}
    found: list[Markup] = []
    end = max(known, default=None)
    while end is not None and end >= min(known) and len(found) < YEARS:
        drawn = calendar_svg(
            {day: run["status"] for day, run in known.items()},
            style=False,
            title=f"Business dates of {flow} until {end}",
            until=end,
            links={day: address(run["run_id"]) for day, run in known.items()},
        )
        found.append(Markup(drawn))
        end -= dt.timedelta(end.weekday() + 1, weeks=52)
    return found


def newest(store: Store, flow: str) -> list[RunSummary]:
    """The newest runs of a flow, as many as its page goes by."""
    now = time.time()
    return [summary(run, now) for run in store.runs(flow=flow, limit=JUDGED, brief=True)]


# What a date is whose partitions fared differently: the first of these that one of them is.
_WORST = ("failed", "crashed", "cancelled", "partial", "running", "pending", "completed")


def by_day(runs: Iterable[RunSummary]) -> dict[dt.date, RunSummary]:
    """The newest run of each business date; of one with several partitions, that of the one that fared worst."""
    latest: dict[tuple[str, str | None], RunSummary] = {}
    for run in runs:
        if run.as_of is not None:
            latest.setdefault((run.as_of, run.partition), run)
    found: dict[dt.date, RunSummary] = {}
    for run in sorted(latest.values(), key=lambda run: _WORST.index(run.status)):
        found.setdefault(dt.date.fromisoformat(str(run.as_of)), run)
    return dict(sorted(found.items()))


def partitions(runs: Iterable[RunSummary]) -> list[dict[str, Any]]:
    """The newest run of each flow and partition, by name; a run without partition stands for itself."""
    latest: dict[tuple[str, str], RunSummary] = {}
    for run in runs:
        name = " ".join(part for part in (run.as_of, run.partition) if part) or run.run_id
        latest.setdefault((run.flow, name), run)
    return [
        {"flow": flow, "partition": name, "run": run} for (flow, name), run in sorted(latest.items(), key=itemgetter(0))
    ]


def missing(days: Iterable[dt.date]) -> list[dt.date]:
    """The weekdays between the first and the last date that have no run; all days if there are runs at weekends."""
    known = sorted(days)
    if not known:
        return []
    weekends = any(day.weekday() >= 5 for day in known)
    span = (known[0] + dt.timedelta(n) for n in range((known[-1] - known[0]).days))
    there = set(known)
    return [day for day in span if day not in there and (weekends or day.weekday() < 5)]


# --- batches and comparisons ------------------------------------------------------------------------------------------


def batch_page(store: Store, arguments: Arguments, batch: str) -> dict[str, Any]:
    """One batch: a cell for each of its partitions, its failures grouped by exception."""
    now = time.time()
    runs = [summary(run, now) for run in store.runs(batch_id=batch, limit=None, brief=True)]
    if not runs:
        raise RunNotFound(f"there is no run of a batch {batch!r}")
    cells = partitions(runs)
    counts: dict[str, int] = {}
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        run = cell["run"]
        counts[run.status] = counts.get(run.status, 0) + 1
        if run.error is not None:
            last = causes(run.error)[-1]
            groups.setdefault(f"{last['type']}: {last['message']}", []).append(cell)
    return {
        "batch": batch,
        "cells": cells,
        "counts": counts,
        "groups": dict(sorted(groups.items(), key=lambda group: -len(group[1]))),
    }


def compare_page(store: Store, arguments: Arguments) -> dict[str, Any]:
    """Two runs side by side: parameters, outputs and times of steps, and where they differ."""
    names = [arguments.get(side, "").strip() for side in ("a", "b")]
    if not all(names):
        return {"a": None, "b": None, "given": names, "params": [], "steps": []}
    a, b = (read_run(store, find_run(store, name).run_id) for name in names)
    ours, theirs = (view.input if isinstance(view.input, dict) else {"input": view.input} for view in (a, b))
    params = [
        {"name": name, "a": ours.get(name), "b": theirs.get(name), "same": ours.get(name) == theirs.get(name)}
        for name in dict.fromkeys([*ours, *theirs])
    ]
    left, right = ({step.path: step for _, step in walk(view.steps)} for view in (a, b))
    steps = []
    for path in list(dict.fromkeys([*left, *right]))[:TREE]:
        one, other = left.get(path), right.get(path)
        outputs = [None if step is None else output_of(step) for step in (one, other)]
        steps.append(
            {
                "path": path,
                "statuses": [None if step is None else step.status for step in (one, other)],
                "durations": [None if step is None else step.duration for step in (one, other)],
                "outputs": outputs,
                "same": outputs[0] == outputs[1] and one is not None and other is not None,
            }
        )
    return {"a": a.run, "b": b.run, "given": names, "params": params, "steps": steps}
