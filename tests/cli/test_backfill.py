"""``backfill`` and ``catchup`` as their users see them."""

from __future__ import annotations

import datetime as dt
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from workflow_runner import open_store
from workflow_runner.cli.commands import EXAMPLES
from workflow_runner.cli.exits import Exit
from workflow_runner.store.base import RunRecord

from .conftest import LONG, Command, Ran, end, start

FLOW = "sample_backfill:nightly"
RANGE = ["--from", "2013-02-25", "--to", "2013-02-28"]
MARKET_CLOSE = "workflow_runner.examples.market_close:nightly"

Night = Callable[..., Ran]


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of a store, which is there when a run has been."""
    return f"sqlite:///{tmp_path}/runs.db?durability=process"


@pytest.fixture
def backfill(command: Command, tmp_path: Path, store: str) -> Night:
    """Runs ``backfill`` over four days."""
    return lambda *words: command("backfill", FLOW, *RANGE, "--store", store, *words, "--", "--folder", str(tmp_path))


@pytest.fixture
def catchup(command: Command, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Night:
    """Runs ``catchup``, in UTC."""
    monkeypatch.setenv("TZ", "UTC")
    return lambda *words: command("catchup", FLOW, "--store", store, *words, "--", "--folder", str(tmp_path))


def ran(folder: Path) -> list[str]:
    """What the workflow has worked on: date, partition, scheduled time."""
    return (folder / "ran").read_text().splitlines() if (folder / "ran").exists() else []


def dates(folder: Path) -> list[str]:
    return [line.split()[0] for line in ran(folder)]


def runs(store: str, **wanted: Any) -> list[RunRecord]:
    opened = open_store(store)
    try:
        return opened.runs(limit=None, **wanted)
    finally:
        opened.close()


def document(ran: Ran) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ran.out)
    return answer


def outcomes(answer: dict[str, Any]) -> dict[str, str]:
    return {partition["as_of_date"][-2:]: partition["outcome"] for partition in answer["partitions"]}


# --- backfill ---------------------------------------------------------------------------------------------------------


def test_each_date_is_a_run_of_its_own(backfill: Night, tmp_path: Path, store: str) -> None:
    """It is found by the batch that was printed, and told of in a line when it ends."""
    answer = backfill()
    assert answer.code == Exit.DONE
    assert dates(tmp_path) == ["2013-02-25", "2013-02-26", "2013-02-27", "2013-02-28"]
    batch = answer.out.split()[-1]
    assert answer.out.startswith("night  4 completed in ")
    assert answer.err.splitlines()[0] == f"4 to run  batch {batch}"
    found = runs(store, batch_id=batch)
    assert {run.idem_key for run in found} == {f"night/2013-02-{n}" for n in (25, 26, 27, 28)}
    for run in found:
        assert f"{run.as_of}  completed in" in answer.err
        assert f"run {run.run_id}" in answer.err


def test_given_again_it_goes_on(backfill: Night, tmp_path: Path) -> None:
    """What is done is answered, what failed runs; failures of one cause are told once, with what to do."""
    (tmp_path / "failing").write_text("2013-02-26 2013-02-28")
    first = backfill("--batch-id", "b1")
    assert first.code == Exit.FAILED
    assert "2 completed, 2 failed" in first.out
    lines = first.err[first.err.index("error:") :].splitlines()
    assert lines[0] == "error: 2 x ValueError in step 'work': no bars of 2013-02-26"
    assert lines[1] == "  2013-02-26, 2013-02-28"
    assert lines[2].startswith("  workflow-runner show --store sqlite:///")
    assert lines[3].startswith(f"go on with: workflow-runner backfill {FLOW} --from 2013-02-25 --to 2013-02-28")
    assert lines[3].endswith(f"-- --folder {tmp_path}")
    (tmp_path / "failing").unlink()
    (tmp_path / "ran").unlink()
    second = backfill("--batch-id", "b1")
    assert second.code == Exit.DONE
    assert "2 completed, 2 done before in" in second.out
    assert dates(tmp_path) == ["2013-02-26", "2013-02-28"]


def test_a_dry_run_changes_nothing(backfill: Night, tmp_path: Path, store: str) -> None:
    """It tells what the real run then does; without a store it makes none."""
    answer = backfill("--dry-run")
    assert (answer.code, ran(tmp_path)) == (Exit.DONE, [])
    assert "2013-02-25   run    has never run" in answer.out
    assert "night  4 to run" in answer.out
    assert not list(tmp_path.iterdir())
    (tmp_path / "failing").write_text("2013-02-26")
    backfill()
    planned = document(backfill("--dry-run", "--json"))
    assert planned["status"] == "planned"
    assert [partition["action"] for partition in planned["partitions"]] == ["done", "resume", "done", "done"]
    real = document(backfill("--json"))
    same = ("as_of_date", "key", "action", "why", "run_id")
    assert [[one[name] for name in same] for one in real["partitions"]] == [
        [one[name] for name in same] for one in planned["partitions"]
    ]
    assert real["plan"] == planned["plan"] == {"resume": 1, "done": 3}


def test_the_document_has_every_partition(backfill: Night, tmp_path: Path) -> None:
    """Its plan, its outcome, its run, and the failures by cause; the code is that of the process."""
    (tmp_path / "failing").write_text("2013-02-26")
    (tmp_path / "partial").write_text("2013-02-27")
    answer = backfill("--json", "--batch-id", "b1")
    data = document(answer)
    assert (data["schema"], data["status"], data["exit_code"], answer.code) == (1, "failed", 1, 1)
    assert (data["batch_id"], data["from"], data["to"]) == ("b1", "2013-02-25", "2013-02-28")
    assert outcomes(data) == {"25": "completed", "26": "failed", "27": "partial", "28": "completed"}
    assert data["counts"] == {"completed": 2, "partial": 1, "failed": 1}
    [group] = data["failures"]
    assert (group["type"], group["step"], group["partitions"]) == ("ValueError", "work", ["2013-02-26"])
    assert data["partitions"][1]["error"] == {
        "type": "ValueError",
        "message": "no bars of 2013-02-26",
        "step": "work",
    }
    (tmp_path / "failing").unlink()
    assert backfill().code == backfill().code == Exit.PARTIAL


def test_partitions_are_run_for_every_date(backfill: Night, tmp_path: Path, store: str) -> None:
    """The key then has both, and the newest date may come first."""
    (tmp_path / "regions.txt").write_text("region=EU\nregion=US\n")
    answer = backfill("--partitions", str(tmp_path / "regions.txt"), "--order", "backward", "--max-active", "3")
    assert answer.code == Exit.DONE
    found = sorted((run.created_at, run.idem_key) for run in runs(store))
    assert [key for _, key in found] == [
        f"night/2013-02-{n}/region={region}" for n in (28, 27, 26, 25) for region in ("EU", "US")
    ]


def test_only_some_are_wanted(backfill: Night, tmp_path: Path) -> None:
    """Missing are those without a run, failed those that failed; all makes new runs of what has completed."""
    (tmp_path / "failing").write_text("2013-02-25")
    (tmp_path / "two.txt").write_text("2013-02-25\n2013-02-26")
    assert backfill("--calendar", str(tmp_path / "two.txt")).code == Exit.FAILED
    (tmp_path / "ran").unlink()
    (tmp_path / "failing").unlink()
    missing = document(backfill("--only", "missing", "--json"))
    assert outcomes(missing) == {"25": "passed over", "26": "completed", "27": "completed", "28": "completed"}
    assert dates(tmp_path) == ["2013-02-27", "2013-02-28"]
    assert backfill("--only", "failed").code == Exit.DONE
    assert dates(tmp_path)[2:] == ["2013-02-25"]
    for _ in range(2):  # the second time nothing is left of this batch
        assert backfill("--only", "all", "--batch-id", "anew").code == Exit.DONE
        assert dates(tmp_path)[3:] == ["2013-02-25", "2013-02-26", "2013-02-27", "2013-02-28"]


def test_so_many_failures_end_it(backfill: Night, tmp_path: Path) -> None:
    """The rest is not started, and is told so."""
    (tmp_path / "failing").write_text("2013-02-25 2013-02-26")
    answer = backfill("--stop-after-failures", "2")
    assert answer.code == Exit.FAILED
    assert "2 failed, 2 not started" in answer.out
    assert "go on with" in answer.err


def test_other_parameters_need_another_key(command: Command, backfill: Night, tmp_path: Path, store: str) -> None:
    """What was done with other parameters is no answer."""
    backfill()
    other = tmp_path / "other"
    other.mkdir()
    words = ["backfill", FLOW, *RANGE, "--store", store, "--", "--folder", str(other)]
    refused = command(*words)
    assert refused.code == Exit.FAILED
    assert "4 x IdempotencyConflict: its key 'night/2013-02-25' is that of a run with other parameters" in refused.err
    assert command(*words[:-3], "--key", "{flow}/other/{as_of_date}", *words[-3:]).code == Exit.DONE


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait, as long as the process lives."""
    limit = time.monotonic() + LONG
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)


