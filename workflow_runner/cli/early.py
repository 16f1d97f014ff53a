"""The lock of a run, looked at before anything is imported: a skipped job costs little more than an interpreter.

Whoever cannot be told apart here without help, such as a key with a format of its own, goes the long way: ``run`` takes
the lock itself then, of the same name, before it imports the target.
"""

from __future__ import annotations

import os
import sys

from workflow_runner.cli.commands import FLAGS
from workflow_runner.cli.defaults import defaults
from workflow_runner.cli.locks import Lock, Locked, take
from workflow_runner.cli.streams import lost
from workflow_runner.cli.words import Words
from workflow_runner.store import sqlite_path
from workflow_runner.store.notes import note

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence
    from typing import Any

ONCE: tuple[str, ...] = (
    "store",
    "key",
    "on-locked",
    "as-of-date",
    "resume",
    "params",
    "timeout",
    "grace",
    "max-workers",
    "batch-id",
    "trace-id",
    "exit-on-interrupt",
    "ping",
    "log-format",
    "log-level",
)
"""The options of ``run`` that take one value; what is not here is left to cyclopts, which takes its time."""
REPEATED = ("partition", "tag")

_TRUE = ("true", "t", "yes", "y", "1")
_FALSE = ("false", "f", "no", "n", "0")


held: Lock | None = None
"""The lock that this process has taken at the door."""


class Options:
    """The options of ``run``, as far as they stand in words and settings; made without looking at what they mean."""

    def __init__(self, once: dict[str, str], repeated: dict[str, list[str]], flags: set[str], words: Words) -> None:
        self.once = once
        self.repeated = repeated
        self.flags = flags
        self.words = words


def read(words: Sequence[str], settings: dict[str, Any]) -> Options | None:
    """Read the options of a ``run``.

    Args:
        words: from the command on.
        settings: those that are set outside of the command line.

    Returns:
        The options; None if there is anything here that only cyclopts can judge.
    """
    found = Words(words, FLAGS)
    once, repeated, flags = {}, {}, set()
    for name, given in {**{name: _texts(value) for name, value in settings.items()}, **found.options}.items():
        values = [value for value in given if value is not None]
        if name in REPEATED:
            repeated[name] = values
        elif len(values) != 1:
            return None
        elif f"--{name}" in FLAGS:
            if values[0].lower() in _TRUE:
                flags.add(name)
            elif values[0].lower() not in _FALSE:
                return None
        elif name in ONCE:
            once[name] = values[0]
        elif name in found.options:
            return None
        if len(values) < len(given) or any(value.startswith("-") and value != "-" for value in values):
            return None
    return Options(once, repeated, flags, found)


def is_true(value: Any) -> bool:
    """Whether a setting turns a flag on."""
    return str(value).lower() in _TRUE


def _texts(value: Any) -> list[str | None]:
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def business_date(text: str) -> dt.date | None:
    """The date that ``today`` and ``yesterday`` mean, for units that are written once; None of every other text."""
    import datetime as dt

    today = dt.date.today()
    return {"today": today, "yesterday": today - dt.timedelta(days=1)}.get(text)


def fill(key: str, as_of_date: str | None, partition: Sequence[str]) -> str:
    """Fill in a key's template as ``inputs.key_of`` does it, with texts.

    Raises:
        ValueError: or another error: more is needed than this.
    """
    fields: dict[str, Any] = {}
    if as_of_date is not None:
        import datetime as dt

        fields["as_of_date"] = business_date(as_of_date) or dt.date.fromisoformat(as_of_date)
    if partition:
        pairs = dict(pair.split("=", 1) for pair in partition)
        if any("," in pair for pair in partition) or len(pairs) < len(partition):
            raise ValueError("several coordinates in one text")
        texts = {name.strip(): value.strip().replace("%", "%25").replace("/", "%2F") for name, value in pairs.items()}
        fields["partition"] = "/".join(f"{name}={texts[name]}" for name in sorted(texts))
    return key.format(flow=FLOW, **fields)


FLOW = "{flow}"
"""What stands in the name of a lock for the flow's name, which nobody knows yet."""


def lock_name(target: str, key: str | None) -> str:
    """What one process at a time may be at: a target, under a key."""
    return target if key is None else f"{target}\n{key}"


