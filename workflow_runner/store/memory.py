"""Runs in memory, for tests and for those who want journals without files. They end with the process."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import attrs

from workflow_runner.errors import OwnershipLost, RunNotFound, RunOwned, StoreError
from workflow_runner.store.base import (
    BRIEF,
    BRIEFLY,
    Attempt,
    EventRow,
    FlowTotals,
    LogRow,
    NewRun,
    RunRecord,
    StepRow,
    Transaction,
    Usage,
)


class MemoryStore:
    """The contract of ``base``, as far as one process goes."""

    url = "memory:"
    _owner = "this process"

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._runs: dict[str, RunRecord] = {}
        self._steps: dict[str, dict[str, StepRow]] = {}
        self._attempts: dict[str, list[Attempt]] = {}
        self._logs: dict[str, list[LogRow]] = {}
        self._events: list[EventRow] = []
        self._ids = itertools.count(1)

    def submit(self, run: NewRun) -> tuple[RunRecord, bool]:
        with self._lock:
            if run.idem_key is not None:
                found = self.find(run.flow, run.idem_key)
                if found is not None:
                    return found, False
            if run.run_id in self._runs:
                raise StoreError(f"run {run.run_id!r} is in {self.url} already; a run_id is never used twice")
            now = time.time()
            record = RunRecord(
                **attrs.asdict(run),
                status="running",
                overrides=None,
                result=None,
                error=None,
                owner=self._owner,
                fence=1,
                cancel_requested=None,
                created_at=now,
                started_at=now,
                finished_at=None,
                alive=True,
            )
            self._runs[run.run_id] = record
            self._steps[run.run_id] = {}
            self._attempts[run.run_id] = []
            self._logs[run.run_id] = []
            return record, True

    def claim(self, run_id: str, seen: RunRecord | None = None) -> RunRecord:
        with self._lock:
            run = self.run(run_id)
            if run.alive:
                raise RunOwned(f"run {run_id} is being executed by {run.owner}")
            if seen is not None and (run.fence, run.status) != (seen.fence, seen.status):
                raise RunOwned(f"run {run_id} was executed by another thread meanwhile: it is {run.status}")
            self._event(run_id, "claimed", json.dumps({"owner": self._owner}))
            return self._set(
                run_id,
                owner=self._owner,
                fence=run.fence + 1,
                status="running",
                alive=True,
                cancel_requested=None,
                finished_at=None,
                result=None,
                error=None,
            )

    def record(self, run_id: str, fence: int, rows: Sequence[StepRow]) -> int:
        with self._lock:
            self._check_fence(run_id, fence)
            steps = self._steps[run_id]
            before = len(steps)
            for path, row in [(row.path, row) for row in rows]:  # read them all before any is written
                steps.setdefault(path, row)
            return len(steps) - before

    def attempt(self, run_id: str, fence: int, path: str, attempt: int, started_at: float, error: str | None) -> None:
        with self._lock:
            self._check_fence(run_id, fence)
            finished_at = None if error is None else time.time()
            self._attempts[run_id].append(Attempt(path, attempt, started_at, error, finished_at))

    def finish(self, run_id: str, fence: int, status: str, result: str | None, error: str | None) -> None:
        with self._lock:
            self._check_fence(run_id, fence)
            end = time.time()
            self._set(run_id, status=status, result=result, error=error, finished_at=end, owner=None, alive=False)

    def release(self, run_id: str, fence: int) -> None:
        with self._lock:
            self._check_fence(run_id, fence)
            self._event(run_id, "released")
            self._set(run_id, status="pending", owner=None, alive=False)

    def begin(self, run_id: str, fence: int) -> Transaction:
        raise StoreError(f"store {self.url} has no database to make a transaction in")

    def forget(self, run_id: str, fence: int, paths: Sequence[str]) -> None:
        with self._lock:
            self._check_fence(run_id, fence)
            for path in paths:
                self._steps[run_id].pop(path, None)
            self._attempts[run_id] = [noted for noted in self._attempts[run_id] if noted.path not in set(paths)]

    def override(self, run_id: str, fence: int, overrides: str) -> None:
        with self._lock:
            self._check_fence(run_id, fence)
            self._set(run_id, overrides=overrides)

    def request_cancel(self, run_id: str, reason: str = "") -> bool:
        with self._lock:
            run = self.run(run_id)
            if run.alive or run.status == "pending":
                self._event(run_id, "cancel_requested", json.dumps({"reason": reason}))
            if run.alive:
                self._set(run_id, cancel_requested=reason)
            elif run.status == "pending":
                self._set(run_id, cancel_requested=reason, status="cancelled", finished_at=time.time())
            return run.alive or run.status == "pending"

    def cancel_requests(self, run_ids: Sequence[str]) -> dict[str, str]:
        with self._lock:
            asked = {run_id: self._runs[run_id].cancel_requested for run_id in run_ids if run_id in self._runs}
            return {run_id: reason for run_id, reason in asked.items() if reason is not None}

    def run(self, run_id: str) -> RunRecord:
        with self._lock:
            if run_id not in self._runs:
                near = get_close_matches(run_id, list(self._runs), n=3)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise RunNotFound(f"there is no run {run_id!r} in {self.url}{hint}")
            return self._runs[run_id]

    def find(self, flow: str, idem_key: str) -> RunRecord | None:
        with self._lock:
            return next((r for r in self._runs.values() if r.flow == flow and r.idem_key == idem_key), None)

    def runs(
        self,
        *,
        key: str | None = None,
        tag: tuple[str, str] | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int | None = 100,
        brief: bool = False,
        **wanted: str | None,
    ) -> list[RunRecord]:
        given = {name: value for name, value in {**wanted, "idem_key": key}.items() if value is not None}

        def fits(run: RunRecord) -> bool:
            return (
                all(getattr(run, name) == value for name, value in given.items())
                and (tag is None or json.loads(run.tags or "{}").get(tag[0]) == tag[1])
                and (since is None or run.created_at >= since)
                and (until is None or run.created_at < until)
            )

        with self._lock:
            found = [run for run in self._runs.values() if fits(run)]
        newest = sorted(found, key=lambda r: (r.created_at, r.run_id), reverse=True)[:limit]
        return [_brief(run) for run in newest] if brief else newest

    def flows(self) -> list[str]:
        with self._lock:
            return sorted({run.flow for run in self._runs.values()})

    def totals(self, since: float) -> list[FlowTotals]:
        with self._lock:
            runs = sorted(self._runs.values(), key=lambda run: (run.created_at, run.run_id))
        found = []
        for flow in sorted({run.flow for run in runs}):
            of_flow = [run for run in runs if run.flow == flow]
            last = next((run for run in reversed(of_flow) if run.status == "completed"), None)
            failed = [run for run in of_flow if run.status == "failed" and (run.finished_at or 0.0) >= since]
            found.append(
                FlowTotals(
                    flow=flow,
                    runs=Counter(run.status for run in of_flow),
                    failed_since=len(failed),
                    last_started=None if last is None else last.started_at,
                    last_finished=None if last is None else last.finished_at,
                )
            )
        return found

    def steps(self, run_id: str) -> list[StepRow]:
        with self._lock:
            return sorted(self._steps.get(run_id, {}).values(), key=lambda row: row.seq)

    def checkpoints(self, run_id: str) -> list[StepRow]:
        self.run(run_id)  # an unknown run is an error
        return [row for row in self.steps(run_id) if row.kind == "step"]

    def attempts(self, run_id: str) -> list[Attempt]:
        with self._lock:
            return list(self._attempts.get(run_id, ()))

    def log(self, run_id: str, rows: Sequence[LogRow]) -> None:
        with self._lock:
            if run_id in self._logs:
                self._logs[run_id] += [attrs.evolve(row, id=next(self._ids)) for row in rows]

    def logs(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[LogRow]:
        with self._lock:
            found = [row for row in self._logs.get(run_id, ()) if row.id > after]
        return found if limit is None else found[max(0, len(found) - limit) :]

    def note(self, kind: str, *, target: str, data: str | None = None) -> None:
        with self._lock:
            self._event(None, kind, data, target)

    def events(
        self, *, run_id: str | None = None, target: str | None = None, kind: str | None = None, limit: int | None = None
    ) -> list[EventRow]:
        given = {"run_id": run_id, "target": target, "kind": kind}
        wanted = {name: value for name, value in given.items() if value is not None}
        with self._lock:
            found = [e for e in self._events if all(getattr(e, name) == value for name, value in wanted.items())]
        return found if limit is None else found[max(0, len(found) - limit) :]

    def _event(self, run_id: str | None, kind: str, data: str | None = None, target: str | None = None) -> None:
        at = time.time()
        self._events.append(EventRow(id=next(self._ids), run_id=run_id, target=target, at=at, kind=kind, data=data))

    def prunable(
        self,
        *,
        older_than: float | None = None,
        keep_last: int = 0,
        keep_failed: bool = True,
        flow: str | None = None,
    ) -> list[str]:
        ended = {"completed"} if keep_failed else {"completed", "failed", "cancelled"}
        before = float("inf") if older_than is None else time.time() - older_than
        with self._lock:
            doomed = []
            for run in self._runs.values():
                newer = sum(r.flow == run.flow and r.created_at > run.created_at for r in self._runs.values())
                old = run.status in ended and (run.finished_at or 0.0) <= before and newer >= keep_last
                if old and flow in (None, run.flow):
                    doomed.append(run)
        return [run.run_id for run in sorted(doomed, key=lambda run: (run.created_at, run.run_id))]

    def prune(
        self,
        *,
        older_than: float | None = None,
        keep_last: int = 0,
        keep_failed: bool = True,
        flow: str | None = None,
    ) -> int:
        with self._lock:
            doomed = self.prunable(older_than=older_than, keep_last=keep_last, keep_failed=keep_failed, flow=flow)
            for run_id in doomed:
                del self._runs[run_id], self._steps[run_id], self._attempts[run_id], self._logs[run_id]
            before = float("-inf") if older_than is None or flow is not None else time.time() - older_than
            self._events = [
                event
                for event in self._events
                if (event.run_id is None and event.at > before) or event.run_id in self._runs
            ]
        return len(doomed)

    def changes(self) -> str:
        return str(next(self._ids))

    def usage(self) -> Usage:
        return Usage(used=0, free=0)

    def vacuum(self) -> None:
        """Nothing to give back."""

    def close(self) -> None:
        """Nothing to let go of."""

    def _set(self, run_id: str, **changes: Any) -> RunRecord:
        record = self._runs[run_id] = attrs.evolve(self._runs[run_id], **changes)
        return record

    def _check_fence(self, run_id: str, fence: int) -> None:
        run = self._runs.get(run_id)
        if run is None:
            raise OwnershipLost(f"run {run_id} has been deleted")
        if run.fence != fence or run.status != "running":
            raise OwnershipLost(f"run {run_id} was taken over: it is {run.status}, owned by {run.owner}")

    def __repr__(self) -> str:
        return "<MemoryStore>"


def _brief(run: RunRecord) -> RunRecord:
    cut: dict[str, Any] = {name: text[:BRIEF] for name in BRIEFLY if (text := getattr(run, name)) is not None}
    return attrs.evolve(run, **cut)
