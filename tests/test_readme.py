"""The README is true: its Python blocks run, and its commands are those that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
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
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, str(program)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=55
    )
    assert ran.returncode == 0, ran.stderr


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


def test_the_life_of_a_job(tmp_path: Path) -> None:
    """The blocks of the command's life, one after the other in one shell: run, kill, resume, backfill, list, draw."""
    (tmp_path / "workflow_runner").symlink_to(ROOT / "workflow_runner")
    (tmp_path / "life.sh").write_text("set -eu\n" + "echo '== next'\n".join(blocks("sh life")))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    known = {name: value for name, value in os.environ.items() if not name.startswith("WORKFLOW_RUNNER_")}
    ran = subprocess.run(
        ["bash", "life.sh"], cwd=tmp_path, env={**known, "PATH": path}, capture_output=True, text=True, timeout=55
    )
    assert ran.returncode == 0, ran.stderr
    first, crashed, resumed, _, looked = ran.stdout.split("== next\n")
    assert "market_close  2013-02-28  completed" in first
    assert "crashed" in crashed
    assert crashed.endswith("exit code 1\n")
    assert "market_close  2013-03-01  completed" in resumed
    assert "18 completed, 1 done before" in ran.stdout
    assert "and 15 more" in looked
    for words in ("volatility_pct", "step.completed", "history \N{MULTIPLICATION SIGN}5", "├─ read"):
        assert words in ran.stdout
    assert (tmp_path / "run.html").read_text().startswith("<!DOCTYPE html>")
