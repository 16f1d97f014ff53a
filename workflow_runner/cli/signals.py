"""SIGINT and SIGTERM: being told of them, and dying of them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

STOPPING = (signal.SIGINT, signal.SIGTERM)

T = TypeVar("T")

# Seconds.
_LOOK = 0.25


@contextmanager
def told(tell: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Call ``tell`` for the first two of SIGINT and SIGTERM that come in the block, instead of what they did before.

    The third ends the process at once, whatever it is doing. A signal that is ignored stays ignored, as ``nohup`` and a
    shell's background jobs want it.

    Args:
        tell: runs in the main thread between any two of its bytecodes; ``SimpleQueue.put`` may be called from there.
    """
    came = 0

    def handle(number: int, _frame: Any) -> None:
        nonlocal came
        came += 1
        if came == 2:
            for each in STOPPING:
                if signal.getsignal(each) is handle:
                    signal.signal(each, signal.SIG_DFL)
        tell(signal.Signals(number))

    with _handled(handle):
        yield


def awaited(news: SimpleQueue[T]) -> T:
    """Wait for the next of the news, in the main thread, where signals are told.

    A signal that comes in the moment before a thread begins to wait does not end the wait; its handler runs when the
    thread looks up. So this one looks up now and then.
    """
    while True:
        with suppress(Empty):
            return news.get(timeout=_LOOK)


@contextmanager
def exiting(code: int | None) -> Iterator[None]:
    """Exit with the code at the first SIGINT or SIGTERM that comes in the block, at once; with None change nothing."""
    if code is None:
        yield
        return
    with _handled(lambda _number, _frame: os._exit(code)):
        yield


@contextmanager
def _handled(handle: Callable[[int, Any], object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only there handlers can be set
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def die_of(number: signal.Signals) -> int:
    """End this process by the signal, so that whoever waits for it sees that it was one.

    A shell ends its loop on a Ctrl-C only if the command has died of it (M. Cracauer, Proper handling of SIGINT).

    Args:
        number: SIGINT or SIGTERM.

    Returns:
        The shell's code for it, in case the signal is blocked.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number
