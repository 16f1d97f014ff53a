"""What a command tells while it executes runs: logs, their capture in the store, progress, pings; or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from workflow_runner import Extension, FlowExecution, Scope
from workflow_runner._core import secrets
from workflow_runner.cli import logs
from workflow_runner.cli.ending import ended
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.output import Reply, nothing
from workflow_runner.cli.run import Outcome, Watch, outcome_of
from workflow_runner.extensions.capture import Capture

if TYPE_CHECKING:
    from workflow_runner.cli.options import Here
    from workflow_runner.cli.pings import Pings


@attrs.frozen(kw_only=True)
class Telling:
    """Who is told of a run in this process.

    Attributes:
        extensions: for its scope.
        watch: for ``run_here``.
        quiet: nothing is printed unless the run fails.
        tail: the last lines of the log, as they come.
    """

    extensions: Sequence[Extension]
    watch: Sequence[Watch]
    quiet: bool
    tail: Sequence[str]

    def ended(
        self, outcome: Outcome, *, about: str = "", debug: bool = False, exit_on_interrupt: int | None = None
    ) -> Reply:
        """What is said of a run that has ended, as by ``ending.ended``; if quiet, nothing of one that is done."""
        tail = self.tail if self.quiet else ()
        reply = ended(outcome, about=about, debug=debug, exit_on_interrupt=exit_on_interrupt, tail=tail)
        if not self.quiet or reply.code == Exit.PARTIAL:
            return reply
        if reply.code == Exit.DONE:
            return attrs.evolve(reply, show=nothing, complain=nothing)
        return attrs.evolve(reply, show=nothing)


def telling(here: Here, *, json: bool) -> Telling:
    """Configure logging, and say who else is told.

    Args:
        here: the options of the command.
        json: a program reads along, and no person: no bars.

    Raises:
        CommandError: ``--ping`` is no URL.
    """
    watch: list[Watch] = []
    tail = logs.configure(here.log_format, here.log_level, silent=here.quiet)
    if here.ping is not None:
        from workflow_runner.cli.pings import Pings

        watch.append(partial(_pinged, Pings.parse(here.ping), tail))
    by_default = sys.stderr.isatty() and not json
    if not here.quiet and (by_default if here.progress is None else here.progress):
        watch.append(_shown)
    return Telling(extensions=(Capture(),), watch=watch, quiet=here.quiet, tail=tail)


def _shown(_scope: Scope, execution: FlowExecution[Any]) -> AbstractContextManager[None]:
    from workflow_runner.cli.progress import shown

    return shown(execution)


@contextmanager
def _pinged(pings: Pings, tail: Sequence[str], _scope: Scope, execution: FlowExecution[Any]) -> Iterator[None]:
    """Tell a monitor of the beginning, while the run goes on, and of the end, when it has ended."""
    from workflow_runner.cli.pings import LAST_OF_BEGINNING, LONGEST, Sending

    begun = Sending(pings.begun(execution.id), service=pings.service)
    try:
        yield
    finally:
        until = time.monotonic() + LONGEST
        begun.wait(LAST_OF_BEGINNING)
        outcome = outcome_of(execution)
        why = "" if outcome.error is None else f": {type(outcome.error).__name__}: {outcome.error}"
        message = secrets.mask(f"{outcome.flow} {outcome.status}{why}")
        request = pings.ended(outcome.run_id, outcome.code, seconds=outcome.duration, message=message, tail=tail)
        Sending(request, service=pings.service, longest=until - time.monotonic()).wait()
