"""The steps of a run as a tree, made from what its store has recorded; it knows no flow and imports none.

A step's place follows from its path and from the names that are recorded with the run. The steps of a branch stand
beside their choice, as in a `WorkflowResult`; those of a nested workflow below their step; what a step has called below
it, the items of a fan-out counted as one.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from workflow_runner.store.base import Attempt, LogRow, RunRecord, StepRow

# The shortest beginning of a path that ends with an index, as a whole part.
_ITEM = re.compile(r"(.*?)\[\d+\](?=/|$)")


@attrs.frozen(kw_only=True)
class StepView:
    """A step of a run, or something that was called in one.

    Attributes:
        path: unique among those of the run.
        name: the last part of the path.
        kind: "step", "execution" (a child) or "items" (a fan-out).
        flow: the name of what ran.
        status: "completed", "skipped", "failed", "cancelled", "running", "interrupted" (begun, not recorded, and nobody
            is at it) or "pending" (not reached).
        attempts: how many were made, as far as it is known.
        started_at: seconds since the epoch.
        finished_at: seconds since the epoch.
        text: what it has recorded, as typed JSON: of a step its output, updates and the like by name, of a child its
            value.
        reason: why it was skipped.
        error: what it failed with, as ``result.describe`` makes it.
        failures: the attempts that failed.
        count: of a fan-out: items done.
        steps: what is inside.
    """

    path: str
    name: str
    kind: str
    flow: str
    status: str = "pending"
    attempts: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    text: str | None = None
    reason: str | None = None
    error: Mapping[str, Any] | None = None
    failures: tuple[Attempt, ...] = ()
    count: int = 0
    steps: tuple[StepView, ...] = ()

    @property
    def duration(self) -> float | None:
        """Seconds."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


def step_tree(
    run: RunRecord,
    rows: Sequence[StepRow],
    attempts: Sequence[Attempt] = (),
    logged: Sequence[LogRow] = (),
    claimed_at: float = 0.0,
    most: int | None = None,
) -> tuple[tuple[StepView, ...], int]:
    """The steps of a run.

    Args:
        run: the run.
        rows: its outcomes, in the order of recording.
        attempts: what is noted of it.
        logged: what was logged under it: tells what runs now, if the run's log is captured.
        claimed_at: when its owner got it: what was begun before and is not recorded is not running.
        most: at most so many, those above first.

    Returns:
        Those of a workflow in order of declaration, also those that were not reached; what a flow has called by the
        time of its start. And how many were left out.

    Any thread.
    """
    tree = _Tree(run, rows, claimed_at)
    for noted in attempts:
        if noted.error is None:
            tree.begin(noted.path, noted.started_at)
    for row in logged:
        if row.path is not None and row.event.startswith("step."):
            tree.tell(row.path, row.event.removeprefix("step."), row.at)
    tree.record(rows)
    for noted in attempts:
        if noted.error is not None:
            tree.fail(noted)
    if run.status == "completed" and run.shape and run.result:
        tree.overlay(json.loads(run.result)["steps"])
    tree.blame(json.loads(run.error) if run.error else None)
    return tree.freeze(most)


def fan_out(path: str) -> str | None:
    """The path of the fan-out that ``path`` is an item of, or below an item of: the outermost; None if there is none.

    Any thread.
    """
    match = _ITEM.match(path) if "[" in path else None
    return match[1] if match else None


@attrs.define(kw_only=True)
class _Node:
    """What becomes a `StepView`, with the same fields."""

    path: str
    name: str
    kind: str
    flow: str
    status: str = "pending"
    attempts: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    text: str | None = None
    reason: str | None = None
    error: Mapping[str, Any] | None = None
    failures: tuple[Attempt, ...] = ()
    count: int = 0
    inner: dict[str, _Node] = attrs.Factory(dict)
    order: Sequence[_Node] = ()

    def set(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self, name, value)


_FIELDS = [name for name in attrs.fields_dict(StepView) if name != "steps"]


