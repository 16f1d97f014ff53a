"""Metrics computed from a store, in the text format of Prometheus: right whatever process has executed the runs.

Counters in the memory of a process end with it, and each of several workers has its own. A store has all runs: those of
prefork workers, and those of cron jobs that have ended long ago. Any thread; needs no other package.

    @app.get("/metrics")
    def metrics():
        return Response(metrics_text(scope.store), content_type=CONTENT_TYPE)
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from workflow_runner.errors import InputError
from workflow_runner.store.base import FlowTotals, RunRecord, Store, Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of what `metrics_text` returns."""

DAY = 86400.0

_STATUSES = ("pending", "running", "crashed", "completed", "failed", "cancelled")


@attrs.frozen(kw_only=True)
class Family:
    """One metric, a gauge.

    Attributes:
        name: with its unit at the end.
        help: what it says.
        samples: labels and value of each.
    """

    name: str
    help: str
    samples: tuple[tuple[dict[str, str], float], ...]


def metrics_text(store: Store, *, now: float | None = None) -> str:
    """What a store says about its runs.

    Args:
        store: the store; asked a few cheap questions.
        now: seconds since the epoch; default: the time.

    Returns:
        The text for Prometheus to scrape; see `CONTENT_TYPE`.

    Raises:
        StoreError: the store cannot be read.
    """
    moment = time.time() if now is None else now
    running = store.runs(status="running", limit=None)
    return text_of(families(store.totals(moment - DAY), running, store.usage()))


def write_textfile(path: str | os.PathLike[str], store: Store, *, now: float | None = None) -> None:
    """Write `metrics_text` where the textfile collector of node_exporter finds it.

    It reads the old file or the new one, and never a part.

    Args:
        path: the file; node_exporter reads those whose names end in ``.prom``.
        store: the store.
        now: as for `metrics_text`.

    Raises:
        InputError: the name has another ending.
        StoreError: the store cannot be read; the old file stays.
        OSError: the file cannot be written; the old one stays.
    """
    target = Path(path)
    if target.suffix != ".prom":
        raise InputError(f"path: node_exporter reads files that end in .prom, got {str(path)!r}")
    text = metrics_text(store, now=now)
    # in the same folder, or it could not be renamed; with another ending, or it would be read
    file, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            os.fchmod(file, 0o644)  # node_exporter is another user
            stream.write(text)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def families(totals: Sequence[FlowTotals], running: Iterable[RunRecord], usage: Usage) -> list[Family]:
    """The metrics that these records mean.

    Args:
        totals: all runs, counted.
        running: those that are running, as far as anybody wrote.
        usage: the space that the store takes.
    """
    crashed: dict[str, int] = {}
    oldest: dict[str, float] = {}
    for run in running:
        if run.crashed:
            crashed[run.flow] = crashed.get(run.flow, 0) + 1
        elif run.started_at is not None:
            oldest[run.flow] = min(run.started_at, oldest.get(run.flow, run.started_at))
    runs = []
    for flow in totals:
        dead = crashed.get(flow.flow, 0)
        counts = {**flow.runs, "running": max(0, flow.runs.get("running", 0) - dead), "crashed": dead}
        runs += [({"flow": flow.flow, "status": status}, float(counts.get(status, 0))) for status in _STATUSES]
    successes = [(flow.flow, flow.last_started, flow.last_finished) for flow in totals]
    return [
        Family(
            name="workflow_runner_store_runs",
            help="Runs in the store; fewer when they are pruned.",
            samples=tuple(runs),
        ),
        Family(
            name="workflow_runner_store_recent_failures",
            help="Runs that have failed in the last 24 hours.",
            samples=tuple(({"flow": flow.flow}, float(flow.failed_since)) for flow in totals),
        ),
        Family(
            name="workflow_runner_store_last_success_timestamp_seconds",
            help="When the newest run that completed has ended.",
            samples=tuple(({"flow": flow}, end) for flow, _, end in successes if end is not None),
        ),
        Family(
            name="workflow_runner_store_last_success_duration_seconds",
            help="How long the newest run that completed has taken, from its first start.",
            samples=tuple(
                ({"flow": flow}, max(0.0, end - start))
                for flow, start, end in successes
                if start is not None and end is not None
            ),
        ),
        Family(
            name="workflow_runner_store_oldest_running_timestamp_seconds",
            help="When the oldest of the runs that are being executed has begun.",
            samples=tuple(({"flow": flow}, start) for flow, start in sorted(oldest.items())),
        ),
        Family(
            name="workflow_runner_store_used_bytes",
            help="What the records in the store take.",
            samples=(({}, float(usage.used)),),
        ),
        Family(
            name="workflow_runner_store_free_bytes",
            help="What is free inside the file of the store.",
            samples=(({}, float(usage.free)),),
        ),
    ]


def text_of(families: Iterable[Family]) -> str:
    """Metrics in Prometheus' text format, version 0.0.4."""
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    if not family.samples:
        return
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} gauge"
    for labels, value in family.samples:
        pairs = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        yield f"{family.name}{{{pairs}}} {value!r}" if pairs else f"{family.name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
