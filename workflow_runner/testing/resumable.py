"""Whether a flow can be gone on with, wherever it is killed: by killing it everywhere.

Nothing of the flow runs in the process of the test. Every run and every resume is a forked child of its own, so that
each begins with the memory of the test as it was, and what the killed one had in its memory is gone, as after a crash.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from workflow_runner import Scope, WorkflowResult, open_store
from workflow_runner._core import codec
from workflow_runner._core.codec import short_repr
from workflow_runner._core.flow import Flow
from workflow_runner._core.secrets import secrets_in
from workflow_runner._workflow.resume import outcome
from workflow_runner._workflow.supply import root_of
from workflow_runner.store.base import RunRecord, StepRow, Store, Transaction

# The run is alone in its store.
_RUN_ID = "resumable"


@attrs.frozen(kw_only=True)
class Resumable:
    """What `assert_resumable` has done.

    Attributes:
        kills: how many runs were killed and gone on with.
        rows: how many outcomes the undisturbed run has recorded.
        after: the path that each killed run had recorded last; None for the one that had recorded nothing.
    """

    kills: int
    rows: int
    after: tuple[str | None, ...]


def assert_resumable(
    flow: Flow[Any, Any],
    input: Any = None,
    *,
    compare: Callable[[Any, Any], object] | None = None,
    make_scope: Callable[..., Scope] = Scope,
    folder: str | os.PathLike[str] | None = None,
    timeout: float = 30.0,
) -> Resumable:
    """Kill a run after each of its records in turn, go on with it, and check that nothing shows of that.

    The flow runs once undisturbed. Then it runs again and again, against a new SQLite file each time, and is killed
    (``SIGKILL``) as soon as it has begun, then as soon as its first record is safe, then its second, and so on: after
    every step, every child, every batch of a fan-out's items. A process that knows nothing of the killed one resumes
    it. Then its result must be that of the undisturbed run, the same paths must be recorded, each once, and nothing
    that was recorded may have run again.

    The processes are forks of this one, so the flow may be defined inside the test. It must not depend on threads of
    the test: a fork does not have them, and may hang on a lock that one of them holds. Since Python 3.12 a fork beside
    living threads warns (``DeprecationWarning``); close scopes and pools first. What the flow does to the world, such
    as to files, it does several times.

    Args:
        flow: a flow or a workflow.
        input: its input. Secrets in it are supplied at each resume.
        compare: ``(expected, got)``: raises, or returns False, if the two results are not the same. Default: they are
            equal; of a workflow its status, the status of each step, all outputs and params.
        make_scope: called with ``store=``, for a scope with more arguments: ``partial(Scope, tags=[...])``.
        folder: where the files go, which are kept; default: a temporary one.
        timeout: seconds that each process may take; one that takes longer is killed.

    Returns:
        How much was done.

    Raises:
        AssertionError: names the step after which the run was killed, and what is different.
        ValueError: this platform has no fork.
    """
    __tracebackhide__ = True
    if not hasattr(os, "fork"):
        raise ValueError("assert_resumable needs os.fork")
    with tempfile.TemporaryDirectory() as temporary:
        check = _Check(flow, input, compare, make_scope, Path(folder or temporary), timeout)
        return check.run()


@attrs.frozen
class _Left:
    """What a store has of the run."""

    record: RunRecord
    rows: tuple[StepRow, ...]


@attrs.frozen
class _Check:
    flow: Flow[Any, Any]
    input: Any
    compare: Callable[[Any, Any], object] | None
    make_scope: Callable[..., Scope]
    folder: Path
    timeout: float

    def run(self) -> Resumable:
        __tracebackhide__ = True
        codec.converter()  # here, or every child would import what it needs
        name = self.flow.name
        said = self._child("undisturbed", self._start, None)
        _expect(said.get("error") is None, f"{name} does not complete when nobody disturbs it: {said.get('error')}")
        expected = self._left("undisturbed")
        after: list[str | None] = []
        for n in range(said["records"] + 1):
            said = self._child(f"kill-{n}", self._start, n)
            before = self._left(f"kill-{n}")
            place = f"{name}, killed {_place(before.rows)}"
            _expect(said.get("error") is None, f"{place}: it had failed before: {said.get('error')}")
            if said:  # there was less to record than before, as items share records: it has completed
                self._check(expected, before, before, place)
                continue
            said = self._child(f"kill-{n}", self._resume, None)
            _expect(said.get("error") is None, f"{place}: the resumed run failed: {said.get('error')}")
            _expect(not said["again"], f"{place}: these were recorded and have run again: {', '.join(said['again'])}")
            self._check(expected, before, self._left(f"kill-{n}"), place)
            after.append(before.rows[-1].path if before.rows else None)
        return Resumable(kills=len(after), rows=len(expected.rows), after=tuple(after))

    # -- in the parent

    def _url(self, name: str) -> str:
        return f"sqlite:///{self.folder}/{name}.db?durability=process"

    def _left(self, name: str) -> _Left:
        store = open_store(self._url(name))
        try:
            return _Left(store.run(_RUN_ID), tuple(store.steps(_RUN_ID)))
        finally:
            store.close()

    def _check(self, expected: _Left, before: _Left, got: _Left, place: str) -> None:
        __tracebackhide__ = True
        now = {row.path: row for row in got.rows}
        _expect(len(now) == len(got.rows), f"{place}: a path was recorded twice")
        for row in before.rows:
            _expect(now.get(row.path) == row, f"{place}: what was recorded of {row.path!r} has changed")
        wanted = {row.path for row in expected.rows}
        missing, more = sorted(wanted - now.keys()), sorted(now.keys() - wanted)
        _expect(not missing, f"{place}: not recorded: {', '.join(missing)}")
        _expect(not more, f"{place}: recorded, but not by an undisturbed run: {', '.join(more)}")
        if self.compare is None and expected.record.result == got.record.result:
            return
        one, other = outcome(self.flow, expected.record), outcome(self.flow, got.record)
        if self.compare is not None:
            _expect(self.compare(one, other) is not False, f"{place}: the result is another one")
            return
        differences = list(_differences(one, other))
        _expect(not differences, f"{place}: " + "; ".join(differences))

    def _child(self, name: str, work: Callable[[Store, int | None], dict[str, Any]], fatal: int | None) -> Any:
        """Run ``work`` in a child; what it returned, nothing if it was killed as it should be."""
        __tracebackhide__ = True
        report = self.folder / f"{name}.json"
        what = f"{self.flow.name}, {'resumed' if work.__name__ == '_resume' else 'started'} as {name}"
        child = os.fork()
        if child == 0:
            code = 1
            try:
                report.write_text(json.dumps(self._work(name, work, fatal)))
                code = 0
            finally:
                os._exit(code)  # not by the way of the test that this process was forked from
        end = time.monotonic() + self.timeout
        try:
            while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
                _expect(time.monotonic() < end, f"{what} has not ended after {self.timeout:g} s")
                time.sleep(0.002)
        except BaseException:  # an interrupt, too
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        code = os.waitstatus_to_exitcode(ended[1])
        if code == -signal.SIGKILL and fatal is not None:
            return {}
        _expect(code == 0, f"{what} has died: {code}")
        return json.loads(report.read_text())

    # -- in a child

    def _work(
        self, name: str, work: Callable[[Store, int | None], dict[str, Any]], fatal: int | None
    ) -> dict[str, Any]:
        try:
            store = open_store(self._url(name))
            try:
                return work(store, fatal)
            finally:
                store.close()
        except BaseException as error:
            return {"error": _described(error)}

    def _start(self, store: Store, fatal: int | None) -> dict[str, Any]:
        watched = _Watched(store, fatal)
        with self.make_scope(store=watched) as scope:
            scope.exec(self.flow, self.input, run_id=_RUN_ID, durable=True).result()
        return {"records": watched.records}

    def _resume(self, store: Store, _: int | None) -> dict[str, Any]:
        watched = _Watched(store, None)
        secrets = secrets_in(root_of(self.flow.prepare(self.input)))
        given = {name: value for name, value in secrets if value is not None}
        with self.make_scope(store=watched) as scope:
            scope.resume(_RUN_ID, flow=self.flow, params_override=given or None).result()
        return {"again": watched.again}


class _Watched:
    """A store that kills its process at once when so many records are safe; 0: when the run is there."""

    def __init__(self, store: Store, fatal: int | None) -> None:
        self._store = store
        self._fatal = fatal
        self.records = 0
        self.again: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def submit(self, run: Any) -> Any:
        submitted = self._store.submit(run)
        self._look()
        return submitted

    def record(self, run_id: str, fence: int, rows: Sequence[StepRow]) -> int:
        return self.watch(run_id, rows, lambda: self._store.record(run_id, fence, rows))

    def begin(self, run_id: str, fence: int) -> Transaction:
        return _WatchedTransaction(self, run_id, self._store.begin(run_id, fence))

    def watch(self, run_id: str, rows: Sequence[StepRow], write: Callable[[], int]) -> int:
        new = write()
        if new < len(rows):
            own = {(row.path, row.seq, row.started_at) for row in rows}
            there = {(row.path, row.seq, row.started_at) for row in self._store.steps(run_id)}
            self.again += sorted(path for path, *_ in own - there)
        self.records += 1
        self._look()
        return new

    def _look(self) -> None:
        if self.records == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)


class _WatchedTransaction:
    def __init__(self, watched: _Watched, run_id: str, transaction: Transaction) -> None:
        self._watched = watched
        self._run_id = run_id
        self._transaction = transaction

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._transaction.execute(sql, parameters)

    def commit(self, rows: Sequence[StepRow]) -> int:
        return self._watched.watch(self._run_id, rows, lambda: self._transaction.commit(rows))

    def rollback(self) -> None:
        self._transaction.rollback()


# --- what is said -----------------------------------------------------------------------------------------------------


def _described(error: BaseException) -> str:
    """What a child has failed with, and where that came from."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    frames = traceback.extract_tb(cause.__traceback__)
    place = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _expect(holds: object, message: str) -> None:
    __tracebackhide__ = True  # for pytest: the test that asked is what is to be seen
    if not holds:
        raise AssertionError(message)


