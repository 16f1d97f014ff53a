"""Parameters: from an input class to options, from words to values."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow_runner import Flow, FlowContext, flow
from workflow_runner.cli import params
from workflow_runner.cli.exits import CommandError, Exit

from . import sample_flows
from .sample_flows import Order, Side, Venue


def read(flow: Flow[Any, Any], *words: str) -> Any:
    """The input that the words make, as the flow gets it."""
    given = params.read(flow, words, command="run x:y")
    assert given is not None
    return flow.prepare(given())


def refusal(flow: Flow[Any, Any], *words: str) -> str:
    """What is said against the words."""
    with pytest.raises(CommandError) as caught:
        params.read(flow, words, command="run x:y")
    assert caught.value.code == Exit.PARAMETERS
    return str(caught.value)


NEEDED = ("--ticker", "IBM", "--quantity", "3")


def test_what_is_not_given_is_left_to_the_class() -> None:
    """Required fields are enough; the defaults are the class's own."""
    assert read(sample_flows.place, *NEEDED) == Order("IBM", 3)


def test_every_field_is_an_option_of_its_type() -> None:
    """Texts become what the fields are annotated with: dates, enums, decimals, seconds, flags, tuples, classes."""
    words = "--day 2013-03-01 --side sell-short --limit 1.10 --valid 90 --dry-run --notes a b --notes c --secret y"
    nested = "--venue.code XNYS --venue.fee 0.1 --prices.IBM 200.83 --prices.FB 27"
    assert read(sample_flows.place, *NEEDED, *words.split(), *nested.split()) == Order(
        "IBM",
        3,
        day=dt.date(2013, 3, 1),
        side=Side.SELL_SHORT,
        limit=Decimal("1.10"),
        valid=dt.timedelta(seconds=90),
        dry_run=True,
        notes=("a", "b", "c"),
        venue=Venue("XNYS", 0.1),
        prices={"IBM": 200.83, "FB": 27.0},
        secret="y",
    )


@pytest.mark.parametrize("text", ["sell-short", "SELL_SHORT", "s"])
def test_an_enum_member_may_be_written_in_three_ways(text: str) -> None:
    """As the help page writes the name, as Python does, or as its value."""
    assert read(sample_flows.place, *NEEDED, "--side", text).side is Side.SELL_SHORT


@pytest.mark.parametrize(("word", "value"), [("--dry-run", True), ("--no-dry-run", False), ("--dry-run=true", True)])
def test_a_flag_can_be_set_and_unset(word: str, value: bool) -> None:
    """A bool takes no value, and has a negative."""
    assert read(sample_flows.place, *NEEDED, word).dry_run is value


@pytest.mark.parametrize("words", [("--quantity=3", "--ticker=IBM"), ("--quantity", "3", "--ticker", "IBM")])
def test_a_value_follows_after_a_space_or_an_equals_sign(words: tuple[str, ...]) -> None:
    """Both spellings mean the same, in any order."""
    assert read(sample_flows.place, *words) == Order("IBM", 3)


def test_a_negative_number_is_a_value() -> None:
    """A value may begin with a minus."""
    assert read(sample_flows.double, "--number", "-3") == -3


