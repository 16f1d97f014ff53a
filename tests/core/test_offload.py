"""Work in other processes: ``on=`` names an executor of the scope."""

from __future__ import annotations

import datetime as dt
import importlib
import math
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from decimal import Decimal
from typing import Any

import pytest

from workflow_runner import FlowContext, Retry, Scope, call, errors, flow
from workflow_runner._core import offload

LONG = 20.0

# The other process gets this one's sys.path.
sys.path.append(os.path.dirname(__file__))
work = importlib.import_module("away")


def processes() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with processes() as pool:
        yield pool


@pytest.fixture
def away(make_scope: Callable[..., Scope], pool: Executor) -> Scope:
    """A scope that knows the process pool as "pool"."""
    return make_scope(max_workers=2, executors={"pool": pool})


def run(scope: Scope, body: Callable[[FlowContext], Any], **options: Any) -> Any:
    return scope.exec(flow(name="body")(lambda ctx, _: body(ctx)), **options).result(LONG)


def test_a_call_and_a_flow_run_in_another_process(away: Scope) -> None:
    """Functions, builtins and flows give their typed values back; the work is not done here."""

    def body(ctx: FlowContext) -> list[Any]:
        return [
            ctx.exec(call(work.add, 1, b=2), on="pool"),
            ctx.exec(call(math.sqrt, 4.0), on="pool"),
            ctx.exec(work.total, {"qty": 3, "price": "1.10"}, on="pool"),
            ctx.exec(work.total, work.Order(2, Decimal("0.5")), on="pool", timeout=LONG),
        ]

    (three, pid), root, (price, day, other_pid), (second, *_) = run(away, body)
    assert (three, root, price, day, second) == (3, 2.0, Decimal("3.30"), dt.date(2013, 2, 28), Decimal("1.0"))
    assert pid == other_pid != os.getpid()


def test_fan_outs_run_there_as_well(away: Scope) -> None:
    """``parallel``, ``parallel_settled`` and ``stream`` take ``on=`` for their items, in input order."""

    def body(ctx: FlowContext) -> Any:
        calls = [call(math.sqrt, n * n) for n in range(6)]
        mixed = ctx.parallel_settled([*calls[:2], call(work.fail, "value")], on="pool")
        return ctx.parallel(calls, on="pool"), list(ctx.stream(calls, on="pool")), mixed.stats.failed, mixed.values()

    roots = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert run(away, body) == (roots, roots, 1, [0.0, 1.0])


def test_work_keeps_its_place_in_the_run(away: Scope) -> None:
    """Run id, idempotency token, the paths below and the attempt are over there what they are here."""
    seen: list[str] = []

    def body(ctx: FlowContext) -> Any:
        seen.append(ctx.run_id)
        again = Retry(attempts=2, initial=0)
        return ctx.exec(work.place, on="pool"), ctx.exec(work.place_again, on="pool", retry=again)

    first, again = run(away, body)
    here = f"{seen[0]}/place"
    assert first == [seen[0], here, 1, [f"{here}/parallel[0]", f"{here}/parallel[1]"]]
    assert again == [f"{seen[0]}/place_again", 2]


def test_errors_come_home(away: Scope) -> None:
    """An exception has its type, its text, and a note of the run; a SystemExit over there is one too."""
    with pytest.raises(ValueError, match="no") as caught:
        run(away, lambda ctx: ctx.exec(call(work.fail, "value"), on="pool"), run_id="r")
    assert str(caught.value) == "no"
    assert "in flow 'body', run r" in caught.value.__notes__
    with pytest.raises(SystemExit):
        run(away, lambda ctx: ctx.exec(call(work.fail, "exit"), on="pool"))


def test_an_error_that_cannot_travel_is_told_and_breaks_nothing(away: Scope) -> None:
    """What no pickle brings home arrives as its text, and the pool goes on."""

    def body(ctx: FlowContext) -> Any:
        with pytest.raises(errors.WorkflowRunnerError, match="Odd: 1 and 2"):
            ctx.exec(call(work.fail, "odd"), on="pool")
        return ctx.exec(call(math.sqrt, 4.0), on="pool")

    assert run(away, body) == 2.0


def test_the_callers_retry_is_the_only_one(away: Scope, tmp_path: pathlib.Path) -> None:
    """Three attempts are three runs over there."""
    path = tmp_path / "runs"
    with pytest.raises(ValueError, match="no"):
        run(away, lambda ctx: ctx.exec(call(work.count, str(path)), on="pool", retry=Retry(attempts=3, initial=0)))
    assert path.read_text() == "xxx"


def test_an_unknown_name_is_a_definition_error(away: Scope) -> None:
    """It names the executors that there are; without any there are none."""
    with pytest.raises(errors.DefinitionError, match=r"on='cluster' names no executor .*\['pool'\]"):
        run(away, lambda ctx: ctx.exec(call(math.sqrt, 4.0), on="cluster"))


