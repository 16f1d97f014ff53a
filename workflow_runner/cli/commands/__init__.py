"""The commands, a file for each family. Each reads its words, calls plain functions, and returns what they give."""

COMMANDS = {
    "run": "run:run",
}
"""Where each command is, ``module:function``: one is imported when it is asked for."""

TAKES_TARGET = ("run",)
"""What follows the target of these commands is the flow's own."""

FLAGS = ("--json", "--debug", "--dry-run", "--progress", "--quiet", "--help")
"""The options of those commands that take no value."""
