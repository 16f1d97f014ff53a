"""Scope: the owner of everything live."""

from __future__ import annotations

import atexit
import datetime as dt
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from contextvars import Context
from functools import cached_property, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs

from workflow_runner._core import log
from workflow_runner._core.clock import SYSTEM_CLOCK, Clock, seconds
from workflow_runner._core.context import CURRENT, ExecutionContext, TrackedExecution, on_slot_of
from workflow_runner._core.execution import FlowExecution
from workflow_runner._core.extension import KINDS, Extension, overriding
from workflow_runner._core.flow import Call, Flow, check_name
from workflow_runner._core.flow_context import FlowContext, _no_flow
from workflow_runner._core.journal import Journal, MemoryJournal
from workflow_runner._core.signal import TimedOut, run_callbacks
from workflow_runner._core.slots import Slots
from workflow_runner._core.status import CANCELLED, PENDING
from workflow_runner._core.tags import Tagged, table
from workflow_runner._core.watchdog import Watchdog
from workflow_runner.errors import ContextError, ScopeClosed, ScopeSaturated, StoreError

if TYPE_CHECKING:
    from workflow_runner._core.fanout import FanOut
    from workflow_runner._core.offload import Executors

In = TypeVar("In")
Out = TypeVar("Out")

# Scopes that a fork or the end of the interpreter has to know of.
_scopes: weakref.WeakSet[Scope] = weakref.WeakSet()
_hooked = False


@attrs.frozen
class ScopeStats:
    """A scope's counts at one moment.

    Attributes:
        active: executions that run.
        pending: executions that wait for a slot.
        abandoned: threads that were taken out of their slots by a deadline and have not ended.
        free: slots nobody uses.
        max_workers: slots in all.
        deadlines: pending deadlines.
    """

    active: int
    pending: int
    abandoned: int
    free: int
    max_workers: int
    deadlines: int


class Closing:
    """The reason of a signal that a closing scope has set."""

    def __init__(self, name: str, why: str | None) -> None:
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return self.why or f"scope {self.name!r} was closed"


