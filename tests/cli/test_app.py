"""The command as its users see it: exit codes, messages, help, and where everything is printed."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import workflow_runner
from workflow_runner.cli.app import main
from workflow_runner.cli.exits import Exit

from . import sample_flows
from .conftest import LONG, ROOT, Command

MARKET_CLOSE = "workflow_runner.examples.market_close:nightly"


@pytest.fixture
def released() -> Iterator[None]:
    """Lets go of what the test leaves stuck."""
    yield
    sample_flows.let_go.set()


# --- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ["--version"]),
        (0, ["--help"]),
        (0, ["run", "--help"]),
        (0, ["run", "sample_flows:place", "--help"]),
        (0, ["run", "sample_flows:nothing"]),
        (0, ["run", "sample_flows:skips"]),
        (1, ["run", "sample_flows:fails"]),
        (1, ["run", "sample_flows:broken"]),
        (3, ["run", "sample_flows:partial"]),
        (64, ["run"]),
        (64, ["nonsense"]),
        (64, ["run", "--as-of-date", "2013-02-30", "sample_flows:free"]),
        (64, ["run", "--as-of-date", "2013-02-28", "sample_flows:nothing"]),
        (64, ["run", "--partition", "region", "sample_flows:free"]),
        (64, ["run", "--timeout", "soon", "sample_flows:free"]),
        (64, ["run", "--timeout", "0", "sample_flows:free"]),
        (64, ["run", "--timeuot", "1", "sample_flows:free"]),
        (64, ["run", "sample_flows"]),
        (65, ["run", "sample_flows:double"]),
        (65, ["run", "sample_flows:double", "--number", "two"]),
        (65, ["run", "sample_flows:place", "--ticker", "IBM", "--quantity", "0"]),
        (65, ["run", "sample_flows:free", "stray"]),
        (66, ["run", "sample_flow:nothing"]),
        (66, ["run", "sample_flows:nothin"]),
        (66, ["run", "sample_flows:plain_function"]),
        (66, ["run", "sample_flows:misspelt"]),
    ],
)
def test_every_ending_has_its_exit_code(command: Command, code: int, words: list[str]) -> None:
    """The exit code tells what happened, and no wrong input gives a traceback."""
    ran = command(*words)
    assert ran.code == code
    assert "Traceback" not in ran.out + ran.err
    assert bool(ran.err) == (code not in (0, 3))


def test_the_deadline_is_124_though_the_flow_does_not_look(command: Command, released: None) -> None:
    """A flow that never looks at its signal is left behind at the deadline."""
    ran = command("run", "--timeout", "0.05", "sample_flows:stuck")
    assert ran.code == Exit.TIMEOUT
    assert "stuck timed out after 0.05 s" in ran.err


def test_the_deadline_ends_the_process_whatever_threads_there_are(separately: Command) -> None:
    """Threads that the flow has started itself do not hold the process either."""
    ran = separately("run", "--timeout", "0.05", "sample_flows:stuck_beside")
    assert ran.code == Exit.TIMEOUT
    assert "cancelled in" in ran.out


def test_our_own_mistake_is_70(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has foreseen is reported as a bug of ours, without a traceback unless asked for."""

    def mistake(*args: Any) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("workflow_runner.cli.commands.run.load", mistake)
    ran = command("run", "x:y")
    assert ran.code == Exit.BUG
    assert ran.err.splitlines()[0] == "error: RuntimeError: unforeseen"
    assert "Traceback" not in ran.err
    assert "in mistake" in command("run", "--debug", "x:y").err


def test_without_its_packages_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Installed without the extra it prints one line, and exits with 78."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["run", "x:y"]) == Exit.CONFIGURATION
    assert capsys.readouterr().err == "workflow-runner needs more packages: pip install 'workflow-runner[cli]'\n"


