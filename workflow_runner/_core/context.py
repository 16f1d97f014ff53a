"""ExecutionContext: one tracked piece of work in a tree of them.

Everything but the name and the place in the tree is made at first use (class attributes are the "not yet"), because a
fan-out makes one of these for every item and most items ask for nothing.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import random
import time
from _thread import allocate_lock
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar, copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs

from workflow_runner._core.flow import check_name
from workflow_runner._core.signal import Signal, run_callbacks
from workflow_runner._core.status import CANCELLED, COMPLETED, FAILED, RUNNING, ExecutionStatus
from workflow_runner._core.tags import Tag, TagStore
from workflow_runner.errors import Aborted, ContextError, ExecutionTimeout

if TYPE_CHECKING:
    from workflow_runner._core.fanout import FanOut
    from workflow_runner._core.scope import Scope
    from workflow_runner._core.task import Task

T = TypeVar("T")

CURRENT: ContextVar[ExecutionContext | None] = ContextVar("workflow_runner_current", default=None)

_NO_METADATA: Mapping[str, Any] = {}


def current() -> ExecutionContext:
    """The execution that is running here: in its handler and anywhere below it. Any thread.

    Raises:
        ContextError: nothing is running here.
    """
    context = CURRENT.get()
    if context is None:
        raise ContextError("no execution is running here: current() works inside a flow, a step or a tracked block")
    return context


def on_slot_of(scope: Scope) -> bool:
    """Whether a flow of ``scope`` runs here, and with it one of its slots."""
    context = CURRENT.get()
    return (
        context is not None
        and context._scope is scope
        and context._task is not None
        and not context._status.terminal  # the context variables of an ended one may live on in somebody's thread
    )


def add_note(error: BaseException, note: str) -> None:
    """Add ``note`` to ``error``, once, if it takes notes: a frozen dataclass, for one, does not."""
    with suppress(Exception):
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)


# Not the module's functions: a program that seeds those must not get its run ids twice.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_run_id() -> str:
    """32 hex digits: milliseconds since the epoch, then 80 random bits; ids sort by the time they were made."""
    return f"{time.time_ns() // 1_000_000:012x}{_random.getrandbits(80):020x}"


@attrs.frozen
class Details:
    """What is known of an execution: times are aware and in UTC, None while they lie ahead."""

    name: str
    started_at: dt.datetime | None
    completed_at: dt.datetime | None
    error: BaseException | None
    metadata: Mapping[str, Any]


class ExecutionContext:
    """One tracked piece of work: a name, a status, tags, a signal, a parent. Made by a scope or by a parent.

    ``scope.create_execution(name)`` gives one that tracks work which is no flow; use it as a context manager, or call
    `end`. Members may be used from any thread.
    """

    _id: str | None = None
    _status: ExecutionStatus = RUNNING
    _ended: float | None = None
    _error: BaseException | None = None
    _metadata: Mapping[str, Any] = _NO_METADATA
    _tags: dict[Tag[Any], Any] | None = None
    _signal: Signal | None = None
    _task: Task | None = None
    # For the journal path: what this one is called under its parent, and how often each name was used below this one.
    _segment: str | None = None
    _names: dict[str, itertools.count[int]] | None = None
    # The fan-out that this is an item of.
    _fanout: FanOut | None = None
    _index = -1
    # Whether it is a block that `exec` with a function has made, which may end before its function does.
    _block = False
    # Functions that let go of what the context holds, called once when it has ended.
    _cleanup: tuple[Callable[[], object], ...] = ()

    def __init__(self, scope: Scope, parent: ExecutionContext | None, name: str) -> None:
        self._scope = scope
        self._parent = parent
        self._name = name
        self._started: float | None = scope._time()

    # -- what it is

    @property
    def id(self) -> str:
        """Unique and never reused: a root's is the run's id, a child's is the run's id and its path."""
        identifier = self._id
        if identifier is None:
            identifier = new_run_id() if self._parent is None else f"{self.root.id}/{self._path}"
            identifier = self.__dict__.setdefault("_id", identifier)
        return identifier

    @property
    def name(self) -> str:
        """The name it was started under."""
        return self._name

    @property
    def status(self) -> ExecutionStatus:
        """Where it stands; see `ExecutionStatus`."""
        return self._status

    @property
    def details(self) -> Details:
        """Name, times, error and metadata as they are now."""
        return Details(self._name, moment(self._started), moment(self._ended), self._error, self._metadata)

    @property
    def parent(self) -> ExecutionContext | None:
        """The execution that started this one; None for a root."""
        return self._parent

    @property
    def root(self) -> ExecutionContext:
        """The execution at the top."""
        node = self
        while node._parent is not None:
            node = node._parent
        return node

    @property
    def depth(self) -> int:
        """How many executions are above; 0 for a root."""
        depth, node = 0, self._parent
        while node is not None:
            depth, node = depth + 1, node._parent
        return depth

    @property
    def _path(self) -> str:
        """The journal path below the root; empty for the root."""
        if self._parent is None:
            return ""
        if self._segment is not None or self._fanout is None:
            segment = self._segment or self._name
        else:
            segment = f"{self._fanout.segment}[{self._index}]"
        above = self._parent._path
        return f"{above}/{segment}" if above else segment

    def _next_segment(self, key: str | None, name: str) -> str:
        """The segment of the next child: its key, or its name with ``#n`` from the second call on."""
        if key is not None:
            return key
        # `setdefault` and `next`: two threads that come together get two numbers
        names = self._names
        if names is None:
            names = self.__dict__.setdefault("_names", {})
        counter = names.get(name)
        if counter is None:
            counter = names.setdefault(name, itertools.count(1))
        count = next(counter)
        return name if count == 1 else f"{name}#{count}"

    # -- tags

    @property
    def tag_store(self) -> TagStore:
        """The tags as this execution sees them."""
        return TagStore(self)

    def get(self, tag: Tag[T]) -> T:
        """The nearest value of ``tag``: own, live parents', the scope's, its default.

        Raises:
            TagNotFound: there is none.
        """
        return TagStore(self).get(tag)

    def find(self, tag: Tag[T]) -> T | None:
        """As `get`, but None where there is none."""
        return TagStore(self).find(tag)

    def set(self, tag: Tag[T], value: T) -> None:
        """Set ``tag`` here and for everything below.

        Raises:
            InputError: the value does not fit the tag.
        """
        TagStore(self).set(tag, value)

    # -- the signal

    @property
    def signal(self) -> Signal:
        """Set when this execution, or one above it, is cancelled or out of time."""
        signal = self._signal
        if signal is None:
            above = self._signal_above()
            made = Signal(self._scope._clock) if above is None else above._below()
            # two threads may come here together: one signal wins, the other is unlinked
            signal = self.__dict__.setdefault("_signal", made)
            if signal is not made or self._status.terminal:
                made._detach()
        return signal

    def _signal_above(self) -> Signal | None:
        if self._fanout is not None:
            return self._fanout.signal
        return self._parent.signal if self._parent is not None else None

    def _set_signal(self) -> Signal | None:
        """The signal, if it is set; does not make one. The nearest one that exists knows of all above it."""
        node: ExecutionContext | None = self
        while node is not None:
            signal = node._signal
            if signal is None and node._fanout is not None:
                signal = node._fanout._signal
            if signal is not None:
                return signal if signal._aborted else None
            node = node._parent
        return None

    def throw_if_aborted(self) -> None:
        """Raise ``Aborted`` (a ``BaseException``) if this execution should stop.

        Raises:
            Aborted: with the canceller's reason.
        """
        signal = self._set_signal()
        if signal is not None:
            raise Aborted(signal._reason)

    # -- children and the end

    def exec(self, name: str, fn: Callable[[Self], T]) -> T:
        """Run ``fn(child)`` here and now as a tracked child; returns what it returns.

        Args:
            name: the child's name.
            fn: gets the child's context.

        Raises:
            ContextError: this execution has ended.
            DefinitionError: the name cannot stand in a path.
            BaseException: what ``fn`` raised.
        """
        self._check_live()
        child = type(self)(self._scope, self, check_name(name, "an execution"))
        child._segment = self._next_segment(None, name)
        child._block = True

        def enter() -> T:
            CURRENT.set(child)
            return fn(child)

        with child:
            return copy_context().run(enter)

    def end(self, error: BaseException | None = None) -> None:
        """End this execution; ending it again changes nothing.

        Args:
            error: None for completed; otherwise it has failed with this, or is cancelled if it was told to stop.
        """
        if self._status.terminal:
            return
        self._conclude(error)
        self._scope._forget(self)

    def close(self) -> None:
        """The same as ``end()``."""
        self.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end(error)

    def _check_live(self) -> None:
        if self._status.terminal:
            raise ContextError(f"execution {self._name!r} has ended ({self._status}) and starts nothing more")

    def _conclude(self, error: BaseException | None) -> None:
        """Take the terminal status that ``error`` means, and let go of everything."""
        self._ended = self._scope._time()
        if error is None:
            self._status = COMPLETED
        else:
            self._error = error
            self._status = self._failed_status(error)
        if self._signal is not None or self._cleanup:
            self._let_go()

    def _failed_status(self, error: BaseException) -> ExecutionStatus:
        """Abort and any exception: cancelled. ``Aborted`` is one however it came."""
        return CANCELLED if isinstance(error, Aborted) or self._set_signal() is not None else FAILED

    def _let_go(self) -> None:
        cleanup, self._cleanup = self._cleanup, ()
        run_callbacks(cleanup)
        if self._signal is not None:
            self._signal._detach()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r} {self._status}>"


class TrackedExecution(ExecutionContext):
    """A root execution without a flow: what ``scope.create_execution`` gives.

    ``_lock`` decides between its end and its deadline.
    """

    def __init__(self, scope: Scope, parent: ExecutionContext | None, name: str) -> None:
        super().__init__(scope, parent, name)
        self._lock = allocate_lock()

    def _conclude(self, error: BaseException | None) -> None:
        with self._lock:
            if not self._status.terminal:
                super()._conclude(error)

    def _expire(self, reason: object) -> Callable[[], object] | None:
        """Its deadline: the signal is set and the status is cancelled; there is no thread to take away."""
        callbacks = self.signal._abort(reason)
        self._conclude(ExecutionTimeout(str(reason), reason=reason))
        self._scope._forget(self)
        return partial(run_callbacks, callbacks) if callbacks else None


def moment(timestamp: float | None) -> dt.datetime | None:
    """Seconds since the epoch as an aware time in UTC."""
    return None if timestamp is None else dt.datetime.fromtimestamp(timestamp, dt.UTC)