def lock_path(store: str, name: str) -> str | None:
    """The file of a lock; None for a store that no other process can see."""
    path = sqlite_path(store)
    if path is None:
        return None
    import hashlib

    return os.path.join(f"{os.path.realpath(path)}.locks", hashlib.sha256(name.encode()).hexdigest()[:32])


def acquire(path: str, on_locked: str, *, target: str, key: str | None) -> Lock:
    """Take a lock; with ``on_locked`` "wait" wait for it, and say so.

    Raises:
        Locked: another process holds it.
        KeyboardInterrupt: while it waits.
    """
    try:
        return take(path, target=target, key=key)
    except Locked as locked:
        if on_locked != "wait":
            raise
        print(f"waiting: {target} is locked by {locked.words}", file=sys.stderr, flush=True)
    return take(path, wait=True, target=target, key=key)


def record_skip(store: str, target: str, holder: str) -> str | None:
    """Note in the store that a start was skipped.

    Args:
        store: its URL.
        target: what was to be run.
        holder: who is at it, as JSON text.

    Returns:
        Why it could not be noted; None if it is.
    """
    data = f'{{"holder": {holder}}}'
    path = sqlite_path(store)
    if path is not None and note(path, "skipped", target=target, data=data):
        return None
    from workflow_runner import open_store
    from workflow_runner.errors import StoreError

    try:
        opened = open_store(store)
        try:
            opened.note("skipped", target=target, data=data)
        finally:
            opened.close()
    except StoreError as error:
        return str(error)
    return None


def skipped(target: str, holder: str, *, fail: bool) -> dict[str, Any]:
    """A run that did not start, since another process is at it, as the data of one document."""
    import json

    # the schema and the codes are those of `document` and `exits`, which take time to import
    return {
        "schema": 1,
        "status": "locked" if fail else "skipped",
        "exit_code": 75 if fail else 0,
        "target": target,
        "holder": json.loads(holder),
    }


def enter(words: Sequence[str]) -> Lock | int | None:
    """Take the lock of a run, if there is one to take, or say that another process is at it.

    Args:
        words: of the command line.

    Returns:
        The lock; or the exit code, when everything has been said; None if there is no lock, or ``run`` has to see.

    Raises:
        KeyboardInterrupt: while it waits.
    """
    if not words or words[0] != "run":
        return None
    store, target, on_locked, flags = "", "", "", set[str]()
    try:
        options = read(words, defaults())
        if options is None or {"dry-run", "help"} & options.flags or options.words.target >= len(words):
            return None
        once, flags, target = options.once, options.flags, words[options.words.target]
        on_locked, store, key = once.get("on-locked", "skip"), once.get("store", ""), once.get("key")
        asked = key is not None or "on-locked" in once
        if not asked or not store or on_locked not in ("skip", "wait", "fail") or "--help" in options.words.own:
            return None
        if key is not None:
            key = fill(key, once.get("as-of-date"), options.repeated.get("partition", []))
        path = lock_path(store, lock_name(target, key))
        if path is None or (on_locked == "wait" and "exit-on-interrupt" in once):  # `run` waits, and sees to signals
            return None
        return acquire(path, on_locked, target=target, key=key)
    except Locked as locked:
        return _turn_away(locked, store, target, on_locked == "fail", flags)
    except Exception:  # whatever is wrong, `run` comes to it as well, and has the words for it
        return None


def _turn_away(locked: Locked, store: str, target: str, fail: bool, flags: set[str]) -> int:
    code = 75 if fail else 0
    trouble = None if fail else record_skip(store, target, locked.text)
    if "json" in flags:
        import json

        try:
            print(json.dumps(skipped(target, locked.text, fail=fail)), flush=True)
        except OSError as error:
            code = max(code, lost(error, sys.stdout))
    if fail or "quiet" not in flags:
        print(sentence(target, locked.words, fail=fail), file=sys.stderr)
    if trouble is not None:
        print(not_recorded(trouble), file=sys.stderr)
    return code


def sentence(target: str, holder: str, *, fail: bool) -> str:
    """The same for people; ``holder``: who is at it, in words."""
    return f"{'error' if fail else 'skipped'}: {target} is locked by {holder}"


def not_recorded(trouble: str) -> str:
    """What is said if the store did not take the note of a skip."""
    return f"the skip is not recorded: {trouble}"