def test_the_exit_codes_are_documented(command: Command) -> None:
    """Each code stands in the README's table and on the help page."""
    readme = set(re.findall(r"^\| (\d+) \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE))
    page = " ".join(command("run", "--help").out.split())
    listed = re.findall(r"\b(\d+) [a-z]", page.partition("Exit codes:")[2].partition("╭")[0])
    assert readme == set(listed) == {str(int(code)) for code in Exit}


# --- version and help -------------------------------------------------------------------------------------------------


def test_the_version_needs_nothing_but_itself() -> None:
    """--version prints the version and loads none of what a run needs."""
    heavy = ["cyclopts", "rich", "structlog", "attrs", "asyncio", "logging", "workflow_runner._core.flow"]
    code = (
        "import sys; from workflow_runner.cli.app import main; main(['--version']);"
        f" print([name for name in {heavy} if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=LONG, check=True
    )
    assert ran.stdout == f"{workflow_runner.__version__}\n[]\n"


def test_the_module_is_the_command(tmp_path: Path) -> None:
    """``python -m workflow_runner`` runs flows of the working directory."""
    (tmp_path / "mine.py").write_text(
        "from workflow_runner import flow\n@flow\ndef hello(ctx, name: str):\n  return name"
    )
    program = [sys.executable, "-m", "workflow_runner", "run", "mine:hello", "--name", "World"]
    environment = {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=LONG)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("World\n\nhello  completed in ")


@pytest.mark.parametrize("page", [["--help"], ["run", "--help"]])
def test_the_example_on_the_help_page_works(command: Command, tmp_path: Path, page: list[str]) -> None:
    """The example can be copied from the page to the shell."""
    example = command(*page).out.partition("Example:")[2]
    words = shlex.split(example.replace("\\\n", ""))
    assert words[0] == "workflow-runner"
    ran = command(*words[1:], "--warehouse", str(tmp_path / "warehouse.db"))
    assert ran.code == 0
    assert "FB" in ran.out


def test_a_flow_has_a_help_page_of_its_own(command: Command) -> None:
    """After the target --help lists the flow's parameters: names, types, meanings, defaults, what is required."""
    page = command("run", "sample_flows:place", "--help").out
    assert "Place an order at once." in page
    assert "not for the help page" not in page
    flat = " ".join(page.replace("│", " ").split())
    for text in (
        "* --ticker STR The share to trade. [required]",
        "* --quantity INT How many shares, of which there must be at least one. [required]",
        "--day DATE [default: 2013-02-28]",
        "--side CHOICE [choices: buy, sell-short] [default: buy]",
        "--dry-run --no-dry-run [default: False]",
        "--notes STR... Anything to remember. [default: ()]",
        "--venue.code STR",
    ):
        assert text in flat


# --- what is wrong, and what would be right ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["run"], "TARGET is missing", "see workflow-runner run --help"),
        (
            ["rum", "x"],
            'Unknown command "rum". Did you mean "run"?',
            "did you mean: workflow-runner run x",
        ),
        (["a:b", "--c"], 'Unknown command "a:b"', "did you mean: workflow-runner run a:b --c"),
        (
            ["run", "--as-of-date", "28.2.2013", "a:b"],
            "--as-of-date: expected a date such as 2013-02-28, got '28.2.2013'",
            "see workflow-runner run --help",
        ),
        (["run", "--timeout", "x", "a:b"], "--timeout: expected a number, got 'x'", "see workflow-runner run --help"),
        (["run", "--timout", "1", "a:b"], "Unknown option: --timout. Did you mean --timeout?", None),
        (
            ["run", "--partition", "region", "a:b"],
            "--partition: expected name=value, got 'region'",
            "such as --partition region=EU",
        ),
        (["run", "sample_flows:plac"], "sample_flows has no 'plac'", "did you mean sample_flows:place?"),
        (
            ["run", "sample_flows:place"],
            "--ticker is missing: str (The share to trade)",
            "such as --ticker text; see workflow-runner run sample_flows:place --help",
        ),
        (
            ["run", "sample_flows:place", "--ticker", "A", "--quantity", "1", "--day", "28.2."],
            "--day: expected a date such as 2013-02-28, got '28.2.'",
            "such as --day 2013-02-28; see workflow-runner run sample_flows:place --help",
        ),
        (
            ["run", "sample_flows:double", "--number", "two"],
            "--number: expected a whole number, got 'two'",
            "such as --number 5; see workflow-runner run sample_flows:double --help",
        ),
        (["run", "sample_flows:place", "--ticker"], "--ticker needs a value: str (The share to trade)", None),
        (["run", "sample_flows:double", "--nunber", "1"], "Unknown option: --nunber. Did you mean --number?", None),
        (["run", "sample_flows:skips", "5"], "'5' is no option: parameters are given as --name value", None),
        (["run", "sample_flows:anything", "--x"], "--x needs a value", None),
    ],
)
def test_wrong_input_is_named_and_something_better_offered(
    command: Command, words: list[str], message: str, hint: str | None
) -> None:
    """The first line says what is wrong, the second what to do."""
    lines = command(*words).err.splitlines()
    assert lines[0] == f"error: {message}"
    assert len(lines) == 2
    if hint is not None:
        assert lines[1] == f"  {hint}"


