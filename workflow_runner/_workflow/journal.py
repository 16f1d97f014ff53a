"""The journal of a run that has a store: what is recorded answers, the rest runs and is recorded.

One path is one row. A step and a single child are recorded before their value goes on; the items of a fan-out are
recorded in batches as they finish, and the fan-out waits for its last batch.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from workflow_runner._core import codec, log
from workflow_runner._core.flow import Arguments
from workflow_runner._core.journal import MemoryJournal
from workflow_runner._workflow.context import WorkflowContext
from workflow_runner._workflow.result import WorkflowResult, describe
from workflow_runner._workflow.veil import NO_VEIL
from workflow_runner.errors import (
    ContextError,
    JournalConflict,
    JournalMismatch,
    OwnershipLost,
    SerializationError,
    StoreError,
)
from workflow_runner.store.base import MAX_TEXT, StepRow, Store, Transaction

if TYPE_CHECKING:
    from workflow_runner._core.signal import Signal

# A finished item waits at most so many seconds, or for so many others, until it is recorded.
BATCH_SECONDS = 0.05
BATCH_SIZE = 128

# The tag of a workflow's result among typed JSON.
_RESULT = "WorkflowResult"


def check_size(text: str, where: str) -> str:
    """``text`` itself, if a store takes it.

    Raises:
        SerializationError: it is too large.
    """
    if len(text) > MAX_TEXT:
        raise SerializationError(
            f"{where}: {len(text):,} characters of JSON are more than the {MAX_TEXT:,} that a store takes;"
            " keep the value elsewhere and store a reference to it, such as a path or a key"
        )
    return text


def stored(value: Any, where: str) -> str:
    """``value`` as the text that a store keeps.

    Raises:
        SerializationError: it cannot be written with its type, or is too large.
    """
    if type(value) is WorkflowResult:  # holds errors, which come back as what is recorded of them
        return check_size(codec.write_json({"$": _RESULT, "v": value.to_dict()}), where)
    return check_size(without_secrets(codec.dumps(value, where=where), where), where)


def without_secrets(text: str, where: str) -> str:
    """``text`` itself, if no secret is missing in it: a run that is gone on with would get nothing in its place.

    Raises:
        SerializationError: one is.
    """
    if codec.has_secret(text):
        raise SerializationError(
            f"{where}: it has a field that is a Secret, and secrets are not stored, so it would come back without;"
            " give back what is no secret, or get the secret where it is used"
        )
    return text


def restored(text: str | None) -> Any:
    """The value that `stored` has written."""
    data = codec.read_json(text or "null")
    if isinstance(data, dict) and data.get("$") == _RESULT:
        return WorkflowResult.from_dict(data["v"])
    return codec.decode(data)


def identity_of(input: Any) -> Any:
    """What two inputs have in common that are the same: of a context what was asked for, and not who asks and when."""
    if isinstance(input, Arguments):
        return input.args, input.kwargs
    if isinstance(input, WorkflowContext):
        partition = None if input.partition is None else input.partition.to_dict()
        return input.params, partition, input.as_of_date  # secrets of the params, too, are not in a digest
    return input


class StoreJournal:
    """One run's journal. Called from any thread.

    ``_lock`` guards the batch of items that wait to be recorded.

    Args:
        rows: what the run has recorded before.
        later: ``(seconds, function)``: calls the function after so many seconds, on a thread that may block.
        attempt: which attempt of the whole run this is.
    """

    records = True

    def __init__(
        self,
        store: Store,
        run_id: str,
        fence: int,
        rows: list[StepRow],
        clock: Callable[[], float],
        later: Callable[[float, Callable[[], object]], object],
        attempt: Callable[[], int],
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._fence = fence
        self._rows = {row.path: row for row in rows}
        self._clock = clock
        self._later = later
        self._attempt = attempt
        # the attempt of the run that `_rows` are good for
        self._known = 1
        self._seq = itertools.count(max((row.seq for row in rows), default=0) + 1).__next__
        # explicit keys may be asked for twice, or by two at once
        self._keyed = MemoryJournal()
        # the paths that are being run and will be recorded
        self._due: set[str] = set()
        # by path: transactions that wait for the record of their step, and the thread that began each
        self._open: dict[str, tuple[Transaction, int]] = {}
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._batch: list[StepRow] = []
        self._timer = False
        self._failure: BaseException | None = None
        self.veil = NO_VEIL
        # [{"seq", "params"}]: params given at resume, and up to which row they win
        self.overrides: list[dict[str, Any]] = []
        # the paths of steps that must not run twice and have begun before
        self.begun = (
            {noted.path for noted in store.attempts(run_id) if noted.error is None} if rows or fence > 1 else set()
        )

    # -- one call

    def once(
        self, path: str, identity: Any, body: Callable[[], Any], signal: Callable[[], Signal], timeout: float | None
    ) -> Any:
        """As ``Journal.once``: a call with an explicit key."""
        name, input = identity
        same = name, identity_of(input)

        def answer() -> Any:
            try:
                return self.answer(path, name, input, body)
            except JournalMismatch as error:
                if self._rows.get(path) is None:  # of something below
                    raise
                raise JournalConflict(str(error)) from None

        return self._keyed.once(path, same, answer, signal, timeout)

    def answer(self, path: str, flow: str, input: Any, body: Callable[[], Any]) -> Any:
        """The recorded value of ``path``, or that of ``body()``, which is recorded before it is returned.

        Raises:
            JournalMismatch: something else was recorded there.
            SerializationError: the value cannot be recorded.
        """
        fingerprint = self.fingerprint(input)
        row = self.find(path, flow, fingerprint)
        if row is not None:
            return restored(row.output)
        started = self._clock()
        self.enter(path)
        try:
            value = body()
            output = stored(value, f"the result of {path!r}")
            before = self.record(path, "execution", flow, output, started, input_hash=fingerprint)
        finally:
            self.leave(path)
        return value if before is None else restored(before.output)

    def veil_also(self, secrets: Mapping[str, Any]) -> None:
        """From now on these are secrets of the run, too."""
        with self._lock:
            self.veil = self.veil.also(secrets)

    def overridden(self, row: StepRow) -> set[str]:
        """The params that ``row`` no longer decides."""
        return {name for override in self.overrides if override["seq"] >= row.seq for name in override["params"]}

    def find(self, path: str, flow: str, fingerprint: str | None) -> StepRow | None:
        """The row of ``path``.

        Raises:
            JournalMismatch: it is another flow's, or was made from another input.
        """
        if self._attempt() != self._known:
            self._known = self._attempt()
            self.reload()
        row = self._rows.get(path)
        if row is None:
            return None
        if row.flow != flow:
            raise JournalMismatch(f"run {self._run_id}: {path!r} was recorded by {row.flow!r} and is now {flow!r}")
        if row.input_hash is not None and fingerprint is not None and row.input_hash != fingerprint:
            raise JournalMismatch(
                f"run {self._run_id}: {path!r} ({flow}) was recorded with another input than it gets now"
            )
        if self.veil is NO_VEIL or row.output is None:
            return row
        return row._replace(output=self.veil.show(row.output))

    def reload(self) -> None:
        """Something is attempted again: from now on what the attempts before have recorded answers, too."""
        self.flush()
        self._rows = {row.path: row for row in self._store.steps(self._run_id)}

    def fingerprint(self, input: Any) -> str | None:
        """What identifies an input; None for one that cannot be written, which is then not compared."""
        try:
            if self.veil is NO_VEIL:
                return codec.digest(identity_of(input), where="input")
            return codec.digest(self.veil.hidden(codec.encode(identity_of(input), where="input")))
        except SerializationError:
            return None

    def record(
        self,
        path: str,
        kind: str,
        flow: str,
        output: str,
        started: float,
        *,
        attempt: int = 1,
        status: str = "completed",
        input_hash: str | None = None,
    ) -> StepRow | None:
        """Append one row and wait until it is safe.

        Returns:
            The row that was there before, if there was one: an attempt before has recorded it. It counts, and not what
            the caller has made.

        Raises:
            JournalConflict: what was there before is something else.
            OwnershipLost: another process has taken the run over.
            StoreError: the store could not do it.
        """
        row = self._row(path, kind, flow, output, started, attempt, status, input_hash)
        transaction, _ = self._open.pop(path, (None, 0))
        if transaction is not None:
            new = transaction.commit([row])
        else:
            self._check_free(path)
            new = self._store.record(self._run_id, self._fence, [row])
        if new:
            return None
        self.reload()
        try:
            return self.find(path, flow, input_hash)
        except JournalMismatch as error:
            raise JournalConflict(f"two calls have the path {path!r}: {error}") from None

    def _row(
        self,
        path: str,
        kind: str,
        flow: str,
        output: str,
        started: float,
        attempt: int,
        status: str,
        input_hash: str | None,
    ) -> StepRow:
        return StepRow(
            path=path,
            seq=self._seq(),
            kind=kind,
            flow=flow,
            attempt=attempt,
            status=status,
            input_hash=input_hash,
            output=output if self.veil is NO_VEIL else self.veil.hide(output),
            started_at=started,
            finished_at=self._clock(),
        )

    # -- a step's own writes

    @contextmanager
    def transaction(self, path: str) -> Iterator[Transaction]:
        """As ``ctx.transaction()`` for the execution at ``path``."""
        if path not in self._due:
            raise ContextError(
                f"{path or 'the flow'!r} is not recorded by itself, so nothing would end its transaction:"
                " ctx.transaction() belongs into a step, or into a flow that was called with ctx.exec or ctx.parallel"
            )
        self._check_free(path)
        self.rollback(path)
        transaction = self._store.begin(self._run_id, self._fence)
        self._open[path] = transaction, threading.get_ident()
        try:
            yield transaction
        except BaseException:
            self.rollback(path)
            raise

    def rollback(self, path: str) -> None:
        """Undo the transaction of ``path``, if it has one: its attempt has failed."""
        transaction, _ = self._open.pop(path, (None, 0))
        if transaction is not None:
            transaction.rollback()

    def close(self) -> None:
        """Undo what is open: the run has ended, and a thread that was abandoned may keep its transaction for ever."""
        for path in list(self._open):
            self.rollback(path)

    def enter(self, path: str) -> None:
        """``path`` is about to be run and recorded; `leave` afterwards, however it has ended."""
        self._check_free(path)
        self._due.add(path)

    def leave(self, path: str) -> None:
        """``path`` is recorded, or has failed, and with it its transaction."""
        self._due.discard(path)
        self.rollback(path)

    def _check_free(self, path: str) -> None:
        """Refuse what would wait for ever for a transaction: one of this very thread, or of what it is a part of."""
        if not self._open:
            return
        for other, (_, thread) in list(self._open.items()):
            if other != path and (thread == threading.get_ident() or path.startswith(f"{other}/")):
                raise ContextError(
                    f"{path!r} cannot be recorded while the transaction of {other!r} is open:"
                    " make ctx.transaction() the last thing that a step does"
                )

    # -- many items

    def item(self, path: str, flow: str, input: Any, body: Callable[[], Any]) -> Any:
        """As `answer`, but the row waits for a batch; `flush` waits for that."""
        fingerprint = self.fingerprint(input)
        row = self.find(path, flow, fingerprint)
        if row is not None:
            return restored(row.output)
        if self._failure is not None:  # the others cannot be recorded: nothing more is begun
            raise self._failure
        started = self._clock()
        self.enter(path)
        try:
            value = body()
            output = stored(value, f"the result of {path!r}")
            if path in self._open:  # its transaction waits for its record, which waits for no batch
                before = self.record(path, "item", flow, output, started, input_hash=fingerprint)
                return value if before is None else restored(before.output)
        finally:
            self.leave(path)
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._batch.append(self._row(path, "item", flow, output, started, 1, "completed", fingerprint))
            full = len(self._batch) >= BATCH_SIZE
            arm = not full and not self._timer
            self._timer = self._timer or arm
        if full:
            self.flush()
        elif arm:
            self._later(BATCH_SECONDS, self._flush_in_background)
        return value

    def flush(self) -> None:
        """Record what waits.

        Raises:
            OwnershipLost: another process has taken the run over.
            StoreError: the store could not do it.
        """
        with self._flushing:  # who comes second waits for what the first one has taken
            with self._lock:
                batch, self._batch = self._batch, []
                if self._failure is not None:
                    raise self._failure
            if not batch:
                return
            try:
                self._store.record(self._run_id, self._fence, batch)
            except BaseException as error:
                self._failure = error
                raise

    def _flush_in_background(self) -> None:
        with self._lock:
            self._timer = False
        try:
            self.flush()
        except Exception as error:  # the next item, or the end of the fan-out, raises it
            log.error("journal.failed", error, run_id=self._run_id)

    # -- the rest

    def reset(self, prefix: str, pattern: str | None) -> None:
        """As ``Journal.reset``, in the store too."""
        self._keyed.reset(prefix, pattern)
        self.flush()
        recorded = [row.path for row in self._store.steps(self._run_id)]
        paths = [p for p in recorded if p.startswith(prefix) and fnmatchcase(p[len(prefix) :], pattern or "*")]
        self._store.forget(self._run_id, self._fence, paths)
        for path in paths:
            self._rows.pop(path, None)

    def started(self, path: str, attempt: int, started: float) -> None:
        """Note durably that ``path`` has begun, for a step that must not run twice."""
        self._store.attempt(self._run_id, self._fence, path, attempt, started, None)

    def failed(self, path: str, attempt: int, started: float, error: BaseException) -> None:
        """Note that an attempt of ``path`` has failed. Never raises: the next record does, if the store is lost."""
        self.rollback(path)
        try:
            self._check_free(path)
            self._store.attempt(self._run_id, self._fence, path, attempt, started, json.dumps(describe(error)))
        except (ContextError, OwnershipLost):  # a transaction around it is open, or the run goes on elsewhere
            pass
        except StoreError as failure:
            log.error("attempt.not_recorded", failure, run_id=self._run_id, path=path)
