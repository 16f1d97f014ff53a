"""The example job: its figures, its branches, and what it leaves in the warehouse."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import math
import sqlite3
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest

from workflow_runner import Scope, WorkflowContext, WorkflowResult, errors
from workflow_runner.examples.market_close import (
    DAILY_BARS,
    Bar,
    Figures,
    History,
    daily_return,
    nightly,
    problems,
    volatility,
)

Row = dict[str, str]
Run = Callable[..., WorkflowResult]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Every row of the data as text, read by nothing of the example."""
    with gzip.open(DAILY_BARS, "rt") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs the job for a date into a warehouse of this test."""
    with Scope() as scope:

        def run(date: str | None, **params: Any) -> WorkflowResult:
            given = {"warehouse": tmp_path / "warehouse.db", **params}
            return scope.run(nightly, WorkflowContext.new(params=given, as_of_date=date))

        yield run


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], list[dict[str, Any]]]:
    """Reads a table of the warehouse, in order of date and ticker."""

    def table(name: str) -> list[dict[str, Any]]:
        db = sqlite3.connect(tmp_path / "warehouse.db")
        db.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in db.execute(f"SELECT * FROM {name} ORDER BY as_of_date, ticker")]
        finally:
            db.close()

    return table


@pytest.fixture
def bars(tmp_path: Path, rows: list[Row]) -> Callable[..., Path]:
    """Writes the bars of 2013 to a plain CSV file, some of them changed: None drops the bar."""

    def bars(changes: dict[tuple[str, str], Row | None] | None = None) -> Path:
        path = tmp_path / "bars.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                change = (changes or {}).get((row["Ticker"], row["Date"]), {})
                if row["Date"] >= "2013" and change is not None:
                    writer.writerow({**row, **change})
        return path

    return bars


def figures(result: WorkflowResult) -> dict[str, Figures]:
    return {row.ticker: row for row in result.context.get_output("compute", "figures")}


# --- the figures ------------------------------------------------------------------------------------------------------

# 2013-02-28: return, annualised 20-day volatility, drawdown, as a script of its own (`statistics` over the raw file)
# gave them once.
EXPECTED = {
    "AAPL": (-0.00713049, 0.26335729, -0.36475386),
    "FB": (0.01414217, 0.36185571, -0.28724256),
    "GOOG": (0.00177549, 0.17726560, -0.00700254),
    "IBM": (-0.00741363, 0.13574638, -0.03992431),
    "MSFT": (-0.00035958, 0.16199133, -0.34063168),
}


def test_the_figures_of_a_day_are_known(run: Run) -> None:
    """Return, volatility and drawdown of all five tickers on 2013-02-28 agree to eight places."""
    computed = figures(run("2013-02-28"))
    assert computed.keys() == EXPECTED.keys()
    for ticker, expected in EXPECTED.items():
        row = computed[ticker]
        assert (row.daily_return, row.volatility, row.drawdown) == pytest.approx(expected, abs=5e-9)


def test_apple_can_be_checked_by_hand(run: Run) -> None:
    """AAPL on 2013-02-28 against the day before, and against its highest adjusted close, on 2012-09-19."""
    aapl = figures(run("2013-02-28"))["AAPL"]
    assert aapl.close == 441.40
    assert aapl.daily_return == pytest.approx((57.562728311726 - 57.976126247268) / 57.976126247268)
    assert aapl.drawdown == pytest.approx((57.562728311726 - 90.614841002647) / 90.614841002647)


@pytest.mark.parametrize("date", ["2000-03-30", "2003-02-18", "2005-02-28", "2008-10-13", "2013-02-28", "2013-03-01"])
def test_the_figures_agree_with_an_independent_calculation(run: Run, rows: list[Row], date: str) -> None:
    """The same figures come out of decimal arithmetic over the raw file, splits and a crash included."""
    for ticker, row in figures(run(date)).items():
        with localcontext(prec=40):
            closes = [Decimal(r["Adj Close"]) for r in rows if r["Ticker"] == ticker and r["Date"] <= date]
            logs = [closes[n].ln() - closes[n - 1].ln() for n in range(-20, 0)]
            variance = sum((log - sum(logs) / 20) ** 2 for log in logs) / 19
            expected = (closes[-1] / closes[-2] - 1, (252 * variance).sqrt(), closes[-1] / max(closes) - 1)
        assert (row.daily_return, row.volatility, row.drawdown) == pytest.approx(tuple(map(float, expected)))


def test_a_split_is_no_loss(run: Run) -> None:
    """AAPL halved its price on 2005-02-28 by a split, and returned 0.8 %."""
    aapl = figures(run("2005-02-28"))["AAPL"]
    assert aapl.close == 44.86
    assert aapl.daily_return == pytest.approx(0.0082, abs=1e-4)


def test_the_first_day_of_a_ticker_has_no_history(run: Run) -> None:
    """FB begins on 2012-05-18: no return, no volatility, no drawdown yet, and it is no mover."""
    result = run("2012-05-18")
    assert figures(result)["FB"] == Figures(
        ticker="FB", close=38.2318, daily_return=None, volatility=None, drawdown=0.0
    )
    assert [row["ticker"] for row in result.context.get_output("report", "movers")][-1] == "FB"


def test_a_ticker_that_has_not_begun_is_not_missing(run: Run) -> None:
    """Before GOOG and FB were traded the day is good without them."""
    result = run("2003-02-18")
    assert result.status == "completed"
    assert figures(result).keys() == {"AAPL", "IBM", "MSFT"}


def test_volatility_needs_a_return_more_than_days() -> None:
    """Twenty returns need twenty-one closes, and a steady growth has none."""
    closes = [100 * 1.01**day for day in range(21)]
    assert volatility(closes[1:]) is None
    assert volatility(closes) == pytest.approx(0, abs=1e-12)
    assert volatility([1.0, math.e, 1.0], days=2) == pytest.approx(math.sqrt(2 * 252))


def test_a_return_needs_two_closes() -> None:
    """The return is from the close before the last to the last."""
    assert daily_return([]) is None
    assert daily_return([5.0]) is None
    assert daily_return([1.0, 4.0, 5.0]) == 0.25


def test_the_report_ranks_the_movers_in_percent(run: Run) -> None:
    """The greatest gain comes first, and percents have two places."""
    movers = run("2013-02-28").context.get_output("report", "movers")
    assert [row["ticker"] for row in movers] == ["FB", "GOOG", "MSFT", "AAPL", "IBM"]
    assert movers[3] == {
        "ticker": "AAPL",
        "close": 441.4,
        "return_pct": -0.71,
        "volatility_pct": 26.34,
        "drawdown_pct": -36.48,
    }


# --- days without work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("date", "reason"),
    [
        ("2013-03-02", "the market is closed on a Saturday"),
        ("2013-02-24", "the market is closed on a Sunday"),
        ("2013-02-18", "the market was closed on Monday 2013-02-18: nothing was traded"),
        ("2012-10-29", "the market was closed on Monday 2012-10-29: nothing was traded"),
        ("1999-01-04", "the bars begin on 2000-03-01"),
    ],
)
def test_a_day_without_trading_is_skipped(run: Run, tmp_path: Path, date: str, reason: str) -> None:
    """Weekends, holidays, a hurricane and the time before the data are skipped with a reason; nothing is written."""
    result = run(date)
    assert result.status == "completed"
    assert result.steps["read"].reason == reason
    assert set(result.skipped_steps) == set(nightly.step_names) - {"market"}
    assert not (tmp_path / "warehouse.db").exists()


def test_a_day_that_is_not_in_the_file_yet_fails_after_some_attempts(run: Run) -> None:
    """A weekday after the end of the file is not a holiday: it is tried again, and fails for a person to see."""
    with pytest.raises(errors.WorkflowFailed) as caught:
        run("2013-03-04")
    step = caught.value.result.steps["read"]
    assert (step.attempts, step.category) == (3, "DEPENDENCY")
    assert "the bars end on 2013-03-01" in str(step.error)


@pytest.mark.parametrize(
    ("date", "params", "text"),
    [
        (None, {}, "for which date"),
        ("2013-02-28", {"tickers": ["IBM", "APPL"]}, "no bars of APPL"),
    ],
)
def test_a_wrong_question_fails_at_once(run: Run, date: str | None, params: dict[str, Any], text: str) -> None:
    """Without a date, or for a ticker that nobody knows, there is one attempt and a plain answer."""
    with pytest.raises(errors.WorkflowFailed, match=text) as caught:
        run(date, **params)
    step = caught.value.result.steps["read"]
    assert (step.attempts, step.category) == (1, "CONFIGURATION")


def test_wrong_params_are_refused_before_anything_runs(run: Run) -> None:
    """The params have a class, and what does not fit it is an input error."""
    with pytest.raises(errors.InputError, match="tickers"):
        run("2013-02-28", tickers="IBM")
    with pytest.raises(errors.InputError, match="did you mean 'bars'"):
        run("2013-02-28", bar="x.csv")


# --- the warehouse ----------------------------------------------------------------------------------------------------


def test_a_day_is_loaded_once_however_often_it_runs(run: Run, table: Any) -> None:
    """Running a day again replaces its rows; another day has rows of its own."""
    run("2013-02-28")
    first = table("daily_figures")
    assert [row["ticker"] for row in first] == sorted(EXPECTED)
    assert {row["capture_id"] for row in first} == {"2013-02-28"}
    run("2013-02-28")
    assert table("daily_figures") == first
    run("2013-02-27")
    assert len(table("daily_figures")) == 10


def test_a_day_that_shrinks_leaves_no_row_behind(run: Run, table: Any) -> None:
    """What a later run of the same capture no longer has is gone from the warehouse."""
    run("2013-02-28")
    run("2013-02-28", tickers=["IBM"])
    assert [row["ticker"] for row in table("daily_figures")] == ["IBM"]


def test_a_load_that_breaks_changes_nothing(run: Run, table: Any, tmp_path: Path) -> None:
    """All rows of a day are written or none: a failure in the middle leaves what was there."""
    run("2013-02-28")
    before = table("daily_figures")
    db = sqlite3.connect(tmp_path / "warehouse.db")
    db.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON daily_figures WHEN NEW.ticker = 'IBM'"
        " BEGIN SELECT RAISE(ABORT, 'no IBM today'); END"
    )
    db.close()
    with pytest.raises(errors.WorkflowFailed, match="no IBM today") as caught:
        run("2013-02-28")
    assert caught.value.result.error_step == "load"
    assert table("daily_figures") == before


def test_a_month_has_nineteen_trading_days(run: Run, table: Any, bars: Any) -> None:
    """Every calendar day of February 2013 may be asked for; nineteen are loaded, the others skipped."""
    path = bars()
    days = [dt.date(2013, 2, 1) + dt.timedelta(n) for n in range(28)]
    skipped = [day for day in days if run(str(day), bars=path).steps["read"].status == "skipped"]
    assert len(skipped) == 9
    assert len({row["as_of_date"] for row in table("daily_figures")}) == 19


# --- the quarantine ---------------------------------------------------------------------------------------------------

DAY = "2013-02-28"


def test_a_bad_bar_sends_the_day_to_the_quarantine(run: Run, table: Any, bars: Any) -> None:
    """Nothing of a bad day is loaded; its bad bars are kept with their reasons, and the run is partial."""
    path = bars({("AAPL", DAY): {"High": "44.787"}, ("FB", DAY): {"Volume": "0"}, ("IBM", DAY): None})
    result = run(DAY, bars=path)
    assert result.status == "partial"
    assert result.failed_steps == ("validate",)
    assert result.steps["validate"].category == "DATA_QUALITY"
    assert {"compute", "load", "report"} == set(result.skipped_steps)
    assert table("daily_figures") == []
    kept = {row["ticker"]: row for row in table("quarantine")}
    assert {ticker: row["reasons"] for ticker, row in kept.items()} == {
        "AAPL": "high 44.787 is below low 441.4",
        "FB": "volume is 0",
        "IBM": "no bar, though it traded before",
    }
    assert (kept["AAPL"]["open"], kept["AAPL"]["high"], kept["IBM"]["open"]) == (444.05, 44.787, None)


def test_the_quality_of_a_day_is_measured(run: Run, bars: Any) -> None:
    """The metrics count what was expected, good, bad and missing, and say why."""
    good = run(DAY, bars=bars()).steps["validate"].quality
    assert good is not None
    assert (good.record_count, good.valid_count, good.invalid_count, good.passed) == (5, 5, 0, True)
    bad = run(DAY, bars=bars({("FB", DAY): {"Volume": ""}, ("IBM", DAY): None})).steps["validate"].quality
    assert bad is not None
    assert (bad.record_count, bad.valid_count, bad.invalid_count, bad.null_count) == (5, 3, 2, 1)
    assert not bad.passed
    assert bad.failure_reasons == ("FB: no volume", "IBM: no bar, though it traded before")


def test_corrected_bars_leave_the_quarantine(run: Run, table: Any, bars: Any) -> None:
    """A day that was bad and is good now is loaded, and nothing of it stays in the quarantine."""
    run(DAY, bars=bars({("AAPL", DAY): {"Low": "999"}}))
    assert len(table("quarantine")) == 1
    run(DAY, bars=bars())
    assert table("quarantine") == []
    assert len(table("daily_figures")) == 5


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"high": 1.0, "low": 1.0}, []),
        ({"high": 1.0, "low": 2.0}, ["high 1 is below low 2"]),
        ({"volume": 0.0}, ["volume is 0"]),
        ({"volume": -5.0}, ["volume is -5"]),
        ({"volume": math.nan}, ["no volume"]),
        ({"close": math.nan, "open": 0.0}, ["open is 0", "no close"]),
        ({"adj_close": math.nan}, ["no adj_close"]),
    ],
)
def test_every_flaw_of_a_bar_is_named(changes: dict[str, float], found: list[str]) -> None:
    """High and low, volume, and each price are checked, and all that is wrong is said."""
    good = {"open": 1.5, "high": 2.0, "low": 1.0, "close": 1.5, "volume": 100.0, "adj_close": 1.5}
    date = dt.date(2013, 2, 28)
    bar = Bar(ticker="X", date=date, **{**good, **changes})
    assert problems(History("X", bar, (1.4, 1.5), 1.5, date, date)) == found


def test_only_a_ticker_that_traded_before_can_be_missing() -> None:
    """No bar is a flaw after the first day of trading, and none before it."""
    date = dt.date(2013, 2, 28)
    assert problems(History("X", None, (1.5,), 1.5, date, date)) == ["no bar, though it traded before"]
    assert problems(History("X", None, (), math.nan, date, date)) == []


# --- the data ---------------------------------------------------------------------------------------------------------


def test_the_data_is_shipped_with_its_source_named(rows: list[Row]) -> None:
    """All 12,154 rows stand beside the module, and the README there names source and licence."""
    assert len(rows) == 12_154
    text = DAILY_BARS.with_name("README.md").read_text()
    for word in ("daily_bars.csv.gz", "WIKI", "public domain"):
        assert word in text