def test_a_value_without_a_name_is_not_told_that_it_is_missing() -> None:
    """Who has given it has to hear what is wrong with how."""
    said = refusal(sample_flows.place, "IBM", "--quantity", "3")
    assert said.startswith("'IBM' is no option: parameters are given as --name value")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quantity", "5.7"], "--quantity: expected a whole number, got '5.7'"),
        (["--quantity", ""], "--quantity: expected a whole number, got ''"),
        (["--day", "2013-02-30"], "--day: expected a date such as 2013-02-28, got '2013-02-30'"),
        (["--limit", "much"], "--limit: expected a decimal number, got 'much'"),
        (["--valid", "1h"], "--valid: expected a number of seconds, got '1h'"),
        (["--side", "hold"], "--side: expected one of BUY, SELL_SHORT, got 'hold'"),
        (["--dry-run=perhaps"], 'Invalid value for --dry-run: unable to convert "perhaps" into bool'),
        (["--tikcer", "IBM"], "Unknown option: --tikcer. Did you mean --ticker?"),
        (["--quantity", "1", "--quantity", "2"], "Parameter --quantity specified multiple times"),
        (["--venue.fee", "1"], "--venue.code is missing: str"),
        (["--venue.code", "X", "--venue.fee", "x"], "--venue.fee: expected a number, got 'x'"),
        (["--prices.IBM", "x"], "--prices.IBM: ['IBM']: expected float, got 'x'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(words: list[str], message: str) -> None:
    """Nothing is cut or guessed: what does not fit is refused, with the option and its type."""
    needed = [word for word in ("--ticker=IBM", "--quantity=3") if word.split("=")[0] not in words]
    assert refusal(sample_flows.place, *needed, *words).startswith(message)


def test_a_misspelt_name_is_said_to_be_one() -> None:
    """A required parameter under a wrong name is a spelling mistake first, and missing second."""
    assert refusal(sample_flows.double, "--nunber", "3") == "Unknown option: --nunber. Did you mean --number?"
    assert refusal(sample_flows.double, "--whatever", "3") == "--number is missing: int"


def test_a_plain_type_is_one_parameter() -> None:
    """An input that is no class is an option called as the handler's argument."""
    assert read(sample_flows.double, "--number", "4") == 4
    assert read(sample_flows.add, "--numbers", "1", "2", "--numbers", "3") == [1, 2, 3]
    assert refusal(sample_flows.double) == "--number is missing: int"


@dataclass
class Trade:
    price: float
    size: int = 1


@flow
def on_dataclass(ctx: FlowContext, trade: Trade) -> Trade:
    return trade


@flow
def on_optional(ctx: FlowContext, order: Order | None = None) -> Order | None:
    return order


@flow
def on_optional_list(ctx: FlowContext, sizes: Sequence[int] | None = None) -> Sequence[int] | None:
    return sizes


def test_other_classes_with_fields_are_like_attrs_classes() -> None:
    """A dataclass, or a class or None, gives an option for each field as well; without any, None is None."""
    assert read(on_dataclass, "--price", "1.5") == Trade(1.5)
    assert refusal(on_dataclass, "--price", "much") == "--price: expected a number, got 'much'"
    assert refusal(on_dataclass) == "--price is missing: float"
    assert read(on_optional) is None
    assert read(on_optional, *NEEDED) == Order("IBM", 3)
    assert read(on_optional_list) is None
    assert read(on_optional_list, "--sizes", "1", "2") == (1, 2)


def test_a_flow_without_input_needs_no_words() -> None:
    """None for a flow whose input is not annotated, an empty dict where a dict is."""
    assert read(sample_flows.anything) is None
    assert read(sample_flows.named) == {}
    assert read(sample_flows.nothing) is None


def test_without_a_type_every_name_is_taken() -> None:
    """Names get underscores, and one name is given once."""
    assert read(sample_flows.anything, "--max-rate", "0.5", "--name=x y") == {"max_rate": 0.5, "name": "x y"}
    given = params.read(sample_flows.anything, ["--a-b", "1", "--a_b", "2"], command="run x:y")
    assert given is not None
    with pytest.raises(CommandError, match="--a-b is given twice"):
        given()
    assert refusal(sample_flows.anything, "--a.b", "1") == "a name with dots needs a flow with a typed input"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("-5", -5),
        ("0.5", 0.5),
        ("true", True),
        ("false", False),
        ("null", None),
        ("007", "007"),
        ("1.10", "1.10"),
        ("1e3", "1e3"),
        ("True", "True"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ('"quoted"', '"quoted"'),
        ("[1]", "[1]"),
        ("", ""),
        (" 5", " 5"),
        ("2013-02-28", "2013-02-28"),
    ],
)
def test_an_untyped_value_is_a_scalar_only_if_nothing_is_lost(text: str, value: Any) -> None:
    """A number, true, false and null become themselves as JSON writes them; everything else stays the text it is."""
    read_value = read(sample_flows.anything, f"--x={text}")["x"]
    assert read_value == value
    assert type(read_value) is type(value)


@given(st.text() | st.integers().map(str) | st.floats().map(repr) | st.sampled_from(["true", "null"]))
def test_an_untyped_value_can_always_be_written_back(text: str) -> None:
    """Whatever the text, the value it becomes is written as this very text."""
    value = read(sample_flows.anything, f"--x={text}")["x"]
    assert (value if isinstance(value, str) else json.dumps(value)) == text


def test_a_workflow_takes_the_fields_of_its_params_class() -> None:
    """With ``params=`` the params are typed; without, any name is taken."""
    given = params.read(sample_flows.typed, NEEDED, command="run x:y")
    assert given is not None
    assert given() == {"ticker": "IBM", "quantity": 3}
    assert (
        refusal(sample_flows.typed, "--ticker", "IBM")
        == "--quantity is missing: int (How many shares, of which there must be at least one)"
    )
    free = params.read(sample_flows.free, ["--x", "1"], command="run x:y")
    assert free is not None
    assert free() == {"x": 1}


def test_a_flow_on_a_context_takes_any_name_too() -> None:
    """A flow that is annotated with WorkflowContext is run like a workflow."""
    assert params.takes_context(sample_flows.about)
    assert params.takes_context(sample_flows.free)
    assert not params.takes_context(sample_flows.place)


def test_the_help_page_is_printed_in_place_of_an_input(capsys: pytest.CaptureFixture[str]) -> None:
    """--help anywhere among the parameters asks for the page."""
    assert params.read(sample_flows.double, ["--number", "3", "--help"], command="run x:double") is None
    assert "Usage: run x:double --number INT" in capsys.readouterr().out
