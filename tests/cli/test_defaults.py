"""Settings outside of the command line: the environment, and pyproject.toml of the nearest folder above."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workflow_runner.cli import defaults
from workflow_runner.cli.app import main
from workflow_runner.cli.exits import CommandError, Exit

from .conftest import HERE

FREE = "sample_flows:free"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the table, and gives a folder two below it."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    monkeypatch.syspath_prepend(str(HERE))

    def table(content: str) -> Path:
        (tmp_path / "pyproject.toml").write_text(content)
        return below

    return table


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main(["run", "--json", *words])
    return int(code), json.loads(capsys.readouterr().out)


def test_the_table_of_a_folder_above_counts(table: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers, dates, lists and dashes as in TOML; a setting of another command is none of ours."""
    folder = table(
        '[tool.workflow_runner]\nstore = "sqlite:///runs.db"\nmax_workers = 3\nas-of-date = 2013-02-28\n'
        'partition = ["desk=7", "region=EU"]\nolder-than = "30d"\n'
    )
    code, document = run(capsys, "sample_flows:about")
    assert (code, document["result"]["date"]) == (0, "2013-02-28")
    assert document["result"]["partition"] == "desk=7/region=EU"
    assert (folder / "runs.db").exists()


def test_the_environment_wins_over_the_table_and_words_over_both(
    table: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The nearer to the command, the stronger."""
    table('[tool.workflow_runner]\nas-of-date = "2013-01-01"\npartition = "a=1"\n')
    monkeypatch.setenv("WORKFLOW_RUNNER_AS_OF_DATE", "2013-02-02")
    assert run(capsys, "sample_flows:about")[1]["result"] == {"date": "2013-02-02", "partition": "a=1"}
    assert run(capsys, "--as-of-date", "2013-03-03", "sample_flows:about")[1]["result"]["date"] == "2013-03-03"


def test_an_option_that_is_called_as_a_command_can_be_set(
    table: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`resume` is an option of `run` and a command."""
    table('[tool.workflow_runner]\nresume = "sometimes"\n')
    code, document = run(capsys, FREE)
    assert (code, "sometimes" in document["error"]["message"]) == (Exit.CONFIGURATION, True)


@pytest.mark.parametrize(("name", "value"), [("max-workers", "two"), ("json", "maybe"), ("timeout", "long")])
def test_a_wrong_setting_is_a_wrong_configuration(
    table: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """It says where it is set, which is on no command line; words that win over it make it harmless."""
    table(f'[tool.workflow_runner]\n{name} = "{value}"\n')
    code, document = run(capsys, FREE) if name != "json" else (main(["run", FREE]), {})
    error = document.get("error") or {"message": (err := capsys.readouterr().err), "hint": err}
    assert (code, name in error["message"], "[" in error["message"]) == (Exit.CONFIGURATION, True, False)
    variable = f"WORKFLOW_RUNNER_{name.upper().replace('-', '_')}"
    assert f"it is set by {variable} in the environment, or by {name} in pyproject.toml" in error["hint"]
    if name == "timeout":
        assert run(capsys, "--timeout", "60", FREE)[0] == Exit.DONE


def test_json_and_quiet_can_be_set(
    table: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag of the environment counts everywhere, also for errors."""
    table("")
    monkeypatch.setenv("WORKFLOW_RUNNER_JSON", "1")
    assert main(["run", "sample_flows:nothin"]) == Exit.NOT_FOUND
    assert json.loads(capsys.readouterr().out)["exit_code"] == Exit.NOT_FOUND


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ('[tool.workflow_runner]\nstoer = "x"\n', "[tool.workflow_runner] has an unknown setting 'stoer'", "store"),
        ("[tool]\nworkflow_runner = 1\n", "[tool.workflow_runner] is no table", None),
        ("[tool.workflow_runner", "cannot be read: ", None),
    ],
)
def test_a_wrong_table_is_a_wrong_configuration(
    table: Any, capsys: pytest.CaptureFixture[str], content: str, message: str, hint: str | None
) -> None:
    """The file is named, and what was probably meant."""
    folder = table(content)
    code, document = run(capsys, FREE)
    assert code == Exit.CONFIGURATION
    assert str(folder.parent.parent / "pyproject.toml") in document["error"]["message"]
    assert message in document["error"]["message"]
    assert document["error"]["hint"] == (hint and f"did you mean {hint}?")


def test_no_file_that_speaks_of_us_is_parsed(table: Any) -> None:
    """A pyproject.toml of somebody else may be as wrong as it likes."""
    table("[tool.other")
    assert defaults.defaults() == {}


def test_without_any_near_name_all_are_listed(table: Any) -> None:
    """Who is far off sees what there is."""
    table("[tool.workflow_runner]\nqqq = 1\n")
    with pytest.raises(CommandError) as caught:
        defaults.check({"store", "key"})
    assert caught.value.hint == "there is key, store"