@pytest.mark.parametrize("exits", [False, True])
def test_a_signal_hands_back_what_runs(backfill: Night, tmp_path: Path, store: str, exits: bool) -> None:
    """The process dies of it, or exits as it was told; the same command goes on with the same run."""
    (tmp_path / "stop").write_text("2013-02-26")
    words = ["backfill", FLOW, *RANGE, "--store", store, "--json", *(["--exit-on-interrupt", "75"] if exits else [])]
    process = start(*words, "--", "--folder", str(tmp_path))
    until((tmp_path / "begun").exists, process)
    process.send_signal(signal.SIGTERM)
    answer = end(process)
    assert answer.code == (75 if exits else -signal.SIGTERM)
    data = document(answer)
    assert (data["status"], data["signal"], data["exit_code"]) == ("interrupted", "SIGTERM", 75 if exits else None)
    assert outcomes(data) == {"25": "completed", "26": "interrupted", "27": "not started", "28": "not started"}
    assert "go on with: workflow-runner backfill" in answer.err
    interrupted = data["partitions"][1]["run_id"]
    assert [run.status for run in runs(store) if run.run_id == interrupted] == ["pending"]
    (tmp_path / "stop").unlink()
    again = document(backfill("--json"))
    assert (again["status"], again["plan"]) == ("completed", {"run": 2, "resume": 1, "done": 1})
    assert again["partitions"][1]["run_id"] == interrupted


