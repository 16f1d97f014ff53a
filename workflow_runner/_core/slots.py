"""Slots: how many executions make progress at once, and the threads they make it on.

A slot is a number, a thread is a means. A thread takes a piece of work with a slot, and when it has done it takes the
next from the queue without giving the slot back. Threads come from a stdlib ``ThreadPoolExecutor`` whose own queue
stays empty: it is asked for a thread only when there is a slot to use it with.

Work that was abandoned keeps its thread and loses its slot; a parent that only waits for a timed child lends the child
its slot (a *lent* worker); so there may be more threads than slots, and never more progress.

``free`` falls below zero when a caller has lent its slot, gave up waiting and goes on: then the next worker that ends
something gives its slot back instead of taking more.

``Slots.lock`` guards ``free``, appending to the queue, the wishes, the table of abandoned workers, ``Worker.doing``
and, of every fan-out, ``wanted``, ``joined`` and ``gate``. Schedules it decides:

1. ``abandon(worker, doing)`` against the worker ending ``doing`` and taking the next: under the lock the worker either
   still does it, and is marked, or has moved on, and ``abandon`` does nothing. Nobody loses another's thread. Without
   the lock the next execution may be taken only by a worker that has settled its own, since then nobody abandons it.
2. a caller that joins its helpers against a helper that is just being given a slot: the helper counts as joined from
   the moment the slot is given, so that the caller either sees it or has withdrawn the wish before.
3. a slot that becomes free against a submit: the worker gives its slot back under the lock, when the queue is empty
   there too; the submitter queues under the lock, when no slot is free. No work waits beside a free slot.
"""

from __future__ import annotations

import concurrent.futures.thread as _stdlib
import gc
import itertools
import os
import sys
import threading
import traceback
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from workflow_runner._core import log
from workflow_runner.errors import ScopeSaturated

if TYPE_CHECKING:
    from workflow_runner._core.fanout import FanOut


_HERE = os.path.dirname(__file__)
_OURS = (_HERE, os.path.join(os.path.dirname(_HERE), "_workflow"))

# Seconds after which an abandoned thread that has not come back is logged.
_REPORT_AFTER = 0.05


class Work(Protocol):
    """What a worker does: a task (one execution) or helping in a fan-out. ``optional``: others do it as well."""

    optional: bool
    ticket: int

    def run(self, worker: Worker) -> bool:
        """Do it; True if nobody can have abandoned the worker meanwhile."""
        ...

    def left(self, worker: Worker) -> None:
        """The worker has ended or was abandoned; called under the lock."""

    def describe(self) -> dict[str, str]:
        """Fields for the log."""
        ...


class Worker:
    """One thread's turn at work. ``lent``: it works on the slot of one who waits for it."""

    __slots__ = ("abandoned", "doing", "lent", "thread_id")

    def __init__(self, doing: Work, lent: bool = False) -> None:
        self.doing: Work | None = doing
        self.lent = lent
        self.abandoned = False
        self.thread_id = 0


class Threads(ThreadPoolExecutor):
    """A ``ThreadPoolExecutor`` of any number of threads that never keep the interpreter alive.

    The stdlib's exit hook joins every thread of every pool for ever, and an abandoned thread may never end. These are
    daemons, outside that hook's table; waiting for live work at exit is the scope's part, which knows what is
    abandoned.
    """

    def __init__(self, name: str) -> None:
        self._local = threading.local()
        # Each thread marks itself: the pool's table has it some time after it has begun to work. Not by a method of
        # ours, or the threads would keep a pool that everybody else has forgotten.
        marks = (self._local, "ours", True)
        super().__init__(max_workers=sys.maxsize, thread_name_prefix=name, initializer=setattr, initargs=marks)
        # The stdlib's own count of idle threads drifts from Python 3.12 on (a busy thread may take what an idle one was
        # counted for), and a pool without a bound grows with it: here what is to be done is counted instead.
        self._idle_semaphore = _NobodyIdle()  # type: ignore[assignment]
        self._counting = threading.Lock()
        self._to_do = 0

    @property
    def busy(self) -> bool:
        """Whether anything is being done or waits for a thread."""
        return self._to_do > 0

    def start(self, fn: Callable[..., object], *args: object) -> None:
        """Let a thread call ``fn``: one that is idle, or a new one.

        Raises:
            RuntimeError: there is none to be had.
        """
        self.submit(_counted, weakref.ref(self), fn, *args)

    def own_this_one(self) -> bool:
        """Whether the calling thread is one of these."""
        return getattr(self._local, "ours", False)

    def done(self) -> None:
        """What `start` has begun is done."""
        with self._counting:
            self._to_do -= 1

    def _adjust_thread_count(self) -> None:
        with self._counting:
            self._to_do += 1
            if self._to_do <= len(self._threads):
                return
        # A thread is a daemon if the one that makes it is (threading documentation, Thread.daemon). The stdlib's code
        # makes ours, from a daemon, so that it may change with the version of Python.
        failed: list[BaseException] = []

        def start() -> None:
            try:
                super(Threads, self)._adjust_thread_count()
            except BaseException as error:
                failed.append(error)

        starter = threading.Thread(target=start, daemon=True)
        starter.start()
        starter.join()
        if failed:
            raise failed[0]
        for thread, queue in tuple(_stdlib._threads_queues.items()):
            if queue is self._work_queue:
                del _stdlib._threads_queues[thread]  # type: ignore[attr-defined]

    def join(self, timeout: float, but: set[int]) -> None:
        """Wait for the threads, ``but`` those with these ids, each at most ``timeout`` seconds."""
        for thread in tuple(self._threads):
            if thread.ident not in but and thread is not threading.current_thread():
                thread.join(timeout)


