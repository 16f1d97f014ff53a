"""Between runs and records: what is written of a run, and how it is read and judged when somebody goes on with it.

Decided in plain functions over records; the scope acts on what they say.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workflow_runner._core import codec
from workflow_runner._core.flow import Arguments, Flow, FunctionFlow
from workflow_runner._core.offload import find, import_path
from workflow_runner._core.traceparent import current_trace_id
from workflow_runner._workflow.context import CheckpointState, WorkflowContext
from workflow_runner._workflow.definition import Step, Workflow
from workflow_runner._workflow.journal import check_size, identity_of, restored, stored
from workflow_runner._workflow.lookup import target_of
from workflow_runner._workflow.result import WorkflowResult, describe
from workflow_runner.errors import (
    DefinitionError,
    ExecutionCancelled,
    InputError,
    JournalMismatch,
    RecordedFailure,
)
from workflow_runner.store.base import NewRun, RunRecord, StepRow


def new_run(
    run_id: str, flow: Flow[Any, Any], input: Any, key: str | None, tags: Mapping[str, Any] | None = None
) -> NewRun:
    where = f"the input of flow {flow.name!r}"
    batch_id = partition = as_of = None
    if isinstance(input, WorkflowContext):
        batch_id, partition, as_of = input.batch_id, input.partition, input.as_of_date
    if isinstance(flow, Workflow):
        text = check_size(input.to_json(), where)
    else:
        value = (input.args, input.kwargs) if isinstance(input, Arguments) else input
        text = check_size(codec.dumps(value, where=where), where)
    return NewRun(
        run_id=run_id,
        flow=flow.name,
        target=_target(flow, input),
        version=flow.version,
        shape=json.dumps(_shape(flow.steps)) if isinstance(flow, Workflow) else None,
        idem_key=key,
        input=text,
        input_hash=codec.digest(identity_of(input), where=where),
        batch_id=batch_id,
        partition=None if partition is None else str(partition),
        as_of=None if as_of is None else as_of.isoformat(),
        trace_id=flow.trace_id(input) or current_trace_id(),
        tags=json.dumps({name: str(value) for name, value in tags.items()}, ensure_ascii=False) if tags else None,
    )


def _target(flow: Flow[Any, Any], input: Any) -> str | None:
    if not isinstance(flow, FunctionFlow):
        return target_of(flow)
    try:
        return import_path(input.function)
    except DefinitionError:  # a function of a function, or a method: nobody can find it by a path
        return None


def recorded_input(flow: Flow[Any, Any], record: RunRecord) -> Any:
    if isinstance(flow, Workflow):
        return WorkflowContext.from_json(record.input)
    input = restored(record.input)
    if isinstance(flow, FunctionFlow) and record.target is not None:
        return Arguments(find(record.target), *input)
    return input


def result_text(flow: Flow[Any, Any], value: Any) -> str:
    if isinstance(flow, Workflow):
        return json.dumps(value.to_dict(), allow_nan=False)
    return stored(value, f"the result of flow {flow.name!r}")


def error_text(error: BaseException) -> str:
    return json.dumps(describe(error))


def outcome(flow: Flow[Any, Any], record: RunRecord) -> Any:
    """What a run that has ended elsewhere, or before, has ended with."""
    if record.status == "completed":
        if isinstance(flow, Workflow):
            return WorkflowResult.from_dict(json.loads(record.result or "null"))
        return restored(record.result)
    error = json.loads(record.error or "null") or {}
    message = (
        f"run {record.run_id} of flow {record.flow!r} {record.status}: {error.get('type')}: {error.get('message')}"
    )
    if record.status == "cancelled":
        raise ExecutionCancelled(message)
    raise RecordedFailure(message)


def _shape(steps: Iterable[Step], above: str = "") -> list[str]:
    """The names of all steps, in order; those of a workflow inside a step below the name of that step."""
    names = []
    for step in steps:
        names.append(above + step.name)
        for _, branch in step.branches():
            names += _shape(branch, above)
        if isinstance(step.body, Workflow):
            names += _shape(step.body.steps, f"{above}{step.name}/")
    return names


def _levels(shape: Iterable[str]) -> dict[str, list[str]]:
    levels: dict[str, list[str]] = {}
    for name in shape:
        levels.setdefault(name.rpartition("/")[0], []).append(name)
    return levels


def check_shape(flow: Flow[Any, Any], record: RunRecord) -> None:
    """A step added at the end of its workflow fits; inserted, renamed, removed or reordered ones do not."""
    if flow.name != record.flow:
        raise JournalMismatch(f"run {record.run_id} is one of flow {record.flow!r}, and this is flow {flow.name!r}")
    if record.shape is None or not isinstance(flow, Workflow):
        return
    recorded, now = list(json.loads(record.shape)), _shape(flow.steps)
    levels = _levels(now)
    if any(levels.get(above, [])[: len(names)] != names for above, names in _levels(recorded).items()):
        raise JournalMismatch(
            f"run {record.run_id}: the steps of workflow {flow.name!r} have changed."
            f"\n  recorded: {', '.join(recorded)}\n  now:      {', '.join(now)}"
            "\nGo on with allow_changed=True if what is recorded still holds."
        )


def check_override(flow: Flow[Any, Any], input: Any, params: Mapping[str, Any]) -> None:
    if not isinstance(input, WorkflowContext):
        raise InputError(f"flow {flow.name!r} is no workflow and has no params to override")
    codec.dumps(dict(params), where="params_override")
    flow.prepare(input.with_updates(params))


def paths_from(flow: Flow[Any, Any], start: str, rows: Sequence[StepRow], begun: Iterable[str] = ()) -> list[str]:
    """The paths of a step (of a flow: of a child), of all below it, and of all that was recorded after its first row.

    Args:
        begun: paths that were noted when they began; those of the step are among the answer.
    """
    places = places_of(flow.steps) if isinstance(flow, Workflow) else {start: start}
    if start not in places:
        raise JournalMismatch(f"workflow {flow.name!r} has no step {start!r}; there are {', '.join(places)}")
    noted = [path for path in begun if _inside(path, places[start])]
    first = min((row.seq for row in rows if _inside(row.path, places[start])), default=None)
    if first is not None:
        return [*noted, *(row.path for row in rows if row.seq >= first)]
    if not isinstance(flow, Workflow):
        raise JournalMismatch(f"flow {flow.name!r} has recorded nothing at {start!r}")
    later = list(places.values())[list(places).index(start) :]
    return [*noted, *(row.path for row in rows if any(_inside(row.path, place) for place in later))]


def places_of(steps: Iterable[Step], above: str = "") -> dict[str, str]:
    """The path of every step by its name: those of a branch stand below the choice."""
    places = {}
    for step in steps:
        places[step.name] = above + step.name
        for _, branch in step.branches():
            places |= places_of(branch, f"{above}{step.name}/")
    return places


def _inside(path: str, place: str) -> bool:
    return path == place or path.startswith((f"{place}/", f"{place}["))


def checkpoint(run_id: str, rows: list[StepRow]) -> CheckpointState | None:
    steps = [row for row in rows if row.kind == "step"]
    if not steps:
        return None
    return CheckpointState(
        run_id=run_id,
        step_name=steps[-1].path.rsplit("/", 1)[-1],
        completed_steps=tuple(row.path.rsplit("/", 1)[-1] for row in steps),
        created_at=dt.datetime.fromtimestamp(steps[-1].finished_at, dt.UTC),
    )
