"""What is decided before anything is imported: the same as cyclopts would say, at the price of next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workflow_runner.cli import dispatch, early
from workflow_runner.cli.commands import FLAGS
from workflow_runner.cli.commands import run as command
from workflow_runner.cli.inputs import key_of
from workflow_runner.cli.options import checked_partition

from .conftest import LONG, ROOT

S = ["--store", "sqlite:///runs.db"]


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Sets what stands in the environment and in pyproject.toml."""
    monkeypatch.chdir(tmp_path)

    def settings(table: str, **environment: str) -> None:
        (tmp_path / "pyproject.toml").write_text(f"[tool.workflow_runner]\n{table}")
        for name, value in environment.items():
            monkeypatch.setenv(f"WORKFLOW_RUNNER_{name}", value)

    return settings


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reads words in both ways: what is known early, and what the command is called with."""

    def both(words: list[str]) -> tuple[early.Options | None, dict[str, Any]]:
        got: dict[str, Any] = {}

        def run(target: str, *parameters: str, about: Any, recording: Any, here: Any, **others: Any) -> None:
            got.update(target=target, own=list(parameters), about=about, recording=recording, here=here, **others)

        defaults = {"about": command._ABOUT, "recording": command._RECORDING, "here": command._HERE}
        app = dispatch.make_app(whole=False)
        call, bound, _ = app.parse_args(dispatch._fence_target(words))
        assert call is command.run
        run(*bound.args, **{**defaults, **bound.kwargs})
        return early.read(words, early.defaults()), got

    return both


@pytest.mark.parametrize(
    "words",
    [
        ["run", "a:b"],
        ["run", *S, "--key", "{flow}", "a:b"],
        ["run", "--store=sqlite:///x=1.db", "--key=k", "a:b", "--key", "other", "--json"],
        ["run", "--json", *S, "--as-of-date", "2013-02-28", "--quiet", "--", "a:b", "x"],
        ["run", "--partition", "region=EU", "--partition=desk=7", *S, "--key", "{partition}", "a:b"],
        ["run", "--on-locked", "wait", "--on_locked", "wait", "a:b"],
        ["run", "--on_locked", "fail", *S, "a:b"],
        ["run", "--json=true", "--quiet=no", "--dry-run", *S, "a:b"],
        ["run", "--no-progress", "--max-workers", "2", *S, "a:b"],
        ["run", "--params", "-", *S, "a:b"],
    ],
)
@pytest.mark.parametrize("table", ["", 'store = "sqlite:///table.db"\nkey = "t"\npartition = ["a=1", "b=2"]\n'])
def test_both_read_the_same(both: Any, settings: Any, words: list[str], table: str) -> None:
    """Where anything is said early it is what cyclopts says later: options, target, and what is the flow's own."""
    settings(table, QUIET="1", **({"KEY": "e"} if table else {}))
    try:
        found, later = both(words)
    except dispatch.cyclopts.CycloptsError:
        assert early.read(words, early.defaults()) is None
        return
    assert found is not None
    recording, about = later["recording"], later["about"]
    assert (words[found.words.target], found.words.own) == (later["target"], later["own"])
    assert found.once.get("store") == recording.store
    assert found.once.get("key") == recording.key
    assert found.once.get("on-locked") == recording.on_locked
    assert found.once.get("as-of-date") == (about.as_of_date and about.as_of_date.isoformat())
    assert found.repeated.get("partition") == about.partition
    on = {"json": later.get("json", False), "dry-run": later.get("dry_run", False), "quiet": later["here"].quiet}
    assert {name for name, value in on.items() if value} == found.flags & set(on)


@pytest.mark.parametrize(
    "options",
    [
        ["--timeuot", "1"],
        ["--key"],
        ["--key", "--json"],
        ["--key", "a", "--key", "b"],
        ["--json=maybe"],
        ["-k", "v"],
    ],
)
def test_what_only_cyclopts_can_judge_is_left_to_it(options: list[str]) -> None:
    """A wrong or a strange line is not decided early."""
    assert early.read(["run", *S, *options], {}) is None


def test_every_option_is_known_early() -> None:
    """An option that is missing here would make every job that has it start slowly."""
    app = dispatch.make_app(whole=False)
    names = {name for argument in app["run"].assemble_argument_collection() for name in argument.names}
    named = {name for name in names if name.startswith("--")} | {"--help"}
    assert named == {f"--{name}" for name in (*early.ONCE, *early.REPEATED)} | set(FLAGS) & (named | {"--help"})


@pytest.mark.parametrize(
    ("key", "date", "partition"),
    [
        ("k", None, []),
        ("{flow}/{as_of_date}", "2013-02-28", []),
        ("{as_of_date:%Y-%m}", "2013-02-28", ["a=1"]),
        ("{flow}:{partition}", None, ["region=EU/x", "desk= 7 ", "rate=5%"]),
        ("{partition}", None, ["day=2013-03-01"]),
    ],
)
def test_a_key_is_the_same_early_and_late(key: str, date: str | None, partition: list[str]) -> None:
    """The lock that is taken at the door is the one that others take later."""
    import datetime as dt

    late = key_of(key, early.FLOW, dt.date.fromisoformat(date) if date else None, checked_partition(partition))
    assert early.fill(key, date, partition) == late


def test_today_and_yesterday_are_known_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `emit` writes into units is decided at the door, and cyclopts reads it in the same way."""
    import datetime as dt

    class Date(dt.date):
        @classmethod
        def today(cls) -> dt.date:
            return dt.date(2013, 3, 1)

    monkeypatch.setattr("datetime.date", Date)
    assert early.fill("{flow}/{as_of_date}", "today", []) == "{flow}/2013-03-01"
    assert early.fill("{as_of_date:%m-%d}", "yesterday", []) == "02-28"
    with pytest.raises(ValueError, match="tomorrow"):
        early.fill("{as_of_date}", "tomorrow", [])


def test_a_skip_imports_next_to_nothing(tmp_path: Path) -> None:
    """Neither cyclopts nor rich, structlog, attrs, typing or asyncio; the store's SQLite alone."""
    code = f"""
import sys
from workflow_runner.cli import early, locks
from workflow_runner.cli.app import main
url = 'sqlite:///{tmp_path}/runs.db'
locks.take(early.lock_path(url, early.lock_name('a:b', early.fill('k/{{as_of_date}}', 'today', []))), target='a:b')
open({str(tmp_path / "runs.db")!r}, 'w').close()
early.note = lambda *args, **options: True
code = main(['run', '--store', url, '--key', 'k/{{as_of_date}}', '--as-of-date', 'today', 'a:b'])
heavy = ['cyclopts', 'rich', 'structlog', 'attr', 'typing', 'asyncio', 'logging', 'workflow_runner.errors']
print(code, [name for name in heavy if name in sys.modules])
"""
    program = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    ran = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=LONG)
    assert ran.stdout == "0 []\n"
    assert ran.stderr.startswith("skipped: a:b is locked by process ")
