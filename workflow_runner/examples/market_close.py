"""A nightly batch over daily share prices: read, validate, compute, load, report.

    workflow-runner run --as-of-date 2013-02-28 workflow_runner.examples.market_close:nightly

For one business date the job reads each ticker's bars side by side, checks them, computes return, volatility and
drawdown, loads the figures into a small SQLite warehouse, and reports the day's movers::

    read ── market open? ── validate ── good? ┬─ compute ── load ── report
                  └─ skipped                  └─ quarantine

A day on which the market was closed is skipped. A day with bad bars is not loaded at all: its bad bars go to the
quarantine with their reasons, and the run ends *partial*. Running a day again replaces what it loaded before, so that
nothing is ever there twice. From Python::

    with Scope() as scope:
        result = scope.run(nightly, WorkflowContext.new(as_of_date="2013-02-28"))
        result.context.get_output("report", "movers")

The bars are five US equities, 2000 to 2013; ``README.md`` beside this file names their source.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import structlog

from workflow_runner import (
    ErrorCategory,
    FlowContext,
    QualityMetrics,
    Retry,
    Step,
    StepResult,
    Workflow,
    WorkflowContext,
    flow,
)

if TYPE_CHECKING:
    import sqlite3

log = structlog.get_logger(__name__)

DAILY_BARS = Path(__file__).with_name("daily_bars.csv.gz")
VOLATILITY_DAYS = 20
TRADING_DAYS_PER_YEAR = 252


@attrs.frozen
class Params:
    """What the job is asked to do.

    Args:
        tickers: Which shares to look at.
        bars: CSV file of daily bars, plain or .gz.
        warehouse: SQLite file to load into; made if it does not exist.
    """

    tickers: tuple[str, ...] = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
    bars: Path = DAILY_BARS
    warehouse: Path = Path("market_close.db")


# --- what the data is -------------------------------------------------------------------------------------------------


@attrs.frozen
class Bar:
    """One ticker's trading day. A number that the file leaves blank is NaN.

    Attributes:
        ticker: the share.
        date: the trading day.
        open: first price, in US dollars like all prices.
        high: highest price.
        low: lowest price.
        close: last price.
        volume: shares traded.
        adj_close: the close adjusted for later splits and dividends. When AAPL split 2 for 1 on 2005-02-28 its close
            fell by half and nobody lost anything: returns are quotients of this one.
    """

    ticker: str
    date: dt.date
    open: float
    high: float
    low: float
    close: float
    volume: float
    adj_close: float


@attrs.frozen
class History:
    """What is known of one ticker at the end of a date.

    Attributes:
        ticker: the share.
        bar: the date's bar; None if the ticker did not trade.
        closes: its last adjusted closes, oldest first, as many as the figures need.
        peak: its highest adjusted close ever; NaN if it never traded.
        first: the date of its first bar in the file; None if it is not in the file.
        last: the date of its last bar in the file, which may lie after the date asked for.
    """

    ticker: str
    bar: Bar | None
    closes: tuple[float, ...]
    peak: float
    first: dt.date | None
    last: dt.date | None


@attrs.frozen
class Figures:
    """What is computed for one ticker; rates are fractions, 0.01 is one percent.

    Attributes:
        ticker: the share.
        close: the day's close as quoted, in US dollars.
        daily_return: from the close before to this one; None on the ticker's first day.
        volatility: annualised, see `volatility`; None while there are too few days.
        drawdown: distance from the highest close so far, 0 or negative.
    """

    ticker: str
    close: float
    daily_return: float | None
    volatility: float | None
    drawdown: float


# --- read -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Request:
    """Which history to read."""

    bars: Path
    ticker: str
    date: dt.date


@flow(timeout=30)
def history(ctx: FlowContext, request: Request) -> History:
    """Read the history of one ticker up to a date."""
    bars = sorted(read_bars(request.bars, request.ticker), key=lambda bar: bar.date)
    known = [bar for bar in bars if bar.date <= request.date]
    closes = [bar.adj_close for bar in known if bar.adj_close > 0]
    return History(
        ticker=request.ticker,
        bar=known[-1] if known and known[-1].date == request.date else None,
        closes=tuple(closes[-VOLATILITY_DAYS - 1 :]),
        peak=max(closes, default=math.nan),
        first=bars[0].date if bars else None,
        last=bars[-1].date if bars else None,
    )


@flow
def read(ctx: FlowContext, context: WorkflowContext) -> StepResult:
    """Read the history of every ticker, side by side; skip the day if the market was closed."""
    params, date = Params(**context.params), context.as_of_date
    if date is None:
        return StepResult.fail(
            "for which date? give one: --as-of-date 2013-02-28", category=ErrorCategory.CONFIGURATION
        )
    histories = ctx.parallel(history.each(Request(params.bars, ticker, date) for ticker in params.tickers))
    strangers = [known.ticker for known in histories if known.first is None]
    if strangers:
        return StepResult.fail(
            f"{params.bars.name} has no bars of {', '.join(strangers)}", category=ErrorCategory.CONFIGURATION
        )
    if any(known.bar for known in histories):
        return StepResult.ok({"histories": histories})
    first, last = min(known.first for known in histories), max(known.last for known in histories)
    if date.weekday() >= 5:
        return StepResult.skip(f"the market is closed on a {date:%A}")
    if date < first:
        return StepResult.skip(f"the bars begin on {first}")
    if date > last:
        # Not closed but late, and worth another attempt: the retry goes by the category.
        return StepResult.fail(
            f"the bars end on {last}, those of {date} are not there", category=ErrorCategory.DEPENDENCY
        )
    return StepResult.skip(f"the market was closed on {date:%A} {date}: nothing was traded")


def market_was_open(context: WorkflowContext) -> bool:
    """Whether there is a day to work on; a skipped step has no output."""
    return context.has_output("read")


def read_bars(path: Path, ticker: str) -> Iterator[Bar]:
    """Read the bars of one ticker from a CSV file, plain or gzipped.

    Args:
        path: the file; its first line names the columns.
        ticker: whose bars.

    Yields:
        The bars in the order of the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: a number or a date is none.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for row in csv.DictReader(lines):
            if row["Ticker"] == ticker:
                yield Bar(
                    ticker=ticker,
                    date=dt.date.fromisoformat(row["Date"]),
                    open=_number(row["Open"]),
                    high=_number(row["High"]),
                    low=_number(row["Low"]),
                    close=_number(row["Close"]),
                    volume=_number(row["Volume"]),
                    adj_close=_number(row["Adj Close"]),
                )


