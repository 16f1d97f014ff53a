"""Flows inside gunicorn workers: a worker that is told to stop drains within its budget, and leaves nothing half-done.

    # gunicorn.conf.py
    from workflow_runner.integrations.gunicorn import Drain

    preload_app = True
    graceful_timeout = 30
    drain = Drain("shop.flows:scope")
    post_worker_init = drain.post_worker_init
    worker_exit = drain.worker_exit

A scope that was made before the fork works in every worker, with threads of its own. gunicorn stops a worker with
SIGTERM, lets it finish its requests, and kills it ``graceful_timeout`` seconds later. Within that time, from the signal
on: what runs may end, and requests that are being answered may start more. When the time is nearly over the rest is
cancelled, so that a request which waits for it is answered; runs in a store are handed back, for anybody to resume.

SIGINT and SIGQUIT, which stop gunicorn quickly, and SIGABRT, which it sends to a worker that does not answer, leave no
such time: everything is cancelled at once.

A request waits for a flow on another thread, and can be released, with ``scope.exec(...).result()`` or with a timeout;
``scope.run`` without one runs in the request's own thread, where a call that never looks up keeps the worker as any
view does.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from workflow_runner._core.scope import Scope

# So much of graceful_timeout is left for those who are cancelled to stop, and for the process to end: a part, and at
# most so many seconds.
_RESERVE = 0.25
_MOST_RESERVE = 3.0

# So long, in seconds, after a signal that leaves no time: gunicorn kills a worker a second after SIGABRT.
_AT_ONCE = 0.5
_QUICK = (signal.SIGINT, signal.SIGQUIT, signal.SIGABRT)

_REASON = "the gunicorn worker stops"


class Drain:
    """The hooks of one scope.

    Args:
        scope: the scope, or where it can be imported from, ``module:attribute``; it is imported in the worker.
    """

    def __init__(self, scope: Scope | str) -> None:
        self._scope = scope
        self._told = threading.Event()
        self._end: float | None = None
        self._grace = 0.0
        self._quick = False

    @property
    def scope(self) -> Scope:
        """The scope."""
        if isinstance(self._scope, str):
            module, _, attribute = self._scope.partition(":")
            found = getattr(importlib.import_module(module), attribute)
            if not isinstance(found, Scope):
                raise TypeError(f"{self._scope} is no Scope but {type(found).__name__}")
            self._scope = found
        return self._scope

    def post_worker_init(self, worker: Any) -> None:
        """For gunicorn's ``post_worker_init``: be told when the worker is told to stop. In the worker's main thread."""
        self._grace = float(worker.cfg.graceful_timeout)
        self._told = threading.Event()
        # made now: a signal's handler must not make a thread, because it may have interrupted somebody who makes one
        threading.Thread(target=self._watch, name="workflow-runner-drain", daemon=True).start()
        self._tell(signal.SIGTERM)
        # as gunicorn has it, and as signal() undoes it: no system call of a request is interrupted
        signal.siginterrupt(signal.SIGTERM, False)
        for number in _QUICK:
            self._tell(number)

    def worker_exit(self, server: Any, worker: Any) -> None:
        """For gunicorn's ``worker_exit``: all requests are answered; wait for what goes on without one."""
        if worker.pid != os.getpid():
            return  # the master found that worker gone, and its own scope is for those that it forks
        if self._quick:
            self.scope.close(cancel=True, timeout=_AT_ONCE, reason=_REASON)
            return
        now = time.monotonic()
        if self._end is None:  # without a signal: ``max_requests``
            self._end = now + self._grace
        if worker.cfg.timeout:  # from here on nobody tells the master that this worker is alive
            self._end = min(self._end, now + worker.cfg.timeout)
        self.scope.close(timeout=self._left(), reason=_REASON)

    def _tell(self, number: int) -> None:
        """Be told of this signal, too."""
        before = signal.getsignal(number)

        def told(number: int, frame: FrameType | None) -> None:
            self._quick = self._quick or number in _QUICK
            if self._end is None:
                self._end = time.monotonic() + self._grace
                self._told.set()
            if callable(before):
                before(number, frame)

        signal.signal(number, told)

    def _left(self) -> float:
        """Seconds until the rest has to be cancelled."""
        assert self._end is not None
        reserve = min(_RESERVE * self._grace, _MOST_RESERVE)
        return max(0.0, self._end - reserve - time.monotonic())

    def _watch(self) -> None:
        self._told.wait()
        self.scope._clock.wait(threading.Event(), self._left())
        # the main thread may wait for a flow in a view, and never come to `worker_exit`
        self.scope.close(cancel=True, timeout=_RESERVE * self._grace / 2, reason=_REASON)