class Scope:
    """A scope without a store; what its arguments mean, the one that users see says, in ``_workflow.scope``."""

    # Whether runs are recorded in a store; a scope that has one says so.
    _records = False

    def __init__(
        self,
        *,
        name: str = "scope",
        max_workers: int | None = None,
        max_pending: int | None = None,
        max_abandoned: int | None = None,
        tags: Iterable[Tagged[Any]] = (),
        extensions: Iterable[Extension] = (),
        timeout: float | dt.timedelta | None = None,
        executors: Mapping[str, Executor | Callable[[], Executor]] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self.max_workers = _count(max_workers, "max_workers", 1, min(32, (os.cpu_count() or 1) + 4))
        pending = None if max_pending is None else _count(max_pending, "max_pending", 0, 0)
        abandoned = _count(max_abandoned, "max_abandoned", 1, max(64, 4 * self.max_workers))
        self._timeout = None if timeout is None else seconds(timeout)
        self._tags = table(tags, self)
        self._clock = clock
        self._time = clock.time
        self._slots = Slots(name, self.max_workers, pending, abandoned)
        self._watchdog = Watchdog(clock, name, self._slots.spare)
        self._named_executors = dict(executors or {})
        # oldest first
        self._live: dict[FlowExecution[Any], None] = {}
        self._tracked: set[TrackedExecution] = set()
        # those that run, for those who draw their progress
        self._fanouts: dict[FanOut, None] = {}
        self._closing = False
        self._closed = False
        self._close_lock = threading.Lock()
        self._closer = 0
        self._make_journal: Callable[[], Journal] = MemoryJournal
        self.extensions: tuple[Extension, ...] = ()
        self._wraps: dict[str, tuple[Any, ...]] = dict.fromkeys(KINDS, ())
        self._watchers: tuple[Any, ...] = ()
        self._task_wraps: tuple[Any, ...] = ()
        for extension in extensions:
            self.use(extension)
        _scopes.add(self)
        _hook()

    def use(self, extension: Extension) -> None:
        """Add an extension, inside those that are there, for what starts from now on.

        Args:
            extension: its ``init`` is called here, and what that raises leaves the scope as it was.
        """
        extension.init(self)
        self.extensions = (*self.extensions, extension)
        self._wraps = {kind: overriding([e for e in self.extensions if kind in e.around], "wrap") for kind in KINDS}
        self._watchers = overriding(self.extensions, "on_status")
        self._task_wraps = overriding(self.extensions, "wrap_task")

    # -- starting

    def exec(
        self,
        flow: Flow[In, Out] | Call,
        input: In | dict[str, Any] | None = None,
        *,
        timeout: float | dt.timedelta | None = None,
        tags: Iterable[Tagged[Any]] = (),
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        durable: bool | None = None,
    ) -> FlowExecution[Out]:
        """Start a flow and return at once.

        Args:
            flow: a flow, or a call.
            input: the flow's input; plain data is structured into the annotated type.
            timeout: seconds of running time, after which it is cancelled and its thread abandoned; default: the
                flow's, then the scope's.
            tags: tagged values for this execution and everything below it.
            name: under which it is tracked; default: the flow's.
            metadata: anything; ``ctx.details.metadata``.
            run_id: default: a new one.
            idempotency_key: needs a store.
            durable: True needs a store.

        Raises:
            InputError: the input does not fit the flow; nothing was started.
            ScopeClosed: the scope is closed or closing.
            ScopeSaturated: the queue is full, or too many threads are abandoned.
            StoreError: an option needs a store.
        """
        execution = self._new(flow, input, timeout, tags, name, metadata, run_id, idempotency_key, durable)
        self._submit(execution)
        return execution

    def run(
        self,
        flow: Flow[In, Out] | Call,
        input: In | dict[str, Any] | None = None,
        *,
        timeout: float | dt.timedelta | None = None,
        tags: Iterable[Tagged[Any]] = (),
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        durable: bool | None = None,
    ) -> Out:
        """Run a flow and return its result: the short form of ``exec(...).result()``.

        Without a timeout it runs in the calling thread if a slot is free, and else on another as soon as one is. Inside
        a flow of the same scope it uses the slot of that flow, which has nothing to do but wait.

        Args:
            flow: and all the others: as for `exec`.

        Raises:
            BaseException: what `exec` and ``FlowExecution.result`` raise.
        """
        execution: FlowExecution[Out] = self._new(
            flow, input, timeout, tags, name, metadata, run_id, idempotency_key, durable
        )
        if execution._timeout is not None or not self._run_here(execution):
            self._submit(execution)
        return execution.result()

    def create_execution(
        self,
        name: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        tags: Iterable[Tagged[Any]] = (),
        timeout: float | dt.timedelta | None = None,
    ) -> ExecutionContext:
        """Track work that is no flow; use the result as a context manager or ``end`` it.

        Args:
            name: what it is called.
            metadata: anything; ``details.metadata``.
            tags: tagged values for it and its children.
            timeout: seconds, after which its signal is set and it is cancelled.

        Raises:
            ScopeClosed: the scope is closed or closing.
        """
        limit = None if timeout is None else seconds(timeout)
        self._check_open()
        ctx = TrackedExecution(self, None, check_name(name, "an execution"))
        if metadata:
            ctx._metadata = dict(metadata)
        if own := table(tags, ctx):
            ctx._tags = own
        self._tracked.add(ctx)
        if self._closing:
            self._tracked.discard(ctx)
            self._check_open()
        if limit is not None:
            expire = partial(ctx._expire, TimedOut(name, limit))
            deadline = self._watchdog.at(self._clock.monotonic() + limit, expire)
            ctx._cleanup = (partial(self._watchdog.cancel, deadline),)
        return ctx

    def _new(
        self,
        flow: Any,
        input: Any,
        timeout: float | dt.timedelta | None,
        tags: Iterable[Tagged[Any]],
        name: str | None,
        metadata: Mapping[str, Any] | None,
        run_id: str | None,
        idempotency_key: str | None,
        durable: bool | None,
    ) -> FlowExecution[Any]:
        if isinstance(flow, Call):
            flow, input = flow.flow, flow.input
        elif not isinstance(flow, Flow):
            raise _no_flow(flow)
        if idempotency_key is not None or durable:
            raise StoreError(f"{'durable' if durable else 'idempotency_key'} needs a scope with a store")
        if self._closing:
            self._check_open()
        return self._handle(flow, flow.prepare(input), timeout, tags, name, metadata, run_id)

    def _handle(
        self,
        flow: Flow[Any, Any],
        input: Any,
        timeout: float | dt.timedelta | None = None,
        tags: Iterable[Tagged[Any]] = (),
        name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> FlowExecution[Any]:
        """The handle of an execution whose input is prepared."""
        limit = seconds(timeout) if timeout is not None else flow.timeout
        if limit is None:
            limit = self._timeout
        ctx = FlowContext(self, None, flow.name if name is None else check_name(name, "an execution"))
        ctx._status = PENDING
        ctx._started = None
        if run_id is not None:
            ctx._id = check_run_id(run_id)
        if metadata:
            ctx._metadata = dict(metadata)
        if flow.tags or tags:
            ctx._tags = table((*flow.tags, *tags), ctx)
        return FlowExecution(ctx, flow, input, limit)

    # Live first, then the look at `_closing`: `close` says it is closing first and then waits for what is live, so that
    # the one sees the other.

    def _submit(self, execution: FlowExecution[Any]) -> None:
        self._live[execution] = None
        try:
            if self._closing:
                self._check_open()
            self._slots.submit(execution)
        except BaseException as error:
            self._refuse(execution)
            if self._closing and isinstance(error, ScopeSaturated):  # the threads have gone, and that is why
                self._check_open()
            raise
        if execution.ctx._status.terminal:  # cancelled before it became live
            self._live.pop(execution, None)

    def _run_here(self, execution: FlowExecution[Any]) -> bool:
        self._live[execution] = None
        try:
            if self._closing:
                self._check_open()
            ran = self._slots.run_here(execution, on_own_slot=on_slot_of(self))
        except BaseException:
            self._refuse(execution)
            raise
        if not ran:
            self._live.pop(execution, None)
        return ran

    def _refuse(self, execution: FlowExecution[Any]) -> None:
        """Nobody gets to see ``execution``; only `close` may have, and waits for it."""
        execution._followed = False
        execution._settle(CANCELLED, None, ScopeClosed("refused"), only_from=PENDING)
        self._live.pop(execution, None)

    def _check_open(self) -> None:
        if self._closing:
            raise ScopeClosed(f"scope {self.name!r} is closed and takes no more work")

    # -- looking

    @property
    def executions(self) -> tuple[FlowExecution[Any], ...]:
        """The live executions: those that wait and those that run, oldest first."""
        return tuple(self._live)

    def stats(self) -> ScopeStats:
        """The scope's counts; cheap enough for a health check."""
        slots = self._slots
        with slots.lock:
            pending, abandoned, free = len(slots.pending), len(slots.abandoned), slots.free
        return ScopeStats(
            active=sum(execution.running() for execution in tuple(self._live)),
            pending=pending,
            abandoned=abandoned,
            free=max(0, free),
            max_workers=self.max_workers,
            deadlines=len(self._watchdog),
        )

    def _carried(self, task: Callable[..., Any]) -> Callable[..., Any]:
        """``task`` for another thread, with what the extensions carry there from this one."""
        for wrap_task in reversed(self._task_wraps):
            task = wrap_task(task)
        return task

    def is_own_thread(self) -> bool:
        """Whether the calling thread is one of this scope's, and not that of somebody who calls ``run``."""
        return self._slots.own_this_thread()

    # -- ending

    def close(
        self, *, cancel: bool = False, timeout: float | dt.timedelta | None = None, reason: str | None = None
    ) -> None:
        """Take no more work, wait for what runs, and end the threads.

        Closing again is harmless: it waits for the first to be done, and cancels if it says so.

        Args:
            cancel: tell everything to stop at once.
            timeout: the grace in seconds (0 or more). What has not ended by then is told to stop, its waiters are
                released, and its thread is abandoned. None waits for as long as it takes.
            reason: what those that are told to stop get as the reason; default: that the scope was closed.

        Raises:
            ContextError: called from a flow of this scope, which would wait for itself.
        """
        grace = None if timeout is None else seconds(timeout, zero=True)
        above = CURRENT.get()
        if above is not None and above._scope is self and not above.root.status.terminal:
            raise ContextError(f"execution {above.name!r} cannot close the scope that it runs in")
        stop = Closing(self.name, reason)
        self._closing = True
        if cancel:
            self._cancel_all(stop)
        if self._closer == threading.get_ident():  # a signal's handler, in the middle of the wait below
            return
        if not self._close_lock.acquire(timeout=-1.0 if grace is None else min(grace, threading.TIMEOUT_MAX)):
            return
        try:
            self._closer = threading.get_ident()
            if not self._closed:
                self._close(grace, stop)
                self._closed = True
        except BaseException:  # an interrupt while it waits; the interpreter's end will close again, and wait less
            self._cancel_all(stop)
            raise
        finally:
            self._closer = 0
            self._close_lock.release()

    def _close(self, grace: float | None, stop: Closing) -> None:
        end = None if grace is None else self._clock.monotonic() + grace
        for execution in self.executions:
            execution._wait(None if end is None else max(0.0, end - self._clock.monotonic()))
        # the youngest first: those that wait for a slot must not get one from those that are stuck
        for execution in reversed(self.executions):
            later = execution._expire(stop)
            if later is not None:
                later()
        for tracked in self._tracked.copy():
            run_callbacks(tracked.signal._abort(stop))
            tracked.end(ContextError(str(stop)))
        self._slots.shutdown(1.0 if end is None else max(0.1, end - self._clock.monotonic()))
        self._watchdog.close()
        if "_executors" in self.__dict__:
            self._executors.close()
        for extension in reversed(self.extensions):
            try:
                extension.dispose(self)
            except Exception as error:
                log.error("extension.failed", error, extension=extension.name or type(extension).__name__)
        _scopes.discard(self)

    def _cancel_all(self, stop: Closing) -> None:
        for execution in self.executions:
            execution.cancel(stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close(cancel=error is not None and not isinstance(error, Exception))

    def __repr__(self) -> str:
        return f"<Scope {self.name!r}{' closed' if self._closing else ''}>"

    # -- for the executions

    @cached_property
    def _executors(self) -> Executors:
        from workflow_runner._core import offload

        made = offload.Executors(self._named_executors)
        # two threads that ask first get one: a cached property has no lock since Python 3.12
        return self.__dict__.setdefault("_executors", made)  # type: ignore[no-any-return]

    def _forget(self, ctx: ExecutionContext) -> None:
        if isinstance(ctx, TrackedExecution):
            self._tracked.discard(ctx)

    def _abort(self, ctx: ExecutionContext, reason: object) -> None:
        run_callbacks(ctx.signal._abort(reason))

    def _journal_of(self, root: ExecutionContext) -> Journal:
        journal = root.__dict__.get("_journal")
        if journal is None:
            journal = root.__dict__.setdefault("_journal", self._make_journal())
        return journal  # type: ignore[no-any-return]

    def _after_fork(self) -> None:
        """In the child: none of the parent's threads and executions are here; start afresh."""
        self._slots.reset()
        self._watchdog = Watchdog(self._clock, self.name, self._slots.spare)
        self._live = {}
        self._tracked = set()
        self._fanouts = {}
        self._close_lock = threading.Lock()
        # kept: if a process pool of the parent were collected here, it would wake its threads there
        self._lost = self.__dict__.pop("_executors", None)


def check_run_id(run_id: str) -> str:
    """``run_id`` itself, if it is a text that can stand before a path."""
    return check_name(run_id, "a run_id")


def _count(value: int | None, what: str, least: int, default: int) -> int:
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what} must be a whole number from {least}, got {value!r}")
    return value


def _hook() -> None:
    """Once, with the first scope: follow forks, and close what is open when the interpreter ends."""
    global _hooked
    if _hooked:
        return
    _hooked = True
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)
    # Before concurrent.futures' own hook (the last registered runs first), because after that no pool starts a thread,
    # and the executions that are still queued would never run.
    register = getattr(threading, "_register_atexit", atexit.register)
    try:
        register(_at_exit)
    except RuntimeError:  # the interpreter is ending already
        atexit.register(_at_exit)


def _after_fork() -> None:
    for scope in list(_scopes):
        scope._after_fork()


def _at_exit() -> None:
    """Like a stdlib pool, wait for what is still to be done; unlike it, not for abandoned threads."""
    for scope in list(_scopes):
        # in no flow's context variables, which a process that was forked inside one still has
        Context().run(scope.close)