def test_a_failure_is_told_with_its_causes(command: Command) -> None:
    """A failed flow prints its exception, where that came from, and what caused it; markup in it is just text."""
    file = sample_flows.__file__
    lines = command("run", "sample_flows:fails").err.splitlines()
    assert lines[:2] == ["error: fails failed", "  RuntimeError: no such [red]key[/red]"]
    assert re.fullmatch(rf"    at {re.escape(str(file))}:\d+ in fails", lines[2])
    assert lines[3] == "  caused by KeyError: 'key'"


def test_a_failed_workflow_names_the_step(command: Command) -> None:
    """The step is named once, then come the causes; what a terminal would obey is shown instead."""
    lines = command("run", "sample_flows:broken").err.splitlines()
    errors = [line for line in lines if not line.startswith(("timestamp=", "    at "))]
    assert errors == [
        "error: broken failed in step 'two'",
        r"  ValueError: bad \x1b[31mdata",
        "  caused by OSError: disk",
    ]


def test_debug_prints_the_traceback(command: Command) -> None:
    """With --debug the traceback of a failure is there, the causes with it."""
    text = command("run", "--debug", "sample_flows:fails").err
    assert text.count("Traceback (most recent call last)") == 2
    assert "RuntimeError: no such [red]key[/red]" in text


# --- whose options ----------------------------------------------------------------------------------------------------


def test_options_belong_to_the_runner_before_the_target_and_to_the_flow_after_it(command: Command) -> None:
    """The same name may stand on both sides of the target."""
    ran = command(
        "run", "--json", "--timeout=30", "sample_flows:free", "--timeout", "5", "--json", "x", "--as-of-date", "y"
    )
    assert json.loads(ran.out)["result"]["params"] == {"timeout": 5, "json": "x", "as_of_date": "y"}


def test_date_and_partition_reach_the_steps(command: Command) -> None:
    """--as-of-date and every --partition are in the context, and in the last line."""
    ran = command(
        "run",
        "--as-of-date",
        "2013-02-28",
        "--partition",
        "desk=7",
        "--partition",
        "region=EU",
        "sample_flows:about",
        "--x",
        "1",
    )
    assert [line.split() for line in ran.out.splitlines()[:3]] == [
        ["date", "2013-02-28"],
        ["partition", "desk=7/region=EU"],
        ["x", "1"],
    ]
    assert "about  2013-02-28 desk=7/region=EU  completed in" in ran.out


def test_a_double_dash_before_the_target_is_understood(command: Command) -> None:
    """Who writes the separator gets the same."""
    assert command("run", "--", "sample_flows:double", "--number", "2").out.startswith("4\n")


# --- stdout and stderr ------------------------------------------------------------------------------------------------


def test_without_json_stdout_is_the_flows_too(separately: Command) -> None:
    """What a flow prints is on stdout before the result; logs are on stderr, with the run's fields."""
    ran = separately("run", "sample_flows:prints")
    assert ran.out.splitlines()[:3] == ["printed", "echoed", "result"]
    assert re.search(r"level=info event=logged .*flow=prints", ran.err)
    assert re.search(r"level=info event=structured answer=42 .*flow=prints", ran.err)


