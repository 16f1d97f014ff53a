"""assert_resumable: what it lets pass, and that it catches what cannot be gone on with."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import attrs
import pytest

from workflow_runner import Retry, Scope, Secret, Step, StepResult, Workflow, WorkflowContext, flow, tag
from workflow_runner.testing import Resumable, assert_resumable


def steps(*bodies: Any, **options: Any) -> Workflow:
    """A workflow of these functions, each a step of its name."""
    return Workflow("job", steps=[Step(body.__name__, body) for body in bodies], **options)


def test_a_workflow_is_killed_after_every_step(tmp_path: Path) -> None:
    """Before anything is recorded, and after each record; each kill is a real one."""
    pids = tmp_path / "pids"
    threads = threading.active_count()

    def fetch(context: WorkflowContext) -> dict[str, Any]:
        with pids.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {"rows": context.params["rows"]}

    def load(context: WorkflowContext) -> StepResult:
        return StepResult.ok({"loaded": context.get_output("fetch", "rows")}, context_updates={"done": True})

    workflow = Workflow(
        "job",
        steps=[
            Step("fetch", fetch),
            Step.map("double", lambda n: n * 2, items="rows"),
            Step.choice("route", when=lambda context: True, then=[Step("load", load)]),
            Step("last", lambda context: None),
        ],
    )
    done = assert_resumable(workflow, {"rows": [1, 2, 3]})
    assert isinstance(done, Resumable)
    assert done.after[:2] == (None, "fetch")
    assert done.kills == len(done.after) > 6  # the three items are recorded together, or in two or three batches
    assert done.rows == 8
    ran = pids.read_text().split()
    assert len(ran) == len(set(ran)) >= 1 + done.kills
    assert str(os.getpid()) not in ran
    assert threading.active_count() == threads


def test_steps_that_run_side_by_side_are_killed_in_any_order() -> None:
    """Whichever is recorded first; the result is the same."""
    workflow = Workflow(
        "job",
        steps=[
            Step("left", lambda context: {"n": 1}, needs=()),
            Step("right", lambda context: {"n": 2}, needs=()),
            Step("both", lambda context: {"n": len(context.step_outputs)}, needs=("left", "right")),
        ],
    )
    done = assert_resumable(workflow)
    assert done.after[0] is None
    assert done.after[-1] == "both"
    assert done.kills == 4


def test_a_flow_is_killed_after_every_child_and_batch() -> None:
    """The items of a fan-out are recorded together."""

    @flow
    def square(ctx: Any, n: int) -> int:
        return n * n

    @flow(retry=Retry(attempts=2))
    def total(ctx: Any, n: int) -> int:
        first: int = ctx.exec(square, n)
        return sum(ctx.parallel(square.each(range(n)))) + first

    done = assert_resumable(total, 4)
    assert done.rows == 5
    assert done.after[:2] == (None, "square")


def test_a_step_with_a_transaction_is_killed_after_its_commit() -> None:
    """Its writes and its record are there, once."""

    @flow
    def note(ctx: Any, context: WorkflowContext) -> dict[str, int]:
        with ctx.transaction() as db:
            db.execute("CREATE TABLE IF NOT EXISTS notes (n INTEGER)")
            db.execute("INSERT INTO notes VALUES (1)")
            return {"notes": db.execute("SELECT count(*) FROM notes").fetchone()[0]}

    workflow = Workflow("job", steps=[Step("note", note), Step("after", lambda context: None)])
    assert assert_resumable(workflow).after == (None, "note", "after")


def test_a_step_that_needs_the_memory_of_another_is_caught() -> None:
    """The step after which it was killed is named, and what the resumed run has failed with."""
    memory: dict[str, int] = {}

    def fetch(context: WorkflowContext) -> None:
        memory["rows"] = 3

    def load(context: WorkflowContext) -> dict[str, int]:
        return {"loaded": memory["rows"]}

    with pytest.raises(
        AssertionError, match=r"job, killed after 'fetch' was recorded: the resumed run failed: .*'rows'"
    ):
        assert_resumable(steps(fetch, load))
    assert not memory  # nothing has run in this process


def test_a_result_that_comes_out_different_is_caught() -> None:
    """What is different is named, with both values."""
    memory: list[str] = []

    def fetch(context: WorkflowContext) -> None:
        memory.append("fetch")

    def load(context: WorkflowContext) -> StepResult:
        return StepResult.ok({"loaded": len(memory)}, context_updates={"clean": bool(memory)})

    message = (
        r"killed after 'fetch' was recorded: the output of 'load' is {'loaded': 0}, undisturbed it is {'loaded': 1};"
        r" param 'clean' is False, undisturbed it is True"
    )
    with pytest.raises(AssertionError, match=message):
        assert_resumable(steps(fetch, load))
    assert assert_resumable(steps(fetch, load), compare=lambda one, other: one.status == other.status).kills == 3
    with pytest.raises(AssertionError, match="the result is another one"):
        assert_resumable(steps(fetch, load), compare=lambda one, other: False)


def test_a_flow_that_goes_another_way_is_caught() -> None:
    """It records other paths than the undisturbed run."""
    memory: list[int] = []

    @flow
    def child(ctx: Any, n: int) -> int:
        memory.append(n)
        return 0

    @flow
    def wavers(ctx: Any, _: None) -> int:
        ctx.exec(child, 1, key="first")
        ctx.exec(child, 2, key="second" if memory else "other")
        return 0

    with pytest.raises(AssertionError, match=r"killed after 'first' was recorded: not recorded: second"):
        assert_resumable(wavers)


def test_something_recorded_that_runs_again_is_caught() -> None:
    """A handler that forgets what was recorded, for one."""
    memory: list[int] = []

    @flow
    def child(ctx: Any, n: int) -> int:
        return n

    @flow
    def forgets(ctx: Any, _: None) -> int:
        if not memory:
            ctx.reset_journal()
        memory.append(1)
        return int(ctx.exec(child, 1))

    with pytest.raises(AssertionError, match="what was recorded of 'child' has changed"):
        assert_resumable(forgets)


def test_a_flow_that_fails_undisturbed_is_no_pass() -> None:
    """There is nothing to compare with."""

    def fails(context: WorkflowContext) -> None:
        raise ValueError("never works")

    with pytest.raises(AssertionError, match=r"job does not complete when nobody disturbs it: .*never works"):
        assert_resumable(steps(fails))


def test_a_process_that_hangs_is_killed_and_reported(tmp_path: Path) -> None:
    """The test ends; no process is left behind."""
    pid = tmp_path / "pid"

    def hangs(context: WorkflowContext) -> None:
        pid.write_text(str(os.getpid()))
        time.sleep(60)

    with pytest.raises(AssertionError, match=r"job, started as undisturbed has not ended after 1 s"):
        assert_resumable(steps(hangs), timeout=1)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_process_that_dies_by_itself_is_reported() -> None:
    """Not taken for one that was killed here."""

    def dies(context: WorkflowContext) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    with pytest.raises(AssertionError, match="has died: -15"):
        assert_resumable(steps(dies))


def test_secrets_of_the_input_are_supplied() -> None:
    """They are in no store, and the test has them."""

    @attrs.frozen
    class Params:
        password: Annotated[str, Secret]
        limit: int = 1

    def login(context: WorkflowContext) -> dict[str, int]:
        return {"length": len(context.params["password"])}

    assert assert_resumable(steps(login, params=Params), {"password": "hunter-two"}).kills == 2


def test_the_scope_may_have_arguments() -> None:
    """Tags that the flow needs, for one."""
    limit = tag(int, label="limit")

    @flow
    def reads(ctx: Any, _: None) -> int:
        return ctx.get(limit)

    assert assert_resumable(reads, make_scope=partial(Scope, tags=[limit(3)])).kills == 1


def test_the_files_are_kept_on_request(tmp_path: Path) -> None:
    """To be looked at with the command."""

    def only(context: WorkflowContext) -> None: ...

    assert_resumable(steps(only), folder=tmp_path)
    assert {file.name for file in tmp_path.glob("*.db")} == {"undisturbed.db", "kill-0.db", "kill-1.db"}


def test_random_numbers_are_caught() -> None:
    """Two runs of one input are not the same, and so is none that was gone on with."""

    def draws(context: WorkflowContext) -> dict[str, float]:
        return {"number": random.SystemRandom().random()}

    with pytest.raises(AssertionError, match=r"the output of 'draws' is .* undisturbed it is"):
        assert_resumable(steps(draws))


def test_it_works_without_pytest() -> None:
    """In a script, where pytest is not even installed."""
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from workflow_runner import Step, Workflow\n"
        "from workflow_runner.testing import ManualClock, assert_resumable\n"
        "print(assert_resumable(Workflow('job', steps=[Step('a', lambda context: {'n': 1})])))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ran.stdout == "Resumable(kills=2, rows=1, after=(None, 'a'))\n", ran.stderr
