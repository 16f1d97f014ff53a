"""How a process ends, in processes of their own. Every one is bounded by `end`: it is killed, and the test fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import IO

import pytest

BOUND = 30

HEAD = """
import logging, os, signal, sys, threading, time
from workflow_runner import *
logging.basicConfig(format="%(levelname)s %(message)s")
signal.signal(signal.SIGURG, lambda *_: None)

@flow
def echo(ctx, value):
    return value

@flow
def sleeps(ctx, _):
    time.sleep(3600)

@flow
def waits(ctx, _):
    if ctx.signal.event.wait(3600):
        print("told", flush=True)

"""


def start(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HEAD + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=BOUND)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the process did not end\n{out}\n{err}")
    return process.returncode, out, err


def interrupt(process: subprocess.Popen[str]) -> None:
    """SIGINT, and others that do nothing: one that comes just before a thread sleeps is noticed when it wakes."""
    process.send_signal(signal.SIGINT)

    def wake() -> None:
        while process.poll() is None:
            process.send_signal(signal.SIGURG)
            time.sleep(0.05)

    threading.Thread(target=wake, daemon=True).start()


def run(program: str) -> tuple[int, str, str]:
    return end(start(program))


def line(stream: IO[str] | None) -> str:
    """The next line that the process prints."""
    assert stream is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(BOUND)
    assert lines, "the process printed nothing"
    return lines[0].strip()


@pytest.mark.parametrize("closes", [True, False])
def test_a_no_op_with_a_deadline_lets_the_process_end_at_once(closes: bool) -> None:
    """``timeout=60`` and an immediate end: nothing waits for the deadline, closed or not."""
    program = f"""
scope = Scope()
assert scope.exec(echo, 5, timeout=3600).result() == 5
with scope.create_execution("block", timeout=3600):
    pass
if {closes}:
    scope.close()
print("end")
"""
    assert run(program) == (0, "end\n", "")


def test_a_stuck_thread_does_not_keep_the_process() -> None:
    """A thread in ``time.sleep(3600)``: closing with a grace of 1 s ends the process, the thread's stack is logged."""
    code, out, err = run("""
scope = Scope(max_workers=2)
stuck = scope.exec(sleeps)
scope.close(timeout=1)
print(stuck.status, flush=True)
""")
    assert (code, out) == (0, "cancelled\n")
    assert "WARNING thread.abandoned" in err
    assert "in sleeps" in err


@pytest.mark.parametrize("closes", [True, False])
def test_a_thread_that_a_deadline_has_abandoned_does_not_keep_the_process(closes: bool) -> None:
    """Neither with ``close()`` nor with a scope that nobody closes."""
    code, out, err = run(f"""
scope = Scope(max_workers=1)
try:
    scope.run(sleeps, timeout=0.05)
except errors.ExecutionTimeout as error:
    print(error)
@flow
def parent(ctx, _):
    try:
        ctx.exec(sleeps, timeout=0.05)
    except errors.ExecutionTimeout as error:
        return str(error)
print(scope.run(parent))
print(scope.run(echo, 5))
if {closes}:
    scope.close()
""")
    assert (code, out) == (0, "sleeps timed out after 0.05 s\nsleeps timed out after 0.05 s\n5\n")
    assert "thread.failed" not in err


def test_a_scope_that_nobody_closes_drains_its_queue() -> None:
    """What was started before the end of the program runs, with everything below it, on threads made then."""
    assert run("""
@flow
def top(ctx, n):
    time.sleep(0.01)
    done.append(sum(ctx.parallel(echo.each(range(n)))) + ctx.exec(echo, 1, timeout=60))

@flow
def last(ctx, _):
    print(len(done))

done = []
scope = Scope(max_workers=2)
executions = [scope.exec(top, 5, timeout=60) for _ in range(20)]
scope.exec(call(time.sleep, 0.01))
executions[0].add_done_callback(lambda _: None)
scope.exec(last).add_done_callback(lambda e: print(e.status))
""") == (0, "20\ncompleted\n", "")


def test_deadlines_still_fire_at_the_end() -> None:
    """A queued execution that is stuck ends at its deadline, and the process with it."""
    code, out, err = run("""
scope = Scope(max_workers=1)
for _ in range(2):
    scope.exec(sleeps, timeout=0.1).add_done_callback(lambda e: print(e.status, flush=True))
scope.exec(call(print, "next", flush=True))
""")
    assert code == 0
    assert (out.count("cancelled"), out.count("next")) == (2, 1)
    assert "Traceback" not in err


@pytest.mark.parametrize("where", ["inside the block", "leaving the block", "at exit"])
def test_ctrl_c_ends_the_process(where: str) -> None:
    """SIGINT while the main thread waits: what listens to its signal is told, and the process ends."""
    body = {
        "inside the block": "with Scope() as scope:\n    scope.exec(waits)\n    ready.set()\n    time.sleep(3600)",
        "leaving the block": "with Scope() as scope:\n    scope.exec(waits); threading.Thread(target=closing).start()",
        "at exit": "scope = Scope()\nscope.exec(waits)\nthreading.Thread(target=closing, daemon=True).start()",
    }[where]
    process = start(f"""
ready = threading.Event()

def closing():
    while not scope._closer:  # until the main thread waits in `close`
        pass
    ready.set()

def say():
    ready.wait()
    print("ready", flush=True)

threading.Thread(target=say, daemon=True).start()
{body}
""")
    assert line(process.stdout) == "ready"
    interrupt(process)
    code, out, err = end(process)
    assert "KeyboardInterrupt" in err
    if where == "at exit":
        assert out in ("", "told\n")  # its thread may be quicker than the end or not
    else:
        assert out == "told\n"
        assert code in (-signal.SIGINT, 1, 130)


def test_ctrl_c_with_a_stuck_thread_and_a_grace() -> None:
    """An interrupt, then ``close(cancel=True, timeout=1)``: a stuck handler does not hold it up."""
    process = start("""
scope = Scope()
execution = scope.exec(sleeps)
while not execution.running():
    pass
try:
    print("ready", flush=True)
    execution.result()
except KeyboardInterrupt:
    scope.close(cancel=True, timeout=1)
    print(execution.status, flush=True)
    raise SystemExit(130)
""")
    assert line(process.stdout) == "ready"
    interrupt(process)
    code, out, err = end(process)
    assert (code, out) == (130, "cancelled\n")
    assert "in sleeps" in err


def test_sys_exit_in_a_handler_is_the_callers() -> None:
    """SystemExit of a handler reaches whoever asks for the result, and ends the process with its code."""
    assert run("""
@flow
def leaves(ctx, _):
    sys.exit(7)

with Scope() as scope:
    scope.exec(leaves).result()
""")[:2] == (7, "")


def test_an_error_at_exit_in_one_scope_leaves_the_others_their_turn() -> None:
    """Each open scope is closed; an extension that fails is logged."""
    code, out, err = run("""
class Fails(Extension):
    def dispose(self, scope):
        raise ValueError("no")

class Tells(Extension):
    def dispose(self, scope):
        print("disposed", scope.name)

scopes = [Scope(name=f"s{n}", extensions=[Fails(), Tells()]) for n in range(3)]
for scope in scopes:
    scope.exec(echo, 1)
""")
    assert code == 0
    assert sorted(out.split("\n")) == ["", "disposed s0", "disposed s1", "disposed s2"]
    assert err.count("extension.failed") == 3
