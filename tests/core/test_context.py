"""Contexts: the tree of what runs, and what it knows of itself."""

from __future__ import annotations

import contextvars
import datetime as dt
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from workflow_runner import ExecutionContext, FlowContext, Retry, Scope, call, current, errors, flow
from workflow_runner.testing import ManualClock

LONG = 20.0

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@flow
def noop(ctx: FlowContext, value: Any) -> Any:
    return value


# -- what it is


def test_a_root_knows_itself(scope: Scope) -> None:
    """Id, name, parent, root, depth, run_id, status and times of a root; the handle's ctx is the handler's."""
    seen: list[FlowContext] = []

    @flow
    def root(ctx: FlowContext, _: Any) -> None:
        seen.append(ctx)
        assert ctx.status == "running"
        assert ctx.details.started_at is not None
        assert ctx.details.completed_at is None

    execution = scope.exec(root, metadata={"who": "cron"})
    assert execution.result(LONG) is None
    (ctx,) = seen
    assert ctx is execution.ctx
    assert ctx.id == execution.id == ctx.run_id == ctx.idempotency_token
    assert re.fullmatch("[0-9a-f]{32}", ctx.id)
    assert (ctx.name, ctx.parent, ctx.root, ctx.depth, ctx.attempt) == ("root", None, ctx, 0, 1)
    assert ctx.status == "completed"
    details = ctx.details
    assert (details.name, details.error, details.metadata) == ("root", None, {"who": "cron"})
    assert details.started_at is not None
    assert details.completed_at is not None
    assert details.started_at <= details.completed_at
    assert details.started_at.tzinfo is dt.UTC


def test_times_are_those_of_the_clock(make_scope: Callable[..., Scope], clock: ManualClock) -> None:
    """``started_at`` is when the handler began, ``completed_at`` when it ended; None while that lies ahead."""
    go = threading.Event()
    scope = make_scope(max_workers=1, clock=clock)
    first, second = scope.exec(call(go.wait, LONG)), scope.exec(noop)
    assert second.ctx.details.started_at is None
    clock.advance(60)
    go.set()
    assert first.result(LONG) is True
    second.result(LONG)
    assert second.ctx.details.started_at == dt.datetime(2024, 1, 1, 0, 1, tzinfo=dt.UTC)
    assert second.ctx.details.completed_at == dt.datetime(2024, 1, 1, 0, 1, tzinfo=dt.UTC)


def test_children_know_their_place(scope: Scope) -> None:
    """Parent, root, depth, run_id and the path in the id, for children, items and blocks."""

    @flow
    def leaf(ctx: FlowContext, _: Any) -> Any:
        assert ctx.root.id == ctx.run_id
        return ctx.id.removeprefix(ctx.run_id), ctx.depth, ctx.parent.name if ctx.parent else None

    @flow
    def middle(ctx: FlowContext, _: Any) -> Any:
        return [ctx.exec(leaf), *ctx.parallel(leaf.each([1, 2]))]

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        return [
            ctx.exec(leaf),
            ctx.exec(leaf),
            ctx.exec(leaf, name="named"),
            ctx.exec(leaf, key="keyed"),
            ctx.exec(leaf, timeout=LONG),
            ctx.exec("block", lambda block: block.exec(leaf)),
            *ctx.parallel(leaf.each([1, 2])),
            *ctx.parallel(leaf.each([1])),
            *ctx.parallel(leaf.each([1]), name="many"),
            *ctx.stream(leaf.each([1])),
            *ctx.exec(middle),
        ]

    assert scope.run(top) == [
        ("/leaf", 1, "top"),
        ("/leaf#2", 1, "top"),
        ("/named", 1, "top"),
        ("/keyed", 1, "top"),
        ("/leaf#3", 1, "top"),
        ("/block/leaf", 2, "block"),
        ("/parallel[0]", 1, "top"),
        ("/parallel[1]", 1, "top"),
        ("/parallel#2[0]", 1, "top"),
        ("/many[0]", 1, "top"),
        ("/stream[0]", 1, "top"),
        ("/middle/leaf", 2, "middle"),
        ("/middle/parallel[0]", 2, "middle"),
        ("/middle/parallel[1]", 2, "middle"),
    ]


