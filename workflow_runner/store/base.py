"""The contract of every store, in prose, and the records it keeps.

A store knows records of text and numbers; what the texts mean is the codec's business. The contract, which one suite of
tests checks on every back-end:

1. *Acknowledged is kept.* When a verb returns, what it wrote survives ``kill -9``; with durability "power" a power cut
   too. Before it returns, what it wrote is there whole or not at all.
2. *A run is inserted once.* ``submit`` with a key that its flow has used before inserts nothing and gives the run that
   is there.
3. *A run has one owner.* ``claim`` succeeds for one of any number of processes: while the owner lives nobody else gets
   the run. Each claim raises the run's fence.
4. *Writes are fenced.* ``record``, ``finish`` and ``release`` name the fence they were given; once somebody else has
   claimed the run they write nothing and raise ``OwnershipLost``.
5. *A path is recorded once.* A second row for a path of a run changes nothing.
6. *Reads see what was acknowledged* and block nobody.

A value's text has at most ``MAX_TEXT`` characters: what is larger belongs elsewhere, and here a reference to it, such
as a path or a key.

All verbs may be called from any thread and in a forked child. All times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import attrs

MAX_TEXT = 16 * 2**20
BRIEF = 100
BRIEFLY = ("shape", "input", "overrides", "result")


@attrs.frozen(kw_only=True)
class NewRun:
    """A run before it is submitted.

    Attributes:
        target: where its flow can be imported from, ``module:attribute``; None if nowhere.
        shape: JSON text that changed code is recognised by.
        input: typed JSON text.
        input_hash: identifies the input.
        parent: the run that this one retries.
        tags: texts to find it by, as the JSON text of an object.
    """

    run_id: str
    flow: str
    target: str | None = None
    version: str | None = None
    shape: str | None = None
    idem_key: str | None = None
    input: str
    input_hash: str
    batch_id: str | None = None
    partition: str | None = None
    as_of: str | None = None
    parent: str | None = None
    trace_id: str | None = None
    tags: str | None = None


@attrs.frozen(kw_only=True)
class RunRecord(NewRun):
    """A run as the store knows it.

    Attributes:
        status: "pending" (released, or never begun), "running", "completed", "failed" or "cancelled".
        overrides: params given at resume, as typed JSON text.
        result: typed JSON text.
        error: JSON text, as ``result.describe`` makes it.
        owner: who holds it; ``alive`` says whether that process lives.
        fence: how often it was claimed.
        cancel_requested: the reason, if somebody wants it cancelled.
    """

    status: str
    overrides: str | None
    result: str | None
    error: str | None
    owner: str | None
    fence: int
    cancel_requested: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    alive: bool = False

    @property
    def crashed(self) -> bool:
        """Whether it is running, as far as anybody wrote, and its owner is dead."""
        return self.status == "running" and not self.alive


class StepRow(NamedTuple):
    """The outcome of one path of a run. A tuple: one is made for each step and item, and read for each.

    Attributes:
        path: unique in the run.
        seq: the order of recording.
        kind: "step", "execution" or "item".
        flow: the name of what ran.
        status: "completed", "skipped" or "failed" (a step that may fail).
        output: typed JSON text.
    """

    path: str
    seq: int
    kind: str
    flow: str
    started_at: float
    finished_at: float
    attempt: int = 1
    status: str = "completed"
    input_hash: str | None = None
    output: str | None = None


class Attempt(NamedTuple):
    """A start that must not be repeated, or an attempt that failed.

    Attributes:
        error: JSON text, as ``result.describe`` makes it; None for a start.
        finished_at: when it failed.
    """

    path: str
    attempt: int
    started_at: float
    error: str | None = None
    finished_at: float | None = None


@attrs.frozen(kw_only=True)
class LogRow:
    """One captured log record.

    Attributes:
        id: grows with every record of the store; 0 before it is written.
        path: of the step that logged it; None outside of every step.
        at: when.
        level: "debug", "info", "warning", "error" or "critical".
        fields: the JSON text of an object.
    """

    id: int = 0
    path: str | None = None
    at: float
    level: str
    event: str
    fields: str | None = None


@attrs.frozen(kw_only=True)
class EventRow:
    """Something that happened to a run, or instead of one.

    Attributes:
        id: grows with every event of the store.
        kind: of a run "claimed", "released" or "cancel_requested"; without a run "skipped".
        target: what was to be run; only without a run.
        data: the JSON text of an object.
    """

    id: int
    run_id: str | None
    target: str | None
    at: float
    kind: str
    data: str | None


@attrs.frozen(kw_only=True)
class Usage:
    """The space that a store takes, in bytes; 0 where there is no file.

    Attributes:
        used: by what is in it.
        free: inside the file, for what comes next.
    """

    used: int
    free: int


@attrs.frozen(kw_only=True)
class FlowTotals:
    """All runs of one flow, counted.

    Attributes:
        flow: its name.
        runs: how many there are by recorded status; a crashed run is "running". Statuses without a run are left out.
        failed_since: how many have failed since the moment that was asked for.
        last_started: when the newest run that completed began; None if there is none.
        last_finished: when it ended.
    """

    flow: str
    runs: Mapping[str, int]
    failed_since: int
    last_started: float | None
    last_finished: float | None


class Transaction(Protocol):
    """The database of a store inside an open transaction: what ``ctx.transaction()`` gives."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Run one statement; returns the database's cursor."""
        ...

    def commit(self, rows: Sequence[StepRow]) -> int:
        """Record ``rows`` and commit them together with all that was executed.

        Returns:
            As ``Store.record``. If a path was recorded before, nothing of all this is there.

        Raises:
            OwnershipLost: as ``Store.record``; nothing of it is there.
        """
        ...

    def rollback(self) -> None:
        """Undo everything; idempotent. May be called from another thread than `execute`."""
        ...


