"""The README is true: its Python blocks run, and its commands are those that CI runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_every_python_block_runs(code: str, tmp_path: Path) -> None:
    """Each block is a program of its own that runs to its end, its assertions included."""
    program = tmp_path / "block.py"
    program.write_text(code)
    names = runpy.run_path(str(program))
    assert "Scope" in names


@pytest.mark.parametrize("name", ["main-job", "tests"])
def test_a_single_command_does_all_the_set_up(name: str) -> None:
    """The main job and the tests take one line each, which makes its own environment."""
    (command,) = blocks(f"sh {name}")
    assert command.count("\n") == 1
    assert command.startswith("python3 -m venv .venv && ")


def test_ci_runs_the_commands_of_the_readme() -> None:
    """CI takes both commands from the README instead of repeating them."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "$(readme main-job)" in script
    assert "$(readme tests)" in script
