"""How late a deadline is, and how soon a cancelled execution lets its caller go.

Claims: with 1,000 deadlines pending at once, 99 in 100 callers are released less than 20 ms after their deadline,
whether the handlers wait on the signal or are stuck and ignore it; a caller is released less than 5 ms (median) after
``cancel``.

Measured, deadlines: 1,000 executions, started one after the other with a timeout of 1 s, so that their deadlines come
in one burst as long as the starting took (some 0.2 s); a thread of its own waits for each. Overshoot is the time from
the deadline (start of the handler plus timeout) to the return of ``result()``. Beside it stands what the threads of
the machine do on their own: 1,000 threads, each in ``threading.Event.wait(timeout)``.

Measured, cancelling: one execution at a time; the main thread waits in ``result()``, another one calls ``cancel``. Time
runs from just before ``cancel`` until ``result()`` has raised. Beside it: the same two hand-overs (canceller to worker
to caller) with two bare ``threading.Event``.
"""

from __future__ import annotations

import gc
import logging
import statistics
import threading
import time
from collections.abc import Callable

from benchmarks.harness import Benchmark, benchmark, percentile
from workflow_runner import Flow, FlowContext, FlowExecution, Scope, call, flow
from workflow_runner.errors import ExecutionCancelled, ExecutionTimeout


@flow
def obedient(ctx: FlowContext, release: threading.Event) -> None:
    ctx.signal.wait()
    ctx.throw_if_aborted()


@flow
def stuck(ctx: FlowContext, release: threading.Event) -> None:
    release.wait()


def overshoots(scope: Scope, handler: Flow[threading.Event, None], count: int, timeout: float) -> list[float]:
    """Seconds from the deadline to the caller's release, of ``count`` executions with deadlines."""
    release = threading.Event()
    found: list[float] = []

    def caller(execution: FlowExecution[None]) -> None:
        try:
            execution.result()
        except ExecutionTimeout:
            now = time.time()
            started = execution.ctx.details.started_at
            assert started is not None
            found.append(now - started.timestamp() - timeout)

    # the threads of the slots are there before the first deadline is: starting one is no part of the claim
    everybody = threading.Barrier(count)
    for execution in [scope.exec(call(everybody.wait)) for _ in range(count)]:
        execution.result()
    gc.collect()
    callers = []
    for _ in range(count):
        callers.append(threading.Thread(target=caller, args=(scope.exec(handler, release, timeout=timeout),)))
        callers[-1].start()
    for thread in callers:
        thread.join()
    release.set()
    return found


def bare_overshoots(count: int, timeout: float) -> list[float]:
    """The same of as many threads that wait on an event each."""
    found: list[float] = []

    def caller() -> None:
        start = time.perf_counter()
        threading.Event().wait(timeout)
        found.append(time.perf_counter() - start - timeout)

    gc.collect()
    callers = [threading.Thread(target=caller) for _ in range(count)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    return found


def measure_deadlines(bench: Benchmark) -> None:
    count, timeout = (20, 0.05) if bench.quick else (1_000, 1.0)
    with Scope(max_workers=count) as obeying, Scope(max_workers=count) as ignoring:
        kinds: dict[str, Callable[[], list[float]]] = {
            "handlers wait on the signal": lambda: overshoots(obeying, obedient, count, timeout),
            "stuck handlers": lambda: overshoots(ignoring, stuck, count, timeout),
            "bare Event.wait(timeout)": lambda: bare_overshoots(count, timeout),
        }
        found: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
        for _ in range(bench.rounds):
            for kind, measure in kinds.items():
                found[kind].append(measure())
    for kind, rounds in found.items():
        together = [late for one_round in rounds for late in one_round]
        claim = f"overshoot of {count:,} deadlines, {kind}"
        aim = None if kind.startswith("bare") else 20
        for name, percent, at_most in ("p50", 50, None), ("p99", 99, aim), ("max", 100, None):
            by_round = [percentile(one_round, percent) for one_round in rounds]
            spread = min(by_round), max(by_round)
            bench.report(f"{claim}: {name}", percentile(together, percent), "ms", at_most=at_most, spread=spread)


def cancel_to_release(scope: Scope, handler: Flow[threading.Event, None], grace: float | None) -> float:
    """Seconds from ``cancel`` to the end of the caller's ``result()``."""
    release, waiting = threading.Event(), threading.Event()
    execution = scope.exec(handler, release)
    start = 0.0

    def canceller() -> None:
        nonlocal start
        waiting.wait()
        time.sleep(0.001)  # the caller has got to its wait, and the handler to its own
        start = time.perf_counter()
        execution.cancel("measured", grace=grace)

    thread = threading.Thread(target=canceller)
    thread.start()
    waiting.set()
    try:
        execution.result()
    except ExecutionCancelled:
        end = time.perf_counter()
    release.set()
    thread.join()
    return end - start


def bare_hand_overs() -> float:
    """Seconds from setting an event, on which a thread waits that sets a second one, to the end of waiting for that."""
    told, done = threading.Event(), threading.Event()
    start = 0.0

    def worker() -> None:
        told.wait()
        done.set()

    def canceller() -> None:
        nonlocal start
        time.sleep(0.001)
        start = time.perf_counter()
        told.set()

    threads = [threading.Thread(target=worker), threading.Thread(target=canceller)]
    for thread in threads:
        thread.start()
    done.wait()
    end = time.perf_counter()
    for thread in threads:
        thread.join()
    return end - start


def measure_cancelling(bench: Benchmark) -> None:
    repeats = bench.size(200, 5)
    with Scope(max_workers=2) as scope:
        kinds: dict[str, tuple[Callable[[], float], float | None]] = {
            "handler waits on the signal": (lambda: cancel_to_release(scope, obedient, None), 5),
            "stuck handler, grace=0": (lambda: cancel_to_release(scope, stuck, 0), 5),
            "two bare threading.Event": (bare_hand_overs, None),
        }
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        for _ in range(repeats):
            for kind, (measure, _aim) in kinds.items():
                found[kind].append(measure())
    for kind, (_measure, aim) in kinds.items():
        times = found[kind]
        spread = percentile(times, 1), percentile(times, 99)
        bench.report(f"cancel to release, {kind}: median", statistics.median(times), "ms", at_most=aim, spread=spread)


def main() -> None:
    # every abandoned thread is logged with its stack, as it should be; here nobody reads that
    log = logging.getLogger("workflow_runner")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    with benchmark("cancel", rounds=5, description=__doc__) as bench:
        measure_deadlines(bench)
        measure_cancelling(bench)


if __name__ == "__main__":
    main()
