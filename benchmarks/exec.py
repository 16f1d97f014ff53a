"""What one execution costs: started and awaited, started in a crowd, run here, run as a child.

Claims: ``scope.exec(f).result()`` takes at most one and a half times what ``submit(f).result()`` takes, one at a time
and 5,000 at once; ``scope.run(f)`` takes at most 7 us and an inline ``ctx.exec(f)`` at most 3 us, which is less than
the lightest run of a pipefunc pipeline, a huey task in immediate mode or a hamilton driver.

Measured: a no-op of one integer on every side. Each peer does what its documentation shows for one synchronous call
that gives the value back, in the fastest of the forms it shows: ``Pipeline.run`` of one function; ``task(n).get()`` on
``MemoryHuey(immediate=True)`` (without ``get`` the results pile up in its store); ``Driver.execute`` of a driver from
``driver.Builder``, which returns a dict. Definitions are made once, outside the time.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from benchmarks.harness import Side, benchmark, calls_per_operation, loop
from workflow_runner import FlowContext, Scope, call, flow

WORKERS = 8


@flow
def noop(ctx: FlowContext, n: int) -> int:
    return n


def plain(n: int) -> int:
    return n


@flow
def children(ctx: FlowContext, times: int) -> None:
    for n in range(times):
        ctx.exec(noop, n)


def pipefunc() -> Callable[[], object]:
    from pipefunc import PipeFunc, Pipeline

    pipeline = Pipeline([PipeFunc(plain, output_name="out")])
    return lambda: pipeline.run("out", kwargs={"n": 1})


def huey() -> Callable[[], object]:
    from huey import MemoryHuey

    task = MemoryHuey(immediate=True).task()(plain)
    return lambda: task(1).get()


def hamilton() -> Callable[[], object]:
    from hamilton import driver

    def out(n: int) -> int:
        return n

    # a driver reads functions from a module, which they have to name as their own
    module = types.ModuleType("benchmark_functions")
    out.__module__ = module.__name__
    module.out = out
    sys.modules[module.__name__] = module
    built = driver.Builder().with_modules(module).build()
    return lambda: built.execute(["out"], inputs={"n": 1})


def calls(n: int) -> None:
    """So many executions in a scope of its own, whose threads start inside the count."""
    with Scope(max_workers=1) as scope:
        for i in range(n):
            scope.exec(noop, i).result()


def calls_here(n: int) -> None:
    with Scope(max_workers=1) as scope:
        for i in range(n):
            scope.run(noop, i)


def calls_child(n: int) -> None:
    with Scope(max_workers=1) as scope:
        scope.run(children, n)


def fresh_scope(threads: int) -> None:
    """A new scope that has to start so many threads."""
    everybody = threading.Barrier(threads)
    with Scope(max_workers=threads) as scope:
        for execution in [scope.exec(call(everybody.wait)) for _ in range(threads)]:
            execution.result()


def fresh_pool(threads: int) -> None:
    everybody = threading.Barrier(threads)
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(everybody.wait) for _ in range(threads)]:
            future.result()


def main() -> None:
    with benchmark("exec", rounds=15, description=__doc__) as bench:
        one, crowd = bench.size(2_000, 20), bench.size(5_000, 50)
        with Scope(max_workers=WORKERS) as scope, ThreadPoolExecutor(WORKERS) as executor:
            bench.compare(
                "scope.exec(f).result(), one at a time",
                Side("scope.exec", loop(lambda: scope.exec(noop, 1).result(), one), one),
                Side("submit(f).result()", loop(lambda: executor.submit(plain, 1).result(), one), one),
                at_most=1.5,
            )

            def crowd_of_executions() -> None:
                for execution in [scope.exec(noop, i) for i in range(crowd)]:
                    execution.result()

            def crowd_of_futures() -> None:
                for future in [executor.submit(plain, i) for i in range(crowd)]:
                    future.result()

            bench.compare(
                f"{crowd:,} scope.exec, then all results",
                Side("scope.exec", crowd_of_executions, crowd),
                Side(f"{crowd:,} submits, then all results", crowd_of_futures, crowd),
                at_most=1.5,
            )

            peers = [
                bench.peer("pipefunc", lambda: loop(pipefunc(), one), one),
                bench.peer("huey, immediate", lambda: loop(huey(), one), one),
                bench.peer("hamilton", lambda: loop(hamilton(), one), one),
            ]
            bench.compare(
                "scope.run(f)",
                Side("scope.run", loop(lambda: scope.run(noop, 1), one), one),
                *peers,
                at_most=[1.0] * len(peers),
                ours_at_most=7,
            )
            bench.compare(
                "inline ctx.exec(f)",
                Side("ctx.exec", lambda: scope.run(children, one), one),
                *peers,
                at_most=[1.0] * len(peers),
                ours_at_most=3,
            )
        threads = bench.size(100, 5)
        bench.compare(
            f"one of {threads} threads, from a new scope to its end",
            Side("Scope", lambda: fresh_scope(threads), threads),
            Side("ThreadPoolExecutor", lambda: fresh_pool(threads), threads),
        )
        few = bench.size(500, 20)
        bench.report("Python calls for scope.exec(f).result()", calls_per_operation(calls, few), at_most=60)
        bench.report("Python calls for scope.run(f)", calls_per_operation(calls_here, few))
        bench.report("Python calls for an inline ctx.exec(f)", calls_per_operation(calls_child, few))


if __name__ == "__main__":
    main()
