"""``completion``: what makes a shell complete commands, options and their choices."""

from __future__ import annotations

import sys
from typing import Literal

from workflow_runner.cli import ALIAS, NAME, document
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.options import Debug, Json
from workflow_runner.cli.output import Reply

# cyclopts makes a script for one name; these let it complete the other one, and zsh's be read by `source`.
_ALSO = {
    "bash": f"complete -F _{NAME.replace('-', '_')} {ALIAS}",
    "zsh": f"compdef _cyclopts_{NAME} {NAME} {ALIAS}",
    "fish": f"complete -c {ALIAS} -w {NAME}",
}


def completion(shell: Literal["bash", "zsh", "fish"], /, *, json: Json = False, debug: Debug = False) -> Reply:
    """Print what makes a shell complete commands, options and choices.

    Write it to a file, and read that with "source" at the end of ~/.bashrc
    or ~/.zshrc; with fish the file is
    ~/.config/fish/completions/workflow-runner.fish. Again after an upgrade.

    Args:
        shell: bash, zsh or fish.
    """
    from workflow_runner.cli.dispatch import make_app

    script = make_app(whole=True).generate_completion(prog_name=NAME, shell=shell) + f"{_ALSO[shell]}\n"
    return Reply(
        code=Exit.DONE,
        document=lambda: {"schema": document.SCHEMA, "shell": shell, "script": script},
        show=lambda: sys.stdout.write(script),
    )
