"""What a step of a workflow costs, and how close a workflow of real tasks comes to the shortest possible time.

Claims: a step whose output has five keys costs at most 8 us, whether the workflow has 10 steps or 1,000 (within a
factor of 1.5); a recorded scientific workflow, replayed eight wide, takes at most 1.1 times its lower bound, which is
the longer of the critical path and an eighth of all work.

Measured, steps: whole runs, divided by the number of steps; each run makes its own context. The peers run the same
steps, one after the other, and keep all outputs: pypyr its pipeline of that many step modules (parsed once, the cache
is pypyr's own), each of which puts its dict under its name into the context; pipefunc its pipeline of that many
functions, each of which takes the output of the one before it. Beside them: the same steps with ``needs``, as a chain
and all side by side.

Measured, replay: the task graphs and measured runtimes of WfCommons WfInstances, scaled so that the lower bound is one
second, every task a sleep; in the same process the same graph is run by a short loop over ``graphlib`` and a
``ThreadPoolExecutor`` of eight. Long tasks may put the lower bound out of reach of any order, so the time is also given
as a multiple of two simulated schedules without overhead: in the library's own order (most steps below first) and in
one that knows all runtimes before (longest remaining path first).
"""

from __future__ import annotations

import functools
import gzip
import heapq
import json
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, Side, benchmark, loop
from workflow_runner import FlowContext, Scope, Step, StepResult, Workflow, WorkflowContext, flow

INSTANCES = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "wfinstances"
WIDTH = 8
FEW, MANY = 10, 1_000


# --- what a step costs ------------------------------------------------------------------------------------------------


def five_keys(context: WorkflowContext, config: object) -> dict[str, object]:
    return {"rows": 1200, "source": "daily_bars", "valid": True, "mean": 41.5, "note": None}


def five_keys_result(context: WorkflowContext, config: object) -> StepResult:
    return StepResult.ok({"rows": 1200, "source": "daily_bars", "valid": True, "mean": 41.5, "note": None})


@flow
def five_keys_flow(ctx: FlowContext, context: WorkflowContext) -> dict[str, object]:
    return {"rows": 1200, "source": "daily_bars", "valid": True, "mean": 41.5, "note": None}


def in_a_row(count: int, body: object = five_keys) -> Workflow:
    return Workflow("row", steps=[Step(f"s{i}", body) for i in range(count)])


def as_chain(count: int) -> Workflow:
    return Workflow("chain", steps=[Step(f"s{i}", five_keys, needs=(f"s{i - 1}",) if i else ()) for i in range(count)])


def side_by_side(count: int) -> Workflow:
    return Workflow("wide", steps=[Step(f"s{i}", five_keys, needs=()) for i in range(count)])


def pypyr(count: int) -> Callable[[], object]:
    from pypyr import pipelinerunner

    names = []
    for i in range(count):
        module = types.ModuleType(f"benchmark_step_{i}")

        def run_step(context: dict[str, Any], name: str = f"s{i}") -> None:
            context[name] = {"rows": 1200, "source": "daily_bars", "valid": True, "mean": 41.5, "note": None}

        module.run_step = run_step
        sys.modules[module.__name__] = module
        names.append(module.__name__)
    pipeline = "steps:\n" + "".join(f"  - {name}\n" for name in names)
    return lambda: pipelinerunner.run(pipeline, loader="pypyr.loaders.string")


def pipefunc(count: int) -> Callable[[], object]:
    from pipefunc import PipeFunc, Pipeline

    def step(before: object) -> dict[str, object]:
        return {"rows": 1200, "source": "daily_bars", "valid": True, "mean": 41.5, "note": None}

    pipeline = Pipeline(
        [PipeFunc(step, output_name=f"s{i}", renames={"before": f"s{i - 1}" if i else "start"}) for i in range(count)]
    )
    # it comes to the first function by recursion from the last
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 10 * count))
    return lambda: pipeline.run(f"s{count - 1}", full_output=True, kwargs={"start": None})