def test_with_json_stdout_has_one_document_and_nothing_else(separately: Command) -> None:
    """What the flow and its child processes print goes to stderr."""
    ran = separately("run", "--json", "sample_flows:prints")
    document = json.loads(ran.out)
    assert ran.out.count("\n") == 1
    assert (document["schema"], document["status"], document["result"]) == (1, "completed", "result")
    assert ran.err.startswith("printed\nechoed\n")


def test_a_thread_that_is_left_behind_cannot_spoil_the_document(separately: Command) -> None:
    """A flow that prints without end and was abandoned at the deadline does not reach stdout."""
    ran = separately("run", "--json", "--timeout", "0.05", "sample_flows:chatters")
    assert json.loads(ran.out)["exit_code"] == ran.code == Exit.TIMEOUT
    assert "still here" in ran.err


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["sample_flows:free"], "completed", 0),
        (["sample_flows:partial"], "partial", 3),
        (["sample_flows:broken"], "failed", 1),
        (["sample_flows:fails"], "failed", 1),
        (["sample_flows:double"], "refused", 65),
        (["nowhere:double"], "refused", 66),
        ([], "refused", 64),
        (["--timeout", "x", "sample_flows:free"], "refused", 64),
    ],
)
def test_with_json_every_ending_is_a_document(command: Command, words: list[str], status: str, code: int) -> None:
    """A program reads the same of a failure and of a refusal as of a success."""
    ran = command("run", "--json", *words)
    document = json.loads(ran.out)
    assert (document["schema"], document["status"], document["exit_code"]) == (1, status, code)
    assert ran.code == code
    assert (document["error"] is None) == (status in ("completed", "partial"))


def test_a_reader_that_leaves_early_changes_nothing(separately: Command) -> None:
    """When the reader of stdout has gone, as head does, the exit code still tells how the run ended."""
    code = "import os; read, write = os.pipe(); os.close(read); os.dup2(write, 1)"
    for option in ([], ["--json"]):
        ran = separately("run", *option, "sample_flows:partial", before=code)
        assert (ran.code, ran.err) == (3, "")


# --- the example ------------------------------------------------------------------------------------------------------


def test_the_main_job_prints_what_was_computed_and_its_steps(command: Command, tmp_path: Path) -> None:
    """The nightly job of 2013-02-28 is a table of movers, a table of steps, and a last line."""
    warehouse = tmp_path / "warehouse.db"
    ran = command("run", "--as-of-date", "2013-02-28", MARKET_CLOSE, "--warehouse", str(warehouse))
    lines = [line.rstrip() for line in ran.out.splitlines()]
    assert lines[:8] == [
        "movers",
        "ticker    close   return_pct   volatility_pct   drawdown_pct",
        "────────────────────────────────────────────────────────────",
        "FB        27.25         1.41            36.19         -28.72",
        "GOOG     801.20         0.18            17.73          -0.70",
        "MSFT      27.80        -0.04            16.20         -34.06",
        "AAPL     441.40        -0.71            26.34         -36.48",
        "IBM      200.83        -0.74            13.57          -3.99",
    ]
    assert re.match(r"read +completed +1 +\d+ ms", lines[12])
    assert re.match(r"market_close  2013-02-28  completed in \S+ m?s  run [0-9a-f]{32}$", lines[-1])
    assert ran.err == ""
    assert warehouse.exists()


def test_the_main_job_on_a_saturday_does_nothing_and_says_so(command: Command, tmp_path: Path) -> None:
    """A closed market is no failure; the reason is in the table of steps, and there is no result."""
    ran = command("run", "--as-of-date", "2013-03-02", MARKET_CLOSE, "--warehouse", str(tmp_path / "warehouse.db"))
    assert ran.code == 0
    assert ran.out.startswith("steps\n")
    assert "the market is closed on a Saturday" in ran.out