class Store(Protocol):
    """What the library needs of a store; see the contract above."""

    url: str

    def submit(self, run: NewRun) -> tuple[RunRecord, bool]:
        """Insert ``run``, owned by this process and running; or find the one with its flow and key.

        Returns:
            The run, and whether it was inserted.
        """
        ...

    def claim(self, run_id: str, seen: RunRecord | None = None) -> RunRecord:
        """Become the owner of a run that nobody holds, whatever its status.

        Args:
            run_id: the run.
            seen: what it was when the caller decided to go on with it, who might decide otherwise now.

        Raises:
            RunNotFound: there is none.
            RunOwned: a living process holds it, or it has ended or was held since the caller saw it; says which.
        """
        ...

    def record(self, run_id: str, fence: int, rows: Sequence[StepRow]) -> int:
        """Append outcomes, all or none.

        Returns:
            How many of the paths were new.

        Raises:
            OwnershipLost: the fence is not the run's any more.
        """
        ...

    def attempt(self, run_id: str, fence: int, path: str, attempt: int, started_at: float, error: str | None) -> None:
        """Note a start that must not be repeated, or a failed attempt."""
        ...

    def finish(self, run_id: str, fence: int, status: str, result: str | None, error: str | None) -> None:
        """End the run."""
        ...

    def release(self, run_id: str, fence: int) -> None:
        """Hand an unfinished run back, for anybody to claim."""
        ...

    def begin(self, run_id: str, fence: int) -> Transaction:
        """Begin a transaction in which a step writes its own tables beside its record. Every other writer waits.

        Raises:
            StoreError: this store has no database.
        """
        ...

    def forget(self, run_id: str, fence: int, paths: Sequence[str]) -> None:
        """Delete the outcomes of these paths, and what `attempt` has noted of them, so that they are made again.

        Raises:
            OwnershipLost: as `record`.
        """
        ...

    def override(self, run_id: str, fence: int, overrides: str) -> None:
        """Note the params that were given at resume."""
        ...

    def request_cancel(self, run_id: str, reason: str = "") -> bool:
        """Ask whoever runs it to stop; one that nobody runs is cancelled at once.

        Returns:
            False if it had ended.

        Raises:
            RunNotFound: there is none.
        """
        ...

    def cancel_requests(self, run_ids: Sequence[str]) -> dict[str, str]:
        """Which of these somebody wants cancelled, with the reasons."""
        ...

    def run(self, run_id: str) -> RunRecord:
        """One run.

        Raises:
            RunNotFound: there is none; names near ones.
        """
        ...

    def find(self, flow: str, idem_key: str) -> RunRecord | None:
        """The run of ``flow`` with this key."""
        ...

    def runs(
        self,
        *,
        flow: str | None = None,
        status: str | None = None,
        batch_id: str | None = None,
        partition: str | None = None,
        as_of: str | None = None,
        target: str | None = None,
        key: str | None = None,
        parent: str | None = None,
        tag: tuple[str, str] | None = None,
        since: float | None = None,
        until: float | None = None,
        limit: int | None = 100,
        brief: bool = False,
    ) -> list[RunRecord]:
        """Runs, newest first.

        Args:
            status: as recorded; a crashed run is "running".
            tag: a name and its text.
            since: created then or later.
            until: created before.
            limit: at most so many; None for all.
            brief: of shape, input, overrides and result only the first ``BRIEF`` characters, which may be no JSON.
        """
        ...

    def flows(self) -> list[str]:
        """The names of all flows that have runs, sorted."""
        ...

    def totals(self, since: float) -> list[FlowTotals]:
        """All runs, counted by flow and status, as of one moment; sorted by flow. Cheap however many there are.

        Args:
            since: failures from then on are counted apart.
        """
        ...

    def steps(self, run_id: str) -> list[StepRow]:
        """The outcomes of a run, in the order of recording."""
        ...

    def checkpoints(self, run_id: str) -> list[StepRow]:
        """The steps of a run from which it can go on: as `steps`, without what lies inside them.

        Raises:
            RunNotFound: there is no such run.
        """
        ...

    def attempts(self, run_id: str) -> list[Attempt]:
        """What ``attempt`` has noted."""
        ...

    def log(self, run_id: str, rows: Sequence[LogRow]) -> None:
        """Append what was logged under a run; not fenced, and nothing if there is no such run any more."""
        ...

    def logs(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[LogRow]:
        """What was logged under a run, in order; those with an id above ``after``, or the last ``limit`` of them."""
        ...

    def note(self, kind: str, *, target: str, data: str | None = None) -> None:
        """Note an event that has no run, such as a start that was skipped."""
        ...

    def events(
        self, *, run_id: str | None = None, target: str | None = None, kind: str | None = None, limit: int | None = None
    ) -> list[EventRow]:
        """Events in order; the last ``limit`` of them."""
        ...

    def prunable(
        self,
        *,
        older_than: float | None = None,
        keep_last: int = 0,
        keep_failed: bool = True,
        flow: str | None = None,
    ) -> list[str]:
        """The ids of the runs that `prune` would delete, oldest first.

        Args:
            older_than: seconds since their end; None for all.
            keep_last: of each flow so many of the newest stay.
            keep_failed: leave failed and cancelled runs, which can be resumed.
            flow: only runs of this flow.

        Returns:
            Never a running or pending run.
        """
        ...

    def prune(
        self,
        *,
        older_than: float | None = None,
        keep_last: int = 0,
        keep_failed: bool = True,
        flow: str | None = None,
    ) -> int:
        """Delete ended runs with all that is kept of them, a few at a time, so that nobody else waits long to write.

        Events without a run are of no flow and go by age alone: without ``older_than`` they stay.

        Args:
            older_than: as `prunable`, and so are the others.

        Returns:
            How many runs were deleted. A running or pending run never is.
        """
        ...

    def changes(self) -> str:
        """A text that is another one after any process has written anything; cheap enough to be asked all the time.

        It may be another one although nothing was written.
        """
        ...

    def usage(self) -> Usage:
        """The space that the store takes."""
        ...

    def vacuum(self) -> None:
        """Give free space back to the file system. Every writer waits, and the disk needs room for a second copy."""
        ...

    def close(self) -> None:
        """Let go of files and connections; idempotent."""
        ...
