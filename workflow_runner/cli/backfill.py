"""Many runs of one flow: carried out here, followed on stderr, and reported to people and programs."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
from rich.text import Text

from workflow_runner import Scope
from workflow_runner._workflow.backfill import (
    FAILURES,
    Action,
    Backfill,
    Ended,
    Outcome,
    Plan,
    Planned,
    Slot,
    counted,
    grouped,
)
from workflow_runner.cli import NAME
from workflow_runner.cli.document import SCHEMA
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.output import Reply
from workflow_runner.cli.render import MOST_ROWS, STYLES, cell, new_console, new_table, seconds
from workflow_runner.cli.signals import told as told_of_signals
from workflow_runner.errors import ExecutionTimeout
from workflow_runner.store.base import Store

if TYPE_CHECKING:
    from workflow_runner.cli.options import Here
    from workflow_runner.cli.telling import Telling

# Of the partitions with one failure so many are named.
_NAMED = 8

_CODES = {
    "failed": Exit.FAILED,
    "partial": Exit.PARTIAL,
    "unfinished": Exit.TEMPORARY,
    "interrupted": Exit.TEMPORARY,
}


@attrs.frozen(kw_only=True)
class Report:
    """A plan, and what has become of it.

    Attributes:
        flow: its name.
        plan: what was decided before.
        ended: each partition after its turn; None: it was a dry run.
        duration: seconds in all.
        interrupted_by: the signal that ended it.
        exit_on_interrupt: the exit code then; None: to die of the signal.
        again: the command that goes on with it.
        show_run: the command that shows a run, without the run.
        facts: what the document says beside.
        notes: what people are told beside, a line each.
    """

    flow: str
    plan: Plan
    ended: tuple[Ended, ...] | None = None
    duration: float = 0.0
    interrupted_by: signal.Signals | None = None
    exit_on_interrupt: int | None = None
    again: str = ""
    show_run: str = ""
    facts: Mapping[str, Any] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """One word for all of them: "planned" for a dry run, "unfinished" if some are left to others."""
        outcomes = {one.outcome for one in self.ended or ()}
        if self.ended is None:
            return "planned"
        if self.interrupted_by is not None:
            return "interrupted"
        if outcomes.intersection(FAILURES):
            return "failed"
        if outcomes.intersection((Outcome.LEFT, Outcome.NOT_STARTED)):
            return "unfinished"
        return "partial" if Outcome.PARTIAL in outcomes else "completed"

    @property
    def unfinished(self) -> bool:
        """Whether there is something to go on with."""
        return self.status in ("failed", "interrupted", "unfinished")

    @property
    def code(self) -> int:
        """What the process exits with, unless it dies of a signal."""
        if self.interrupted_by is not None and self.exit_on_interrupt is not None:
            return self.exit_on_interrupt
        return _CODES.get(self.status, Exit.DONE)

    @property
    def dies_of(self) -> signal.Signals | None:
        """What the process dies of."""
        return self.interrupted_by if self.exit_on_interrupt is None else None


# --- carrying it out --------------------------------------------------------------------------------------------------


def carry_out(
    report: Report,
    make: Callable[..., Backfill],
    store: Store,
    *,
    here: Here,
    told: Telling,
    watch: bool = True,
    bar: bool = True,
) -> Report:
    """Execute the plan of a report in this process.

    The first SIGINT or SIGTERM tells what runs to stop, and hands it back to the store; the second stops waiting for
    it; the third ends the process.

    Args:
        report: of the plan.
        make: makes the backfill, given a scope and whom to tell.
        store: records the runs.
        here: how they are executed.
        told: who else is told.
        watch: follow it on stderr.
        bar: with a bar, if stderr is a terminal.

    Returns:
        The report of what came of it.
    """
    came: list[signal.Signals] = []

    def hear(number: signal.Signals) -> None:
        came.append(number)
        backfill.stop(f"interrupted by {number.name}", grace=here.grace if len(came) == 1 else 0.0)

    started = time.monotonic()
    following: AbstractContextManager[dict[str, Any]] = followed(report.plan, bar=bar) if watch else nullcontext({})
    with pinged(here.ping, report.plan.batch_id, told.tail) as ping:
        with (
            Scope(name="command", store=store, max_workers=here.max_workers, extensions=told.extensions) as scope,
            following as followers,
        ):
            backfill = make(scope, **followers)
            with told_of_signals(hear):
                ended = backfill.run()
        report = attrs.evolve(
            report,
            ended=ended,
            interrupted_by=came[0] if came else None,
            duration=time.monotonic() - started,
        )
        ping(report)
    return report


@contextmanager
def pinged(url: str | None, batch_id: str, tail: Sequence[str]) -> Iterator[Callable[[Report], object]]:
    """Tell a monitor that it has begun.

    Yields:
        What tells it how all has ended.
    """
    if url is None:
        yield lambda report: None
        return
    from workflow_runner.cli.pings import Pings, Sending

    pings = Pings.parse(url)
    begun = Sending(pings.begun(batch_id), service=pings.service)

    def end(report: Report) -> None:
        begun.wait()
        words = f"{report.flow} {report.status}: {_ended_as(report.ended or ())}"
        request = pings.ended(batch_id, report.code, seconds=report.duration, message=words, tail=tail)
        Sending(request, service=pings.service).wait()

    yield end


@contextmanager
def followed(planned: Plan, *, bar: bool = True) -> Iterator[dict[str, Callable[[Any], object]]]:
    """Show how far it is: a bar on a terminal, a line for each run that has ended elsewhere.

    Args:
        planned: what is to be done.
        bar: whether there may be one.

    Yields:
        What a `Backfill` calls when a run begins and when a partition has had its turn.
    """
    print(f"{_to_do(planned)}  batch {planned.batch_id}", file=sys.stderr, flush=True)
    if not (bar and sys.stderr.isatty()):

        def write(ended: Ended) -> None:
            if not ended.before and ended.outcome is not Outcome.PASSED_OVER:
                with suppress(OSError):  # whoever reads along may have gone; the work goes on
                    print(line(ended), file=sys.stderr, flush=True)

        yield {"on_end": write}
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=new_console(stderr=True), transient=True, redirect_stdout=False) as bars:
        task = bars.add_task("", total=len(planned.partitions))
        running: dict[Slot, None] = {}

        def begin(planned: Planned) -> None:
            running[planned.slot] = None
            bars.update(task, description=", ".join(map(str, running)))

        def end(ended: Ended) -> None:
            running.pop(ended.planned.slot, None)
            bars.update(task, advance=1, description=", ".join(map(str, running)))
            if ended.failure is not None:
                bars.console.print(Text(line(ended), STYLES["failed"]), soft_wrap=True)

        yield {"on_begin": begin, "on_end": end}


def line(ended: Ended) -> str:
    """One partition in one line."""
    words = f"{ended.planned.slot}  {ended.outcome}"
    if ended.duration:
        words += f" in {seconds(ended.duration)}"
    if ended.failure is not None:
        words += f"  {ended.failure.type}: {_first_line(ended.failure.message)}"
    elif ended.outcome is Outcome.LEFT:
        words += f"  {ended.planned.why}" if ended.planned.action is Action.LEAVE else "  another process was quicker"
    return words if ended.run_id is None else f"{words}  run {ended.run_id}"


def _first_line(text: str) -> str:
    return cell(text.partition("\n")[0])


def command_line(command: str, target: str, options: Mapping[str, object], parameters: Sequence[str]) -> str:
    """A command for a person to give: with the options that have a value, and the flow's own parameters."""
    given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join([NAME, command, target, *given, *(["--", *parameters] if parameters else [])])