def test_run_ids_are_never_reused(scope: Scope) -> None:
    """Every run has a new id; ids sort by the time they were made, to the millisecond."""
    ids = [scope.exec(noop).id for _ in range(500)]
    assert len(set(ids)) == 500
    assert [one[:12] for one in ids] == sorted(one[:12] for one in ids)


def test_a_program_that_seeds_random_gets_new_ids(scope: Scope) -> None:
    """Ids do not follow ``random.seed``."""
    import random

    ids = set()
    for _ in range(10):
        random.seed(5)
        ids.add(scope.exec(noop).id[12:])
    assert len(ids) == 10


def test_a_given_run_id_is_the_id(scope: Scope) -> None:
    """``run_id=`` is taken as it is; what cannot stand before a path is refused, and nothing runs."""
    execution = scope.exec(noop, run_id="2013-02-28")
    assert (execution.id, execution.result(LONG)) == ("2013-02-28", None)
    for wrong in ("", "a/b", 5):
        with pytest.raises(errors.DefinitionError, match="a run_id"):
            scope.exec(noop, run_id=wrong)  # type: ignore[arg-type]


def test_many_threads_agree_on_an_id_and_a_signal(scope: Scope, together: Any, tiny_switches: None) -> None:
    """What is made at first use is made once."""
    for _ in range(50):
        with scope.create_execution("block") as block:
            ids = together(*[lambda block=block: block.id] * 4)
            signals = together(*[lambda block=block: block.signal] * 4)
        assert len(set(ids)) == 1
        assert len(set(signals)) == 1


def test_threads_that_start_children_together_get_different_places(
    scope: Scope, together: Any, tiny_switches: None
) -> None:
    """An id, and with it the idempotency token, is unique: ``#n`` is given once."""

    @flow
    def where(ctx: FlowContext, _: Any) -> str:
        return ctx.id

    @flow
    def top(ctx: FlowContext, _: Any) -> list[str]:
        lists = together(*[lambda: [ctx.exec(where) for _ in range(800)]] * 4)
        return [one for some in lists for one in some]

    ids = scope.run(top)
    assert len(set(ids)) == len(ids) == 3200


def test_the_attempt_counts_from_one_and_the_token_stays(scope: Scope) -> None:
    """``ctx.attempt`` is 1, 2, 3; ``ctx.idempotency_token`` and the children's are the same for every attempt."""
    seen: list[Any] = []

    @flow
    def leaf(ctx: FlowContext, _: Any) -> str:
        return ctx.idempotency_token

    @flow(retry=Retry(attempts=3, initial=0))
    def flaky(ctx: FlowContext, _: Any) -> None:
        seen.append((ctx.attempt, ctx.idempotency_token, ctx.exec(leaf), ctx.exec(leaf), *ctx.parallel([leaf])))
        if ctx.attempt < 3:
            raise ValueError("again")

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        ctx.exec(flaky)

    for start, path in ((flaky, ""), (top, "/flaky")):
        execution = scope.exec(start)
        execution.result(LONG)
        place = execution.id + path
        tokens = (place, f"{place}/leaf", f"{place}/leaf#2", f"{place}/parallel[0]")
        assert seen == [(1, *tokens), (2, *tokens), (3, *tokens)]
        del seen[:]


# -- the current one


def test_current_is_the_execution_that_runs_here(scope: Scope) -> None:
    """``current()`` in a handler, in plain functions below it, in children, items, calls and blocks."""

    def below() -> ExecutionContext:
        return current()

    @flow
    def child(ctx: FlowContext, _: Any) -> bool:
        return below() is ctx

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        assert below() is ctx
        assert ctx.exec(child)
        assert ctx.exec(child, timeout=LONG)
        assert ctx.parallel(child.each(range(5))) == [True] * 5
        assert list(ctx.stream(child.each(range(5)))) == [True] * 5
        assert ctx.exec(call(below)).parent is ctx
        assert ctx.exec("block", lambda block: below() is block)
        assert below() is ctx

    scope.run(top)
    scope.exec(top).result(LONG)


