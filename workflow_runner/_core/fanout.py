"""Fan-out: many calls side by side, run by their caller and by helpers that join when slots are free.

No future, no queue entry and no thread per item: the caller and its helpers take the next index from one counter, and
the results go into one list. The caller has a slot and works itself, so a fan-out always goes on, however deep it is
nested and however few slots there are. When the caller has nothing left to start it works for fan-outs below its own
items, or waits.

``Slots.lock`` guards ``wanted``, ``joined`` and ``gate``; see there.
"""

from __future__ import annotations

import itertools
from _thread import allocate_lock
from collections.abc import Callable, Iterable
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from workflow_runner._core.context import CURRENT, add_note
from workflow_runner._core.flow import Call, Each, Flow, FunctionFlow
from workflow_runner._core.log import FLOW
from workflow_runner._core.signal import Signal, run_callbacks
from workflow_runner._core.status import COMPLETED
from workflow_runner.errors import Aborted, DefinitionError, ExecutionCancelled

if TYPE_CHECKING:
    from workflow_runner._core.flow_context import FlowContext
    from workflow_runner._core.slots import Worker

# So many of the other failures are named in the notes of the one that is raised.
_NOTED = 20

_MISSING: Any = object()


class FanOut:
    """What parallel and stream have in common: the helpers, the signal, the failures."""

    optional = True
    ticket = 0
    _signal: Signal | None = None

    def __init__(
        self, parent: FlowContext, segment: str, concurrency: int, timeout: float | None, on: str | None
    ) -> None:
        self.parent = parent
        self.segment = segment
        self.concurrency = concurrency
        self.timeout = timeout
        self.on = on
        self.task = parent._task
        self.recorder = parent._recorder
        self._slots = parent._scope._slots
        self._running = parent._scope._fanouts
        self._above_signal = parent.signal
        self._contextvars: Context = copy_context()
        scope = parent._scope
        self._helps = scope._carried(self._work) if scope._task_wraps else None
        self._stopped = False
        # how many helpers are wished for, and how many work or are about to
        self.wanted = 0
        self.joined = 0
        # closed while the caller waits for its helpers
        self.gate: Any = None
        node = parent
        while node is not None and node._fanout is None:
            node = node._parent  # type: ignore[assignment]
        # the fan-out around this one
        self.above: FanOut | None = node._fanout if node is not None else None

    @property
    def signal(self) -> Signal:
        """Set for the running items when one has failed."""
        if self._signal is None:
            made = self._above_signal._below()
            if self.__dict__.setdefault("_signal", made) is not made:
                made._detach()
        assert self._signal is not None
        return self._signal

    # -- a worker's side; `joining` and `left` are called under the lock

    def joining(self, worker: Worker) -> None:
        self.joined += 1
        if self.task is not None:
            if self.task._helpers is None:
                self.task._helpers = {}
            self.task._helpers[worker] = self

    def left(self, worker: Worker) -> None:
        if self.task is not None and self.task._helpers is not None:
            self.task._helpers.pop(worker, None)
        self._leave()

    def _leave(self) -> None:
        self.joined -= 1
        if self.has_more():
            # the helper made room for work that waits; it would like to come back
            self._slots.wait_for_helpers(self, 1)
        if self.gate is not None:
            self.open_gate()

    def describe(self) -> dict[str, str]:
        return {"run_id": self.parent.root.id, "execution": f"{self.parent.name}/{self.segment}"}

    def run(self, worker: Worker) -> bool:
        """Help: take items while there are any and nobody else waits for a slot."""
        self._help(worker)
        return False

    def _help(self, worker: Worker | None) -> None:
        """Work in a thread that is not the caller's, with the caller's context variables."""
        self._contextvars.copy().run(self._helps or self._work, worker)

    def has_more(self) -> bool:
        """Whether there is something for a helper to start."""
        raise NotImplementedError

    def _work(self, worker: Worker | None) -> None:
        raise NotImplementedError

    # -- the caller's side

    def open_gate(self) -> None:
        """Let the waiting caller look again. Under the lock."""
        gate, self.gate = self.gate, None
        gate.release()

    def _join(self) -> None:
        """Wait until no helper works on this; work on what comes up, and for fan-outs below, in the meantime."""
        slots = self._slots
        while True:
            if self.has_more():
                self._work(None)
            with slots.lock:
                if self.has_more():
                    continue
                slots.forget(self)
                if not self.joined:
                    return
                below = slots.wish_below(self)
                if below is not None:
                    slots.grant(below)
                    below.joined += 1
                else:
                    if self.gate is not None:
                        self.open_gate()  # of a consumer in another thread, whose stream is being closed
                    self.gate = gate = allocate_lock()
                    gate.acquire()
            if below is None:
                gate.acquire()
            else:
                try:
                    below._help(None)
                finally:
                    with slots.lock:
                        below._leave()

    def _stop(self, reason: object) -> None:
        """Start no new item and tell the running ones."""
        if not self._stopped:
            self._stopped = True
            run_callbacks(self.signal._abort(reason))

    def _obeyed(self, error: BaseException) -> bool:
        if isinstance(error, Aborted):
            return True
        stopped = self._signal is not None and self._signal._aborted
        return stopped and isinstance(error, ExecutionCancelled) and error.reason is self.signal._reason

    def counts(self) -> tuple[int, int | None]:
        """How many items are done, and how many there are, as far as anybody knows. Any thread.

        Nothing is counted for this, item by item; so there may be one too few for each thread that works on them.
        """
        raise NotImplementedError

    def _end(self) -> None:
        self._running.pop(self, None)
        if self._signal is not None:
            self._signal._detach()
        if self.recorder is not None:
            self.recorder.flush()

    # -- items

    def _item(self, index: int, flow: Flow[Any, Any], input: Any) -> Any:
        """Run one item in this thread, or on a spare thread if it has a deadline."""
        parent = self.parent
        run = partial(parent._run_child, flow, input, fanout=self, index=index, timeout=self.timeout, on=self.on)
        if self.recorder is None or flow.records_itself:
            return run()
        path = f"{parent._path}/{self.segment}[{index}]".lstrip("/")
        return self.recorder.item(path, flow.name, flow.prepare(input), run)


