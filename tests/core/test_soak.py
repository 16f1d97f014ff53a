"""Many flows in one process: it ends with what it began with."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections import Counter
from typing import Any

import pytest

from workflow_runner import FlowContext, FlowExecution, Scope, call, current, errors, flow, tag
from workflow_runner._core.context import ExecutionContext
from workflow_runner._core.signal import Signal
from workflow_runner._core.tags import TagStore

LONG = 60.0
FLOWS = 100_000

tenant = tag(str, label="tenant", default="nobody")


@flow
def plain(ctx: FlowContext, n: int) -> int:
    return n


@flow(tags=[tenant("somebody")])
def tagged(ctx: FlowContext, n: int) -> str:
    ctx.set(tenant, str(n))
    return ctx.get(tenant)


@flow
def fails(ctx: FlowContext, n: int) -> None:
    raise LookupError(n)


@flow
def fans(ctx: FlowContext, n: int) -> list[int]:
    return ctx.parallel(plain.each(range(4)))


@flow
def nests(ctx: FlowContext, n: int) -> int:
    return ctx.exec(plain, ctx.exec(call(abs, n), timeout=LONG))


@flow
def waits(ctx: FlowContext, n: int) -> None:
    """Until it is told to stop."""
    assert current().signal.event.wait(LONG)
    ctx.throw_if_aborted()


@flow
def streams(ctx: FlowContext, n: int) -> int:
    return next(iter(ctx.stream(plain.each(range(100)), buffer=4)))


KINDS: list[tuple[float, Any, dict[str, Any]]] = [
    (0.55, plain, {}),
    (0.10, plain, {"timeout": LONG}),
    (0.10, tagged, {"tags": [tenant("x")]}),
    (0.05, fails, {}),
    (0.08, fans, {}),
    (0.05, nests, {}),
    (0.02, streams, {}),
    (0.03, waits, {"timeout": 0.001}),
    (0.02, waits, {}),
]


def held() -> Counter[str]:
    """What there is of what executions are made of, and of what the system lends."""
    gc.collect()
    kinds = (ExecutionContext, FlowExecution, Signal, TagStore)
    counts = Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, kinds))
    counts["file descriptors"] = len(os.listdir("/proc/self/fd"))
    return counts


def resident() -> int:
    """Bytes of memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(240)
def test_nothing_is_left_of_100_000_flows() -> None:
    """Of all kinds, with random cancels and timeouts: no thread, timer, tag store or descriptor more than before."""
    chance = random.Random(7)
    weights = [weight for weight, _, _ in KINDS]
    threads, before = set(threading.enumerate()), held()
    ended: Counter[str] = Counter()
    memory: list[int] = []
    with Scope(max_workers=8, max_abandoned=1000) as scope:
        for _ in range(FLOWS // 500):
            executions = []
            for n, (_, kind, options) in enumerate(chance.choices(KINDS, weights, k=500)):
                execution = scope.exec(kind, n, **options)
                if (kind is waits and not options) or chance.random() < 0.02:
                    execution.cancel("enough")
                executions.append(execution)
            for execution in executions:
                execution.exception(LONG)
                ended[str(execution.status)] += 1
            del execution, executions
            memory.append(resident())
        assert scope.stats().deadlines == len(scope._watchdog._heap) == 0
        assert scope.executions == ()
        assert (scope.stats().pending, scope.stats().active) == (0, 0)
        most_threads = len(set(threading.enumerate()) - threads)
    assert sum(ended.values()) == FLOWS
    assert min(ended["completed"], ended["failed"], ended["cancelled"]) > 2000
    left = set(threading.enumerate()) - threads
    for thread in left:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in left)
    assert most_threads < 100
    assert held() - before == Counter()
    # what the allocator keeps is there after the first part
    assert max(memory[len(memory) // 2 :]) - max(memory[: len(memory) // 4]) < 16 * 2**20


def test_a_failed_execution_is_let_go_with_its_handle() -> None:
    """Its error's traceback keeps nothing alive but what the handle keeps."""
    before = held()
    with Scope(max_workers=1) as scope:
        for _ in range(50):
            with pytest.raises(LookupError):
                scope.exec(fails, 1).result(LONG)
            with pytest.raises(errors.ExecutionTimeout):
                scope.exec(waits, 1, timeout=0.001).result(LONG)
    assert held() - before == Counter()
