"""Fan-outs inside fan-outs: that they finish, and that they use every slot.

Claims: a fan-out nested to any depth finishes on any number of slots, where a pool whose tasks wait for tasks of the
same pool deadlocks as soon as the waiting ones hold all its threads; when only a nested fan-out has work left, all
slots work on it.

Measured, finishing: a tree in which every task starts two and waits for both, as deep as there are workers, on a
``ThreadPoolExecutor`` and on a scope of that size. The pool's waits are bounded (its threads could never end otherwise)
and the first one that gives up is the deadlock.

Measured, utilisation: on eight slots, of eight items seven end at once and the eighth has, two fan-outs further down,
all the work: sleeping items. Utilisation is the time that eight fully busy slots need, divided by the time taken.
Beside it: what bare pools need so as not to deadlock, a pool of eight threads for each level.

Measured, cost: 27,000 no-ops as 30 x 30 x 30 (931 fan-outs) against one flat fan-out, on one scope.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.harness import Benchmark, Side, benchmark
from workflow_runner import FlowContext, Scope, flow

WIDTH = 8


@flow
def tree(ctx: FlowContext, depth: int) -> int:
    """Count the leaves below, each task waiting for two others."""
    return 1 if not depth else sum(ctx.parallel(tree.each([depth - 1, depth - 1])))


def tree_on_pool(pool: ThreadPoolExecutor, depth: int, patience: float) -> int:
    if not depth:
        return 1
    below = [pool.submit(tree_on_pool, pool, depth - 1, patience) for _ in range(2)]
    return sum(future.result(patience) for future in below)


def finishes_on_pool(workers: int, patience: float) -> bool:
    """Whether a pool of so many threads finishes a tree of that depth."""
    pool = ThreadPoolExecutor(workers)
    try:
        return pool.submit(tree_on_pool, pool, workers, patience).result() == 2**workers
    except TimeoutError:
        return False
    finally:
        pool.shutdown(cancel_futures=True)


def measure_finishing(bench: Benchmark) -> None:
    for workers in (1, 2) if bench.quick else (1, 2, 4, 8):
        with Scope(max_workers=workers) as scope:
            finishes = scope.run(tree, workers) == 2**workers
        bench.check(f"nested {workers} deep on {workers} slots, ctx.parallel finishes", finishes)
        deadlocks = not finishes_on_pool(workers, patience=0.1 if bench.quick else 1.0)
        bench.check(f"nested {workers} deep on {workers} threads, ThreadPoolExecutor deadlocks", deadlocks)


@flow
def work(ctx: FlowContext, seconds: float) -> None:
    time.sleep(seconds)


@flow
def level(ctx: FlowContext, input: tuple[int, int, float]) -> None:
    """Of ``WIDTH`` items the last one goes on; on the lowest level there are ``items`` that work."""
    depth, items, seconds = input
    if depth < 0:
        return
    if depth == 0:
        ctx.parallel(work.each([seconds] * items))
    else:
        ctx.parallel(level.each([(-1, 0, 0.0)] * (WIDTH - 1) + [(depth - 1, items, seconds)]))


def level_on_pools(pools: list[ThreadPoolExecutor], items: int, seconds: float) -> None:
    if not pools:
        return
    here, *below = pools
    if below:
        one_each = [([], 0, 0.0)] * (WIDTH - 1) + [(below, items, seconds)]
        list(here.map(lambda each: level_on_pools(*each), one_each))
    else:
        list(here.map(time.sleep, [seconds] * items))


def measure_utilisation(bench: Benchmark) -> None:
    items, seconds = bench.size(400, 16), 0.005
    ideal = items * seconds / WIDTH
    pools = [ThreadPoolExecutor(WIDTH) for _ in range(3)]
    with Scope(max_workers=WIDTH) as scope:
        ours, theirs = bench.compare(
            f"{items} sleeps of {seconds * 1e3:g} ms, three fan-outs down",
            Side("scope", lambda: scope.run(level, (2, items, seconds))),
            Side(f"3 pools of {WIDTH} threads", lambda: level_on_pools(pools, items, seconds)),
            unit="ms",
        )
    for pool in pools:
        pool.shutdown()
    for name, times in {f"{WIDTH} slots": ours, f"3 pools of {WIDTH} threads": theirs}.items():
        used = sorted(ideal / taken for taken in times)
        bench.report(f"utilisation, {name}", statistics.median(used), spread=(used[0], used[-1]))


@flow
def noop(ctx: FlowContext, n: int) -> int:
    return n


@flow
def cube(ctx: FlowContext, input: tuple[int, int]) -> None:
    """``size`` to the power of ``depth`` no-ops, that deep."""
    depth, size = input
    ctx.parallel(noop.each(range(size)) if depth == 1 else cube.each([(depth - 1, size)] * size))


def measure_cost(bench: Benchmark) -> None:
    size = bench.size(30, 3)
    with Scope(max_workers=WIDTH) as scope:
        bench.compare(
            f"one item of {size} x {size} x {size}",
            Side("nested", lambda: scope.run(cube, (3, size)), size**3),
            Side(f"one of {size**3:,} flat", lambda: scope.run(cube, (1, size**3)), size**3),
        )


def main() -> None:
    with benchmark("nested", rounds=7, description=__doc__) as bench:
        measure_finishing(bench)
        measure_utilisation(bench)
        measure_cost(bench)


if __name__ == "__main__":
    main()
