"""What a command says that has executed a run, or found somebody else at it. rich is imported when it is printed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from workflow_runner.cli import document, texts
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.output import Reply
from workflow_runner.cli.run import Outcome


def ended(
    outcome: Outcome,
    *,
    about: str = "",
    debug: bool = False,
    exit_on_interrupt: int | None = None,
    tail: Sequence[str] = (),
) -> Reply:
    """How a run ended, and what the process ends with.

    Args:
        outcome: the run.
        about: what it was about, for the last line: a date, a partition.
        debug: tracebacks.
        exit_on_interrupt: the exit code after a signal; None: to die of the signal.
        tail: the last lines of its log, if they have not been seen.
    """

    def show() -> None:
        if outcome.result is None and not outcome.steps and not sys.stdout.isatty():
            print("".join(text for text, _ in texts.ending(outcome, about)))
            return
        from workflow_runner.cli import render

        render.show(outcome, about=about)

    def complain() -> None:
        if outcome.error is None and not tail:
            return
        from workflow_runner.cli import render

        render.show_error(outcome, whole=debug, tail=tail)

    return Reply(
        code=outcome.code if exit_on_interrupt is None or outcome.interrupted_by is None else exit_on_interrupt,
        document=lambda: document.document(outcome, exit_on_interrupt=exit_on_interrupt),
        show=show,
        complain=complain,
        signal=outcome.interrupted_by if exit_on_interrupt is None else None,
        abrupt=outcome.code is Exit.TIMEOUT or outcome.interrupted_by is not None,
    )
