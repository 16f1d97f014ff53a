"""What observers cost: a span, an update of a metric, against a scope that nobody observes.

Claim: `metrics_text` over 100,000 runs takes less than 0.2 s. The rest has no aim: what each observer adds to a run, to
a step and to an item is printed, and beside it what the SDK takes for a bare span.

Measured: a no-op flow with ``scope.run``, a workflow of 100 steps that do nothing, and a fan-out of 10,000 items; per
run, step and item. The SDK hands spans to an exporter in memory, which is emptied before each turn.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from benchmarks.harness import Benchmark, Side, benchmark, loop, take_turns
from workflow_runner import FlowContext, Scope, Step, Workflow, flow
from workflow_runner.extensions.metrics import Metrics
from workflow_runner.extensions.store_metrics import metrics_text
from workflow_runner.extensions.traces import Traces
from workflow_runner.store.sqlite import SQLiteStore

STEPS = 100


@flow
def noop(ctx: FlowContext, n: int) -> int:
    return n


@flow
def fan(ctx: FlowContext, size: int) -> None:
    ctx.parallel(noop.each(range(size)))


CHAIN = Workflow("chain", steps=[Step(f"s{n}", lambda context, config: None) for n in range(STEPS)])


def sdk(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def main() -> None:
    with benchmark("observers", description=__doc__) as measured:
        exporter = InMemorySpanExporter()
        provider = sdk(exporter)
        observers = {
            "Traces, no SDK": Traces(),
            "Metrics": Metrics(CollectorRegistry()),
            "Traces, SDK": Traces(provider=provider),
            "Traces(items=True), SDK": Traces(provider=provider, items=True),
        }
        scopes = {"nobody": Scope(max_workers=4)}
        scopes |= {name: Scope(max_workers=4, extensions=[each]) for name, each in observers.items()}
        runs, chains, items = measured.size(2000, 5), measured.size(10, 1), measured.size(10_000, 10)

        def sides(work: Callable[[Scope], object], times: int, per: float) -> list[Side]:
            return [
                Side(name, loop(lambda scope=scope: work(scope), times), per, exporter.clear)  # type: ignore[misc]
                for name, scope in scopes.items()
            ]

        added(measured, "a run", sides(lambda scope: scope.run(noop, 1), runs, runs))
        steps = sides(lambda scope: scope.run(CHAIN, {}), chains, chains * STEPS)
        added(measured, "a step", steps)
        added(measured, "an item", sides(lambda scope: scope.run(fan, items), 1, items))

        tracer = provider.get_tracer("benchmark")
        bare = Side("SDK", loop(lambda: tracer.start_span("s").end(), runs), runs, exporter.clear)
        measured.report("a bare span of the SDK", best(measured, bare), "us")
        for scope in scopes.values():
            scope.close()
        totals(measured)


def added(measured: Benchmark, what: str, sides: list[Side]) -> None:
    """Report each side's time, and what it is above the first."""
    times = take_turns(sides, measured.rounds)
    alone = sorted(times[0])[len(times[0]) // 2]
    measured.report(f"{what}, nobody observes", alone, "us", spread=(min(times[0]), max(times[0])))
    for side, taken in zip(sides[1:], times[1:], strict=True):
        extra = sorted(mine - base for mine, base in zip(taken, times[0], strict=True))
        median = extra[len(extra) // 2]
        measured.report(f"{what}, {side.name}: added", median, "us", spread=(extra[0], extra[-1]))


def best(measured: Benchmark, side: Side) -> float:
    taken = sorted(take_turns([side], measured.rounds)[0])
    return taken[len(taken) // 2]


def totals(measured: Benchmark) -> None:
    """`metrics_text` over many runs of 20 flows, of which one in twenty has failed; input and result of 1 KB each."""
    count, now = measured.size(100_000, 100), time.time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        store = SQLiteStore(path, durability="process")
        connection = sqlite3.connect(path)
        rows = (
            (f"r{n}", f"flow-{n % 20}", "x" * 1000, "failed" if n % 19 == 0 else "completed", "y" * 1000, now - n, now)
            for n in range(count)
        )
        connection.executemany(
            "INSERT INTO runs (run_id, flow, input, input_hash, status, result, created_at, started_at, finished_at)"
            " VALUES (?1, ?2, ?3, 'h', ?4, ?5, ?6, ?6, ?7)",
            rows,
        )
        connection.commit()
        connection.close()
        taken = best(measured, Side("text", lambda: metrics_text(store)))
        measured.report(f"metrics_text, {count:,} runs", taken, "ms", at_most=200.0)
        store.close()


if __name__ == "__main__":
    main()
