"""The programs that are killed: ``python -m crash.program '{"do": ..., "dir": ...}'``.

Each prints one line of JSON for each command; "peer" takes its commands, one a line, from its standard input.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

from crash import failpoints, flows, outside
from crash.failpoints import LONG, limit, until
from workflow_runner import Scope, WorkflowContext, WorkflowResult, open_store
from workflow_runner._workflow import durable, resume
from workflow_runner.cli.app import main as command_line
from workflow_runner.errors import StoreError
from workflow_runner.store import commit, owner, sqlite
from workflow_runner.store.base import NewRun, StepRow


def url(command: dict[str, Any]) -> str:
    return f"sqlite:///{command['dir']}/runs.db?durability={command.get('durability', 'power')}"


def flow_and_input(command: dict[str, Any]) -> tuple[Any, Any]:
    flow = getattr(flows, command["flow"])
    return flow, WorkflowContext.new() if "input" not in command else command["input"]


def outcome(execution: Any) -> dict[str, Any]:
    """How an execution has ended, as JSON."""
    error = execution.exception(LONG)
    answer = {"run_id": execution.id, "status": str(execution.status), "kind": type(execution).__name__}
    if error is not None:
        return {**answer, "error": type(error).__name__, "message": str(error), "cause": repr(error.__cause__)}
    result = execution.result()
    if isinstance(result, WorkflowResult):
        return {**answer, "workflow": str(result.status), "result": result.context.get_output("last")}
    return {**answer, "result": result}


def started(scope: Scope, command: dict[str, Any]) -> Any:
    """The execution that the command asks for: a start under a key, or a resume."""
    if command.get("how") == "resume":
        run_id = command.get("run_id")
        if run_id is None:
            [run] = scope.store.runs()
            run_id = run.run_id
        return scope.resume(run_id)
    return scope.exec(*flow_and_input(command), run_id=command.get("run_id"), idempotency_key=command.get("key"))


# -- commands


def run(command: dict[str, Any]) -> dict[str, Any]:
    """Start or resume, and wait."""
    with Scope(store=url(command), max_workers=command.get("workers", 2)) as scope:
        return outcome(started(scope, command))


def main_job(command: dict[str, Any]) -> dict[str, Any]:
    """The nightly job, by the command that cron gives."""
    words = ["run", "--json", "--store", url(command), "--key", "{flow}/{as_of_date}", "--as-of-date", "2013-02-28"]
    warehouse = ["--warehouse", f"{command['dir']}/warehouse.db"]
    sys.exit(command_line([*words, "workflow_runner.examples.market_close:nightly", *warehouse]))


def backfill(command: dict[str, Any]) -> dict[str, Any]:
    """A year of days, by the command that a person gives."""
    words = ["backfill", "--json", "--store", url(command), "--batch-id", "year", "--from", "2013-01-01"]
    active = ["--to", "2013-12-31", "--max-active", str(command["active"])]
    sys.exit(command_line([*words, *active, "crash.flows:dated"]))


def run_in_main_thread(command: dict[str, Any]) -> dict[str, Any]:
    """As `run`, in the calling thread: what forks there is the same program in the child."""
    scope = Scope(store=url(command))
    try:
        return {"result": scope.run(*flow_and_input(command), idempotency_key=command.get("key"))}
    except BaseException as error:
        outside.note("raised", type(error.__cause__ or error).__name__)
        raise


def serve(command: dict[str, Any]) -> dict[str, Any]:
    """Run until the end or SIGTERM, which hands the run back."""
    scope = Scope(store=url(command), max_workers=8)

    def handler(_number: int, _frame: Any) -> None:
        outside.note("handler", "SIGTERM")
        failpoints.terminated.set()
        scope.close(cancel=True, timeout=command.get("grace", LONG))

    signal.signal(signal.SIGTERM, handler)
    execution = started(scope, command)
    # a queue whose `get` a signal's handler may interrupt anywhere: of the scope's locks this thread holds none
    ended: SimpleQueue[Any] = SimpleQueue()
    execution.add_done_callback(ended.put)
    failpoints.waiting.set()
    outside.note("waiting", "main thread")
    ended.get(timeout=LONG)
    answer = outcome(execution)
    scope.close(timeout=command.get("grace", LONG))
    return answer


def leave(command: dict[str, Any]) -> dict[str, Any]:
    """Submit many runs of ``body``, and die."""
    store = open_store(url(command))
    for key in command["keys"]:
        new = resume.new_run(f"run-{key}", flows.body, key, str(key))
        store.submit(new)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def race(command: dict[str, Any]) -> dict[str, Any]:
    """Start each key at the very moment when the other process does."""
    me, outcomes = command["me"], []
    durable.POLL = 0.002  # type: ignore[misc]
    with Path(command["barrier"]).open("r+b") as file, mmap.mmap(file.fileno(), 16) as barrier:
        with Scope(store=url(command)) as scope:
            for number, key in enumerate(command["keys"], 1):
                barrier[8 * me : 8 * me + 8] = number.to_bytes(8, "little")
                other = slice(8 * (1 - me), 8 * (1 - me) + 8)
                end = time.monotonic() + LONG
                while int.from_bytes(barrier[other], "little") < number:
                    assert time.monotonic() < end, "the other process does not come"
                asked = {**command, "key": str(key), "input": key, "run_id": f"run-{key}"}
                outcomes.append(attempt(lambda asked=asked: outcome(started(scope, asked))))
    return {"outcomes": outcomes}


def attempt(fn: Any) -> dict[str, Any]:
    try:
        return fn()
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}


def fork_under_load(command: dict[str, Any]) -> dict[str, Any]:
    """Fork while threads write; every child uses the scope that it has inherited."""
    scope = Scope(store=url(command), max_workers=4)
    executions = [scope.exec(flows.ticking, 1000 * n) for n in range(4)]
    codes = []
    for number in range(command["forks"]):
        rows = (outside.directory() / "effects").stat().st_size
        until(lambda rows=rows: (outside.directory() / "effects").stat().st_size > rows, "progress between two forks")
        pid = os.fork()
        if not pid:
            code = 1
            try:
                value = scope.run(flows.three, number, idempotency_key=f"child-{number}")
                code = 0 if value == 3 * number + 6 else 2
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        codes.append(_reap(pid))
    (outside.directory() / "stop").touch()
    ended = [outcome(execution) for execution in executions]
    scope.close(timeout=LONG)
    return {"codes": codes, "ended": ended}


def _reap(pid: int) -> int:
    found: list[int] = []

    def ended() -> bool:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            found.append(os.waitstatus_to_exitcode(status))
        return bool(done)

    try:
        until(ended, "a forked child")
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return -signal.SIGKILL
    return found[0]


def cancel_in_forked_child(command: dict[str, Any]) -> dict[str, Any]:
    """Fork after the scope was used; the child's run is cancelled through the store."""
    scope = Scope(store=url(command))
    before = scope.exec(flows.ticking, 0)  # the parent asks for cancels while it forks
    until(lambda: "ack" in (outside.directory() / "effects").read_text(), "a row")
    pid = os.fork()
    if not pid:
        try:
            scope.exec(flows.in_step, WorkflowContext.new(), run_id="in-child").exception(LONG)
        finally:
            os._exit(0)
    until(lambda: any(run.run_id == "in-child" for run in scope.store.runs()), "the run of the child")
    scope.store.request_cancel("in-child", "no longer wanted")
    code = _reap(pid)
    (outside.directory() / "stop").touch()
    before.result(LONG)
    status = scope.store.run("in-child").status
    scope.close(timeout=LONG)
    return {"code": code, "status": status}


