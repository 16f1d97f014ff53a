"""``emit``: unit files that run a flow on a schedule."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import cyclopts
from cyclopts import Parameter
from rich.text import Text

from workflow_runner._workflow.schedule import zone
from workflow_runner.cli import NAME, document, params, units
from workflow_runner.cli.commands.run import Recording
from workflow_runner.cli.early import business_date
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.inputs import input_of, key_of
from workflow_runner.cli.options import (
    Debug,
    Here,
    Json,
    Partitions,
    Seconds,
    checked_partition,
    checked_tags,
    checked_timeout,
)
from workflow_runner.cli.output import Reply
from workflow_runner.cli.render import new_console
from workflow_runner.cli.target import load
from workflow_runner.errors import InputError

Kind = Literal["systemd", "cron", "k8s"]

_UNITS: dict[Kind, Callable[[units.Job], dict[str, str]]] = {
    "systemd": units.systemd,
    "cron": units.cron,
    "k8s": units.k8s,
}

_RECORDING = Recording()
_HERE = Here()

# Which of the options are for one kind only.
_ONLY: dict[str, tuple[Kind, ...]] = {
    "user": ("systemd", "cron"),
    "image": ("k8s",),
    "timezone": ("systemd", "k8s"),
}


def emit(
    kind: Kind,
    target: str,
    /,
    *parameters: str,
    schedule: Annotated[str, Parameter(metavar="CRON")],
    name: str | None = None,
    user: str | None = None,
    image: str | None = None,
    working_directory: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    timezone: Annotated[str | None, Parameter(metavar="NAME")] = None,
    into: Annotated[Path | None, Parameter(metavar="FOLDER")] = None,
    unchecked: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    catchup: Literal["all", "latest"] | None = None,
    as_of_date: Annotated[str | None, Parameter(metavar="DATE")] = None,
    partition: Partitions = None,
    timeout: Seconds = None,
    recording: Recording = _RECORDING,
    here: Here = _HERE,
    json: Json = False,
    debug: Debug = False,
) -> Reply | None:
    """Print unit files that run a flow on a schedule.

    They are for systemd (a service and its timer), cron (a crontab) or
    Kubernetes (k8s, a CronJob), with what these must know of exit codes and
    signals, and say in comments why. The options of "run" go into them; the
    flow's own parameters come last, after "--".

    Args:
        kind: systemd, cron or k8s.
        target: What to run, as module:attribute.
        parameters: The flow's own, after "--".
        schedule: When, as in a crontab: five fields.
        name: Of the units; default: made of the flow's.
        user: Who runs it; with cron the file is for /etc/cron.d then.
        image: The container's image, in which workflow-runner is installed; k8s needs it.
        working_directory: Where it runs; default: this one, with k8s the image's.
        timezone: Where the schedule is meant, such as America/New_York; default: the machine's. Not with cron.
        into: Write the files there instead of printing them.
        unchecked: Do not import the flow to check its parameters: it is not on this machine.
        catchup: Run what was missed as well, each under its own date, in a store: all of it, or the latest.
        as_of_date: The business date: today or yesterday, seen from the start, or one such as 2013-02-28.
        timeout: How long it may run.
    """
    given = {"user": user, "image": image, "timezone": timezone}
    for option, kinds in _ONLY.items():
        if given[option] is not None and kind not in kinds:
            raise CommandError(Exit.USAGE, f"--{option} is for {' and '.join(kinds)}, not for {kind}")
    if kind == "k8s" and image is None:
        raise CommandError(Exit.USAGE, "--image is missing", hint="such as --image registry.example.com/jobs:1.4")
    if recording.key is not None and recording.store is None:
        raise CommandError(Exit.USAGE, "--key needs a --store", hint="such as --store sqlite:////var/lib/jobs/runs.db")
    once = {"as_of_date": as_of_date, "partition": partition, **_changed(recording)}
    if catchup is not None:
        _check_catchup(once)
    here.checked()
    checked_timeout(timeout)
    checked_tags(recording.tag)
    directory = os.path.abspath(working_directory or ".")
    flow: str | None = target.rpartition(":")[2].rpartition(".")[2]
    if not unchecked:
        with _in(directory):
            date = "today" if catchup else as_of_date
            flow = _check(target, parameters, date, partition, recording.key, command=f"{NAME} emit {kind}")
    if flow is None:  # the help page of its parameters was asked for
        return None
    if kind == "cron":
        here = attrs.evolve(here, quiet=True)
    elif here.exit_on_interrupt is None:
        here = attrs.evolve(here, exit_on_interrupt=int(Exit.TEMPORARY))
    options = _words({**once, "timeout": timeout, **_changed(here), "grace": here.grace})
    if catchup is None:
        words = ["run", *options, target, *parameters]
    else:
        times = _words({"schedule": schedule, "timezone": timezone, "policy": catchup})
        words = ["catchup", *times, *options, target, *(["--", *parameters] if parameters else [])]
    with _usage():
        job = units.Job(
            name=_name(name, flow),
            target=target,
            program=(NAME,) if kind == "k8s" else units.program(),
            words=tuple(words),
            schedule=schedule,
            grace=here.grace,
            timezone=None if timezone is None else zone(timezone).key,
            user=user,
            directory=None if kind == "k8s" and working_directory is None else directory,
            image=image,
            store=recording.store,
        )
        files = _UNITS[kind](job)
    written = [] if into is None else _write(files, into)
    return Reply(
        code=Exit.DONE,
        document=lambda: {
            "schema": document.SCHEMA,
            "kind": kind,
            "command": [*job.program, *job.words],
            "files": files,
            "written": written,
        },
        show=partial(_show, files, written),
        complain=lambda: None,
    )


def _check_catchup(options: Mapping[str, Any]) -> None:
    """It dates, keys and locks the runs itself."""
    if options.get("store") is None:
        raise CommandError(
            Exit.USAGE, "--catchup needs a --store", hint="such as --store sqlite:////var/lib/jobs/runs.db"
        )
    wrong = [name for name, value in options.items() if value is not None and name not in ("store", "key")]
    if wrong:
        raise CommandError(Exit.USAGE, f"--{wrong[0].replace('_', '-')} is not for --catchup")


@contextmanager
def _in(directory: str) -> Iterator[None]:
    """Be in a folder, as the unit will be; here, if it is on another machine."""
    with chdir(directory if os.path.isdir(directory) else "."):
        yield


def _check(
    target: str,
    parameters: Sequence[str],
    as_of_date: str | None,
    partition: Sequence[str] | None,
    key: str | None,
    *,
    command: str,
) -> str | None:
    """The name of the flow, if it may be run like this; None if its help page was asked for.

    Raises:
        CommandError: what ``run`` would say.
    """
    flow = load(target)
    given = params.read(flow, parameters, command=f"{command} {target} --schedule CRON --")
    if given is None:
        return None
    date = None if as_of_date is None else _date(as_of_date)
    coordinates = checked_partition(partition)
    input_of(flow, given(), as_of_date=date, partition=coordinates)
    if key is not None:
        key_of(key, flow.name, date, coordinates)
    return flow.name


def _date(text: str) -> dt.date:
    try:
        return business_date(text) or dt.date.fromisoformat(text)
    except ValueError:
        message = f"--as-of-date: expected today, yesterday or a date such as 2013-02-28, got {text!r}"
        raise CommandError(Exit.USAGE, message) from None


def _changed(options: attrs.AttrsInstance) -> dict[str, Any]:
    """The options that are not as they are without being given."""
    fields = attrs.fields(type(options))
    return {f.name: getattr(options, f.name) for f in fields if getattr(options, f.name) != f.default}


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    """Options as they stand on a command line."""
    for name, value in options.items():
        option = cyclopts.default_name_transform(name)
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        elif value is not None:
            for text in value if isinstance(value, list) else [value]:
                shown = f"{text:g}" if isinstance(text, float) else str(text)
                yield from [f"--{option}={shown}"] if shown.startswith("-") else [f"--{option}", shown]


def _name(name: str | None, flow: str) -> str:
    if name is not None and units.file_name(name) != name:
        message = f"--name {name!r}: a name has at most 46 small letters, digits and dashes"
        raise CommandError(Exit.USAGE, message, hint=f"such as {units.file_name(name)}")
    return name or units.file_name(flow)


@contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise CommandError(Exit.USAGE, str(error)) from error


def _write(files: Mapping[str, str], folder: Path) -> list[str]:
    try:
        for name, text in files.items():
            (folder / name).write_text(text, "utf-8")
    except OSError as error:
        message = f"--into {folder}: {error.strerror}"
        raise CommandError(Exit.CONFIGURATION, message, hint="a folder that this user may write to") from error
    return [str((folder / name).absolute()) for name in files]


def _show(files: Mapping[str, str], written: Sequence[str]) -> None:
    console = new_console()
    for path in written:
        console.print(Text(f"wrote {path}"), soft_wrap=True)
    if not written:
        console.print(Text("\n".join(files.values())), soft_wrap=True, end="")