def test_outside_there_is_no_current_one(scope: Scope, together: Any) -> None:
    """ContextError before, after and beside a run, in this thread, in others and in callbacks."""
    with pytest.raises(errors.ContextError, match="no execution is running here"):
        current()

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        (outcome,) = together(current)
        return outcome

    called: list[Any] = []

    def callback(_: Any) -> None:
        try:
            called.append(current())
        except errors.ContextError:
            called.append("none")

    assert isinstance(scope.run(top), errors.ContextError)
    execution = scope.exec(top)
    execution.add_done_callback(callback)
    execution.result(LONG)
    with pytest.raises(errors.ContextError):
        current()
    scope.close()
    assert called == ["none"]


# -- context variables


def test_each_execution_runs_in_a_copy_of_its_creators_variables(scope: Scope) -> None:
    """The creator's values are seen; what is set inside is seen by nobody outside, sibling or parent."""

    @flow
    def child(ctx: FlowContext, name: str) -> tuple[str, str]:
        before = variable.get()
        variable.set(name)
        return before, variable.get()

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        before = variable.get()
        variable.set("top")
        found = [
            before,
            ctx.exec(child, "a"),
            ctx.exec(child, "b", timeout=LONG),
            *ctx.parallel(child.each("cd")),
            *ctx.parallel([child.bind("e"), call(variable.get)]),
            *ctx.stream(child.each("f")),
            ctx.exec("block", lambda block: (variable.get(), variable.set("g"))[0]),
            variable.get(),
        ]
        variable.set("late")
        return found

    variable.set("caller")
    expected = [
        "caller",
        *(("top", name) for name in "abcde"),
        "top",
        ("top", "f"),
        "top",
        "top",
    ]
    assert scope.run(top) == expected
    execution = scope.exec(top)
    assert variable.get() == "caller"
    assert execution.result(LONG) == expected
    assert variable.get() == "caller"


def test_variables_are_those_at_the_start(make_scope: Callable[..., Scope], event: Any) -> None:
    """The copy is made by ``exec``: what the creator sets while the execution waits for a slot is not seen."""
    scope, go = make_scope(max_workers=1), event()
    scope.exec(call(go.wait, LONG))
    variable.set("before")
    waiting = scope.exec(call(variable.get))
    variable.set("after")
    go.set()
    assert waiting.result(LONG) == "before"


# -- blocks and tracked executions


def test_exec_with_a_function_tracks_a_block(scope: Scope) -> None:
    """``ctx.exec(name, fn)``: a child with a status that ends with the function, completed or failed."""
    blocks: list[FlowContext] = []

    def good(block: FlowContext) -> int:
        blocks.append(block)
        assert block.status == "running"
        return block.exec(noop, 5)

    def bad(block: FlowContext) -> None:
        blocks.append(block)
        raise ValueError("no")

    @flow
    def top(ctx: FlowContext, _: Any) -> int:
        with pytest.raises(ValueError, match="no"):
            ctx.exec("bad", bad)
        return ctx.exec("good", good)

    assert scope.run(top) == 5
    assert [(block.name, block.status, block.depth) for block in blocks] == [
        ("bad", "failed", 1),
        ("good", "completed", 1),
    ]
    assert isinstance(blocks[0].details.error, ValueError)


def test_a_block_may_end_before_its_function(scope: Scope) -> None:
    """``end`` on a block sticks: with an error it has failed, and it starts nothing more."""

    def ends(block: FlowContext) -> str:
        block.end(ValueError("enough"))
        block.end()
        with pytest.raises(errors.ContextError, match="'block' has ended"):
            block.exec(noop)
        with pytest.raises(errors.ContextError, match="'block' has ended"):
            block.parallel([noop])
        with pytest.raises(errors.ContextError, match="'block' has ended"):
            block.exec("deeper", lambda _: 1)
        return block.status

    @flow
    def top(ctx: FlowContext, _: Any) -> str:
        return ctx.exec("block", ends)

    assert scope.run(top) == "failed"


