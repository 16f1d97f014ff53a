"""``emit``: units that systemd, cron and Kubernetes take as they are, and commands in them that we take."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cronsim import CronSim

from workflow_runner.cli.calendars import on_calendar, portable
from workflow_runner.cli.commands import EXAMPLES
from workflow_runner.cli.exits import Exit
from workflow_runner.cli.units import FINAL
from workflow_runner.errors import InputError

from .conftest import LONG, Command

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")

# Everything that one of the three would take for something else.
NASTY = "100% $HOME ${x} $(y) \"a\" 'b' \\ \\% ; & #"

MANY_OPTIONS = [
    *("--as-of-date", "yesterday", "--partition", "region=EU", "--partition", "desk=7", "--timeout", "90"),
    *(
        "--store",
        "sqlite:////data/runs.db",
        "--key",
        "{flow} {as_of_date} 5%",
        "--tag",
        "team=risk",
        "--on-locked",
        "fail",
    ),
    *("--grace", "25", "--max-workers", "2"),
]


def emitted(command: Command, kind: str, *words: str) -> dict[str, Any]:
    image = ["--image", "registry.example.com/jobs:1.4"] if kind == "k8s" else []
    ran = command("emit", kind, "--json", *image, *words)
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    assert (document["schema"], document["kind"]) == (1, kind)
    return dict(document)


def text_of(command: Command, kind: str, *words: str) -> str:
    return "\n".join(emitted(command, kind, *words)["files"].values())


# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expressions"),
    [
        ("30 18 * * MON-FRI", ["Mon..Fri *-*-* 18:30:00"]),
        ("* * * * *", ["*-*-* *:*:00"]),
        ("*/15 8-18 * * *", ["*-*-* 08..18:00..45/15:00"]),
        ("0 9,17 1,15 1-3,12 *", ["*-01,02,03,12-01,15 09,17:00:00"]),
        ("0 0 * * 0", ["Sun *-*-* 00:00:00"]),
        ("0 0 * * 7", ["Sun *-*-* 00:00:00"]),
        ("0 0 13 * FRI", ["*-*-13 00:00:00", "Fri *-*-* 00:00:00"]),
        ("0 0 */2 * MON", ["Mon *-*-01..31/2 00:00:00"]),
        ("0 0 1-7 * */7", ["Sun *-*-01..07 00:00:00"]),
        ("0 0 L * *", ["*-*~01 00:00:00"]),
        ("0 0 LW * *", ["Mon..Fri *-*~01 00:00:00", "Fri *-*~02,03 00:00:00"]),
        ("0 0 * * MON#2", ["Mon *-*-08..14 00:00:00"]),
        ("0 0 * * 5L", ["Fri *-*~01..07 00:00:00"]),
    ],
)
def test_a_schedule_in_systemds_words(schedule: str, expressions: list[str]) -> None:
    """Two expressions where cron takes the day of the month or of the week, one where it takes both."""
    assert on_calendar(schedule) == expressions
    assert on_calendar(schedule, "Europe/Berlin") == [f"{one} Europe/Berlin" for one in expressions]


@needs_systemd
@pytest.mark.parametrize(
    "schedule",
    [
        "30 18 * * MON-FRI",
        "5/15 3 * * *",
        "0 0 13 * FRI",
        "0 9 1,15 2-12/5 1,3,6-7",
        "0 0 */5 * TUE",
        "0 0 1-7 * */7",
        "0 9 L * *",
        "0 9 LW * 1",
        "0 12 L * 5L",
        "0 22 * 1-3,12 SUN#1,3L",
        "0 0 29 2 *",
        "59 23 31 * *",
    ],
)
def test_systemd_starts_when_cron_does(schedule: str) -> None:
    """Its own calculator gives the next twenty times that a simulation of cron gives."""
    start, count = dt.datetime(2023, 2, 20), 20
    simulation = CronSim(schedule, start)
    wanted = [next(simulation) for _ in range(count if "29 2" not in schedule else 3)]
    found: set[dt.datetime] = set()
    for expression in on_calendar(schedule):
        program = ["systemd-analyze", "calendar", f"--iterations={count}", f"--base-time={start}", expression]
        environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
        ran = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=LONG, check=True)
        times = re.findall(r"(?:elapse|#\d+): \w+ (\S+ \S+) UTC", ran.stdout)
        found |= {dt.datetime.strptime(time, "%Y-%m-%d %H:%M:%S") for time in times}
    assert sorted(found)[: len(wanted)] == wanted


@pytest.mark.parametrize(
    ("schedule", "everywhere"),
    [
        ("30 18 * * MON-FRI", "30 18 * * 1-5"),
        ("5/15 */2 1/10 jan,mar-may *", "5-59/15 */2 1-31/10 1,3-5 *"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 1 * 1/2", "0 0 1 * 0,1,3,5"),
        ("0 0 * * */2", "0 0 * * */2"),
        ("10-50/5,7 1 * * *", "10-50/5,7 1 * * *"),
    ],
)
def test_a_schedule_in_words_that_every_cron_knows(schedule: str, everywhere: str) -> None:
    """Numbers for names, Sunday as 0, a range before every step; the same times."""
    assert portable(schedule) == everywhere
    start = dt.datetime(2023, 2, 20)
    before, after = CronSim(schedule, start), CronSim(everywhere, start)
    assert [next(before) for _ in range(50)] == [next(after) for _ in range(50)]


@pytest.mark.parametrize("schedule", ["0 0 L * *", "0 0 LW * *", "0 0 * * MON#2", "0 0 * * 5L"])
def test_what_cron_does_not_know_is_refused(schedule: str) -> None:
    """The last and the nth days are for systemd."""
    with pytest.raises(InputError, match="neither cron nor Kubernetes know"):
        portable(schedule)


def test_what_no_calendar_says_is_refused() -> None:
    """A day counted from the first of the month and from its last at once."""
    with pytest.raises(InputError, match="no calendar expression"):
        on_calendar("0 0 */20 * 1L")


# --- the command in a unit --------------------------------------------------------------------------------------------


def in_systemd(text: str) -> list[str]:
    line = re.search(r"^ExecStart=(.*)$", text, flags=re.MULTILINE)
    assert line is not None
    words = shlex.split(line[1])  # quotes and backslashes are as in a shell
    assert not any(re.search(r"(?<![%$])(%%|\$\$)*[%$](?![%$])", word) for word in words)  # each is doubled
    return [word.replace("%%", "%").replace("$$", "$") for word in words]


def in_cron(text: str) -> list[str]:
    line = text.splitlines()[-1].split(" ", 5)[5]
    command = ""
    escaped = False
    for character in line:  # as cron reads it: cron(8), do_command
        assert escaped or character != "%", "cron ends the line here"
        command = command[:-1] + character if escaped and character == "%" else command + character
        escaped = character == "\\" and not escaped
    echo = f"printf '%s\\0' {command.partition(' && ')[2]}"
    ran = subprocess.run(["/bin/sh", "-c", echo], capture_output=True, text=True, timeout=LONG, check=True)
    return ran.stdout.split("\0")[:-1]


def in_k8s(text: str) -> list[str]:
    args = re.search(r"^ +command: (\[.*\])\n +args:\n((?: +- .*\n)+)", text, flags=re.MULTILINE)
    assert args is not None
    words = [*json.loads(args[1]), *(json.loads(line.split("- ", 1)[1]) for line in args[2].splitlines())]
    return [word.replace("$$(", "$(") for word in words]


READERS = {"systemd": in_systemd, "cron": in_cron, "k8s": in_k8s}


@pytest.mark.parametrize("kind", READERS)
def test_every_word_arrives_as_it_was_given(command: Command, kind: str) -> None:
    """Quotes, percent signs, dollars and backslashes mean nothing special to whoever starts the command."""
    words = ["--schedule", "0 0 * * *", "sample_flows:anything", "--", "--text", NASTY, "--empty", ""]
    document = emitted(command, kind, *words)
    assert document["command"][-4:] == ["--text", NASTY, "--empty", ""]
    assert READERS[kind]("\n".join(document["files"].values())) == document["command"]


def test_a_line_break_fits_where_there_is_an_escape_for_it(command: Command) -> None:
    """systemd and Kubernetes have one; a crontab has none, and is refused."""
    words = ["--schedule", "0 0 * * *", "sample_flows:anything", "--", "--text", "a\nb"]
    assert r'"a\nb"' in text_of(command, "systemd", *words)
    assert in_k8s(text_of(command, "k8s", *words))[-1] == "a\nb"
    ran = command("emit", "cron", *words)
    assert ran.code == Exit.USAGE
    assert "has a line break" in ran.err


@pytest.mark.parametrize("kind", READERS)
def test_the_command_is_one_that_we_take(command: Command, kind: str, tmp_path: Path) -> None:
    """With every option that emit has handed on, a dry run of it finds nothing wrong."""
    words = ["--schedule", "0 0 * * *", *MANY_OPTIONS, "sample_flows:about", "--", "--x", "1"]
    document = emitted(command, kind, *words)
    run = document["command"][document["command"].index("run") :]
    options = run[: run.index("sample_flows:about")]
    for option, value in zip(MANY_OPTIONS[::2], MANY_OPTIONS[1::2], strict=True):
        assert any(pair == (option, value) for pair in pairwise(options)), option
    dry = [word.replace("/data/", f"{tmp_path}/") for word in run]
    ran = command(dry[0], "--dry-run", *dry[1:])
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("kind", READERS)
def test_what_was_missed_can_be_made_up_for(command: Command, kind: str, tmp_path: Path) -> None:
    """With --catchup the unit runs every date that the schedule has missed, in its own time zone."""
    zone = [] if kind == "cron" else ["--timezone", "America/New_York"]
    words = ["--schedule", "30 18 * * MON-FRI", *zone, "--catchup", "latest", "--store", "sqlite:////data/runs.db"]
    document = emitted(command, kind, *words, "sample_flows:about", "--", "--x", "1")
    run = document["command"][document["command"].index("catchup") :]
    assert run[: 5 + len(zone)] == ["catchup", "--schedule", "30 18 * * MON-FRI", *zone, "--policy", "latest"]
    assert run[-4:] == ["sample_flows:about", "--", "--x", "1"]
    assert READERS[kind]("\n".join(document["files"].values())) == document["command"]
    dry = [word.replace("/data/", f"{tmp_path}/") for word in run]
    ran = command(dry[0], "--dry-run", *dry[1:])
    assert ran.code == 0, ran.err


# --- what each must know ----------------------------------------------------------------------------------------------


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"\w+=", line))


def test_systemd_restarts_what_another_start_may_finish(command: Command) -> None:
    """After an interrupt or a kill, and not after an ending that would be the same; SIGKILL comes after the grace."""
    files = emitted(command, "systemd", "--schedule", "0 0 * * *", "--grace", "25", "sample_flows:nothing")["files"]
    assert list(files) == ["nothing.service", "nothing.timer"]
    service, timer = settings(files["nothing.service"]), settings(files["nothing.timer"])
    assert service["RestartPreventExitStatus"].split() == [str(int(code)) for code in FINAL]
    assert {Exit.TEMPORARY, Exit.STORE, Exit.DONE}.isdisjoint(FINAL)
    assert (service["Restart"], service["Type"], service["KillMode"]) == ("on-failure", "oneshot", "mixed")
    assert int(service["TimeoutStopSec"]) > 25
    assert "--exit-on-interrupt 75" in service["ExecStart"]
    assert "--grace 25" in service["ExecStart"]
    assert service["ExecStart"].startswith("/")
    assert service["WorkingDirectory"] == os.getcwd()
    assert (timer["OnCalendar"], timer["Persistent"]) == ("*-*-* 00:00:00", "true")


@needs_systemd
def test_systemd_takes_the_units(command: Command, tmp_path: Path) -> None:
    """Its own check finds nothing wrong with them."""
    words = ["--schedule", "0 9 LW 1 1", "--timezone", "Europe/Berlin", "--user", "root", "--into", str(tmp_path)]
    ran = command("emit", "systemd", *words, *MANY_OPTIONS, "sample_flows:free", "--", "--text", NASTY)
    assert ran.out == f"wrote {tmp_path}/free.service\nwrote {tmp_path}/free.timer\n"
    program = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    checked = subprocess.run(program, capture_output=True, text=True, timeout=LONG)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_cron_gets_a_line_with_all_it_needs(command: Command, tmp_path: Path) -> None:
    """Quiet, an absolute path, the folder, and with a user a file for /etc/cron.d."""
    words = ["--schedule", "30 18 * * MON-FRI", "sample_flows:nothing", "--working-directory"]
    (tmp_path / "my jobs").mkdir()
    shutil.copy(Path(__file__).parent / "sample_flows.py", tmp_path / "my jobs")
    line = text_of(command, "cron", *words, str(tmp_path / "my jobs")).splitlines()[-1]
    assert line.startswith(f"30 18 * * 1-5 cd '{tmp_path}/my jobs' && /")
    assert " run --quiet " in line
    line = text_of(command, "cron", *words, ".", "--user", "batch").splitlines()[-1]
    assert line.startswith("30 18 * * 1-5 batch cd ")


def yaml_of(text: str) -> Any:
    """The manifest, read by a parser if there is one."""
    return pytest.importorskip("yaml").safe_load(text)


def test_kubernetes_gets_one_pod_at_a_time_and_the_codes_that_are_final(command: Command) -> None:
    """No pod beside another, no other pod after a final code, time for the grace, and a volume for the store."""
    text = text_of(
        command, "k8s", "--schedule", "*/5 * * * 7", "--timezone", "Europe/Berlin", *MANY_OPTIONS, "sample_flows:about"
    )
    for line in (
        'kind: "CronJob"',
        'schedule: "*/5 * * * 0"',
        'timeZone: "Europe/Berlin"',
        'concurrencyPolicy: "Forbid"',
        'restartPolicy: "Never"',
        f"values: [{', '.join(str(int(code)) for code in FINAL)}]",
        "terminationGracePeriodSeconds: 35",
        'command: ["workflow-runner"]',
        'mountPath: "/data"',
        'claimName: "about-store"',
    ):
        assert re.search(rf"^ *{re.escape(line)}$", text, flags=re.MULTILINE), line
    for line in text.splitlines():  # each is a comment, a key, or an item of a list, indented by twos
        assert re.fullmatch(r'((  )*(- )?(\w+:( .*)?|"[^\n]*"|#.*))', line), line


def test_the_manifest_is_yaml(command: Command) -> None:
    """A parser finds the words as they were given."""
    text = text_of(
        command, "k8s", "--schedule", "0 0 * * *", "sample_flows:anything", "--", "--text", NASTY + "ü\x85\U0001f600"
    )
    spec = yaml_of(text)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert spec["containers"][0]["args"][-1] == (NASTY + "ü\x85\U0001f600").replace("$(", "$$(")


def test_without_its_files_the_units_are_printed(command: Command, tmp_path: Path) -> None:
    """On stdout, ready for a file or a pipe; nothing else is there."""
    ran = command("emit", "cron", "--schedule", "0 0 * * *", "sample_flows:nothing")
    document = emitted(command, "cron", "--schedule", "0 0 * * *", "sample_flows:nothing")
    assert ran.out == document["files"]["nothing"]
    assert document["written"] == []


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["systemd", "sample_flows:nothing"], 64, "--schedule is missing"),
        (["upstart", "--schedule", "0 0 * * *", "sample_flows:nothing"], 64, 'Invalid value "upstart" for KIND'),
        (["cron", "--schedule", "0 0 * *", "sample_flows:nothing"], 64, "'0 0 * *' is no schedule"),
        (
            ["cron", "--schedule", "0 0 30 2 *", "sample_flows:nothing"],
            64,
            "'0 0 30 2 *' is no schedule: Bad day-of-month",
        ),
        (["cron", "--schedule", "0 0 L * *", "sample_flows:nothing"], 64, "neither cron nor Kubernetes know"),
        (["k8s", "--schedule", "0 0 * * *", "sample_flows:nothing"], 64, "--image is missing"),
        (["cron", "--schedule", "0 0 * * *", "--image", "x", "sample_flows:nothing"], 64, "--image is for k8s"),
        (
            ["k8s", "--schedule", "0 0 * * *", "--image", "x", "--user", "u", "sample_flows:nothing"],
            64,
            "--user is for",
        ),
        (["cron", "--schedule", "0 0 * * *", "--timezone", "UTC", "sample_flows:nothing"], 64, "--timezone is for"),
        (["systemd", "--schedule", "0 0 * * *", "--timezone", "Mars/X", "sample_flows:nothing"], 64, "no time zone"),
        (["systemd", "--schedule", "0 0 * * *", "--name", "My Job", "sample_flows:nothing"], 64, "--name 'My Job'"),
        (["systemd", "--schedule", "0 0 * * *", "--key", "k", "sample_flows:nothing"], 64, "--key needs a --store"),
        (
            ["systemd", "--schedule", "0 0 * * *", "--as-of-date", "x", "sample_flows:free"],
            64,
            "--as-of-date: expected",
        ),
        (
            ["systemd", "--schedule", "0 0 * * *", "--as-of-date", "today", "sample_flows:nothing"],
            64,
            "is for workflows",
        ),
        (["cron", "--schedule", "0 0 * * *", "--catchup", "all", "sample_flows:free"], 64, "--catchup needs a --store"),
        (
            ["cron", "--schedule", "0 0 * * *", "--catchup", "all", "--store", "sqlite:///x.db", "--tag", "a=b", "x:y"],
            64,
            "--tag is not for --catchup",
        ),
        (["systemd", "--schedule", "0 0 * * *", "sample_flows:nothin"], 66, "sample_flows has no 'nothin'"),
        (
            ["systemd", "--schedule", "0 0 * * *", "sample_flows:double", "--", "--nmber", "1"],
            65,
            "Unknown option: --nmber",
        ),
        (
            ["systemd", "--schedule", "0 0 * * *", "--into", "/nowhere/at/all", "sample_flows:nothing"],
            78,
            "--into /nowhere",
        ),
        (
            ["k8s", "--schedule", "0 0 * * *", "--image", "x", "--store", "sqlite:///runs.db", "sample_flows:nothing"],
            64,
            "in a pod it is a file in a folder of its own",
        ),
    ],
)
def test_wrong_input_is_named(command: Command, words: Sequence[str], code: int, message: str) -> None:
    """Nothing is printed but what is wrong."""
    ran = command("emit", *words)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err.splitlines()[0]


def test_who_gives_a_flow_its_own_too_early_is_told_where_it_goes(command: Command) -> None:
    """Behind the target and a fence."""
    ran = command("emit", "cron", "--schedule", "0 0 * * *", "sample_flows:double", "--number", "1")
    assert ran.code == 64
    assert "the flow's own parameters come last, after --" in ran.err


def test_a_flow_that_is_elsewhere_is_not_imported(command: Command) -> None:
    """--unchecked is for the code that only the image has."""
    words = ["--schedule", "0 0 * * *", "nowhere.at.all:nightly_close", "--unchecked", "--", "--anything", "1"]
    assert list(emitted(command, "k8s", *words)["files"]) == ["nightly-close.yaml"]


def test_the_parameters_have_a_help_page(command: Command) -> None:
    """After the -- it is the flow's own."""
    ran = command("emit", "cron", "--schedule", "0 0 * * *", "sample_flows:place", "--", "--help")
    assert ran.code == 0
    assert "--ticker" in ran.out


def test_today_and_yesterday_are_business_dates(command: Command) -> None:
    """A unit is written once and runs every day."""
    for word, days in (("today", 0), ("yesterday", 1)):
        before = dt.date.today()
        ran = command("run", "--json", "--as-of-date", word, "sample_flows:about", "--x", "1")
        dates = {str(day - dt.timedelta(days=days)) for day in (before, dt.date.today())}
        assert json.loads(ran.out)["result"]["date"] in dates


def test_the_example_on_the_help_page_works(command: Command) -> None:
    """The example can be copied from the page to the shell."""
    assert EXAMPLES["emit"] in command("emit", "--help").out
    assert command(*shlex.split(EXAMPLES["emit"].replace("\\\n", ""))).code == 0
