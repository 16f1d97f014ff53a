"""Run every benchmark, each in a process of its own: ``python -m benchmarks [--quick] [--rounds N]``."""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = sorted({path.stem for path in Path(__file__).parent.glob("[a-z]*.py")} - {"harness"})

if __name__ == "__main__":
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=True)