def test_a_flows_own_context_ends_with_its_handler(scope: Scope) -> None:
    """``end``, ``close`` and leaving ``with ctx`` refuse: root, child, item; ended ones take it without effect."""
    kept: list[FlowContext] = []

    @flow
    def child(ctx: FlowContext, _: Any) -> str:
        kept.append(ctx)
        for end in (ctx.end, ctx.close):
            with pytest.raises(errors.ContextError, match="ends when its handler does"):
                end()
        with pytest.raises(errors.ContextError, match="ends when its handler does"), ctx:
            pass
        return ctx.status

    @flow
    def top(ctx: FlowContext, _: Any) -> list[str]:
        return [ctx.exec(child), ctx.exec(child, timeout=LONG), *ctx.parallel([child]), *ctx.stream([child])]

    assert scope.run(child) == "running"
    assert scope.run(top) == ["running"] * 4
    for ctx in kept:
        ctx.end(ValueError("late"))
        assert ctx.status == "completed"


def test_an_ended_context_starts_nothing(scope: Scope) -> None:
    """A context that outlives its handler raises ContextError."""
    kept: list[FlowContext] = []

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        kept.append(ctx)

    scope.run(top)
    (ctx,) = kept
    for start in (
        lambda: ctx.exec(noop),
        lambda: ctx.exec(noop, timeout=5),
        lambda: ctx.exec(noop, key="k"),
        lambda: ctx.exec("block", lambda _: 1),
        lambda: ctx.parallel([noop]),
        lambda: ctx.parallel_settled([noop]),
        lambda: ctx.stream([noop]),
    ):
        with pytest.raises(errors.ContextError, match="'top' has ended"):
            start()


def test_a_tracked_execution_is_a_root_without_a_flow(scope: Scope) -> None:
    """``create_execution`` tracks a block: children, details, completed at its end; ``end`` twice is harmless."""
    with scope.create_execution("import", metadata={"file": "a.csv"}) as root:
        assert (root.name, root.status, root.parent, root.depth) == ("import", "running", None, 0)
        assert root.details.metadata == {"file": "a.csv"}
        child_id, depth = root.exec("parse", lambda child: child.exec("row", lambda row: (row.id, row.depth)))
        assert (child_id, depth) == (f"{root.id}/parse/row", 2)
    assert root.status == "completed"
    root.end(ValueError("late"))
    root.close()
    assert (root.status, root.details.error) == ("completed", None)
    with pytest.raises(errors.ContextError, match="has ended"):
        root.exec("more", lambda _: 1)


def test_an_error_in_a_tracked_block_fails_it_and_goes_on(scope: Scope) -> None:
    """The exception leaves the block; the status is failed, the error kept; ``end(error)`` is the same by hand."""
    error = ValueError("no")
    with pytest.raises(ValueError, match="no"), scope.create_execution("import") as block:
        raise error
    assert (block.status, block.details.error) == ("failed", error)
    by_hand = scope.create_execution("import")
    by_hand.end(error)
    assert (by_hand.status, by_hand.details.error) == ("failed", error)


def test_a_tracked_execution_that_is_aborted_and_fails_is_cancelled(scope: Scope) -> None:
    """``Aborted``, or any error after the signal, is cancelled; a normal end is completed even so."""
    with pytest.raises(errors.Aborted), scope.create_execution("a") as aborted:
        raise errors.Aborted("mine")
    assert aborted.status == "cancelled"
    with pytest.raises(ValueError, match="no"), scope.create_execution("b") as told:
        told.signal._abort("stop")
        with pytest.raises(errors.Aborted):
            told.throw_if_aborted()
        raise ValueError("no")
    assert told.status == "cancelled"
    with scope.create_execution("c") as finishes:
        finishes.signal._abort("stop")
    assert finishes.status == "completed"


def test_a_tracked_execution_times_out(make_scope: Callable[..., Scope], clock: ManualClock, event: Any) -> None:
    """At the deadline the signal is set, callbacks are called, the status is cancelled with ExecutionTimeout."""
    scope = make_scope(clock=clock)
    called = event()
    with scope.create_execution("slow", timeout=dt.timedelta(seconds=30)) as block:
        child_signals: list[Any] = []
        block.exec("child", lambda child: child_signals.append(child.signal))
        block.signal.on_abort(called.set)
        clock.block_until(30)
        clock.advance(30)
        assert called.wait(LONG)
        assert block.signal.wait(LONG)
        assert str(block.signal.reason) == "slow timed out after 30 s"
    assert block.status == "cancelled"
    assert isinstance(block.details.error, errors.ExecutionTimeout)
    assert block.details.error.reason is block.signal.reason