class _Tree:
    def __init__(self, run: RunRecord, rows: Iterable[StepRow], claimed_at: float) -> None:
        self.run = run
        self.claimed_at = claimed_at
        self.live = "running" if run.alive else "interrupted"
        self.shape = {name: index for index, name in enumerate(json.loads(run.shape) if run.shape else ())}
        # the decision of a choice is recorded before any step of its branches
        self.choices = {row.path for row in rows if (row.output or "").startswith('{"output":{"branch":')}
        self.top: dict[str, _Node] = {}
        for name in self.shape:
            self._node(name, "step")

    # -- places

    def _node(self, key: str, kind: str) -> _Node:
        level = self.top
        above = ""
        for part in key.split("/")[:-1]:
            above = f"{above}/{part}".lstrip("/")
            level = self._in(level, above, "step" if above in self.shape else "execution").inner
        return self._in(level, key, kind)

    def _in(self, level: dict[str, _Node], key: str, kind: str) -> _Node:
        if key not in level:
            name = key.rpartition("/")[2]
            level[key] = _Node(path=key, name=name, kind=kind, flow=name)
        return level[key]

    def _find(self, path: str) -> _Node:
        """The node of a path; that of its fan-out, if it is an item, or inside of one."""
        if "/" not in path and "[" not in path:  # nearly all of a long run's
            return self._in(self.top, path, "step" if path in self.shape else "execution")
        outer = fan_out(path)
        key = self._key(outer or path)
        return self._node(key, "items" if outer else "step" if key in self.shape else "execution")

    def _key(self, path: str) -> str:
        """A path without the choices on its way."""
        key, parts = "", path.split("/")
        for index in range(len(parts)):
            beside = f"{key.rpartition('/')[0]}/{parts[index]}".lstrip("/")
            if beside in self.shape and "/".join(parts[:index]) in self.choices:
                key = beside
            else:
                key = f"{key}/{parts[index]}".lstrip("/")
        return key

    # -- what is known

    def begin(self, path: str, at: float) -> None:
        node = self._find(path)
        if node.kind != "items":
            status = "running" if self.run.alive and at >= self.claimed_at else "interrupted"
            node.set(status=status, started_at=at, attempts=max(1, node.attempts))

    def tell(self, path: str, what: str, at: float) -> None:
        """What was logged of a step. Of its end the rows say more, but a step with steps inside has none."""
        node = self._find(path)
        if what == "started":
            self.begin(path, at)
        elif what in ("failed", "cancelled") or (node.inner and what in ("completed", "skipped")):
            node.set(status=what, finished_at=at)

    def record(self, rows: Iterable[StepRow]) -> None:
        items: dict[str, list[StepRow]] = {}
        for row in rows:
            outer = fan_out(row.path)
            if outer is None:
                self._record(row)
            elif row.kind == "item" and "/" not in row.path[len(outer) :]:  # and not something inside an item
                items.setdefault(outer, []).append(row)
        for done in items.values():
            self._find(done[0].path).set(
                flow=done[0].flow,
                count=len(done),
                started_at=min(row.started_at for row in done),
                finished_at=max(row.finished_at for row in done),
            )

    def _record(self, row: StepRow) -> None:
        reason = json.loads(row.output).get("skipped") if row.output and row.status == "skipped" else None
        node = self._find(row.path)
        node.flow = row.flow
        node.status = row.status
        node.attempts = row.attempt
        node.started_at = row.started_at
        node.finished_at = row.finished_at
        node.text = row.output
        node.reason = reason

    def fail(self, noted: Attempt) -> None:
        node = self._find(noted.path)
        if node.kind == "items":
            return
        failures = (*node.failures, noted)
        node.set(failures=failures, attempts=max(node.attempts, noted.attempt))
        if node.text is None and not self.run.alive:
            node.set(
                status="failed",
                error=json.loads(noted.error or "null"),
                started_at=failures[0].started_at,
                finished_at=noted.finished_at,
            )

    def overlay(self, records: Iterable[Mapping[str, Any]], above: str = "") -> None:
        """What the result of a completed workflow says of its steps."""
        for record in records:
            key = f"{above}/{record['name']}".lstrip("/")
            node = self._node(key, "step")
            changes = {name: record[name] for name in ("status", "attempts", "reason", "error")}
            if record["started_at"] is not None:
                started = dt.datetime.fromisoformat(record["started_at"]).timestamp()
                changes |= {"started_at": started, "finished_at": started + record["duration"]}
            node.set(**changes)
            self.overlay(record["steps"], key)

    def blame(self, error: Mapping[str, Any] | None) -> None:
        """Mark the step that stopped the run, and those above it, which failed with a workflow of their own."""
        key = ""
        while error is not None and error["type"] == "WorkflowFailed" and error.get("step"):
            key = f"{key}/{error['step']}".lstrip("/")
            cause = error["cause"]
            if key in self.shape:
                node = self._node(key, "step")
                node.set(status="failed", error=cause or error, attempts=max(1, node.attempts))
            error = cause

    # -- the end

    def freeze(self, most: int | None) -> tuple[tuple[StepView, ...], int]:
        order = self._settled(self.top, self.run.status)
        total = _size(order)
        most = total if most is None else min(most, total)
        return _views(order, most)[0], total - most

    def _settled(self, level: Mapping[str, _Node], above: str) -> Sequence[_Node]:
        """Decide how each is, and put them in order."""
        for node in level.values():
            if node.kind == "items":
                node.status = "completed" if above == "completed" else self.live
            node.order = self._settled(node.inner, node.status) if node.inner else ()
        order = sorted(level.values(), key=self._rank)
        # What has steps inside is not recorded itself. Its steps say how it is; some may be in branches not taken.
        later = False
        for node in reversed(order):
            inner = {step.status for step in node.order}
            if node.status == "pending" and inner - {"pending"}:
                passed = inner <= {"completed", "skipped"} or (later and inner <= {"completed", "skipped", "pending"})
                node.status = "completed" if node.kind == "step" and passed else self.live
            later = later or (node.kind == "step" and node.status != "pending")
        return order

    def _rank(self, node: _Node) -> tuple[int, float]:
        return (0, self.shape[node.path]) if node.path in self.shape else (1, _began(node))


def _began(node: _Node) -> float:
    if not node.order:
        return float("inf") if node.started_at is None else node.started_at
    starts = [node.started_at, *(_began(step) for step in node.order)]
    return min((start for start in starts if start is not None), default=float("inf"))


def _views(order: Sequence[_Node], most: int) -> tuple[tuple[StepView, ...], int]:
    """The first of them, those above first, and how many more there may be."""
    views = []
    for node in order:
        if not most:
            break
        steps, most = _views(node.order, most - 1)
        views.append(StepView(**{name: getattr(node, name) for name in _FIELDS}, steps=steps))
    return tuple(views), most


def _size(order: Sequence[_Node]) -> int:
    return len(order) + sum(_size(node.order) for node in order if node.order)
