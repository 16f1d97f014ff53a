"""FlowContext: what a handler gets. It runs children: one (`exec`), many (`parallel`), a stream of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from workflow_runner._core.clock import seconds
from workflow_runner._core.context import CURRENT, ExecutionContext
from workflow_runner._core.extension import Operation, wrapped
from workflow_runner._core.fanout import FanOut, Outcome, Parallel, Settled
from workflow_runner._core.flow import Call, Flow, check_name
from workflow_runner._core.log import FLOW
from workflow_runner._core.retry import Retry, retrying
from workflow_runner._core.status import CANCELLED, COMPLETED, FAILED, PENDING
from workflow_runner._core.stream import Stream
from workflow_runner._core.tags import table
from workflow_runner._core.task import ChildTask, cancelled_by
from workflow_runner.errors import Aborted, ContextError, DefinitionError, ExecutionCancelled, ExecutionTimeout

if TYPE_CHECKING:
    from workflow_runner._core.journal import Recorder
    from workflow_runner._core.scope import Scope

In = TypeVar("In")
Out = TypeVar("Out")
Calls = Iterable[Call | Flow[Any, Any]]


class FlowContext(ExecutionContext):
    """The context of a running flow. Its methods may be called from any thread while the flow runs."""

    _attempt = 1
    _trace_id: str | None = None
    # The run that this one goes on with, or retries: its id and its trace's.
    _follows: tuple[str, str] | None = None
    _streams: dict[Stream, None] | None = None
    # What a workflow that runs here counts, for those who draw its progress.
    _steps: Any = None

    def __init__(
        self, scope: Scope, parent: FlowContext | None, name: str, fanout: FanOut | None = None, index: int = -1
    ) -> None:
        # written out, not `super().__init__`: one is made for every item of a fan-out
        self._scope = scope
        self._parent = parent
        self._name = name
        self._started = scope._time()
        if parent is not None:
            self._task = parent._task
        if fanout is not None:
            self._fanout = fanout
            self._index = index

    # -- what it is

    @property
    def run_id(self) -> str:
        """The id of the run, which is that of the root execution."""
        return self.root.id

    @property
    def trace_id(self) -> str:
        """The trace id of the run: the input's, or else the run's id."""
        root = self.root
        return getattr(root, "_trace_id", None) or root.id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._attempt

    @property
    def idempotency_token(self) -> str:
        """``run_id/path``: the same for every attempt and resume, for the outside world to tell repeats by."""
        return self.id

    # -- one child

    @overload
    def exec(self, flow: str, input: Callable[[FlowContext], Out]) -> Out: ...

    @overload
    def exec(
        self,
        flow: Flow[In, Out],
        input: In | dict[str, Any] | None = None,
        *,
        timeout: float | dt.timedelta | None = None,
        key: str | None = None,
        name: str | None = None,
        retry: Retry | None = None,
        on: str | None = None,
    ) -> Out: ...

    @overload
    def exec(
        self,
        flow: Call,
        *,
        timeout: float | dt.timedelta | None = None,
        key: str | None = None,
        name: str | None = None,
        retry: Retry | None = None,
        on: str | None = None,
    ) -> Any: ...

    def exec(
        self,
        flow: Any,
        input: Any = None,
        *,
        timeout: float | dt.timedelta | None = None,
        key: str | None = None,
        name: str | None = None,
        retry: Retry | None = None,
        on: str | None = None,
    ) -> Any:
        """Run a flow as a child and return its result.

        Without a timeout it runs here, in this thread. With one it runs on a spare thread, and this one is released
        when the time is over; the child's thread is then abandoned, its late value dropped.

        Args:
            flow: a flow, a call (``flow.bind(input)``, ``call(function, ...)``), or a name, with a function of the
                child's context in place of the input.
            input: the flow's input.
            timeout: seconds for each attempt, at most what is left of the time of this execution.
            key: journal key: the same key in the same place is answered once and for all.
            name: under which it is tracked; default: the flow's.
            retry: default: the flow's.
            on: the name of one of the scope's executors, to run it in another process.

        Raises:
            Aborted: this execution was told to stop.
            ExecutionTimeout: the child's time was over.
            InputError: the input does not fit the flow.
            JournalConflict: the key was used with another input.
            BaseException: what the child raised.
        """
        if isinstance(flow, str):
            return super().exec(flow, input)
        if isinstance(flow, Call):
            flow, input = flow.flow, flow.input
        elif not isinstance(flow, Flow):
            raise _no_flow(flow)
        signal = self._set_signal()
        if signal is not None:
            raise Aborted(signal._reason)
        if self._status.terminal:
            self._check_live()
        name = check_name(name, "an execution") if name is not None else flow.name
        segment = self._next_segment(key, name)
        if self._scope._records and key is None and not flow.records_itself and self._recorder is not None:
            limit = None if timeout is None else seconds(timeout)
            run = partial(self._run_child, flow, input, name=name, segment=segment, timeout=limit, retry=retry, on=on)
            return self._recorder.answer(f"{self._path}/{segment}".lstrip("/"), flow.name, flow.prepare(input), run)
        if key is None and timeout is None and on is None and retry is None:
            wraps = self._scope._wraps["execution"]
            if flow.timeout is None and flow.retry is None and not flow.tags and not wraps:
                child = type(self)(self._scope, self, name)
                child._segment = segment
                return child._run_here(child._perform, flow, flow.prepare(input))
            return self._run_child(flow, input, name=name, segment=segment)
        limit = None if timeout is None else seconds(timeout)
        if key is not None:
            input = flow.prepare(input)  # two spellings of one input are one
        run = partial(
            self._run_child, flow, input, name=name, segment=segment, timeout=limit, retry=retry, on=on, key=key
        )
        return run() if key is None else self._journaled(key, flow, input, run, limit)

    @property
    def _recorder(self) -> Recorder | None:
        """The journal that records everything, if the run has a store."""
        journal = self.root.__dict__.get("_journal") if self._scope._records else None
        return journal if journal is not None and journal.records else None

    def _journaled(
        self, key: str, flow: Flow[Any, Any], input: Any, run: Callable[[], Any], timeout: float | None
    ) -> Any:
        path = f"{self._path}/{check_name(key, 'a journal key')}".lstrip("/")
        journal = self._scope._journal_of(self.root)

        def once() -> Any:
            return journal.once(path, (flow.name, input), run, lambda: self.signal, timeout)

        return self._wrapped("journal", once, flow.name, flow=flow, input=input, key=key)

    def _run_child(
        self,
        flow: Flow[Any, Any],
        input: Any,
        *,
        name: str | None = None,
        segment: str | None = None,
        fanout: FanOut | None = None,
        index: int = -1,
        timeout: float | None = None,
        retry: Retry | None = None,
        key: str | None = None,
        on: str | None = None,
        kind: str = "execution",
        on_attempt: Callable[[int], None] | None = None,
    ) -> Any:
        """Run ``flow`` as a child, with all its attempts. Each attempt is a child of its own under the same path."""
        if timeout is None:
            timeout = flow.timeout
        if retry is None:
            retry = flow.retry
        scope, input = self._scope, flow.prepare(input)
        child: FlowContext | None = None

        def attempt(number: int) -> Any:
            nonlocal child
            child = type(self)(scope, self, name or flow.name, fanout, index)
            child._segment = segment
            child._attempt = number
            if on_attempt is not None:
                on_attempt(number)
            if flow.tags:
                child._tags = table(flow.tags, self.root)
            if on is not None:
                from workflow_runner._core import offload

                body: Callable[[], Any] = partial(offload.run, child, flow, input, on)
            else:
                body = partial(child._perform, flow, input)
            if scope._wraps[child._kind(kind)]:
                body = partial(child._wrapped, kind, body, child._name, flow=flow, input=input, key=key)
            return child._run_here(body) if timeout is None else self._run_timed(child, body, timeout)

        if retry is None:
            return attempt(1)
        return retrying(attempt, retry, lambda: self.signal, lambda: child._path if child is not None else "")

    def _perform(self, flow: Flow[Any, Any], input: Any) -> Any:
        """The handler itself, in the thread and in the context variables of this execution."""
        CURRENT.set(self)
        FLOW.set(flow.name)
        try:
            return flow.handler(self, input)
        finally:
            if self._streams:
                self._close_streams()

    def _run_here(self, body: Callable[..., Any], *args: Any) -> Any:
        try:
            value = copy_context().run(body, *args)
        except BaseException as error:
            self._conclude(error)
            if self._scope._records:
                self._note_failure(error)
            raise
        self._ended = self._scope._time()
        self._status = COMPLETED
        if self._signal is not None:
            self._let_go()
        return value

    def _run_timed(self, child: FlowContext, body: Callable[[], Any], timeout: float) -> Any:
        """Run ``child`` on a spare thread with our slot, and be back when its time is over."""
        child._status = PENDING
        task = ChildTask(child, body, timeout)
        above = self._task
        if above is not None:
            if above._subtasks is None:
                above.__dict__.setdefault("_subtasks", set())
            above._subtasks.add(task)  # type: ignore[union-attr]
        try:
            self._scope._slots.lend(task)
            task._wait(None)
        except BaseException as error:  # an interrupt of the main thread, or no thread to be had
            child._scope._abort(child, error)
            if not task._settle(CANCELLED, None, cancelled_by(error, child._name), only_from=PENDING):
                task._wait(None)
            raise
        finally:
            if above is not None and above._subtasks is not None:
                above._subtasks.discard(task)
        failure = task._error
        if failure is None:
            return task._value
        if self._scope._records:
            child._note_failure(failure)
        if child._status is CANCELLED and not isinstance(failure, ExecutionTimeout) and failure.__cause__ is not None:
            raise failure.__cause__  # what the handler raised when it was told to stop: as without a timeout
        signal = self._set_signal()
        if signal is not None and isinstance(failure, ExecutionCancelled):
            raise Aborted(signal._reason) from failure
        raise failure

    def _note_failure(self, error: BaseException) -> None:
        """Have the run's journal note that this attempt has failed, unless it was told to stop."""
        recorder, parent = self._recorder, self._parent
        failed = self._status is FAILED or isinstance(error, ExecutionTimeout)
        # Not the items of a fan-out, which has them in what it returns or raises: there may be any number of them.
        if recorder is None or not failed or not isinstance(error, Exception) or self._segment is None:
            return
        if parent is not None and parent._set_signal() is None:
            recorder.failed(self._path, self._attempt, self._started or 0.0, error)

    def _wrapped(
        self,
        kind: str,
        body: Callable[[], Any],
        name: str,
        *,
        flow: Flow[Any, Any] | None = None,
        input: Any = None,
        key: str | None = None,
    ) -> Any:
        """``body()`` with the scope's extensions around it."""
        wraps = self._scope._wraps[self._kind(kind)]
        if not wraps:
            return body()
        operation = Operation(
            kind=kind,
            name=name,
            flow=flow,
            input=input,
            key=key,
            context=self.tag_store,
            parent=self._parent.name if self._parent is not None else None,
            depth=self.depth,
            attempt=self._attempt,
        )
        return wrapped(wraps, self._scope, operation, body)

    def _kind(self, kind: str) -> str:
        """What an extension calls it that may be around it."""
        return "item" if self._fanout is not None and kind == "execution" else kind

    # -- many children

    def parallel(
        self,
        calls: Calls,
        *,
        max_concurrency: int | None = None,
        timeout: float | dt.timedelta | None = None,
        on: str | None = None,
        name: str = "parallel",
    ) -> list[Any]:
        """Run calls side by side and return their results in input order.

        This thread works through them together with up to ``max_concurrency - 1`` helpers, which join when the scope
        has free slots; so it finishes on any number of slots, however deep it is nested. At the first failure no
        further item starts, and the running ones get the signal and are awaited.

        Args:
            calls: an iterable of calls: ``flow.each(inputs)``, ``[flow.bind(x), call(function, y)]``. It is read in
                this thread before the first item starts.
            max_concurrency: how many run at once; default: the scope's ``max_workers``.
            timeout: seconds for each item; the items then run on spare threads, so that this one is released.
            on: the name of one of the scope's executors, to run the items in other processes.
            name: names the fan-out in the journal's paths.

        Raises:
            Aborted: this execution was told to stop.
            BaseException: the failure with the lowest index; the others are in its notes.
        """
        fanout = self._fan_out(calls, max_concurrency, timeout, on, name, settle=False)
        results: list[Any] = self._wrapped("parallel", fanout.execute, name)
        return results

    def parallel_settled(
        self,
        calls: Calls,
        *,
        max_concurrency: int | None = None,
        timeout: float | dt.timedelta | None = None,
        on: str | None = None,
        name: str = "parallel",
    ) -> Settled:
        """As `parallel`, but every item runs, and the outcomes of all are returned.

        Raises:
            Aborted: this execution was told to stop.
        """
        fanout = self._fan_out(calls, max_concurrency, timeout, on, name, settle=True)
        values: list[Any] = self._wrapped("parallel", fanout.execute, name)
        errors = fanout.errors
        return Settled(
            tuple(
                Outcome(index, error=errors[index]) if index in errors else Outcome(index, value)
                for index, value in enumerate(values)
            )
        )

    def _fan_out(
        self,
        calls: Calls,
        max_concurrency: int | None,
        timeout: float | dt.timedelta | None,
        on: str | None,
        name: str,
        *,
        settle: bool,
    ) -> Parallel:
        concurrency, limit, segment = self._fan_out_options(max_concurrency, timeout, name)
        return Parallel(self, segment, calls, concurrency, limit, on, settle=settle)

    def _fan_out_options(
        self, max_concurrency: int | None, timeout: float | dt.timedelta | None, name: str
    ) -> tuple[int, float | None, str]:
        self.throw_if_aborted()
        self._check_live()
        if max_concurrency is None:
            max_concurrency = self._scope.max_workers
        elif not isinstance(max_concurrency, int) or max_concurrency < 1:
            raise ValueError(f"max_concurrency must be a whole number from 1, got {max_concurrency!r}")
        limit = None if timeout is None else seconds(timeout)
        return max_concurrency, limit, self._next_segment(None, check_name(name, "a fan-out"))

    def stream(
        self,
        calls: Calls,
        *,
        ordered: bool = True,
        buffer: int | None = None,
        max_concurrency: int | None = None,
        timeout: float | dt.timedelta | None = None,
        on: str | None = None,
        name: str = "stream",
    ) -> Iterator[Any]:
        """Run calls side by side and yield their results as they come, over endless input too.

        The calls are read in the thread that takes the results. The first failed item raises when its turn comes.
        Leaving the loop early stops the rest; so does the end of this execution.

        Args:
            calls: as for `parallel`, read as needed.
            ordered: yield in input order; otherwise in the order of finishing.
            buffer: how many items may be alive at once: started, or finished and not yet taken; default: twice
                ``max_concurrency``.
            max_concurrency: as for `parallel`.
            timeout: as for `parallel`.
            on: as for `parallel`.
            name: as for `parallel`.

        Yields:
            One result after the other.
        """
        concurrency, limit, segment = self._fan_out_options(max_concurrency, timeout, name)
        if buffer is None:
            buffer = 2 * concurrency
        elif not isinstance(buffer, int) or buffer < 1:
            raise ValueError(f"buffer must be a whole number from 1, got {buffer!r}")
        stream = Stream(self, segment, calls, min(concurrency, buffer), limit, on, ordered=ordered, buffer=buffer)
        if self._streams is None:
            self.__dict__.setdefault("_streams", {})
        assert self._streams is not None
        self._streams[stream] = None
        return stream.results()

    def _close_streams(self) -> None:
        for stream in list(self._streams or ()):
            stream.close("the stream's execution has ended")

    # -- the rest

    def sleep(self, seconds_: float | dt.timedelta, /) -> None:
        """Do nothing for so many seconds, unless told to stop.

        Raises:
            Aborted: this execution was told to stop.
        """
        signal = self.signal
        signal.wait(seconds(seconds_, what="sleep", zero=True))
        signal.throw_if_aborted()

    def transaction(self) -> AbstractContextManager[Any]:
        """A transaction in the store's database, committed together with the record of this step or recorded call.

        The block gets the database (``execute(sql, parameters)``). Its writes and the record are there both or neither,
        whenever the process is killed. While it is open every other writer waits, so make it the last thing of a step.

        Raises:
            ContextError: the run has no store.
            StoreError: the store has no database.
        """
        if self._recorder is None:
            raise ContextError("ctx.transaction() needs a run in a store: Scope(store=...)")
        return self._recorder.transaction(self._path)

    def reset_journal(self, pattern: str | None = None) -> None:
        """Forget what the journal has recorded below this execution.

        Args:
            pattern: a shell-style pattern of keys such as ``price-*``; None for all.
        """
        prefix = self._path
        self._scope._journal_of(self.root).reset(f"{prefix}/" if prefix else "", pattern)

    def end(self, error: BaseException | None = None) -> None:
        """End a child that ``exec(name, fn)`` made before its function returns.

        Args:
            error: None for completed; otherwise what it has failed with.

        Raises:
            ContextError: this is the context of a flow, which ends with its handler.
        """
        if not self._status.terminal and not self._block:
            raise ContextError(f"execution {self._name!r} of a flow ends when its handler does")
        if self._streams:
            self._close_streams()
        super().end(error)


def _no_flow(value: object) -> DefinitionError:
    hint = "decorate it with @flow or use call(function, ...)" if callable(value) else "expected a flow or a call"
    return DefinitionError(f"{value!r} is no flow: {hint}")
