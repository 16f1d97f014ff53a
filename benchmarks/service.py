"""A Flask view that runs a flow, under gunicorn, against the same view on a bare pool.

Claims: a view that runs a flow with a 4-wide ``ctx.parallel`` of calls that take 20 ms answers at least 0.95 of the
requests that one on a bare ``ThreadPoolExecutor`` answers, with a p99 of at most 1.1 of its; and while 5 % of the calls
hang for 60 s, with a timeout of 200 ms, it keeps answering (0.9 of what is asked), while the bare pool runs out of
threads.

Measured: two gunicorns (2 workers, gthread) on one machine, loaded in turns from a process of its own. Healthy: so many
clients, each asking again as soon as it is answered. Hanging: requests at a fixed rate below what the healthy service
answers; an answer counts if its status is 200 and it comes within a second.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask

from benchmarks.harness import benchmark, percentile
from workflow_runner import FlowContext, Scope, flow
from workflow_runner.integrations.flask import init_app

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 16
# an answer that takes longer is none
PATIENCE = 1.0

# --- the service, which gunicorn loads from here ----------------------------------------------------------------------

WIDTH = 4
CALL_SECONDS = 0.02
HANG_SECONDS = 60.0
TIMEOUT_SECONDS = 0.2
WORKERS = 64
# one call in twenty hangs
EVERY = 20

_never = threading.Event()
_count = itertools.count(1).__next__


def upstream(hanging: bool) -> int:
    """A call to somebody else, which takes its time, or hangs."""
    _never.wait(HANG_SECONDS if hanging and _count() % EVERY == 0 else CALL_SECONDS)
    return 1


@flow
def call_upstream(ctx: FlowContext, hanging: bool) -> int:
    return upstream(hanging)


@flow
def healthy(ctx: FlowContext, width: int) -> int:
    return sum(ctx.parallel(call_upstream.each([False] * width)))


@flow
def patient(ctx: FlowContext, width: int) -> int:
    settled = ctx.parallel_settled(call_upstream.each([True] * width), timeout=TIMEOUT_SECONDS)
    return settled.stats.succeeded


def on_scope() -> flask.Flask:
    """The view on a scope."""
    app = flask.Flask("scope")
    scope = Scope(max_workers=WORKERS, max_abandoned=100_000)
    init_app(app, scope)
    app.get("/healthy", endpoint="healthy")(lambda: str(scope.run(healthy, WIDTH)))
    app.get("/hanging", endpoint="hanging")(lambda: str(scope.run(patient, WIDTH)))
    return app


def on_pool() -> flask.Flask:
    """The same on a bare pool, as it is usually written."""
    app = flask.Flask("pool")
    pool = ThreadPoolExecutor(WORKERS)

    def view(hanging: bool) -> str:
        done = 0
        for future in [pool.submit(upstream, hanging) for _ in range(WIDTH)]:
            try:
                done += future.result(TIMEOUT_SECONDS if hanging else None)
            except TimeoutError:
                future.cancel()
        if not done:
            flask.abort(503)
        return str(done)

    app.get("/healthy", endpoint="healthy")(lambda: view(False))
    app.get("/hanging", endpoint="hanging")(lambda: view(True))
    return app


# --- the load ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def gunicorn(application: str) -> Iterator[int]:
    """Serve it; gives the port."""
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--workers", "2"]
        command += ["--worker-class", "gthread", "--threads", "16", "--graceful-timeout", "1"]
        process = subprocess.Popen([*command, f"benchmarks.service:{application}()"], cwd=ROOT, stderr=errors)
        try:
            yield _port(process, errors)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _port(process: subprocess.Popen[bytes], errors: Any) -> int:
    while process.poll() is None:
        errors.seek(0)
        log = errors.read()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", log)
        if found and log.count("Booting worker") == 2:
            return int(found[1])
        time.sleep(0.05)
    errors.seek(0)
    raise SystemExit(errors.read())


def load(port: int, path: str, seconds: float, rate: float) -> dict[str, float]:
    """Load the service from another process; answers per second and the p99 of their times."""
    words = ["--port", str(port), "--path", path, "--seconds", str(seconds), "--rate", str(rate)]
    command = [sys.executable, "-m", "benchmarks.service", "--client", *words]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, env={**os.environ})
    return json.loads(ran.stdout)  # type: ignore[no-any-return]


def client(port: int, path: str, seconds: float, rate: float) -> dict[str, float]:
    """Ask for ``path`` for so long; ``rate`` requests a second, or as fast as it goes if that is 0."""
    turn = itertools.count().__next__
    begin = time.perf_counter()
    times: list[float] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        while True:
            due = begin + turn() / rate if rate else time.perf_counter()
            if due > begin + seconds:
                return
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            taken = time.perf_counter() - due
            if answer.status == 200 and taken <= PATIENCE:
                times.append(taken)

    # with a fixed rate so many that nobody's turn waits for another's answer
    threads = [threading.Thread(target=ask) for _ in range(CLIENTS * (8 if rate else 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"rate": len(times) / seconds, "p99": percentile(times, 99) if times else PATIENCE}


def main() -> None:
    with benchmark("service", rounds=7, description=__doc__) as bench, contextlib.ExitStack() as stack:
        seconds = 0.5 if bench.quick else 4.0
        ours, bare = stack.enter_context(gunicorn("on_scope")), stack.enter_context(gunicorn("on_pool"))
        for port in (ours, bare):
            load(port, "/healthy", 0.5, 0)
        turns = [(load(ours, "/healthy", seconds, 0), load(bare, "/healthy", seconds, 0)) for _ in range(bench.rounds)]
        healthy = _compare(bench, "healthy", turns, rate_aim=0.95, p99_aim=1.1)
        rate = round(healthy / 4)
        turns = [
            (load(ours, "/hanging", seconds, rate), load(bare, "/hanging", seconds, rate)) for _ in range(bench.rounds)
        ]
        kept = [mine["rate"] / rate for mine, _ in turns]
        starved = [other["rate"] / rate for _, other in turns]
        bench.report(f"5 % hang: unanswered of {rate} a second", max(0.0, 1 - statistics.median(kept)), at_most=0.1)
        bench.report("the same on a bare pool, the last round", 1 - starved[-1])


def _compare(bench: Any, name: str, turns: list[tuple[Any, Any]], *, rate_aim: float, p99_aim: float) -> float:
    ours, bare = ([turn[side]["rate"] for turn in turns] for side in (0, 1))
    rates = [theirs / mine for mine, theirs in zip(ours, bare, strict=True)]
    bench.report(f"{name}: answers a second", statistics.median(ours), spread=(min(ours), max(ours)))
    bench.report(f"{name}: those of a bare pool", statistics.median(bare), spread=(min(bare), max(bare)))
    bench.report(
        f"{name}: time of an answer against a bare pool",
        statistics.median(rates),
        at_most=1 / rate_aim,
        spread=(min(rates), max(rates)),
    )
    slow = [mine["p99"] / theirs["p99"] for mine, theirs in turns]
    bench.report(f"{name}: p99", statistics.median(mine["p99"] for mine, _ in turns), "ms")
    bench.report(
        f"{name}: p99 against a bare pool", statistics.median(slow), at_most=p99_aim, spread=(min(slow), max(slow))
    )
    return statistics.median(ours)


if __name__ == "__main__":
    if "--client" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--client", action="store_true")
        parser.add_argument("--port", type=int)
        parser.add_argument("--path")
        parser.add_argument("--seconds", type=float)
        parser.add_argument("--rate", type=float)
        chosen = parser.parse_args()
        print(json.dumps(client(chosen.port, chosen.path, chosen.seconds, chosen.rate)))
    else:
        main()