# --- for programs -----------------------------------------------------------------------------------------------------


def document(report: Report) -> dict[str, Any]:
    """The plan and what has become of each partition, as the data of one document."""
    ended = report.ended
    interrupted = report.interrupted_by
    return {
        "schema": SCHEMA,
        "status": report.status,
        "exit_code": int(report.code) if report.dies_of is None else None,
        "signal": None if interrupted is None else interrupted.name,
        "flow": report.flow,
        "batch_id": report.plan.batch_id,
        **report.facts,
        "duration": report.duration,
        "plan": {str(action): count for action, count in _actions(report.plan)},
        "counts": {str(outcome): count for outcome, count in counted(ended or ())},
        "partitions": [
            _planned(planned) | ({} if ended is None else _ended(ended[index]))
            for index, planned in enumerate(report.plan.partitions)
        ],
        "failures": [_group(group) for group in grouped(ended or ())],
        "resume": report.again if report.unfinished else None,
    }


def reply(report: Report, *, quiet: bool = False) -> Reply:
    """What a command has to say of a report; if quiet, nothing of one that is done."""
    return Reply(
        code=report.code,
        document=partial(document, report),
        show=(lambda: None) if quiet and report.status != "partial" else partial(show, report),
        complain=partial(complain, report),
        signal=report.dies_of,
        abrupt=report.interrupted_by is not None or _timed_out(report.ended or ()),
    )


def _timed_out(ended: Iterable[Ended]) -> bool:
    """Whether threads may have been left behind."""
    return any(one.failure is not None and one.failure.type == ExecutionTimeout.__name__ for one in ended)


def slot_data(slot: Slot) -> dict[str, Any]:
    """A slot as plain data."""
    return {
        "as_of_date": slot.as_of_date.isoformat(),
        "partition": None if slot.partition is None else str(slot.partition),
        "scheduled_at": None if slot.scheduled_at is None else slot.scheduled_at.isoformat(),
        "key": slot.key,
    }


