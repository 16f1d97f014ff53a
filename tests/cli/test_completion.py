"""The scripts that complete the command in a shell."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from workflow_runner.cli.commands import COMMANDS, EXAMPLES

from .conftest import LONG, Command


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    """By shell, as long as they are not made."""
    return {}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("workflow-runner ba", ["backfill"]),
        ("wf st", ["status"]),
        ("wf run --on-locked s", ["skip"]),
        ("workflow-runner list --st", ["--status", "--store"]),
        ("wf emit ", ["systemd", "cron", "k8s"]),
    ],
)
def test_bash_completes_commands_options_and_choices(
    command: Command, scripts: dict[str, str], line: str, expected: list[str]
) -> None:
    """Under both names."""
    if not scripts:
        scripts["bash"] = command("completion", "bash").out
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    program = (
        f"source /dev/stdin; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; "
        f"of=$(complete -p {words[0]}); of=${{of#*-F }}; ${{of%% *}}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    ran = subprocess.run(["bash", "-c", program], input=scripts["bash"], capture_output=True, text=True, timeout=LONG)
    assert (ran.stdout.split(), ran.stderr) == (expected, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_every_command(command: Command, shell: str) -> None:
    """As a document, too."""
    document = json.loads(command("completion", "--json", shell).out)
    assert document["shell"] == shell
    assert all(name in document["script"] for name in COMMANDS)
    assert document["script"].splitlines()[-1].split()[-1] in ("wf", "workflow-runner")


def test_the_example_works(command: Command, tmp_path: Path) -> None:
    """What stands before the file is a script; another shell is refused with those there are."""
    assert EXAMPLES["completion"] in command("completion", "--help").out
    words, _, file = EXAMPLES["completion"].partition(" > ")
    assert (command(*words.split()).code, file) == (0, "~/.workflow-runner.bash")
    refused = command("completion", "tcsh")
    assert (refused.code, '"bash", "zsh", "fish"' in refused.err) == (64, True)