def test_what_nobody_can_import_is_refused(away: Scope) -> None:
    """Lambdas and functions of functions cannot run there: DefinitionError before anything is sent."""

    @flow
    def local(ctx: FlowContext, _: Any) -> None: ...

    def inner() -> None: ...

    for what in (call(lambda: 1), call(inner), local):
        with pytest.raises(errors.DefinitionError, match="cannot run in another process"):
            run(away, lambda ctx, what=what: ctx.exec(what, on="pool"))  # type: ignore[misc]


def test_what_does_not_fit_or_cannot_be_written_is_refused(away: Scope) -> None:
    """A wrong input is an InputError here; one that cannot travel a SerializationError naming the flow."""
    with pytest.raises(errors.InputError, match="qty"):
        run(away, lambda ctx: ctx.exec(work.total, {"qty": "many", "price": 1}, on="pool"))
    with pytest.raises(errors.SerializationError, match="add"):
        run(away, lambda ctx: ctx.exec(call(work.add, object(), 1), on="pool"))


def test_a_pool_that_lost_a_worker_is_replaced(make_scope: Callable[..., Scope], tmp_path: pathlib.Path) -> None:
    """The attempt fails with the pool's error; the next one gets a new pool from the factory."""
    made: list[Executor] = []

    def factory() -> Executor:
        made.append(processes())
        return made[-1]

    scope = make_scope(executors={"pool": factory})
    assert made == []
    path = str(tmp_path / "died")
    retry = Retry(attempts=2, initial=0, on=BrokenProcessPool)
    assert run(scope, lambda ctx: ctx.exec(call(work.die_once, path), on="pool", retry=retry)) == "alive"
    assert len(made) == 2
    scope.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        made[1].submit(math.sqrt, 4.0)


@pytest.fixture
def near(make_scope: Callable[..., Scope]) -> Iterator[Scope]:
    """A scope whose executor "threads" is a pool of threads; what is stuck there is let go at the end."""
    for one in (work.begun, work.go, work.told):
        one.clear()
    with ThreadPoolExecutor(4) as threads:
        yield make_scope(executors={"threads": threads})
        work.go.set()


def test_cancelling_frees_the_caller_at_once(near: Scope) -> None:
    """The execution ends while the work over there goes on; its late value is dropped."""

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        return ctx.exec(work.stuck, on="threads")

    execution = near.exec(top)
    assert work.begun.wait(LONG)
    execution.cancel("enough")
    with pytest.raises(errors.ExecutionCancelled, match="enough"):
        execution.result(LONG)
    assert not work.go.is_set()
    assert near.stats().abandoned == 0


def test_a_deadline_frees_the_caller_and_travels(near: Scope) -> None:
    """The caller gets ExecutionTimeout, and the work over there its signal."""

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        with pytest.raises(errors.ExecutionTimeout):
            ctx.exec(work.listens, on="threads", timeout=0.05)
        return "on time"

    assert near.exec(top).result(LONG) == "on time"
    assert work.told.wait(LONG)


def test_a_given_executor_stays_its_owners(make_scope: Callable[..., Scope]) -> None:
    """Closing the scope closes what its factories have made, and nothing else."""
    with ThreadPoolExecutor(1) as given:
        made: list[ThreadPoolExecutor] = []

        def factory() -> ThreadPoolExecutor:
            made.append(ThreadPoolExecutor(1))
            return made[-1]

        scope = make_scope(executors={"given": given, "made": factory})
        for _ in range(2):
            run(scope, lambda ctx: [ctx.exec(call(math.sqrt, 4.0), on=name) for name in ("given", "made")])
        scope.close()
        assert given.submit(math.sqrt, 4.0).result(LONG) == 2.0
        assert len(made) == 1
        with pytest.raises(RuntimeError, match="after shutdown"):
            made[0].submit(math.sqrt, 4.0)


def test_one_pool_is_made_for_threads_that_ask_together(
    make_scope: Callable[..., Scope], together: Any, tiny_switches: None
) -> None:
    """A factory is called once, however many ask for its executor first."""
    for _ in range(20):
        made: list[ThreadPoolExecutor] = []

        def factory(made: list[ThreadPoolExecutor] = made) -> ThreadPoolExecutor:
            made.append(ThreadPoolExecutor(1))
            return made[-1]

        scope = make_scope(executors={"made": factory})
        pools = together(*[lambda scope=scope: scope._executors.get("made")] * 4)
        assert len(made) == 1
        assert pools == made * 4
        scope.close()


def test_an_import_path_is_checked_both_ways() -> None:
    """``import_path`` gives a path at which ``find`` finds the same, or refuses."""
    for function in (math.sqrt, work.add):
        assert offload.find(offload.import_path(function)) is function
    assert offload.find(offload.import_path(work.total.handler)) is work.total
    for wrong in (lambda: 1, 5, work.shadow):
        with pytest.raises(errors.DefinitionError, match="cannot run in another process"):
            offload.import_path(wrong)
