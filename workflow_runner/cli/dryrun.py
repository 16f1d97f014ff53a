"""What ``run`` would do, and would not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from workflow_runner import Flow, Workflow
from workflow_runner._workflow.history import RESUMABLE, status_of
from workflow_runner._workflow.resume import check_shape, new_run, places_of
from workflow_runner.cli import document
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.locks import Locked
from workflow_runner.cli.output import Reply
from workflow_runner.errors import IdempotencyConflict
from workflow_runner.store.base import RunRecord, Store

_WORDS = {
    "start": "would start a new run",
    "resume": "would go on with",
    "answer": "would answer with the result of",
    "skip": "would be skipped: locked by",
    "wait": "would wait: locked by",
    "fail": "would fail: locked by",
    "refuse": "would be refused by --resume never: there is",
}


@attrs.frozen(kw_only=True)
class Plan:
    """What would happen.

    Attributes:
        would: one of "start", "resume", "answer", "skip", "wait", "fail", "refuse".
        flow: the flow's name.
        key: the key, filled in.
        run: the run that is there under the key.
        status: that of this run.
        locked: who is at it.
        steps: of a workflow, or what a flow has recorded: by name whether it is recorded, so that it would not run.
    """

    would: str
    flow: str
    key: str | None = None
    run: RunRecord | None = None
    status: str | None = None
    locked: Locked | None = None
    steps: Mapping[str, bool] = attrs.field(factory=dict)


def plan(
    flow: Flow[Any, Any],
    input: Any,
    *,
    key: str | None,
    store: Store | None,
    locked: Locked | None,
    on_locked: str,
    never_resume: bool,
) -> Plan:
    """Decide as the run would.

    Args:
        flow: what would run.
        input: its input.
        key: its key, filled in.
        store: where it would be recorded, if that is there.
        locked: who holds its lock.
        on_locked: "skip", "wait" or "fail".
        never_resume: an unfinished run is not gone on with.

    Raises:
        InputError: the input does not fit the flow.
        SerializationError: the input cannot be stored.
        IdempotencyConflict: the key belongs to a run with another input.
        JournalMismatch: what that run has recorded does not fit the code.
    """
    input = flow.prepare(input)
    places = places_of(flow.steps) if isinstance(flow, Workflow) else {}
    nothing = Plan(would="start", flow=flow.name, key=key, locked=locked, steps=dict.fromkeys(places, False))
    record = store.find(flow.name, key) if store is not None and key is not None else None
    if record is None or store is None:
        return nothing if locked is None else attrs.evolve(nothing, would=on_locked)
    new = new_run("0", flow, input, key)
    if record.input_hash != new.input_hash:
        message = f"key {key!r} of flow {flow.name!r} is that of run {record.run_id}, which has another input"
        raise IdempotencyConflict(message)
    rows = {row.path for row in store.steps(record.run_id) if row.status != "failed"}
    if not places:  # of a flow: its children
        places = {path: path for path in sorted(rows) if "/" not in path and "[" not in path}
    there = attrs.evolve(
        nothing,
        run=record,
        status=status_of(record),
        steps={name: path in rows for name, path in places.items()},
    )
    if locked is not None or record.alive:
        return attrs.evolve(there, would=on_locked)
    if there.status not in RESUMABLE:
        return attrs.evolve(there, would="answer")
    check_shape(flow, record)
    return attrs.evolve(there, would="refuse" if never_resume else "resume")


def reply(plan: Plan, *, about: str) -> Reply:
    """What is said of a plan.

    Args:
        plan: what would happen.
        about: what the run is about: a date, a partition.
    """
    run_id = None if plan.run is None else plan.run.run_id
    run = f" run {run_id} ({plan.status})" if run_id is not None else ""
    if plan.would in ("skip", "wait", "fail"):
        run = f" {plan.locked.words}" if plan.locked is not None else f"{run}, which is being executed"

    def show() -> None:
        from workflow_runner.cli.render import new_console, new_table

        console = new_console()
        line = "  ".join(part for part in (plan.flow, about, f"{_WORDS[plan.would]}{run}") if part)
        console.print(line if plan.key is None else f"{line}  under key {plan.key}", soft_wrap=True)
        if plan.steps and plan.would in ("start", "resume"):
            table = new_table()
            table.add_column("step", overflow="fold")
            table.add_column("")
            for name, recorded in plan.steps.items():
                table.add_row(name, "recorded" if recorded else "to do")
            console.print(table)

    def data() -> Mapping[str, Any]:
        return {
            "schema": document.SCHEMA,
            "status": "dry-run",
            "exit_code": int(Exit.DONE),
            "would": plan.would,
            "flow": plan.flow,
            "key": plan.key,
            "run_id": run_id,
            "run_status": plan.status,
            "holder": None if plan.locked is None else json.loads(plan.locked.text),
            "steps": [{"name": name, "recorded": recorded} for name, recorded in plan.steps.items()],
        }

    return Reply(code=Exit.DONE, document=data, show=show, complain=lambda: None)