class Parallel(FanOut):
    """All results, in input order."""

    def __init__(
        self,
        parent: FlowContext,
        segment: str,
        calls: Iterable[Call | Flow[Any, Any]],
        concurrency: int,
        timeout: float | None,
        on: str | None,
        *,
        settle: bool,
    ) -> None:
        super().__init__(parent, segment, concurrency, timeout, on)
        self._settle = settle
        # One flow over many inputs is the common case, and needs no call objects. The calls are read here, in the
        # caller's thread: what they come from need not be thread-safe.
        self._flow: Flow[Any, Any] | None = None
        if isinstance(calls, Each):
            self._flow = calls.flow
            self._inputs: list[Any] = list(calls.inputs)
        else:
            listed = [as_call(call, index) for index, call in enumerate(calls)]
            self._flow = _one_flow(listed)
            self._inputs = [call.input for call in listed] if self._flow is not None else listed
        self._size = len(self._inputs)
        self.results: list[Any] = [_MISSING] * self._size
        self.errors: dict[int, BaseException] = {}
        self._indices = itertools.count()
        self._next = self._indices.__next__
        self._exhausted = not self._size

    def has_more(self) -> bool:
        return not (self._exhausted or self._stopped or self._above_signal._aborted)

    def counts(self) -> tuple[int, int | None]:
        taken = int(repr(self._indices)[len("count(") : -1])  # the one way to read it and take nothing
        at_work = self.joined + (not self._exhausted)
        return max(0, min(taken, self._size) - at_work), self._size

    def execute(self) -> list[Any]:
        """Run everything; the results in input order, with a hole (`_MISSING`) for each that gave none.

        Raises:
            Aborted: the parent was told to stop.
            BaseException: unless settling, the failure with the lowest index; an item's interrupt in any case.
        """
        helpers = min(self.concurrency, self._size) - 1
        if self.parent._scope._wraps["parallel"]:  # an extension may have set some around this
            self._contextvars = copy_context()
        if self._flow is not None:
            self._contextvars.run(FLOW.set, self._flow.name)
        self._running[self] = None
        try:
            if helpers > 0:
                self._slots.wish(self, helpers)
            self._work(None)
            self._join()
        except BaseException:  # an interrupt between two items
            self._stop("interrupted")
            self._join()
            raise
        finally:
            self._end()
        if self.errors and (self._stopped or not self._settle):
            self._raise_first()
        self._above_signal.throw_if_aborted()
        return self.results

    def _raise_first(self) -> None:
        # a loser that only obeyed the signal is no failure of its own
        failures = {index: error for index, error in self.errors.items() if not self._obeyed(error)}
        if not failures:
            self._above_signal.throw_if_aborted()
            # nobody told the first one to stop: it gave up by itself
            failures = {i: e for i, e in self.errors.items() if getattr(e, "reason", None) is not self.signal._reason}
        # an interrupt goes first: it is meant for the whole process
        first = min(failures, key=lambda i: (isinstance(failures[i], Exception), i))
        error = failures.pop(first)
        for index in sorted(failures)[:_NOTED]:
            add_note(error, f"item {index} failed as well: {failures[index]!r}")
        if len(failures) > _NOTED:
            add_note(error, f"and {len(failures) - _NOTED} more items failed")
        raise error

    def _failed(self, index: int, error: BaseException) -> None:
        self.errors[index] = error
        if not self._settle or not isinstance(error, (Exception, Aborted)):
            self._stop(error)

    def _work(self, worker: Worker | None) -> None:
        flow = self._flow
        wraps = self.parent._scope._wraps["item"]
        plain = self.timeout is None and self.on is None and self.recorder is None and not wraps
        if flow is not None and plain and flow.timeout is None and flow.retry is None and not flow.tags:
            self._work_plainly(worker, flow)
            return
        take, size, inputs, results = self._next, self._size, self._inputs, self.results
        above, pending = self._above_signal, self._slots.pending
        while not (self._stopped or above._aborted):
            index = take()
            if index >= size:
                self._exhausted = True
                return
            item = inputs[index]
            try:
                if flow is not None:
                    results[index] = self._item(index, flow, item)
                else:
                    results[index] = self._item(index, item.flow, item.input)
            except BaseException as error:
                self._failed(index, error)
            if worker is not None and pending:
                return

    def _work_plainly(self, worker: Worker | None, flow: Flow[Any, Any]) -> None:
        """The hot path: one flow, no deadline, no retry, no extension. Its cost is counted in a test."""
        take, size, inputs, results = self._next, self._size, self._inputs, self.results
        above, pending = self._above_signal, self._slots.pending
        parent, scope, handler, name = self.parent, self.parent._scope, flow.handler, flow.name
        make, time, copy = type(parent), scope._time, self._contextvars.copy
        accepts = flow.accepts
        while not (self._stopped or above._aborted):
            index = take()
            if index >= size:
                self._exhausted = True
                return
            child = make(scope, parent, name, self, index)
            try:
                value = inputs[index]
                if accepts is not object and not isinstance(value, accepts):
                    value = flow.prepare(value)
                results[index] = copy().run(_enter, child, handler, value)
            except BaseException as error:
                child._conclude(error)
                self._failed(index, error)
            else:
                child._ended = time()
                child._status = COMPLETED
                if child._signal is not None:
                    child._let_go()
            if worker is not None and pending:
                return


