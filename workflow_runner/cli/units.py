"""The text of unit files that run a flow on a schedule: for systemd, cron and Kubernetes.

Each says in comments why it is as it is, for those who change it.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import attrs

from workflow_runner.cli import NAME
from workflow_runner.cli.calendars import on_calendar, portable
from workflow_runner.cli.exits import Exit
from workflow_runner.errors import InputError
from workflow_runner.store import sqlite_path

# What another start of the same command does not make better: the run has failed or is partial as its steps are, the
# deadline is over, or the command is wrong. What is left is interrupted, locked, or died of a signal.
FINAL = (
    Exit.FAILED,
    Exit.PARTIAL,
    Exit.USAGE,
    Exit.PARAMETERS,
    Exit.NOT_FOUND,
    Exit.BUG,
    Exit.CONFIGURATION,
    Exit.TIMEOUT,
)

# After its grace a run has so long to write down what it has, and to let its threads go. Seconds.
_MARGIN = 10


@attrs.frozen(kw_only=True)
class Job:
    """A command on a schedule.

    Attributes:
        name: of the units.
        target: what is run; for those who read the unit.
        program: how the command is called.
        words: its words.
        schedule: a cron expression with five fields.
        grace: seconds that a run has after SIGTERM.
        timezone: of the schedule, by its IANA name; None: the machine's.
        user: who runs it; None: whoever installs the unit.
        directory: in which it runs.
        image: of the container.
        store: the URL of its store.
    """

    name: str
    target: str
    program: tuple[str, ...]
    words: tuple[str, ...]
    schedule: str
    grace: float
    timezone: str | None = None
    user: str | None = None
    directory: str | None = None
    image: str | None = None
    store: str | None = None

    @property
    def stop(self) -> int:
        """Seconds from SIGTERM to SIGKILL."""
        return math.ceil(self.grace) + _MARGIN


# --- systemd ----------------------------------------------------------------------------------------------------------


def systemd(job: Job) -> dict[str, str]:
    """A service and its timer, by the names of their files. Needs systemd 244 or newer.

    Raises:
        InputError: the schedule is none, or cannot be expressed.
    """
    final = " ".join(str(int(code)) for code in FINAL)
    service = [
        f"# {job.name}.service. With {job.name}.timer it belongs into /etc/systemd/system, then:",
        f"#   systemctl daemon-reload && systemctl enable --now {job.name}.timer",
        "[Unit]",
        f"Description=workflow-runner {_value(job.target)}",
        "# A run that dies again and again is given up until the next time; a timer of every minute stays below this.",
        "StartLimitIntervalSec=600",
        "StartLimitBurst=20",
        "",
        "[Service]",
        "Type=oneshot",
        *([f"User={_value(job.user)}"] if job.user else []),
        *([f"WorkingDirectory={_value(job.directory)}"] if job.directory else []),
        *([f"Environment=TZ={job.timezone}"] if job.timezone else []),
        "ExecStart=" + " ".join(_word(word) for word in (*job.program, *job.words)),
        "",
        "# Interrupted, locked or killed: another start goes on with the run. After these codes it would end the same.",
        "# A partial run (3) counts as failed, so that somebody looks; if it is good enough: SuccessExitStatus=3",
        "Restart=on-failure",
        "RestartSec=30",
        f"RestartPreventExitStatus={final}",
        "",
        f"# SIGTERM goes to the command alone: {job.grace:g} s to let steps finish, and some to write it down.",
        "KillSignal=SIGTERM",
        "KillMode=mixed",
        f"TimeoutStopSec={job.stop}",
    ]
    timer = [
        f"# {job.name}.timer",
        "[Unit]",
        f"Description=Schedule of {job.name}.service: {job.schedule}",
        "",
        "[Timer]",
        *(f"OnCalendar={expression}" for expression in on_calendar(job.schedule, job.timezone)),
        "# What was missed while the machine was off is started once when it is on again.",
        "Persistent=true",
        "AccuracySec=1s",
        "",
        "[Install]",
        "WantedBy=timers.target",
    ]
    return {f"{job.name}.service": _lines(service), f"{job.name}.timer": _lines(timer)}


def _value(text: str) -> str:
    """A value of a setting, where ``%`` begins a specifier."""
    return _one_line(text).replace("%", "%%")


def _word(word: str) -> str:
    """A word of a command line: systemd.service(5), COMMAND LINES."""
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w@%$+=:,./-]+", word, flags=re.ASCII):
        return word
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return f'"{word}"'


# --- cron -------------------------------------------------------------------------------------------------------------


def cron(job: Job) -> dict[str, str]:
    """A crontab: of the user, or with ``user`` a file for /etc/cron.d.

    Raises:
        InputError: the schedule is none that every cron knows, or a word has a line break.
    """
    schedule = portable(job.schedule)
    command = shlex.join([*job.program, *job.words])
    if job.directory:
        command = f"cd {shlex.quote(job.directory)} && {command}"
    # cron takes a % for a line break unless there is a backslash before it, and takes that one away.
    command = _one_line(command).replace("\\%", "\\''%").replace("%", "\\%")
    path = [*dict.fromkeys([*(str(PurePosixPath(word).parent) for word in job.program[:1]), "/usr/bin", "/bin"])]
    where = f"the file /etc/cron.d/{job.name}" if job.user else "a line for crontab -e"
    text = [
        f"# workflow-runner {_one_line(job.target)}: {where}",
        "# cron mails what is printed: with --quiet that is a run that failed, and nothing else. It looks at no exit",
        "# code and makes up for nothing: catchup runs what was missed, resume goes on with what was interrupted.",
        "SHELL=/bin/sh",
        f"PATH={':'.join(path)}",
        " ".join([schedule, *([job.user] if job.user else []), command]),
    ]
    return {job.name: _lines(text)}


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def k8s(job: Job) -> dict[str, str]:
    """A CronJob. Needs Kubernetes 1.31 or newer, or 1.26 with the beta of ``podFailurePolicy``.

    Raises:
        InputError: the schedule is none that Kubernetes knows, or the store is a file without an absolute path.
    """
    claim = _claim(job)
    text = [
        f"# {job.name}.yaml: kubectl apply -f {job.name}.yaml",
        'apiVersion: "batch/v1"',
        'kind: "CronJob"',
        "metadata:",
        f"  name: {_text(job.name)}",
        "spec:",
        f"  schedule: {_text(portable(job.schedule))}",
        *(
            [f"  timeZone: {_text(job.timezone)}"]
            if job.timezone
            else ["  # without a timeZone the schedule is in the cluster's, mostly UTC"]
        ),
        "  # one at a time; a start that is late by more than an hour is left out",
        '  concurrencyPolicy: "Forbid"',
        "  startingDeadlineSeconds: 3600",
        "  jobTemplate:",
        "    spec:",
        "      backoffLimit: 3",
        "      podFailurePolicy:",
        "        rules:",
        "          # moved to another node: that is nobody's failure",
        '          - action: "Ignore"',
        "            onPodConditions:",
        '              - type: "DisruptionTarget"',
        "          # another pod would end the same; other codes, such as 75 (interrupted, locked), get another one",
        '          - action: "FailJob"',
        "            onExitCodes:",
        '              containerName: "run"',
        '              operator: "In"',
        f"              values: [{', '.join(str(int(code)) for code in FINAL)}]",
        "      template:",
        "        spec:",
        "          # podFailurePolicy needs Never: the job makes another pod, which goes on with the run under its key",
        '          restartPolicy: "Never"',
        f"          # SIGTERM, {job.grace:g} s to let steps finish, and some to write it down",
        f"          terminationGracePeriodSeconds: {job.stop}",
        "          containers:",
        '            - name: "run"',
        f"              image: {_text(job.image or '')}",
        *([f"              workingDir: {_text(job.directory)}"] if job.directory else []),
        *(
            [
                "              env:  # for dates such as today; the image needs tzdata",
                '                - name: "TZ"',
                f"                  value: {_text(job.timezone)}",
            ]
            if job.timezone
            else []
        ),
        f"              command: {_list(job.program)}",
        "              args:",
        *(f"                - {_text(_literal(word))}" for word in job.words),
        *claim,
    ]
    return {f"{job.name}.yaml": _lines(text)}


def _claim(job: Job) -> list[str]:
    """The volume of a store that is a file."""
    path = sqlite_path(job.store) if job.store else None
    if path is None:
        return []
    if not path.startswith("/") or str(PurePosixPath(path).parent) == "/":
        raise InputError(f"--store {job.store}: in a pod it is a file in a folder of its own, sqlite:////data/runs.db")
    return [
        "              volumeMounts:",
        '                - name: "store"',
        f"                  mountPath: {_text(str(PurePosixPath(path).parent))}",
        "          volumes:",
        "            # A claim that you make: ReadWriteOnce, on a disk; a network file system such as NFS is refused.",
        "            # Keep the pods on one node: from another one nobody sees that a killed one is dead.",
        '            - name: "store"',
        "              persistentVolumeClaim:",
        f"                claimName: {_text(job.name + '-store')}",
    ]


def _literal(word: str) -> str:
    """A word as it is: Kubernetes would fill in ``$(NAME)``."""
    return word.replace("$(", "$$(")


def _text(text: str) -> str:
    """A quoted scalar of YAML: as JSON writes it, and what cannot be printed escaped."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(_text(text) for text in texts)}]"


# --- all --------------------------------------------------------------------------------------------------------------


def file_name(text: str) -> str:
    """A name that all three take, made of any text: at most 46 letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:46].strip("-") or "job"


def program() -> tuple[str, ...]:
    """How this command is called with an absolute path: a unit has no PATH of a shell."""
    beside = Path(sys.executable).parent / NAME
    return (str(beside),) if os.access(beside, os.X_OK) else (sys.executable, "-m", "workflow_runner")


def _one_line(text: str) -> str:
    if not all(c.isprintable() for c in text):
        raise InputError(f"{text!r} has a line break or what cannot be printed, and stands in one line")
    return text


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"