def _number(text: str) -> float:
    return float(text or "nan")


# --- validate ---------------------------------------------------------------------------------------------------------


def problems(known: History) -> list[str]:
    """What is wrong with a ticker's bar; nothing, if the ticker has not begun to trade."""
    bar = known.bar
    if bar is None:
        return ["no bar, though it traded before"] if known.closes else []
    numbers = attrs.asdict(bar, filter=attrs.filters.exclude("ticker", "date"))
    # "not above", because NaN is neither above nor below anything.
    found = [f"no {name}" if math.isnan(n) else f"{name} is {n:g}" for name, n in numbers.items() if not n > 0]
    if bar.high < bar.low:
        found.append(f"high {bar.high:g} is below low {bar.low:g}")
    return found


def validate(context: WorkflowContext) -> StepResult:
    """Check every bar of the day; the day is good if all of them are."""
    histories: Sequence[History] = context.get_output("read", "histories")
    expected = [known for known in histories if known.bar or known.closes]
    bad = {known.ticker: found for known in expected if (found := problems(known))}
    reasons = tuple(f"{ticker}: {', '.join(found)}" for ticker, found in bad.items())
    quality = QualityMetrics(
        record_count=len(expected),
        valid_count=len(expected) - len(bad),
        invalid_count=len(bad),
        null_count=sum(known.bar is None for known in expected),
        passed=not bad,
        failure_reasons=reasons,
    )
    if bad:
        return StepResult.fail("; ".join(reasons), category=ErrorCategory.DATA_QUALITY, quality=quality)
    return StepResult.ok({"good": [known.ticker for known in expected]}, quality=quality)


def day_is_good(context: WorkflowContext) -> bool:
    """Whether the day may be loaded; a failed step has no output in the context."""
    return context.has_output("validate")


# --- compute ----------------------------------------------------------------------------------------------------------


def compute(context: WorkflowContext) -> StepResult:
    """Compute the figures of every ticker that traded."""
    figures = [
        Figures(
            ticker=known.ticker,
            close=known.bar.close,
            daily_return=daily_return(known.closes),
            volatility=volatility(known.closes),
            drawdown=known.closes[-1] / known.peak - 1,
        )
        for known in context.get_output("read", "histories")
        if known.bar
    ]
    return StepResult.ok({"figures": figures})


def daily_return(closes: Sequence[float]) -> float | None:
    """Give the simple return of the last day, ``P[t] / P[t-1] - 1``.

    Args:
        closes: adjusted closes, oldest first.

    Returns:
        A fraction; None with fewer than two closes.
    """
    return closes[-1] / closes[-2] - 1 if len(closes) >= 2 else None


