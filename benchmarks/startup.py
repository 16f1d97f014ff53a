"""What ``import workflow_runner`` costs, and what it leaves alone.

Claims: a Python that imports the library starts in at most six times the time of one that does nothing; structlog,
asyncio, rich, sqlite3 and others that are only sometimes needed are not imported, neither by the import nor by a first
run.

Measured: fresh interpreters, taking turns (many of them, since a start is short and the machine is shared), from before
the process is made until it has ended, with cached bytecode. The package imports its names when they are first asked
for, so the bare import says little; what a program pays is measured with it, up to every public name and a first run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Side, benchmark

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {
    "import workflow_runner": "import workflow_runner",
    "from workflow_runner import Scope, flow": "from workflow_runner import Scope, flow",
    "from workflow_runner import *": "from workflow_runner import *",
    "import and a first run": "from workflow_runner import Scope, call\nwith Scope() as scope: scope.run(call(int))",
}
LEFT_ALONE = ("structlog", "asyncio", "rich", "sqlite3", "cattrs", "tenacity", "cyclopts")


def python(program: str, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run ``program`` in a fresh interpreter that finds the library in this checkout."""
    command = [sys.executable, *options, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)


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
        print("slowest imports (us):", ", ".join(slowest(environment, 12)))


if __name__ == "__main__":
    main()
