"""What the doctor says: of this installation, and how findings are shown."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from rich.text import Text

from workflow_runner import __version__
from workflow_runner.cli.defaults import defaults
from workflow_runner.cli.render import cell, new_console, new_table
from workflow_runner.store.doctor import Finding, Level

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}

_NEEDED = ("attrs", "cattrs", "structlog", "cyclopts", "rich")
_OPTIONAL = {"tenacity": "retries", "cronsim": "catchup and emit"}


def installation() -> list[Finding]:
    """Look at Python, the packages, and the defaults in force.

    Raises:
        CommandError: pyproject.toml cannot be read.
    """
    installed = {name: found for name in (*_NEEDED, *_OPTIONAL) if (found := _version(name))}
    packages = ", ".join(f"{name} {number}" for name, number in {"workflow-runner": __version__, **installed}.items())
    given = ", ".join(f"{name} = {_without_password(str(value))}" for name, value in sorted(defaults().items()))
    return [
        Finding(name="Python", what=f"{platform.python_version()}, {sys.executable}"),
        Finding(name="packages", what=packages),
        *(_missing(name) for name in _OPTIONAL if name not in installed),
        Finding(name="defaults", what=given or "none in the environment or pyproject.toml"),
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _missing(name: str) -> Finding:
    what = f"{name} is not installed: {_OPTIONAL[name]} need it"
    return Finding(name="packages", level=Level.WARNING, what=what, remedy="pip install 'workflow-runner[cli]'")


def _without_password(value: str) -> str:
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", value)


def show(found: Sequence[Finding], done: Sequence[str]) -> None:
    """Print findings, for people.

    Args:
        found: what was looked at.
        done: what was mended.
    """
    console = new_console()
    table = new_table()
    for heading in ("", "what", "found"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "found")
    for finding in found:
        text = Text(cell(finding.what))
        if finding.remedy:
            text.append(f"\n{cell(finding.remedy)}", "dim")
        table.add_row(Text(finding.level, _STYLES[finding.level]), Text(finding.name), text)
    console.print(table)
    for line in done:
        console.print(Text(f"fixed: {line}"))