def test_what_another_process_executes_is_left_to_it(backfill: Night, tmp_path: Path, store: str) -> None:
    """It is told, with 75: the same command may do it later."""
    (tmp_path / "stop").write_text("2013-02-26")
    process = start("backfill", FLOW, *RANGE, "--store", store, "--", "--folder", str(tmp_path))
    try:
        until((tmp_path / "begun").exists, process)
        answer = backfill()
        assert answer.code == Exit.TEMPORARY
        assert "2 completed, 1 left, 1 done before" in answer.out
        assert "2013-02-26  left  is being executed by" in answer.err
    finally:
        process.terminate()
        end(process)


def test_a_terminal_has_a_bar(tmp_path: Path, store: str) -> None:
    """What is printed to a terminal is drawn over, but for failures and the end."""
    (tmp_path / "failing").write_text("2013-02-26")
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        ["workflow-runner", "backfill", FLOW, *RANGE, "--store", store, "--", "--folder", str(tmp_path)],
        executable=str(Path(sys.executable).with_name("workflow-runner")),
        cwd=Path(__file__).parent,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(terminal)
    seen = b""
    try:
        while True:
            try:
                seen += os.read(controller, 65536)
            except OSError:  # the other side has closed it
                break
        assert process.wait(LONG) == Exit.FAILED
    finally:
        process.kill()
        os.close(controller)
    text = seen.decode()
    assert "4/4" in text
    assert "ValueError: no bars of 2013-02-26" in text
    assert "2013-02-25  completed" not in text


def test_all_that_may_run_at_once_do(command: Command, tmp_path: Path, store: str) -> None:
    """However few cores there are."""
    (tmp_path / "together").write_text("40")
    forty = ["--from", "2013-01-01", "--to", "2013-02-09", "--max-active", "40"]
    answer = command("backfill", FLOW, *forty, "--store", store, "--", "--folder", str(tmp_path))
    assert (answer.code, "40 completed" in answer.out) == (Exit.DONE, True)


