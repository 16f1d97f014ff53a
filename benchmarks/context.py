"""What the frozen context costs that goes from step to step.

Claims: ``with_step_output`` takes the same short time however many outputs there are, where a copy of a dict, the plain
way to the same guarantee (nobody sees what others add later), grows with them.

Measured: adding outputs of five keys to a context with 10 and with 1,000 outputs, four in a row as steps do, against
``{**outputs, name: dict(output)}``; merging three updates into params of 10 and of 1,000 entries against the same of a
dict; writing and reading back as JSON against ``json`` alone, which knows no types.
"""

from __future__ import annotations

import json

from benchmarks.harness import Benchmark, Side, benchmark, loop
from workflow_runner import WorkflowContext

OUTPUT = {"rows": 1200, "source": "daily_bars", "valid": True, "mean": 41.5, "note": None}
UPDATES = {"region": "EU", "limit": 10, "dry": False}
# Outputs that are added in a row to each context.
ADDED = ("a", "b", "c", "d")
FEW, MANY = 10, 1_000


def outputs(count: int) -> dict[str, dict[str, object]]:
    return {f"step {i}": dict(OUTPUT) for i in range(count)}


class Contexts:
    """Contexts with ``count`` outputs each, made anew before each turn: only the first extension of one is usual."""

    def __init__(self, count: int, copies: int) -> None:
        self.count = count
        self.copies = copies

    def prepare(self) -> None:
        first = outputs(self.count)
        self.contexts = [WorkflowContext.new(step_outputs=first) for _ in range(self.copies)]

    def run(self) -> None:
        for context in self.contexts:
            for name in ADDED:
                context = context.with_step_output(name, OUTPUT)

    def side(self, name: str) -> Side:
        return Side(name, self.run, self.copies * len(ADDED), self.prepare)


def dict_copies(count: int, copies: int) -> Side:
    """The same with plain dicts."""
    first = outputs(count)

    def run() -> None:
        for _ in range(copies):
            made = first
            for name in ADDED:
                made = {**made, name: dict(OUTPUT)}

    return Side("dict copy", run, copies * len(ADDED))


def measure_outputs(bench: Benchmark, copies: int) -> None:
    for count in FEW, MANY:
        ours = Contexts(count, copies).side("with_step_output")
        bench.compare(f"with_step_output at {count:,} outputs", ours, dict_copies(count, copies))
    bench.compare(
        f"with_step_output at {MANY:,} outputs",
        Contexts(MANY, copies).side(f"{MANY:,} outputs"),
        Contexts(FEW, copies).side(f"at {FEW} outputs"),
        at_most=1.5,
    )


def measure_updates(bench: Benchmark, times: int) -> None:
    for count in FEW, MANY:
        params = {f"param {i}": i for i in range(count)}
        context = WorkflowContext.new(params)
        bench.compare(
            f"with_updates of 3 at {count:,} params",
            Side("with_updates", loop(lambda context=context: context.with_updates(UPDATES), times), times),
            Side("dict copy", loop(lambda params=params: {**params, **UPDATES}, times), times),
        )


def measure_json(bench: Benchmark) -> None:
    for count in FEW, MANY:
        times = bench.size(max(1, 2_000 // count), 1)
        context = WorkflowContext.new(step_outputs=outputs(count))
        text = context.to_json()
        data = json.loads(text)
        for name, ours, theirs in (
            ("to_json", context.to_json, lambda data=data: json.dumps(data)),
            ("from_json", lambda text=text: WorkflowContext.from_json(text), lambda text=text: json.loads(text)),
        ):
            bench.compare(
                f"{name} at {count:,} outputs, per output",
                Side(name, loop(ours, times), times * count),
                Side("json alone", loop(theirs, times), times * count),
            )


def main() -> None:
    with benchmark("context", rounds=11, description=__doc__) as bench:
        measure_outputs(bench, copies=bench.size(200, 2))
        measure_updates(bench, times=bench.size(1_000, 2))
        measure_json(bench)


if __name__ == "__main__":
    main()