def measure_steps(bench: Benchmark) -> None:
    with Scope(max_workers=WIDTH) as scope:

        def side(name: str, workflow: Workflow) -> Side:
            count = len(workflow.steps)
            times = bench.size(max(1, 2_000 // count), 1)
            return Side(name, loop(lambda: scope.run(workflow, {}), times), times * count)

        many = bench.size(MANY, 30)
        for count in FEW, many:
            times = bench.size(max(1, 2_000 // count), 1)
            bench.compare(
                f"one step of {count:,}, in a row",
                side("workflow", in_a_row(count)),
                bench.peer("pypyr", lambda n=count, t=times: loop(pypyr(n), t), times * count),
                bench.peer("pipefunc", lambda n=count, t=times: loop(pipefunc(n), t), times * count),
                ours_at_most=8,
            )
        forms = {
            "returning StepResult.ok": lambda n: in_a_row(n, five_keys_result),
            "whose body is a flow": lambda n: in_a_row(n, five_keys_flow),
            "in a chain of needs": as_chain,
            "side by side": side_by_side,
        }
        bench.compare(
            f"one step of {many:,}, in a row",
            side("many", in_a_row(many)),
            side(f"one of {FEW}", in_a_row(FEW)),
            at_most=1.5,
        )
        for name, make in forms.items():
            bench.compare(
                f"one step of {many:,}, {name}",
                side(name, make(many)),
                side(f"one of {FEW}", make(FEW)),
                rounds=min(bench.rounds, 5),
            )


# --- replay -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """One recorded execution: seconds and parents of each task."""

    name: str
    seconds: dict[str, float]
    parents: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Read WfFormat 1.5, gzipped."""
        workflow = json.loads(gzip.decompress(path.read_bytes()))["workflow"]
        return cls(
            path.name.partition("-")[0],
            {task["id"]: task["runtimeInSeconds"] for task in workflow["execution"]["tasks"]},
            {task["id"]: tuple(task["parents"]) for task in workflow["specification"]["tasks"]},
        )

    def scaled(self, bound: float) -> Recording:
        """The same with a lower bound of so many seconds."""
        factor = bound / self.lower_bound
        return Recording(self.name, {task: length * factor for task, length in self.seconds.items()}, self.parents)

    @functools.cached_property
    def order(self) -> tuple[str, ...]:
        """The tasks, each after its parents."""
        return tuple(TopologicalSorter(self.parents).static_order())

    @functools.cached_property
    def remaining(self) -> dict[str, float]:
        """For each task the seconds of the longest path that starts with it."""
        below = dict.fromkeys(self.order, 0.0)
        for task in reversed(self.order):
            for parent in self.parents[task]:
                below[parent] = max(below[parent], below[task] + self.seconds[task])
        return {task: self.seconds[task] + below[task] for task in self.order}

    @property
    def lower_bound(self) -> float:
        """No schedule is shorter: the critical path, or the work divided by the width."""
        return max(max(self.remaining.values()), sum(self.seconds.values()) / WIDTH)

    @functools.cached_property
    def height(self) -> dict[str, int]:
        """For each task the number of tasks on the longest path that starts with it."""
        below = dict.fromkeys(self.order, 0)
        for task in reversed(self.order):
            for parent in self.parents[task]:
                below[parent] = max(below[parent], below[task] + 1)
        return below

    def schedule(self, priority: Mapping[str, float]) -> float:
        """The seconds that a scheduler without overhead takes that starts the ready task of highest priority first."""
        order = {task: (-priority[task], number) for number, task in enumerate(self.parents)}
        missing = {task: set(parents) for task, parents in self.parents.items()}
        ready = [(order[task], task) for task, parents in missing.items() if not parents]
        running: list[tuple[float, str]] = []
        now = 0.0
        while ready or running:
            ready.sort(reverse=True)
            while ready and len(running) < WIDTH:
                task = ready.pop()[1]
                heapq.heappush(running, (now + self.seconds[task], task))
            now, ended = heapq.heappop(running)
            for task, parents in missing.items():
                if ended in parents:
                    parents.remove(ended)
                    if not parents:
                        ready.append((order[task], task))
        return now

    def as_workflow(self) -> Workflow:
        """Each task a step that sleeps."""

        def sleep(context: WorkflowContext, config: dict[str, float]) -> None:
            time.sleep(config["seconds"])

        steps = [
            Step(task, sleep, config={"seconds": self.seconds[task]}, needs=parents)
            for task, parents in self.parents.items()
        ]
        return Workflow(self.name, steps=steps)

    def by_hand(self, pool: ThreadPoolExecutor) -> None:
        """Run it with the standard library alone."""
        sorter = TopologicalSorter(self.parents)
        sorter.prepare()
        running: dict[Any, str] = {}
        while sorter.is_active():
            for task in sorter.get_ready():
                running[pool.submit(time.sleep, self.seconds[task])] = task
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                sorter.done(running.pop(future))


def recordings(folder: Path) -> Iterable[Recording]:
    """What is there."""
    paths = sorted(folder.glob("*.json.gz"))
    if not paths:
        print(f"(the replay is left out: no *.json.gz in {folder})")
    return map(Recording.read, paths)


def measure_replay(bench: Benchmark, folder: Path) -> None:
    bound = 0.02 if bench.quick else 1.0
    with Scope(max_workers=WIDTH) as scope, ThreadPoolExecutor(WIDTH) as pool:
        for recording in (recorded.scaled(bound) for recorded in recordings(folder)):
            claim = f"replay of {recording.name}, {len(recording.seconds)} tasks"
            workflow = recording.as_workflow()
            ours, _ = bench.compare(
                claim,
                Side("workflow", lambda workflow=workflow: scope.run(workflow, {})),
                Side("graphlib and ThreadPoolExecutor", lambda recording=recording: recording.by_hand(pool)),
                unit="ms",
                rounds=min(bench.rounds, 5),
            )
            for name, shortest, aim in (
                ("the lower bound", recording.lower_bound, 1.1),
                ("its own order without overhead", recording.schedule(recording.height), None),
                ("an order that knows all times", recording.schedule(recording.remaining), None),
            ):
                ratios = sorted(taken / shortest for taken in ours)
                spread = (ratios[0], ratios[-1])
                bench.report(f"{claim}: of {name}", statistics.median(ratios), at_most=aim, spread=spread)


def main() -> None:
    with benchmark("workflow", rounds=9, description=__doc__, data=str(INSTANCES)) as bench:
        measure_steps(bench)
        measure_replay(bench, Path(bench.options.data))


if __name__ == "__main__":
    main()