def _enter(child: FlowContext, handler: Callable[[Any, Any], Any], input: Any) -> Any:
    CURRENT.set(child)
    try:
        return handler(child, input)
    finally:
        if child._streams:
            child._close_streams()


def _one_flow(calls: list[Call]) -> Flow[Any, Any] | None:
    """The flow of all the calls, if it is the same for all; ``call(f, 1), call(f, 2)`` count as the same."""
    if not calls:
        return None
    flow = calls[0].flow
    if isinstance(flow, FunctionFlow):
        same = all(isinstance(call.flow, FunctionFlow) and call.flow.name == flow.name for call in calls)
    else:
        same = all(call.flow is flow for call in calls)
    return flow if same else None


def as_call(call: Any, index: int) -> Call:
    """``call`` itself, or a flow without input as one.

    Raises:
        DefinitionError: it is neither; names the index.
    """
    if isinstance(call, Call):
        return call
    if isinstance(call, Flow):
        return Call(call, None)
    raise DefinitionError(
        f"item {index} is no call: use flow.bind(input), flow.each(inputs) or call(function, ...), got {call!r}"
    )


@attrs.frozen
class Outcome:
    """How one item of a settled fan-out ended: its value, or its error."""

    index: int
    value: Any = None
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether it has a value."""
        return self.error is None


@attrs.frozen
class Stats:
    """How many items of a settled fan-out there were and how they ended."""

    total: int
    succeeded: int
    failed: int


@attrs.frozen
class Settled:
    """Every outcome of a fan-out, in input order."""

    results: tuple[Outcome, ...]

    @property
    def stats(self) -> Stats:
        """The counts."""
        succeeded = sum(outcome.ok for outcome in self.results)
        return Stats(len(self.results), succeeded, len(self.results) - succeeded)

    def values(self) -> list[Any]:
        """The values of those that succeeded."""
        return [outcome.value for outcome in self.results if outcome.error is None]

    def errors(self) -> list[BaseException]:
        """The errors of those that failed."""
        return [outcome.error for outcome in self.results if outcome.error is not None]

    def partition(self) -> tuple[list[Any], list[BaseException]]:
        """``(values(), errors())``."""
        return self.values(), self.errors()
