"""The command in this process and in its own."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
import structlog

from workflow_runner.cli.app import main

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
# So long a test waits for what must happen; far beyond what it takes.
LONG = 20.0


@attrs.frozen
class Ran:
    """What came of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command configures logging for its process, which is ours."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process, where the sample flows are."""
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "path", sys.path[:])

    def command(*words: str) -> Ran:
        code = main(words)
        captured = capsys.readouterr()
        return Ran(int(code), captured.out, captured.err)

    return command


def start(*words: str, before: str = "", **options: object) -> subprocess.Popen[str]:
    """Start the command in a process of its own; ``before``: code that runs there first."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from workflow_runner.cli.app import main; {before}"
    program = [sys.executable, "-c", f"{code}\nsys.exit(main())", *words]
    return subprocess.Popen(program, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload, no-any-return]


def end(process: subprocess.Popen[str]) -> Ran:
    """Wait for its end."""
    try:
        out, err = process.communicate(timeout=LONG)
    finally:
        process.kill()
    return Ran(process.returncode, out, err)


@pytest.fixture
def separately() -> Command:
    """Runs the command in a process of its own."""
    return lambda *words, **options: end(start(*words, **options))


def on_a_terminal(*words: str, columns: int = 80) -> str:
    """What the command prints on a terminal of its own."""
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    program = [sys.executable, "-m", "workflow_runner", *words]
    child = subprocess.Popen(program, cwd=HERE, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    printed = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux: the last one has closed the terminal
            break
        if not chunk:
            break
        printed += chunk
    os.close(terminal)
    child.wait(LONG)
    return printed.decode()
