"""What is known of a run before its target is imported: another process is at it, or it has been done."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import attrs

from workflow_runner._workflow.history import plain_text, process_of, status_of
from workflow_runner._workflow.result import StepRecord, StepRecords, StepStatus
from workflow_runner.cli import early
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.locks import Lock, Locked
from workflow_runner.cli.output import Reply
from workflow_runner.cli.run import Outcome
from workflow_runner.errors import RunNotFound
from workflow_runner.store import open_store
from workflow_runner.store.base import RunRecord


def turned_away(locked: Locked, target: str, store: str, *, fail: bool, quiet: bool) -> Reply:
    """What a command says that does not run, and the note in the store that it has not.

    Args:
        locked: who is at it.
        target: what was to be run.
        store: the store's URL.
        fail: it was to fail then; else the start is skipped.
        quiet: a skip is not worth a line.
    """
    trouble = None if fail else early.record_skip(store, target, locked.text)

    def complain() -> None:
        if fail or not quiet:
            print(early.sentence(target, locked.words, fail=fail), file=sys.stderr)
        if trouble is not None:
            print(early.not_recorded(trouble), file=sys.stderr)

    return Reply(
        code=Exit.TEMPORARY if fail else Exit.DONE,
        document=lambda: early.skipped(target, locked.text, fail=fail),
        show=lambda: None,
        complain=complain,
    )


def elsewhere(record: RunRecord) -> Locked:
    """The process that executes a run, as if it were a lock."""
    facts = {"owner": record.owner, "target": record.target, "key": record.idem_key, "run_id": record.run_id}
    return Locked(json.dumps(facts), f"{process_of(record.owner or '')}, run {record.run_id}")


def done_before(lock: Lock, store: str, mark: str) -> Outcome | None:
    """How the run ended that the last holder of a lock has executed, if it completed and was asked for the same.

    Args:
        lock: the lock of the run's key.
        store: the store's URL.
        mark: what is asked for now, as ``locks.digest`` makes it.

    Raises:
        StoreError: the store cannot be used.
    """
    text, left = lock.before
    run_id = json.loads(text).get("run_id") if left == mark else None
    if run_id is None:
        return None
    opened = open_store(store)
    try:
        record = opened.run(run_id)
    except RunNotFound:  # pruned
        return None
    finally:
        opened.close()
    if record.status != "completed":
        return None
    lock.tell(mark, run_id=run_id)
    return recorded(record)


def recorded(record: RunRecord) -> Outcome:
    """How a completed run ended, by its record alone: no class is imported that its results are of."""
    status = status_of(record)
    outcome = Outcome(
        flow=record.flow,
        run_id=record.run_id,
        status=status,
        code=Exit.PARTIAL if status == "partial" else Exit.DONE,
        duration=(record.finished_at or 0.0) - (record.started_at or 0.0),
        answered=True,
    )
    if record.shape is None:
        return attrs.evolve(outcome, result=plain_text(record.result))
    result = json.loads(record.result or "{}")
    steps = tuple(_step(step) for step in result["steps"])
    outputs = [step.output for step in steps if step.status is StepStatus.COMPLETED and not _is_choice(step)]
    return attrs.evolve(
        outcome,
        result=next((output for output in reversed(outputs) if output is not None), None),
        outputs=plain_text(json.dumps(result["context"]["step_outputs"])),
        duration=result["duration"],
        steps=steps,
    )


def _step(data: Mapping[str, Any]) -> StepRecord:
    """As ``StepRecord.from_dict``, with its output as plain data."""
    step = StepRecord.from_dict({**data, "output": None, "events": [], "steps": []})
    output = plain_text(json.dumps(data["output"]))
    return attrs.evolve(step, output=output, steps=StepRecords(_step(inner) for inner in data["steps"]))


def _is_choice(step: StepRecord) -> bool:
    """Whether its output says which way it went, which is no result; of a record alone that can only be guessed."""
    return isinstance(step.output, dict) and list(step.output) == ["branch"]