def test_quiet_prints_nothing_unless_something_fails(backfill: Night, tmp_path: Path) -> None:
    """Then what failed, and how to go on."""
    quiet = backfill("--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (Exit.DONE, "", "")
    (tmp_path / "failing").write_text("2013-02-26")
    failed = backfill("--quiet", "--only", "all")
    assert (failed.code, failed.out) == (Exit.FAILED, "")
    assert [line.split()[0] for line in failed.err.splitlines()] == ["error:", "2013-02-26", "workflow-runner", "go"]


def test_what_is_logged_is_kept_with_each_run(backfill: Night, store: str) -> None:
    """As of any other run of the command."""
    runs_ = document(backfill("--json"))["partitions"]
    opened = open_store(store)
    assert [[row.event for row in opened.logs(one["run_id"]) if row.event == "at work"] for one in runs_] == [
        ["at work"]
    ] * 4
    opened.close()


def test_a_secret_is_not_shown(command: Command, tmp_path: Path, store: str) -> None:
    """Neither in a failure nor in the command that goes on."""
    (tmp_path / "failing").write_text("2013-02-25 2013-02-26")
    words = ["backfill", FLOW, *RANGE, "--store", store]
    own = ["--", "--folder", str(tmp_path), "--token", "open sesame"]
    for answer in (command(*words, *own), command(*words, "--json", *own)):
        assert answer.code == Exit.FAILED
        assert "no bars of 2013-02-25 for ***" in answer.err
        assert "sesame" not in answer.out + answer.err


def test_a_monitor_is_told_of_the_whole(backfill: Night) -> None:
    """Once when it begins, and once how it has ended; a monitor that is away changes nothing."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            asked.append(f"{self.path.partition('?')[0]} {body.splitlines()[-1] if body else ''}".strip())
            self.send_response(200)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert backfill("--ping", f"http://127.0.0.1:{server.server_port}/uuid").code == Exit.DONE
        finally:
            server.shutdown()
            thread.join(LONG)
    assert asked == ["/uuid/start", "/uuid night completed: 4 completed"]


@pytest.mark.parametrize("name", ["backfill", "catchup"])
def test_the_example_of_the_help_page_works(
    command: Command, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands there."""
    monkeypatch.chdir(tmp_path)
    assert EXAMPLES[name].splitlines()[0] in command(name, "--help").out
    assert command(*shlex.split(EXAMPLES[name].replace("\\\n", ""))).code == Exit.DONE


@pytest.mark.parametrize(
    ("code", "words", "message"),
    [
        (64, ["--from", "2013-03-01"], "the last date, 2013-02-28, is before the first, 2013-03-01"),
        (64, ["--from", "2013-02-30"], "--from: expected a date such as 2013-02-28, got '2013-02-30'"),
        (64, ["--calendar", "weekday"], "weekday cannot be read: No such file"),
        (64, ["--calendar", "weekday"], "--calendar is days, weekdays, or a file"),
        (66, ["--from", "2013-02-23", "--to", "2013-02-24", "--calendar", "weekdays"], "there is no date from"),
        (64, ["--partitions", "nowhere.csv"], "nowhere.csv cannot be read"),
        (64, ["--only", "mising"], 'Did you mean "missing"?'),
        (64, ["--max-active", "0"], "--max-active must be at least 1, got 0"),
        (64, ["--max-active", "many"], "--max-active: expected a whole number, got 'many'"),
        (64, ["--stop-after-failures", "0"], "--stop-after-failures must be at least 1, got 0"),
        (64, ["--key", "{flow}"], "2013-02-25 and 2013-02-26 have the same key 'free'"),
        (64, ["--key", "{nothing}"], "--key '{nothing}' cannot be filled in"),
        (64, ["--key", "{scheduled_at}"], "there is {flow}, {as_of_date}"),
        (64, ["--tickers", "AAPL"], "the flow's own parameters come last, after --"),
    ],
)
def test_a_wrong_word_is_named(
    command: Command, store: str, tmp_path: Path, code: int, words: list[str], message: str
) -> None:
    """Nothing runs, and no traceback is shown."""
    usual = [word for option in (0, 2) if RANGE[option] not in words for word in RANGE[option : option + 2]]
    answer = command("backfill", "sample_flows:free", *usual, "--store", store, *words)
    assert answer.code == code
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert not list(tmp_path.glob("runs.db*"))


def test_only_an_unknown_option_may_be_one_of_the_flow(command: Command) -> None:
    """The hint is not given where it is wrong."""
    answer = command("backfill", "sample_flows:free", "--from", "2013-02-30", "--to", "2013-02-28")
    assert (answer.code, "after --" in answer.err) == (Exit.USAGE, False)


def test_what_cannot_be_backfilled_is_refused(command: Command, store: str) -> None:
    """A flow without a business date, a wrong parameter, no store."""
    plain = command("backfill", "sample_flows:nothing", *RANGE, "--store", store)
    assert (plain.code, "it has no business date" in plain.err) == (Exit.USAGE, True)
    missing = command("backfill", FLOW, *RANGE, "--store", store)
    assert (missing.code, "--folder is missing" in missing.err) == (Exit.PARAMETERS, True)
    unknown = command("backfill", FLOW, *RANGE, "--store", store, "--", "--foldr", "x")
    assert (unknown.code, "Did you mean --folder?" in unknown.err) == (Exit.PARAMETERS, True)
    nowhere = command("backfill", FLOW, *RANGE, "--", "--folder", "x")
    assert (nowhere.code, "--store is missing" in nowhere.err) == (Exit.USAGE, True)
    page = command("backfill", FLOW, *RANGE, "--", "--help")
    assert (page.code, "--folder" in page.out) == (Exit.DONE, True)


def test_the_trading_days_of_a_month(command: Command, store: str, tmp_path: Path) -> None:
    """February 2013 had 19 of them; on a weekday on which the market was closed the job completes with a skip."""
    import gzip

    from workflow_runner.examples.market_close import DAILY_BARS

    with gzip.open(DAILY_BARS, "rt") as lines:
        days = {line.split(",")[1] for line in lines if ",2013-02-" in line}
    (tmp_path / "days.txt").write_text("\n".join(days))
    month = ["backfill", MARKET_CLOSE, "--from", "2013-02-01", "--to", "2013-02-28", "--store", store]
    own = ["--json", "--", "--warehouse", str(tmp_path / "warehouse.db"), "--tickers", "IBM"]
    trading = command(*month, "--calendar", str(tmp_path / "days.txt"), *own)
    assert (trading.code, document(trading)["counts"]) == (Exit.DONE, {"completed": 19})
    weekdays = document(command(*month, "--calendar", "weekdays", *own))
    assert weekdays["plan"] == {"run": 1, "done": 19}
    [closed] = [one for one in weekdays["partitions"] if one["action"] == "run"]
    assert (closed["as_of_date"], closed["outcome"]) == ("2013-02-18", "completed")


# --- catchup ----------------------------------------------------------------------------------------------------------

NOON = ["--schedule", "0 12 * * *"]


def noons(count: int) -> list[dt.datetime]:
    """The last scheduled times, oldest first."""
    now = dt.datetime.now(dt.UTC)
    noon = now.replace(hour=12, minute=0, second=0, microsecond=0)
    last = noon if noon <= now else noon - dt.timedelta(days=1)
    return [last - dt.timedelta(days=n) for n in reversed(range(count))]


@pytest.fixture
def since_three_days(command: Command, tmp_path: Path, store: str) -> list[dt.datetime]:
    """The run of three days ago has completed; gives the three scheduled times since."""
    last, *later = noons(4)
    words = ["run", "--store", store, "--key", "{flow}/{as_of_date}", "--as-of-date", str(last.date()), FLOW]
    assert command(*words, "--folder", str(tmp_path)).code == Exit.DONE
    (tmp_path / "ran").unlink()
    return later


def test_what_was_missed_is_made_up_for(
    catchup: Night, tmp_path: Path, since_three_days: list[dt.datetime], store: str
) -> None:
    """Everything since the last success, the oldest first; then nothing is missed."""
    answer = catchup(*NOON)
    assert answer.code == Exit.DONE
    assert ran(tmp_path) == [f"{at.date()} None {at}" for at in since_three_days]
    assert "night  3 completed" in answer.out
    again = catchup(*NOON)
    assert again.code == Exit.DONE
    assert again.out == f"nothing was missed since {since_three_days[-1]:%Y-%m-%d %H:%M}\n"
    assert len(ran(tmp_path)) == 3


def test_a_dry_catchup_tells_what_would_run(
    catchup: Night, tmp_path: Path, since_three_days: list[dt.datetime]
) -> None:
    """By the planner that the real one uses."""
    data = document(catchup(*NOON, "--dry-run", "--json", "--max", "2"))
    assert data["status"] == "planned"
    assert [dt.datetime.fromisoformat(one["scheduled_at"]) for one in data["partitions"]] == since_three_days[:2]
    assert [one["key"] for one in data["left_out"]] == [f"night/{since_three_days[2].date()}"]
    assert ran(tmp_path) == []


def test_the_latest_only(catchup: Night, tmp_path: Path, since_three_days: list[dt.datetime], store: str) -> None:
    """What is skipped for it is told, and noted in the store."""
    answer = catchup(*NOON, "--policy", "latest")
    assert dates(tmp_path) == [str(since_three_days[-1].date())]
    assert "2 missed since" in answer.out
    opened = open_store(store)
    noted = [json.loads(event.data or "")["key"] for event in opened.events(target=FLOW, kind="skipped")]
    opened.close()
    assert noted == [f"night/{at.date()}" for at in since_three_days[:2]]


def test_skipping_notes_each_once(
    catchup: Night, tmp_path: Path, since_three_days: list[dt.datetime], store: str
) -> None:
    """Nothing runs, however often it is asked for."""
    for _ in range(2):
        answer = catchup(*NOON, "--policy", "skip")
        assert (answer.code, ran(tmp_path)) == (Exit.DONE, [])
        assert "3 missed since" in answer.out
    opened = open_store(store)
    assert len(opened.events(target=FLOW, kind="skipped")) == 3
    opened.close()


def test_a_failure_ends_it_and_the_next_goes_on_there(
    catchup: Night, tmp_path: Path, since_three_days: list[dt.datetime]
) -> None:
    """Nothing comes to lie behind the last success."""
    (tmp_path / "failing").write_text(str(since_three_days[1].date()))
    answer = catchup(*NOON)
    assert answer.code == Exit.FAILED
    assert "1 completed, 1 failed, 1 not started" in answer.out
    (tmp_path / "failing").unlink()
    assert "2 completed" in catchup(*NOON).out


def test_gaps_behind_the_last_success_are_told(
    command: Command, catchup: Night, tmp_path: Path, since_three_days: list[dt.datetime], store: str
) -> None:
    """They are not run, but the backfill that would run them is named."""
    last = str(since_three_days[-1].date())
    words = ["run", "--store", store, "--key", "{flow}/{as_of_date}", "--as-of-date", last, FLOW]
    assert command(*words, "--folder", str(tmp_path)).code == Exit.DONE
    answer = catchup(*NOON)
    first, second = (str(at.date()) for at in since_three_days[:2])
    assert "nothing was missed" in answer.out
    assert "2 before the last success have not completed" in answer.out
    assert f"backfill --from {first} --to {second} runs them" in answer.out


def test_a_run_after_midnight_is_for_the_day_before(catchup: Night, tmp_path: Path) -> None:
    """Several a day have keys by their times; the window is how far it looks back."""
    words = ["--schedule", "0 */12 * * *", "--window", "36h", "--as-of", "previous-day"]
    refused = catchup(*words)
    assert refused.code == Exit.USAGE
    assert "have the same key" in refused.err
    assert "{scheduled_at}" in refused.err
    assert catchup(*words, "--key", "{flow}/{scheduled_at}").code == Exit.DONE
    assert len(ran(tmp_path)) == 3
    for line in ran(tmp_path):
        date, _, day, *_ = line.split()
        assert dt.date.fromisoformat(date) == dt.date.fromisoformat(day) - dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schedule", "nightly"], "'nightly' is no schedule"),
        (["--schedule", "61 * * * *"], "Bad minute"),
        ([*NOON, "--timezone", "Mars/Olympus"], "there is no time zone 'Mars/Olympus'"),
        ([*NOON, "--window", "30"], "--window: expected a length of time such as 2d"),
        ([*NOON, "--window", "521w"], "--window must be at most 520w"),
        ([*NOON, "--max", "0"], "--max must be at least 1, got 0"),
        ([*NOON, "--policy", "none"], "--policy"),
        ([], "--schedule is missing"),
    ],
)
def test_a_wrong_schedule_is_named(catchup: Night, tmp_path: Path, words: list[str], message: str) -> None:
    """Nothing runs."""
    answer = catchup(*words)
    assert answer.code == Exit.USAGE
    assert message in answer.err
    assert ran(tmp_path) == []
