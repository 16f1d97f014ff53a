"""What a flow is given by the options of the runner: its context, and the key of its run."""

from __future__ import annotations

import datetime as dt
from typing import Any

from workflow_runner import Flow, PartitionKey, WorkflowContext
from workflow_runner.cli import params
from workflow_runner.cli.exits import CommandError, Exit


def input_of(
    flow: Flow[Any, Any],
    given: Any,
    *,
    as_of_date: dt.date | None = None,
    partition: PartitionKey | None = None,
    batch_id: str | None = None,
    trace_id: str | None = None,
) -> Any:
    """The input of a flow.

    Args:
        flow: what is run.
        given: its own parameters, as ``params.read`` gives them.
        as_of_date: the business date; this and what follows is for flows that work on a `WorkflowContext`.
        partition: the partition.
        batch_id: the batch that the run belongs to.
        trace_id: the trace that the run belongs to.

    Raises:
        CommandError: the flow has an input of its own and no place for these.
    """
    options: dict[str, Any] = {
        "as_of_date": as_of_date,
        "partition": partition,
        "batch_id": batch_id,
        "trace_id": trace_id,
    }
    there = {name: value for name, value in options.items() if value is not None}
    if params.takes_context(flow):
        return WorkflowContext.new(params=given, **there)
    if there:
        option = next(iter(there)).replace("_", "-")
        raise CommandError(Exit.USAGE, f"--{option} is for workflows; {flow.name!r} is a flow with an input of its own")
    return given


def key_of(template: str, flow: str, as_of_date: dt.date | None, partition: PartitionKey | None) -> str:
    """The key that a template such as ``{flow}/{as_of_date}`` means.

    Raises:
        CommandError: the template names something that is not there.
    """
    fields = {"flow": flow, "as_of_date": as_of_date, "partition": partition}
    known = {name: value for name, value in fields.items() if value is not None}
    try:
        return template.format(**known)
    except (KeyError, IndexError, ValueError) as error:
        there = ", ".join(f"{{{name}}}" for name in known)
        message = f"--key {template!r} cannot be filled in: {error}"
        raise CommandError(Exit.USAGE, message, hint=f"there is {there}") from error