def volatility(closes: Sequence[float], *, days: int = VOLATILITY_DAYS) -> float | None:
    """Give the annualised volatility of the last days.

    The sample standard deviation (n - 1) of the daily log returns ``ln(P[t] / P[t-1])``, times the square root of 252
    trading days: J. C. Hull, Options, Futures, and Other Derivatives, "Estimating volatility from historical data".

    Args:
        closes: adjusted closes, oldest first.
        days: how many returns to take, two or more.

    Returns:
        A fraction per square root of a year; None with fewer than ``days + 1`` closes.
    """
    if len(closes) < days + 1:
        return None
    window = closes[-days - 1 :]
    returns = [math.log(today / before) for before, today in itertools.pairwise(window)]
    return statistics.stdev(returns) * math.sqrt(TRADING_DAYS_PER_YEAR)


# --- load, or quarantine ----------------------------------------------------------------------------------------------


def load(context: WorkflowContext) -> StepResult:
    """Load the figures into the warehouse, in place of those that an earlier run of this capture has loaded."""
    figures: Sequence[Figures] = context.get_output("compute", "figures")
    with warehouse(context) as db:
        replace(db, "daily_figures", context, (attrs.asdict(row) for row in figures))
        # What was bad before has been corrected since.
        replace(db, "quarantine", context, ())
    return StepResult.ok({"loaded": len(figures)})


def quarantine(context: WorkflowContext) -> StepResult:
    """Write the bad bars and what is wrong with them where somebody can look into it; load nothing."""
    bad = []
    for known in context.get_output("read", "histories"):
        found = problems(known)
        if found:
            log.warning("bar.quarantined", ticker=known.ticker, reasons=found)
            bar = {} if known.bar is None else attrs.asdict(known.bar, filter=attrs.filters.exclude("date"))
            bad.append({**bar, "ticker": known.ticker, "reasons": ", ".join(found)})
    with warehouse(context) as db:
        replace(db, "quarantine", context, bad)
    return StepResult.ok({"quarantined": bad})


SCHEMA = """
CREATE TABLE IF NOT EXISTS daily_figures (
    capture_id TEXT, as_of_date TEXT, ticker TEXT, close REAL, daily_return REAL, volatility REAL, drawdown REAL,
    PRIMARY KEY (capture_id, ticker)
);
CREATE TABLE IF NOT EXISTS quarantine (
    capture_id TEXT, as_of_date TEXT, ticker TEXT, open REAL, high REAL, low REAL, close REAL, volume REAL,
    adj_close REAL, reasons TEXT, PRIMARY KEY (capture_id, ticker)
);
"""


@contextmanager
def warehouse(context: WorkflowContext) -> Iterator[sqlite3.Connection]:
    """Open the warehouse for one transaction: everything in the block is written, or nothing."""
    import sqlite3

    with closing(sqlite3.connect(Params(**context.params).warehouse, timeout=30)) as db:
        db.executescript(SCHEMA)
        with db:
            yield db


def replace(db: sqlite3.Connection, table: str, context: WorkflowContext, rows: Iterable[dict[str, Any]]) -> None:
    """Put ``rows`` in the place of all rows of this capture: done twice it is as if done once."""
    db.execute(f"DELETE FROM {table} WHERE capture_id = ?", (context.capture_id,))
    for row in rows:
        full = {"capture_id": context.capture_id, "as_of_date": str(context.as_of_date), **row}
        db.execute(f"INSERT INTO {table} ({', '.join(full)}) VALUES (:{', :'.join(full)})", full)


# --- report -----------------------------------------------------------------------------------------------------------


def report(context: WorkflowContext) -> StepResult:
    """List the day's movers, the greatest gain first, in percent."""
    figures: Sequence[Figures] = context.get_output("compute", "figures")
    ranked = sorted(figures, key=lambda row: -math.inf if row.daily_return is None else row.daily_return, reverse=True)
    movers = [
        {
            "ticker": row.ticker,
            "close": row.close,
            "return_pct": _percent(row.daily_return),
            "volatility_pct": _percent(row.volatility),
            "drawdown_pct": _percent(row.drawdown),
        }
        for row in ranked
    ]
    return StepResult.ok({"movers": movers})


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 2)


# --- the workflow -----------------------------------------------------------------------------------------------------

nightly = Workflow(
    "market_close",
    version="1",
    params=Params,
    steps=[
        # The file comes over the network at night: it may be late, or away for a moment.
        Step("read", read, timeout=60, retry=Retry(attempts=3, initial=0.2, on=OSError)),
        Step.choice(
            "market",
            when=market_was_open,
            then=[
                Step("validate", validate, on_error="continue"),
                Step.choice(
                    "route",
                    when=day_is_good,
                    then=[
                        Step("compute", compute),
                        Step("load", load),
                        # The figures are safe by now: a report that fails makes the run partial, not failed.
                        Step("report", report, on_error="continue"),
                    ],
                    otherwise=[Step("quarantine", quarantine)],
                ),
            ],
        ),
    ],
)