def _place(rows: Sequence[StepRow]) -> str:
    return f"after {rows[-1].path!r} was recorded" if rows else "before anything was recorded"


def _differences(expected: Any, got: Any) -> list[str]:
    if not isinstance(expected, WorkflowResult) or not isinstance(got, WorkflowResult):
        same = expected == got
        return [] if same else [f"the result is {short_repr(got)}, undisturbed it is {short_repr(expected)}"]
    found = []
    if got.status != expected.status:
        found.append(f"the workflow is {got.status}, undisturbed it is {expected.status}")
    statuses = [{step.name: str(step.status) for step in result.steps} for result in (expected, got)]
    contexts = expected.context, got.context
    outputs = [dict(context.step_outputs) for context in contexts]
    params = [dict(context.params) for context in contexts]
    for what, (one, other) in {"step": statuses, "the output of": outputs, "param": params}.items():
        for name in {**one, **other}:
            if one.get(name, _NOTHING) != other.get(name, _NOTHING):
                said = short_repr(other.get(name, _NOTHING)), short_repr(one.get(name, _NOTHING))
                found.append(f"{what} {name!r} is {said[0]}, undisturbed it is {said[1]}")
    return found


class _Nothing:
    def __repr__(self) -> str:
        return "not there"


_NOTHING: Any = _Nothing()
