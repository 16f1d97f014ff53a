"""SIGINT and SIGTERM: being told of them, and dying of them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def told(tell: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Call ``tell`` for the first two of SIGINT and SIGTERM that come in the block, instead of what they did before.

    The third ends the process at once, whatever it is doing. A signal that is ignored stays ignored, as ``nohup`` and a
    shell's background jobs want it.

    Args:
        tell: runs in the main thread between any two of its bytecodes; ``SimpleQueue.put`` may be called from there.
    """
    if threading.current_thread() is not threading.main_thread():  # only there handlers can be set
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    came = 0

    def handle(number: int, _frame: Any) -> None:
        nonlocal came
        came += 1
        if came == 2:
            for each in ours:
                signal.signal(each, signal.SIG_DFL)
        tell(signal.Signals(number))

    for number in ours:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


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