def test_a_tracked_execution_that_ends_leaves_no_deadline(make_scope: Callable[..., Scope], clock: ManualClock) -> None:
    """Its deadline is taken back with its end."""
    scope = make_scope(clock=clock)
    with scope.create_execution("quick", timeout=30) as block:
        assert scope.stats().deadlines == 1
    assert scope.stats().deadlines == 0
    clock.advance(30)
    assert block.status == "completed"


@pytest.mark.parametrize("first", ["end", "deadline"])
def test_the_end_and_the_deadline_of_a_tracked_execution_agree(make_scope: Callable[..., Scope], first: str) -> None:
    """A terminal status is final: whoever comes second, in the middle of the first one's work, changes nothing."""
    rivals: list[threading.Thread] = []
    seen: list[str] = []

    class Interleaved(ManualClock):
        """Lets the rival go first at the moment when the other one takes the time of the end."""

        def time(self) -> float:
            if rivals and threading.current_thread() is not rivals[0] and not rivals[0].ident:
                rivals[0].start()
                rivals[0].join(0.1)  # it ends here only if nothing keeps it from the status
                seen.append(block.status.value)
            return super().time()

    scope = make_scope(clock=Interleaved())
    block = scope.create_execution("block")
    block.signal
    ends = [block.end, lambda: block._expire("too late")]  # type: ignore[attr-defined]
    if first == "deadline":
        ends.reverse()
    rivals.append(threading.Thread(target=ends[1], daemon=True))
    ends[0]()
    rivals[0].join(LONG)
    assert seen == ["running"]
    assert block.status == ("completed" if first == "end" else "cancelled")
    assert (block.details.error is None) == (first == "end")


@pytest.mark.parametrize("name", ["", "  ", "a/b", None, 5])
def test_names_must_be_able_to_stand_in_a_path(scope: Scope, name: Any) -> None:
    """Of executions, children, blocks and fan-outs: DefinitionError, and nothing runs."""

    def block(_: Any) -> None:
        raise AssertionError("ran")

    @flow
    def top(ctx: FlowContext, _: Any) -> None:
        starts: list[Callable[[], Any]] = [lambda: ctx.parallel([call(block, 1)], name=name)]
        if name is not None:
            starts += [lambda: ctx.exec(call(block, 1), name=name), lambda: ctx.exec(call(block, 1), key=name)]
        if isinstance(name, str):
            starts.append(lambda: ctx.exec(name, block))
        for start in starts:
            with pytest.raises(errors.DefinitionError, match="needs a name"):
                start()

    scope.run(top)
    with pytest.raises(errors.DefinitionError, match="needs a name"):
        scope.create_execution(name)
    if name is not None:
        with pytest.raises(errors.DefinitionError, match="needs a name"):
            scope.exec(noop, name=name)


# -- sleeping


def test_sleep_is_a_wait_on_the_signal(make_scope: Callable[..., Scope], clock: ManualClock) -> None:
    """``ctx.sleep`` lasts as long as it says, and ends at once with ``Aborted`` when the execution is cancelled."""
    scope = make_scope(clock=clock)

    @flow
    def sleeps(ctx: FlowContext, length: Any) -> str:
        ctx.sleep(length)
        return "slept"

    first = scope.exec(sleeps, dt.timedelta(seconds=90))
    clock.block_until(90)
    clock.advance(90)
    assert first.result(LONG) == "slept"

    second = scope.exec(sleeps, 90)
    clock.block_until(90)
    second.cancel("enough")
    with pytest.raises(errors.ExecutionCancelled) as caught:
        second.result(LONG)
    assert caught.value.reason == "enough"
    assert isinstance(caught.value.__cause__, errors.Aborted)
    assert scope.run(sleeps, 0) == "slept"


@pytest.mark.parametrize("length", [-1, float("nan"), float("inf"), "1"])
def test_sleep_refuses_what_is_no_length(scope: Scope, length: Any) -> None:
    """A ValueError that says "sleep"."""

    @flow
    def sleeps(ctx: FlowContext, length: Any) -> None:
        ctx.sleep(length)

    with pytest.raises(ValueError, match="sleep must be"):
        scope.run(sleeps, length)
