"""What one item of a fan-out costs.

Claims: an item of ``ctx.parallel`` is a tracked child (id, status, tags, cancel) and costs at most an eighth of what
``ThreadPoolExecutor.map`` takes for an untracked one, and no more than ``multiprocessing.pool.ThreadPool.map`` with one
item per chunk; the cost per item does not grow with the number of items.

Measured: a no-op over ``range(10_000)``, 8 wide on every side, from the call to the list of all results. The thread
pool's default chunking (one queue entry per chunk, nothing per item) is printed beside them. ``scope.run`` around the
fan-out is part of our time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool

from benchmarks.harness import Side, benchmark, calls_per_operation, loop
from workflow_runner import FlowContext, Scope, call, flow

WIDTH = 8


@flow
def noop(ctx: FlowContext, n: int) -> int:
    return n


def plain(n: int) -> int:
    return n


@flow
def each(ctx: FlowContext, n: int) -> list[int]:
    return ctx.parallel(noop.each(range(n)), max_concurrency=WIDTH)


@flow
def bound(ctx: FlowContext, n: int) -> list[int]:
    return ctx.parallel([noop.bind(i) for i in range(n)], max_concurrency=WIDTH)


@flow
def called(ctx: FlowContext, n: int) -> list[int]:
    return ctx.parallel([call(plain, i) for i in range(n)], max_concurrency=WIDTH)


@flow
def settled(ctx: FlowContext, n: int) -> list[int]:
    return ctx.parallel_settled(noop.each(range(n)), max_concurrency=WIDTH).values()


@flow
def streamed(ctx: FlowContext, n: int) -> int:
    return sum(1 for _ in ctx.stream(noop.each(range(n)), max_concurrency=WIDTH))


def calls(n: int) -> None:
    """A fan-out in a scope of its own, whose threads start inside the count."""
    with Scope(max_workers=WIDTH) as scope:
        scope.run(each, n)


def main() -> None:
    with benchmark("fanout", rounds=15, description=__doc__) as bench:
        n = bench.size(10_000, 100)
        with (
            Scope(max_workers=WIDTH) as scope,
            ThreadPoolExecutor(WIDTH) as executor,
            ThreadPool(WIDTH) as pool,
        ):
            bench.compare(
                f"one item of ctx.parallel, {n:,} items, {WIDTH} wide",
                Side("flow.each", lambda: scope.run(each, n), n),
                Side(f"ThreadPoolExecutor({WIDTH}).map", lambda: list(executor.map(plain, range(n))), n),
                Side(f"ThreadPool({WIDTH}).map(chunksize=1)", lambda: pool.map(plain, range(n), chunksize=1), n),
                Side(f"ThreadPool({WIDTH}).map, default chunks", lambda: pool.map(plain, range(n)), n),
                at_most=(1 / 8, 1.0, None),
            )
            for form, fan_out in {
                "flow.bind": bound,
                "call(f, x)": called,
                "parallel_settled": settled,
                "ctx.stream": streamed,
            }.items():
                bench.compare(
                    f"one item as {form}, {n:,} items, {WIDTH} wide",
                    Side(form, lambda fan_out=fan_out: scope.run(fan_out, n), n),
                    Side(f"ThreadPoolExecutor({WIDTH}).map", lambda: list(executor.map(plain, range(n))), n),
                )
            repeats = bench.size(200, 5)
            bench.compare(
                f"a whole ctx.parallel of {WIDTH} items",
                Side("flow.each", loop(lambda: scope.run(each, WIDTH), repeats), repeats),
                Side(
                    f"ThreadPoolExecutor({WIDTH}).map",
                    loop(lambda: list(executor.map(plain, range(WIDTH))), repeats),
                    repeats,
                ),
            )
            few, many = bench.size(3_000, 30), bench.size(300_000, 300)
            bench.compare(
                f"one item of {many:,}",
                Side(f"{many:,} items", lambda: scope.run(each, many), many),
                Side(f"one of {few:,}", lambda: [scope.run(each, few) for _ in range(10)], 10 * few),
                at_most=1.3,
            )
        count = calls_per_operation(calls, bench.size(1_000, 100))
        bench.report("Python calls for one more item", count, at_most=8)


if __name__ == "__main__":
    main()
