"""What a flow is given by the options of the runner: its context, parameters from a file, and the key of its run."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
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


def read_params(file: str) -> dict[str, Any]:
    """The object in a file of parameters.

    Args:
        file: its path: TOML if it ends in ``.toml``, JSON else; ``-`` is JSON on stdin.

    Raises:
        CommandError: the file cannot be read, or there is no object in it.
    """
    where = "--params: stdin" if file == "-" else f"--params: {file}"
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandError(Exit.PARAMETERS, f"{where} cannot be read: {reason}") from error
    try:
        if file.endswith(".toml"):
            import tomllib

            return tomllib.loads(text)
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "TOML" if file.endswith(".toml") else "JSON"
        raise CommandError(Exit.PARAMETERS, f"{where} is no {kind}: {error}") from error
    if not isinstance(data, dict):
        raise CommandError(
            Exit.PARAMETERS, f"{where}: expected an object of parameters by name", hint='such as {"limit": 5}'
        )
    return data


def key_of(
    template: str,
    flow: str,
    as_of_date: dt.date | None,
    partition: PartitionKey | None,
    *,
    scheduled_at: dt.datetime | None = None,
) -> str:
    """The key that a template such as ``{flow}/{as_of_date}`` means.

    Args:
        scheduled_at: when the run should have begun; written in UTC, so that it is the same in every time zone.

    Raises:
        CommandError: the template names something that is not there.
    """
    at = None if scheduled_at is None else f"{scheduled_at.astimezone(dt.UTC):%Y-%m-%dT%H:%MZ}"
    fields = {"flow": flow, "as_of_date": as_of_date, "partition": partition, "scheduled_at": at}
    known = {name: value for name, value in fields.items() if value is not None}
    try:
        return template.format(**known)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        there = ", ".join(f"{{{name}}}" for name in known)
        message = f"--key {template!r} cannot be filled in: {error}"
        raise CommandError(Exit.USAGE, message, hint=f"there is {there}") from error
