"""A scope used before ``fork`` works in the child. In processes of their own, because pytest has threads as well."""

from __future__ import annotations

import subprocess
import sys

import pytest

BOUND = 30

HEAD = """
import multiprocessing, os, signal, sys, threading, time, warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from workflow_runner import *
warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12: forking a process with threads

@flow
def echo(ctx, value):
    return value

@flow
def stuck(ctx, go):
    assert go.wait(20)
    return "late"

@flow
def everything(ctx, _):
    try:
        ctx.exec(sleeps, timeout=0.05)
    except errors.ExecutionTimeout as error:
        caught = str(error)
    return [ctx.exec(echo, 1, timeout=20), *ctx.parallel(echo.each([2, 3])), *ctx.stream(echo.each([4])), caught]

@flow
def sleeps(ctx, _):
    ctx.signal.event.wait(20)

EXPECTED = [1, 2, 3, 4, "sleeps timed out after 0.05 s"]

def forked(work):
    "Run work in a forked child; its exit status."
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        code = 9
        try:
            signal.alarm(20)
            work()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + program], capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_child_has_fresh_threads_slots_and_deadlines() -> None:
    """Forked with a busy pool, a queue and live deadlines: exec, parallel, streams and timeouts work in the child."""
    assert (
        run("""
scope, go = Scope(max_workers=2), threading.Event()
scope.run(everything, timeout=20)
busy = [scope.exec(stuck, go, timeout=20) for _ in range(6)]
block = scope.create_execution("block", timeout=20)

def child():
    stats = scope.stats()
    assert (stats.active, stats.pending, stats.free, stats.deadlines) == (0, 0, 2, 0), stats
    assert scope.executions == ()
    assert scope.exec(everything).result(20) == EXPECTED
    assert scope.exec(everything, timeout=20).result(20) == EXPECTED
    assert scope.run(everything) == EXPECTED
    pending = [scope.exec(echo, n) for n in range(50)]
    assert [e.result(20) for e in pending] == list(range(50))
    scope.close()
    print("child")

assert [forked(child) for _ in range(3)] == [0, 0, 0]
go.set()
assert [e.result(20) for e in busy] == ["late"] * 6
assert scope.run(everything) == EXPECTED
block.end()
scope.close()
print("parent")
""")
        == "child\nchild\nchild\nparent\n"
    )


def test_locks_that_were_held_at_the_fork_do_not_matter() -> None:
    """Forked again and again while other threads use the scope as hard as they can."""
    assert (
        run("""
sys.setswitchinterval(1e-5)
scope, stop = Scope(max_workers=2), threading.Event()

@flow
def fans(ctx, n):
    return sum(ctx.parallel(echo.each(range(n))))

def use():
    while not stop.is_set():
        scope.exec(fans, 5, timeout=20).result(20)
        scope.create_execution("block", timeout=20).end()

def child():
    assert [e.result(20) for e in [scope.exec(fans, 5, timeout=20) for _ in range(10)]] == [10] * 10

users = [threading.Thread(target=use) for _ in range(2)]
for user in users:
    user.start()
codes = [forked(child) for _ in range(15)]
stop.set()
for user in users:
    user.join(20)
scope.close()
print(codes == [0] * 15)
""")
        == "True\n"
    )


def test_ids_differ_on_both_sides() -> None:
    """Parent and children make different run ids."""
    assert (
        run("""
scope = Scope()
scope.run(echo, 1)
read, write = os.pipe()

def child():
    os.write(write, b"".join(scope.exec(echo, n).id[12:].encode() for n in range(5)))

assert [forked(child) for _ in range(3)] == [0, 0, 0]
texts = os.read(read, 65536).decode()
ids = [texts[n : n + 20] for n in range(0, len(texts), 20)] + [scope.exec(echo, n).id[12:] for n in range(5)]
print(len(ids), len(set(ids)))
""")
        == "20 20\n"
    )


@pytest.mark.parametrize("started", ["run", "exec"])
def test_a_process_that_is_forked_inside_a_flow_ends_well(started: str) -> None:
    """``multiprocessing`` with fork in a handler: the child exits with 0, and the scope works there too."""
    assert (
        run(f"""
def child(n):
    assert scope.run(everything) == EXPECTED
    assert scope.exec(echo, n, timeout=20).result(20) == n

@flow
def forks(ctx, _):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=child, args=(n,)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return [process.exitcode for process in processes], pool.submit(abs, -5).result(20)

scope = Scope(max_workers=2)
print(scope.{started}(forks){".result(20)" if started == "exec" else ""})
""")
        == "([0, 0], 5)\n"
    )


def test_named_executors_are_made_anew_in_the_child() -> None:
    """A pool that a factory has made in the parent is not the child's: it makes its own."""
    assert (
        run("""
import math
made = []

def factory():
    made.append(ThreadPoolExecutor(1))
    return made[-1]

@flow
def away(ctx, _):
    return ctx.exec(call(math.sqrt, 4.0), on="pool", timeout=20)

scope = Scope(executors={"pool": factory})
assert scope.run(away) == 2.0
assert len(made) == 1

def child():
    assert scope.run(away) == 2.0
    assert len(made) == 2
    scope.close()

print(forked(child), scope.run(away), len(made))
""")
        == "0 2.0 1\n"
    )
