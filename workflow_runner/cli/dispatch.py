"""From words to a command, and from what it says to an exit code."""

from __future__ import annotations

import difflib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from functools import partial

import cyclopts

from workflow_runner import __version__
from workflow_runner.cli import NAME, document, params, render
from workflow_runner.cli.commands import COMMANDS, FLAGS, TAKES_TARGET
from workflow_runner.cli.defaults import defaults
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.output import Reply, give, stdout_for
from workflow_runner.cli.signals import die_of
from workflow_runner.cli.target import EXAMPLE


def dispatch(words: Sequence[str]) -> int:
    """Run the command that the words name; the one place where an error becomes a message and an exit code.

    Args:
        words: without the name of the program.

    Returns:
        The exit code.
    """
    words = _fence_target(words)
    options = words[: words.index("--")] if "--" in words else words
    with stdout_for(only_us="--json" in options) as stdout:
        try:
            reply: Reply | None = _app()(words)
            if reply is not None:
                give(reply, stdout, as_json="--json" in options)
        except KeyboardInterrupt:
            return die_of(signal.SIGINT)
        except Exception as error:
            if "--debug" in options:
                traceback.print_exception(error.__cause__ or error)
            reply = _refusal(error, words)
            give(reply, stdout, as_json="--json" in options)
    if reply is None:  # a help page has been printed
        return Exit.DONE
    return die_of(reply.signal) if reply.signal is not None else _leave(reply.code)


def _app() -> cyclopts.App:
    app = params.new_app(
        NAME,
        help="Run flows and workflows in this process, on threads.",
        help_format="plaintext",
        help_epilogue=f"Example:\n\n  {NAME} run --as-of-date 2013-02-28 \\\n    {EXAMPLE}",
        version=__version__,
        version_flags=["--version"],
        config=cyclopts.config.Dict(
            defaults(), use_commands_as_keys=False, allow_unknown=True, source="the environment or pyproject.toml"
        ),
    )
    for name, place in COMMANDS.items():
        app.command(f"{__package__}.commands.{place}", name=name)
    return app


def _refusal(error: Exception, words: Sequence[str]) -> Reply:
    """What to say when nothing was run."""
    if isinstance(error, cyclopts.CycloptsError):
        error = CommandError(Exit.USAGE, params.explain(error, words), hint=_usage_hint(words))
    elif not isinstance(error, CommandError):
        hint = "this is a bug of ours; --debug shows the traceback"
        error = CommandError(Exit.BUG, f"{type(error).__name__}: {error}", hint=hint)
    return Reply(
        code=error.code,
        document=partial(document.refusal, error),
        show=lambda: None,
        complain=partial(render.show_refusal, error),
    )


def _usage_hint(words: Sequence[str]) -> str:
    if ":" in words[0]:
        return f"did you mean: {NAME} run {' '.join(words)}"
    if words[0] in COMMANDS:
        return f"see {NAME} {words[0]} --help"
    near = difflib.get_close_matches(words[0], COMMANDS, n=1)
    return f"did you mean: {NAME} {' '.join([*near, *words[1:]])}" if near else f"see {NAME} --help"


def _fence_target(words: Sequence[str]) -> list[str]:
    """Put a ``--`` before the target: what follows it is the flow's, whatever it looks like."""
    words = list(words)
    if not words or words[0] not in TAKES_TARGET:
        return words
    position = 1
    while position < len(words) and words[position].startswith("-"):
        if words[position] == "--":
            return words
        position += 1 if words[position] in FLAGS or "=" in words[position] else 2
    return [*words[:position], "--", *words[position:]]


def _leave(code: Exit) -> int:
    """End at the deadline, also if the flow has started threads of its own that the interpreter would wait for."""
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    if code is Exit.TIMEOUT and others:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    return code
