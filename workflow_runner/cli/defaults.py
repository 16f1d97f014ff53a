"""What the options are that nobody gives: the environment, then ``[tool.workflow_runner]`` of pyproject.toml.

An option ``--store`` of any command is ``WORKFLOW_RUNNER_STORE`` in the environment and ``store`` in the table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflow_runner.cli.exits import CommandError, Exit

PREFIX = "WORKFLOW_RUNNER_"


def defaults() -> dict[str, Any]:
    """The options that are set outside of the command line, by their names with dashes.

    Raises:
        CommandError: pyproject.toml cannot be read.
    """
    return {**_project(), **_environment(os.environ)}


def _environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    return {name.lower().replace("_", "-"): value for name, value in found.items() if value}


def _project() -> dict[str, Any]:
    """The table of the nearest pyproject.toml, in the working directory or above."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        file = folder / "pyproject.toml"
        if file.is_file():
            return _table(file)
    return {}


def _table(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text("utf-8")
        if "workflow_runner" not in text:  # most have nothing for us: reading TOML costs more than all the rest
            return {}
        import tomllib

        table = tomllib.loads(text).get("tool", {}).get("workflow_runner", {})
    except (OSError, ValueError) as error:
        raise CommandError(Exit.CONFIGURATION, f"{file} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise CommandError(Exit.CONFIGURATION, f"{file}: [tool.workflow_runner] is no table")
    return {name.replace("_", "-"): value for name, value in table.items()}
