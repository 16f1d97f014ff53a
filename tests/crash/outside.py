"""The world outside the engine: what the programs have really done, whatever became of them.

``effects`` is a file that lines are only ever appended to, each with one ``write`` on an ``O_APPEND`` descriptor: what
was written before a ``kill -9`` is there. ``tokens`` is a foreign system that tells repeats by the idempotency token.

A line is ``kind <tab> what <tab> pid``. Kinds: "begin" and "end" of a body (what: its token), "absorbed" (the foreign
system has seen the token before), "ack" (the store has acknowledged a row; what: its token, or a verb and the run).
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

_directory = Path()
_effects = -1


def use(directory: str | Path) -> None:
    """Write to this directory from now on."""
    global _directory, _effects
    if _effects >= 0:
        os.close(_effects)
    _directory = Path(directory)
    (_directory / "tokens").mkdir(parents=True, exist_ok=True)
    _effects = os.open(_directory / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def directory() -> Path:
    """The directory that is written to."""
    return _directory


def note(kind: str, what: str) -> None:
    """Append a line."""
    os.write(_effects, f"{kind}\t{what}\t{os.getpid()}\n".encode())


def apply(token: str) -> None:
    """Have the effect of ``token`` on the foreign system: once, however often it is asked for."""
    try:
        os.close(os.open(_directory / "tokens" / quote(token, safe=""), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        note("absorbed", token)


def exists(name: str) -> bool:
    """Whether the test has put a file of this name there, to let a program go on."""
    return (_directory / name).exists()
