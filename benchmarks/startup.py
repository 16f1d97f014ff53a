"""What ``import workflow_runner`` costs, and what it leaves alone.

Claims: a Python that imports the library starts in at most six times the time of one that does nothing; structlog,
asyncio, rich, sqlite3 and others that are only sometimes needed are not imported, neither by the import nor by a first
run.

The command: ``--version`` in at most 2.5 times that of an interpreter that does nothing, a job that is skipped since
another process is at it in at most 3 times, ``run`` of an empty flow, its result printed, in at most 12 times.

Measured: fresh interpreters, taking turns (many of them, since a start is short and the machine is shared), from before
the process is made until it has ended, with cached bytecode. The package imports its names when they are first asked
for, so the bare import says little; what a program pays is measured with it, up to every public name and a first run.
The command is what an installed script runs: ``from workflow_runner.cli.app import main; sys.exit(main())``. Its skip
is recorded in a store, and says who holds the lock.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Benchmark, Side, benchmark
from workflow_runner import open_store
from workflow_runner.cli import early
from workflow_runner.cli.locks import take

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {
    "import workflow_runner": "import workflow_runner",
    "from workflow_runner import Scope, flow": "from workflow_runner import Scope, flow",
    "from workflow_runner import *": "from workflow_runner import *",
    "import and a first run": "from workflow_runner import Scope, call\nwith Scope() as scope: scope.run(call(int))",
}
LEFT_ALONE = ("structlog", "asyncio", "rich", "sqlite3", "cattrs", "tenacity", "cyclopts")


COMMAND = "import sys; from workflow_runner.cli.app import main; sys.exit(main())"
FLOWS = "from workflow_runner import flow\n@flow\ndef empty(ctx, _=None): ...\n"
KEY = "nightly"


def python(
    program: str, environment: dict[str, str], *options: str, words: Sequence[str] = (), cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run ``program`` in a fresh interpreter that finds the library in this checkout."""
    command = [sys.executable, *options, "-c", program, *words]
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True)


def imported(program: str, environment: dict[str, str]) -> set[str]:
    """The top-level modules that ``program`` leaves in ``sys.modules``."""
    listing = python(f"{program}\nimport sys; print(*sys.modules)", environment).stdout
    return {name.partition(".")[0] for name in listing.split()}


def slowest(environment: dict[str, str], count: int) -> list[str]:
    """What takes longest to import, in microseconds without what it imports itself."""
    lines = python("from workflow_runner import *", environment, "-X", "importtime").stderr.splitlines()
    rows = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")]
    times = sorted(((int(row[0]), row[2].strip()) for row in rows if row[0].strip().isdigit()), reverse=True)
    return [f"{name} {microseconds}" for microseconds, name in times[:count]]


def measure_command(bench: Benchmark, nothing: Side, environment: dict[str, str], folder: Path) -> None:
    """What the command costs, in a folder with an empty flow, a store, and a job that this process holds."""
    (folder / "flows.py").write_text(FLOWS)
    store = f"sqlite:///{folder}/runs.db"
    open_store(store).close()
    path = early.lock_path(store, early.lock_name("flows:empty", KEY))
    assert path is not None
    lock = take(path, target="flows:empty")

    def command(*words: str) -> str:
        ran = python(COMMAND, environment, words=words, cwd=folder)
        return ran.stdout + ran.stderr

    skipped = ("run", "--store", store, "--key", KEY, "flows:empty")
    bench.check("a held lock: skipped", command(*skipped).startswith("skipped: "))
    bench.check("an empty flow: completed", command("run", "flows:empty").startswith("empty  completed in "))
    aims = {("--version",): 2.5, skipped: 3, ("run", "flows:empty"): 12}
    names = ("--version", "run, skipped since it is locked", "run of an empty flow")
    for name, (words, aim) in zip(names, aims.items(), strict=True):
        side = Side(name, lambda words=words: command(*words))
        bench.compare(name, side, nothing, unit="ms", at_most=aim)
    lock.release()


def main() -> None:
    with benchmark("startup", rounds=40, description=__doc__) as bench, tempfile.TemporaryDirectory() as cache:
        # a cache of bytecode of our own: the checkout's may be missing or read-only, or switched off
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for name, program in PROGRAMS.items():
            modules = imported(program, environment)
            bench.check(f"{name}: not {', '.join(LEFT_ALONE)}", modules.isdisjoint(LEFT_ALONE))
        nothing = Side("an interpreter that does nothing", lambda: python("pass", environment))
        for name, program in PROGRAMS.items():
            side = Side(name, lambda program=program: python(program, environment))
            bench.compare(name, side, nothing, unit="ms", at_most=6)
        measure_command(bench, nothing, {**environment, "PYTHONPATH": str(ROOT)}, Path(cache))
        print("slowest imports (us):", ", ".join(slowest(environment, 12)))


if __name__ == "__main__":
    main()