class _NobodyIdle:
    """In the place of the stdlib's count: it finds nobody idle, and makes a thread whenever it is asked."""

    def acquire(self, timeout: float | None = None) -> bool:
        return False

    def release(self) -> None:
        pass


def _counted(pool: weakref.ref[Threads], fn: Callable[..., object], *args: object) -> None:
    # a thread must not keep a pool that everybody else has forgotten
    try:
        fn(*args)
    finally:
        threads = pool()
        if threads is not None:
            threads.done()


class Slots:
    """The slots of one scope. Methods may be called from any thread."""

    def __init__(self, name: str, size: int, max_pending: int | None, max_abandoned: int) -> None:
        self.name = name
        self.size = size
        self.max_pending = sys.maxsize if max_pending is None else max_pending
        self.max_abandoned = max_abandoned
        self.reset()

    def reset(self) -> None:
        """As new: at the start, and in a forked child, which has none of the parent's threads."""
        self.lock = threading.Lock()
        self.free = self.size
        self.pending: deque[Work] = deque()
        self.wishes: OrderedDict[FanOut, None] = OrderedDict()
        self.abandoned: dict[Worker, Work] = {}
        # workers whose thread has not begun; who takes one from here, the thread or `_start`, decides
        self._starting: dict[Worker, None] = {}
        self._unreported: list[Worker] = []
        self._reporting = False
        self._ticket = itertools.count().__next__
        self._threads = Threads(self.name)

    # -- roots

    def submit(self, task: Work) -> None:
        """Run ``task`` on a thread as soon as there is a slot.

        Raises:
            ScopeSaturated: the queue is full, or too many threads are abandoned.
        """
        with self.lock:
            if self.abandoned:
                self._check_abandoned()
            if self.free <= 0:
                if len(self.pending) >= self.max_pending:
                    raise ScopeSaturated(
                        f"scope {self.name!r} is saturated: {self.size} executions run and {len(self.pending)} wait"
                        f" (max_pending={self.max_pending})"
                    )
                task.ticket = self._ticket()
                self.pending.append(task)
                return
            self.free -= 1
        self._start(Worker(task))

    def run_here(self, task: Work, *, on_own_slot: bool) -> bool:
        """Run ``task`` in the calling thread, on its own slot or on a free one; False if there is none."""
        with self.lock:
            if self.abandoned:
                self._check_abandoned()
            if not on_own_slot:
                if self.free <= 0:
                    return False
                self.free -= 1
        worker = Worker(task, on_own_slot)
        worker.thread_id = threading.get_ident()
        try:
            task.run(worker)
        finally:
            if self._next(worker):  # the caller wants its thread back, so another one goes on with the slot
                self._go_on(worker)
        return True

    def withdraw(self, task: Work) -> bool:
        """Take ``task`` out of the queue; False if it is not there."""
        try:
            self.pending.remove(task)
        except ValueError:
            return False
        return True

    def may_lend(self, timeout: float | None) -> bool:
        """Whether a caller that waits for so long may lend its slot; one that only looks may not.

        Who gives up waiting goes on beside the one that has the slot, so while one is owed it is lent for good only.
        """
        return timeout is None or (timeout > 0 and self.free >= 0)

    def lend(self, task: Work) -> Worker:
        """Run ``task`` on a spare thread with the slot of the caller, who has nothing to do but wait for it."""
        worker = Worker(task, True)
        self._start(worker)
        return worker

    def take_back(self, worker: Worker, task: Work) -> None:
        """The caller that has lent its slot to ``task`` goes on: there is one slot too many until a worker ends."""
        with self.lock:
            if worker.doing is task and not worker.abandoned:
                worker.lent = False
                self.free -= 1

    def spare(self, fn: Callable[[], object]) -> None:
        """Run ``fn`` on a spare thread without any slot: callbacks that must not block whoever has to call them.

        Here, if there is no thread to be had.
        """
        try:
            self._threads.start(fn)
        except RuntimeError:
            fn()

    def own_this_thread(self) -> bool:
        """Whether the calling thread is one of those that work here."""
        return self._threads.own_this_one()

    def _check_abandoned(self) -> None:
        if len(self.abandoned) >= self.max_abandoned:
            raise ScopeSaturated(
                f"scope {self.name!r} refuses new work: {len(self.abandoned)} of its threads are abandoned by deadlines"
                f" and have not ended (max_abandoned={self.max_abandoned})"
            )

    # -- fan-outs

    def wish(self, fanout: FanOut, helpers: int) -> None:
        """Let up to ``helpers`` workers join ``fanout``, now or when slots become free."""
        while helpers:
            with self.lock:
                if self.free <= 0:
                    self.wait_for_helpers(fanout, helpers)
                    return
                self.free -= 1
                worker = Worker(fanout)
                fanout.joining(worker)
            # one by one: an interrupt in here leaves none behind that was promised and never starts
            self._go_on(worker)
            helpers -= 1

    def wait_for_helpers(self, fanout: FanOut, helpers: int) -> None:
        """Note the wish of ``fanout``. Under the lock."""
        fanout.wanted += helpers
        if fanout not in self.wishes:
            fanout.ticket = self._ticket()
            self.wishes[fanout] = None
            # a caller above that has run out of own items may work here
            above = fanout.above
            while above is not None:
                if above.gate is not None and above.task is fanout.task:
                    above.open_gate()
                    break
                above = above.above

    def wish_below(self, fanout: FanOut) -> FanOut | None:
        """A fan-out below ``fanout`` that wants helpers. Under the lock.

        Only one of the same task: a thread that helped beneath a deadline would be lost with it.
        """
        for wish in self.wishes:
            above = wish.above
            while above is not None:
                if above is fanout:
                    if wish.task is fanout.task:
                        return wish
                    break
                above = above.above
        return None

    def grant(self, fanout: FanOut) -> None:
        """Take one helper off the wishes of ``fanout``. Under the lock."""
        fanout.wanted -= 1
        if not fanout.wanted:
            del self.wishes[fanout]

    def forget(self, fanout: FanOut) -> None:
        """``fanout`` wants nobody any more. Under the lock."""
        fanout.wanted = 0
        self.wishes.pop(fanout, None)

    # -- workers

    def _start(self, worker: Worker) -> None:
        """Give ``worker`` a thread.

        Raises:
            ScopeSaturated: there is none to be had; the slot is given back.
            KeyboardInterrupt: in the main thread; the slot is given back unless the thread has begun.
        """
        self._starting[worker] = None
        try:
            self._threads.start(self._work, worker)
        except BaseException as error:  # no more threads, the interpreter is going down, an interrupt
            # the pool may have queued the item before it failed: taken from here, it finds nothing to do
            if self._starting.pop(worker, self) is not self:
                with self.lock:
                    worker.abandoned = True
                    self._leave(worker)
                    if not worker.lent:
                        self.free += 1
            if not isinstance(error, RuntimeError):
                raise
            raise ScopeSaturated(f"scope {self.name!r} cannot start a thread: {error}") from error

    def _go_on(self, worker: Worker) -> None:
        """Let another thread go on with the slot of ``worker``, which has been given its next work."""
        work = worker.doing
        try:
            self._start(worker)
        except BaseException as error:
            if worker.abandoned and work is not None and not work.optional:
                self.pending.appendleft(work)  # for the next worker that ends something
            if not isinstance(error, ScopeSaturated):
                raise
            log.error("thread.failed", error, scope=self.name)

    def _work(self, worker: Worker) -> None:
        if self._starting.pop(worker, self) is self:  # `_start` has given up
            return
        if worker.abandoned:  # before it came to anything
            self._next(worker)
            return
        worker.thread_id = threading.get_ident()
        next_pending, wishes = self.pending.popleft, self.wishes
        working = True
        while working:
            assert worker.doing is not None
            try:
                undisturbed = worker.doing.run(worker)
            except BaseException as error:  # no handler's, those are caught there: an interrupt in a callback
                log.error("thread.interrupted", error, scope=self.name)
                undisturbed = False
            if undisturbed and not wishes and not worker.lent and self.free >= 0:
                # without the lock: a crowd of workers that end short work would queue for it
                try:
                    worker.doing = next_pending()
                    continue
                except IndexError:
                    pass
            working = self._next(worker)

    def _next(self, worker: Worker) -> bool:
        """End what ``worker`` does and give it its next work; False if there is none for it."""
        with self.lock:
            if worker.abandoned:
                self.abandoned.pop(worker, None)
                return False
            self._leave(worker)
            return not worker.lent and self._take(worker)

    def _leave(self, worker: Worker) -> None:
        """``worker`` no longer does what it did. Under the lock."""
        doing, worker.doing = worker.doing, None
        if doing is not None and doing.optional:
            doing.left(worker)

    def _take(self, worker: Worker) -> bool:
        """Give ``worker`` the work that has waited longest, or its slot back. Under the lock."""
        if self.free < 0 or not (self.pending or self.wishes):  # a slot is owed, or nobody wants one
            self.free += 1
            return False
        wish = next(iter(self.wishes), None)
        try:
            if wish is None or self.pending[0].ticket < wish.ticket:
                worker.doing = self.pending.popleft()
                return True
        except IndexError:  # another worker has just taken it
            if wish is None:
                self.free += 1
                return False
        self.grant(wish)
        wish.joining(worker)
        worker.doing = wish
        return True

    def abandon(self, worker: Worker, doing: Work) -> bool:
        """Take from ``worker`` its slot while it is busy with ``doing``; False if it no longer is."""
        with self.lock:
            if worker.abandoned or worker.doing is not doing:
                return False
            self._leave(worker)
            worker.abandoned = True
            self.abandoned[worker] = doing
            heir = Worker(doing)
            goes_on = not worker.lent and self._take(heir)
        if goes_on:
            self._go_on(heir)
        return True

    def report(self, workers: list[Worker]) -> None:
        """Log each of ``workers`` that has not come back by the time somebody looks, with its stack."""
        with self.lock:
            self._unreported += workers
            start = not self._reporting
            self._reporting = True
        if start:
            self.spare(self._report_batches)

    def _report_batches(self) -> None:
        going_on = True
        while going_on:
            # Those that obey the signal come back meanwhile, and a thousand deadlines are one look at the stacks.
            threading.Event().wait(_REPORT_AFTER)
            self._report_batch()
            with self.lock:
                going_on = self._reporting = bool(self._unreported)

    def _report_batch(self) -> None:
        with self.lock:
            batch, self._unreported = self._unreported, []
            stuck = [(worker, self.abandoned[worker]) for worker in batch if worker in self.abandoned]
        if not stuck:
            return
        frames = _current_frames()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for worker, doing in stuck:
            frame = frames.get(worker.thread_id)
            if frame is not None:
                thread = names.get(worker.thread_id, "?")
                log.warning("thread.abandoned", scope=self.name, thread=thread, **doing.describe(), stack=_stack(frame))

    def shutdown(self, timeout: float) -> None:
        """Let idle threads end and wait for those that are not abandoned, each at most ``timeout`` seconds."""
        with self.lock:
            stuck = {worker.thread_id for worker in self.abandoned}
        self._report_batch()
        self._threads.shutdown(wait=False)
        self._threads.join(timeout, stuck)


def _current_frames() -> dict[int, FrameType]:
    # A garbage collection inside this call can deadlock with a thread that starts (python/cpython#106883).
    enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()
    finally:
        if enabled:
            gc.enable()


def _stack(frame: FrameType) -> str:
    """The frames of what was called by us: those above are the same for every thread."""
    lines = traceback.format_stack(frame)
    ours = [n for n, line in enumerate(lines) if any(path in line for path in _OURS)]
    return "".join(lines[ours[-1] + 1 :] if ours else lines) or lines[-1]
