"""What the options are that nobody gives: the environment, then ``[tool.workflow_runner]`` of pyproject.toml.

An option ``--store`` of any command is ``WORKFLOW_RUNNER_STORE`` in the environment and ``store`` in the table. Needs
nothing that takes time to import: the lock of a run is looked at before anything else.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from workflow_runner.cli.exits import CommandError

PREFIX = "WORKFLOW_RUNNER_"


def defaults() -> dict[str, Any]:
    """The options that are set outside of the command line, by their names with dashes.

    Raises:
        CommandError: pyproject.toml cannot be read.
    """
    return {**project()[1], **_environment(os.environ)}


def check(known: Collection[str]) -> None:
    """Refuse what is no option of any command. The environment may hold more: it is not ours alone.

    Args:
        known: the names of all options, with dashes.

    Raises:
        CommandError: a setting in the table is unknown; names near ones.
    """
    file, table = project()
    for name in table:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(sorted(known))}"
            raise _error(f"{file}: [tool.workflow_runner] has an unknown setting {name!r}", hint)


def variable_of(option: str) -> str:
    """The environment variable of an option."""
    return PREFIX + option.upper().replace("-", "_")


def _environment(environment: Mapping[str, str]) -> dict[str, Any]:
    found = {name.removeprefix(PREFIX): value for name, value in environment.items() if name.startswith(PREFIX)}
    return {name.lower().replace("_", "-"): value for name, value in found.items() if value}


def project() -> tuple[str, dict[str, Any]]:
    """The nearest pyproject.toml, in the working directory or above, and its table."""
    folder = os.getcwd()
    while True:
        file = os.path.join(folder, "pyproject.toml")
        if os.path.isfile(file):
            return file, _table(file)
        above = os.path.dirname(folder)
        if above == folder:
            return "", {}
        folder = above


def _table(file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as opened:
            content = opened.read()
        if b"workflow_runner" not in content:  # most have nothing for us: reading TOML costs more than all the rest
            return {}
        import tomllib

        table = tomllib.loads(content.decode("utf-8")).get("tool", {}).get("workflow_runner", {})
    except (OSError, ValueError) as error:
        raise _error(f"{file} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise _error(f"{file}: [tool.workflow_runner] is no table")
    return {name.replace("_", "-"): value for name, value in table.items()}


def _error(message: str, hint: str | None = None) -> CommandError:
    from workflow_runner.cli.exits import CommandError, Exit

    return CommandError(Exit.CONFIGURATION, message, hint=hint)