# -- a full disk: nothing is written to files here, the answer goes to a pipe


def new_run(run_id: str) -> NewRun:
    return NewRun(run_id=run_id, flow="body", input="1", input_hash="1")


def step_row(number: int, size: int = 2000) -> StepRow:
    return StepRow(
        path=f"p{number}", seq=number, kind="step", flow="f", output=json.dumps("x" * size), started_at=0, finished_at=0
    )


def fill_disk(command: dict[str, Any]) -> dict[str, Any]:
    """Record until the disk is full, then make room and go on."""
    if command.get("checkpoint_every"):
        commit._CHECKPOINT_EVERY = command["checkpoint_every"]  # type: ignore[misc]
    store = open_store(url(command))
    store.submit(new_run("r"))
    limit(command["limit"])
    acked, failure = [], None
    lock = threading.Lock()

    def fill(start: int) -> None:
        nonlocal failure
        for number in range(start, start + 4000, command["threads"]):
            if failure is not None:
                return
            try:
                store.record("r", 1, [step_row(number, command["size"])])
            except Exception as error:
                with lock:
                    failure = failure or error
                return
            acked.append(f"p{number}")

    threads = [threading.Thread(target=fill, args=(n,)) for n in range(command["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    limit(None)  # to read much, SQLite sorts in a file
    present = sorted(row.path for row in store.steps("r"))
    store.record("r", 1, [step_row(9999)])
    acked.append("p9999")
    after = sorted(row.path for row in store.steps("r"))
    store.finish("r", 1, "completed", "1", None)
    status = store.run("r").status
    store.close()
    return {
        "error": type(failure).__name__,
        "typed": isinstance(failure, StoreError),
        "message": str(failure),
        "acked": sorted(acked),
        "present": present,
        "after": after,
        "status": status,
    }


def open_on_full_disk(command: dict[str, Any]) -> dict[str, Any]:
    """Make a store where there is no room, then where there is."""
    limit(command["limit"])
    refused = attempt(lambda: open_store(url(command)).close() or {})
    limit(None)
    store = open_store(url(command))
    store.submit(new_run("r"))
    store.close()
    return refused


def first_write_on_full_disk(command: dict[str, Any]) -> dict[str, Any]:
    """The first thing that a process writes fails; the next one does not. Then it waits to be asked."""
    store = open_store(url(command))
    limit(1)
    refused = attempt(lambda: store.submit(new_run("r")) and {})
    limit(None)
    store.submit(new_run("r"))
    print(json.dumps(refused), flush=True)
    sys.stdin.readline()
    return {}


def run_on_full_disk(command: dict[str, Any]) -> dict[str, Any]:
    """A run, one step of which cannot be recorded; room is made; the same process resumes it."""
    scope = Scope(store=url(command))
    first = outcome(started(scope, command))
    limit(None)
    state = look({**command, "run_id": first["run_id"]})
    second = attempt(lambda: outcome(scope.resume(first["run_id"])))
    scope.close(timeout=LONG)
    return {"first": first, "state": state, "second": second}


# -- long-lived


def peer(command: dict[str, Any]) -> dict[str, Any]:
    """Take commands from the standard input until it ends."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        outside.use(asked["dir"])
        print(json.dumps(attempt(lambda asked=asked: COMMANDS[asked["do"]](asked))), flush=True)
    return {}


def forked(command: dict[str, Any]) -> dict[str, Any]:
    """Do another command in a process of its own, forked from this one, which spares it the imports.

    This process has used no store and has no threads: the other starts as fresh as one that was executed.
    """
    pid = os.fork()
    if pid:
        return {"code": _reap(pid)}
    try:
        prepare(command["command"])
        COMMANDS[command["command"]["do"]](command["command"])
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def look(command: dict[str, Any]) -> dict[str, Any]:
    """What a store of this process says of a run.

    Args:
        command: with "slow", it waits for the file "look-on" between reading the run and looking at its owner; with
            "hold", while it looks at the owner.
    """
    probe, flock = sqlite.alive, fcntl.flock

    def pause() -> None:
        outside.note("looking", command["run_id"])
        until(lambda: outside.exists("look-on"), "the test")

    if command.get("slow"):
        sqlite.alive = lambda *args: (pause(), probe(*args))[1]
    if command.get("hold"):
        owner.fcntl = SimpleNamespace(**{**vars(fcntl), "flock": lambda *args: (flock(*args), pause())[0]})
    store = open_store(url(command))
    run = store.run(command["run_id"])
    store.close()
    return {"status": run.status, "alive": run.alive, "crashed": run.crashed, "owner": run.owner, "fence": run.fence}


def submit(command: dict[str, Any]) -> dict[str, Any]:
    """Submit a run."""
    store = open_store(url(command))
    _, created = store.submit(new_run(command["run_id"]))
    store.close()
    return {"created": created}


COMMANDS = {
    fn.__name__: fn
    for fn in (
        run,
        main_job,
        backfill,
        run_in_main_thread,
        serve,
        leave,
        race,
        fork_under_load,
        cancel_in_forked_child,
        fill_disk,
        open_on_full_disk,
        first_write_on_full_disk,
        run_on_full_disk,
        peer,
        forked,
        look,
        submit,
    )
}


def prepare(command: dict[str, Any]) -> None:
    outside.use(command["dir"])
    if command["do"] != "peer" and not command.get("bare"):
        failpoints.install(
            command.get("at", {}), trace=command.get("trace", False), checkpoint_every=command.get("checkpoint_every")
        )


def main() -> None:
    command = json.loads(sys.argv[1])
    prepare(command)
    answer = COMMANDS[command["do"]](command)
    if answer:
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
