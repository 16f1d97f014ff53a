"""Targets: the flow that ``module:attribute`` names, or what is near."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.cli.target import load
from workflow_runner.examples.market_close import nightly


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, which is searched; modules imported from it are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    (tmp_path / "jobs.py").write_text(
        "from workflow_runner import flow\n"
        "@flow\ndef daily(ctx, n=0): ...\n@flow\ndef weekly(ctx, n=0): ...\n"
        "class Group:\n  @staticmethod\n  def plain(): ...\n  inner = daily\n"
        "number = 3\n"
    )
    for name, text in {
        "needy": "import not_installed",
        "wrong": "x = (",
        "fails": "def f():\n  raise KeyError('k')\nf()",
        "leaves": "import sys; sys.exit('bye')",
        "empty": "",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(target: str, code: Exit = Exit.NOT_FOUND) -> tuple[str, str | None]:
    with pytest.raises(CommandError) as caught:
        load(target)
    assert caught.value.code == code
    return str(caught.value), caught.value.hint


def test_a_target_is_found_in_the_working_directory_and_in_packages() -> None:
    """Modules beside the user and installed ones are found; an attribute may have dots."""
    assert load("jobs:daily").name == "daily"
    assert load("jobs:Group.inner").name == "daily"
    assert load("workflow_runner.examples.market_close:nightly") is nightly


@pytest.mark.parametrize("target", ["jobs", "jobs:", ":daily", "jobs daily", "my jobs:daily", "../jobs:daily", ""])
def test_what_is_no_target_at_all_is_wrong_usage(target: str) -> None:
    """Anything that is not module:attribute is answered with an example."""
    message, hint = refusal(target, Exit.USAGE)
    assert message == f"a target is module:attribute, not {target!r}"
    assert hint == "such as workflow_runner.examples.market_close:nightly"


@pytest.mark.parametrize(
    ("target", "message", "hint"),
    [
        ("job:daily", "there is no module 'job'", "did you mean jobs:daily?"),
        ("jobs.py:daily", "there is no module 'jobs.py'", "did you mean jobs:daily?"),
        (
            "workflow_runner.exampels.market_close:nightly",
            "there is no module 'workflow_runner.exampels'",
            "did you mean workflow_runner.examples.market_close:nightly?",
        ),
        ("jobs:dayly", "jobs has no 'dayly'", "did you mean jobs:daily?"),
        ("jobs:x", "jobs has no 'x'", "flows in it: daily, weekly"),
        ("jobs:number", "jobs:number is no flow: it is of type int", "flows in it: daily, weekly"),
        (
            "jobs:Group.plain",
            "jobs:Group.plain is no flow: it is a plain function, without @flow",
            "flows in it: daily, weekly",
        ),
        ("empty:daily", "empty has no 'daily'", "there is no flow in this module"),
    ],
)
def test_what_is_near_is_offered(target: str, message: str, hint: str) -> None:
    """A wrong module or attribute is answered with the nearest right one, or with all there are."""
    assert refusal(target) == (message, hint)


def test_an_unknown_module_says_where_it_was_looked_for(directory: Path) -> None:
    """Without anything near, the working directory is the thing to check."""
    assert refusal("zzyzx:daily") == ("there is no module 'zzyzx'", f"modules are looked for in {directory} first")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("needy", "needy cannot be imported: ModuleNotFoundError: No module named 'not_installed' ({}/needy.py:1)"),
        ("wrong", "wrong cannot be imported: SyntaxError: '(' was never closed (wrong.py, line 1)"),
        ("fails", "fails cannot be imported: KeyError: 'k' ({}/fails.py:2)"),
        ("leaves", "leaves cannot be imported: SystemExit: bye ({}/leaves.py:1)"),
    ],
)
def test_a_module_that_breaks_says_how_and_where(directory: Path, module: str, message: str) -> None:
    """A module that is there and cannot be imported is told apart from one that is not there."""
    assert refusal(f"{module}:daily")[0] == message.format(directory)