def _planned(planned: Planned) -> dict[str, Any]:
    return {
        **slot_data(planned.slot),
        "key": planned.key,
        "action": str(planned.action),
        "why": planned.why,
        "run_id": planned.run_id,
    }


def _ended(ended: Ended) -> dict[str, Any]:
    return {
        "key": ended.planned.key,
        "run_id": ended.run_id,
        "outcome": str(ended.outcome),
        "before": ended.before,
        "duration": ended.duration,
        "error": None if ended.failure is None else attrs.asdict(ended.failure),
    }


def _group(group: Sequence[Ended]) -> dict[str, Any]:
    assert group[0].failure is not None
    return {
        **attrs.asdict(group[0].failure),
        "count": len(group),
        "partitions": [str(one.planned.slot) for one in group],
        "run_ids": [one.run_id for one in group],
    }


def _actions(plan: Plan) -> Iterator[tuple[Action, int]]:
    actions = [planned.action for planned in plan.partitions]
    return ((action, actions.count(action)) for action in Action if action in actions)


# --- for people -------------------------------------------------------------------------------------------------------

_TO_DO = {
    Action.RUN: "to run",
    Action.RESUME: "to resume",
    Action.AGAIN: "to run again",
    Action.DONE: "done before",
    Action.LEAVE: "left to another process",
    Action.PASS_OVER: "passed over",
    Action.REFUSE: "refused",
}


def _to_do(plan: Plan) -> str:
    return ", ".join(f"{count} {_TO_DO[action]}" for action, count in _actions(plan))


def show(report: Report) -> None:
    """Print the plan of a dry run; of a real one how many have ended how."""
    console = new_console()
    for note in report.notes:
        console.print(Text(note), soft_wrap=True)
    if not report.plan.partitions:
        return
    batch = Text(f"batch {report.plan.batch_id}", "dim")
    if report.ended is None:
        console.print(_table(report.plan.partitions))
        rest = len(report.plan.partitions) - MOST_ROWS
        if rest > 0:
            console.print(Text(f"and {rest} more: --json has them all", "dim"))
        console.print()
        console.print(Text("  ").join([Text(report.flow, "bold"), Text(_to_do(report.plan)), batch]), soft_wrap=True)
        return
    counts = Text(", ").join(
        Text.assemble(f"{count} ", (outcome, STYLES.get(outcome, "dim"))) for outcome, count in _counts(report.ended)
    )
    counts.append(f" in {seconds(report.duration)}")
    console.print(Text("  ").join([Text(report.flow, "bold"), counts, batch]), soft_wrap=True)


def _ended_as(ended: Sequence[Ended]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in _counts(ended))


def _counts(ended: Sequence[Ended]) -> Iterator[tuple[str, int]]:
    """How many have ended how, those that had done so before by themselves."""
    yield from ((str(outcome), count) for outcome, count in counted(one for one in ended if not one.before))
    if before := sum(one.before for one in ended):
        yield "done before", before


def _table(partitions: Iterable[Planned]) -> Any:
    shown = list(partitions)[:MOST_ROWS]
    named = any(planned.slot.partition is not None for planned in shown)
    timed = any(planned.slot.scheduled_at is not None for planned in shown)
    table = new_table()
    for name in ("date", *(["scheduled"] if timed else []), *(["partition"] if named else []), "what", "why", "run"):
        table.add_column(name, overflow="fold", no_wrap=name == "date")
    for planned in shown:
        slot = planned.slot
        cells = [Text(str(slot.as_of_date))]
        if timed:
            cells.append(Text("" if slot.scheduled_at is None else slot.scheduled_at.isoformat(" ", "minutes")))
        if named:
            cells.append(Text(cell(str(slot.partition))))
        style = "" if planned.action.runs else "dim"
        cells += [Text(planned.action, style), Text(cell(planned.why), style), Text(planned.run_id or "", "dim")]
        table.add_row(*cells)
    return table


def complain(report: Report) -> None:
    """Print the failures, those of one cause together, and how to go on, to stderr."""
    console = new_console(stderr=True)
    for group in grouped(report.ended or ()):
        failure = group[0].failure
        assert failure is not None
        where = f" in step {failure.step!r}" if failure.step is not None else ""
        head = Text.assemble(("error:", "bold red"), f" {len(group)} x {failure.type}{where}: {cell(failure.message)}")
        console.print(head, soft_wrap=True)
        named = ", ".join(str(one.planned.slot) for one in group[:_NAMED])
        more = f" and {len(group) - _NAMED} more" if len(group) > _NAMED else ""
        console.print(Text(f"  {cell(named)}{more}"), soft_wrap=True)
        if group[0].run_id is not None:
            console.print(Text(f"  {report.show_run} {group[0].run_id}"), soft_wrap=True)
    if report.unfinished:
        console.print(Text(f"go on with: {report.again}"), soft_wrap=True)
