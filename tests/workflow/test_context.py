"""What goes from step to step: contexts, partition keys, step results, quality metrics."""

from __future__ import annotations

import copy
import datetime as dt
import json
import pickle
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow_runner._core import codec
from workflow_runner._workflow.context import (
    CheckpointState,
    ErrorCategory,
    PartitionKey,
    QualityMetrics,
    StepResult,
    WorkflowContext,
)
from workflow_runner._workflow.mapping import FrozenDict
from workflow_runner.errors import InputError, SerializationError

FIELDS = [
    "run_id",
    "trace_id",
    "batch_id",
    "started_at",
    "params",
    "step_outputs",
    "metadata",
    "checkpoint",
    "partition",
    "as_of_date",
    "capture_id",
    "idempotency_key",
]


@attrs.frozen
class Bar:
    ticker: str
    close: Decimal


def full_context() -> WorkflowContext:
    """A context in which no field has its default."""
    context = WorkflowContext.new(
        {"limit": Decimal("0.10"), "files": (Path("a.csv"),), 1: "int key"},  # type: ignore[dict-item]
        batch_id="b-1",
        partition={"region": "EU", "week_ending": dt.date(2013, 3, 1)},
        as_of_date="2013-02-28",
        metadata={"host": "h"},
        idempotency_key="k-1",
        checkpoint=CheckpointState("r-0", "fetch", completed_steps=["fetch"]),
    )
    return context.with_step_output("fetch", {"bars": [Bar("GOOG", Decimal("1.5"))]}).with_step_output("empty", None)


# --- new --------------------------------------------------------------------------------------------------------------


def test_fields_are_those_of_the_design() -> None:
    """The context has exactly the twelve fields, in their order."""
    assert [field.name for field in attrs.fields(WorkflowContext)] == FIELDS


def test_new_fills_in_what_is_left_out() -> None:
    """Ids are new and of the W3C form, the time is now in UTC, mappings are empty, the rest is None."""
    before = dt.datetime.now(dt.UTC)
    context, other = WorkflowContext.new(), WorkflowContext.new()
    assert before <= context.started_at <= dt.datetime.now(dt.UTC)
    assert context.started_at.tzinfo is dt.UTC
    for name in ("run_id", "trace_id"):
        assert len(getattr(context, name)) == 32
        assert int(getattr(context, name), 16) > 0
        assert getattr(context, name) != getattr(other, name)
    assert context.params == context.step_outputs == context.metadata == {}
    for name in ("batch_id", "checkpoint", "partition", "as_of_date", "idempotency_key"):
        assert getattr(context, name) is None


def test_new_takes_what_people_write() -> None:
    """A mapping becomes a partition key, an ISO text a date, any aware time UTC."""
    started = dt.datetime(2013, 3, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    context = WorkflowContext.new(partition={"region": "EU"}, as_of_date="2013-02-28", started_at=started)
    assert context.partition == PartitionKey(region="EU")
    assert context.as_of_date == dt.date(2013, 2, 28)
    assert context.started_at == started
    assert context.started_at.tzinfo is dt.UTC


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("as_of_date", "2013-02-30", "as_of_date: expected datetime.date, got '2013-02-30'"),
        ("as_of_date", dt.datetime(2013, 2, 28), "as_of_date: expected datetime.date, got datetime.datetime"),
        ("partition", {"a b": 1}, "'a b' cannot name a coordinate of a partition"),
        ("partition", "EU", "partition: expected a PartitionKey, a mapping or None, got 'EU'"),
        ("started_at", dt.datetime(2013, 2, 28), "started_at: expected a datetime with a time zone"),
        ("params", [1], r"params: expected a mapping, got \[1\]"),
        ("metadata", 5, "metadata: expected a mapping, got 5"),
        ("step_outputs", 5, "step_outputs: expected a mapping, got 5"),
        ("run_id", 5, "run_id: expected a text, got 5"),
        ("trace_id", "", "trace_id: expected a text, got ''"),
        ("batch_id", 5, "batch_id: expected a text or None, got 5"),
        ("capture_id", 5, "capture_id: expected a text or None, got 5"),
        ("idempotency_key", 5, "idempotency_key: expected a text or None, got 5"),
        ("checkpoint", {}, "checkpoint: expected a CheckpointState or None, got {}"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any, message: str) -> None:
    """A value that does not fit is an InputError naming its field, from ``new`` and from ``attrs.evolve``."""
    with pytest.raises(InputError, match=f"^{message}"):
        WorkflowContext.new(**{field: value})
    with pytest.raises(InputError, match=f"^{message}"):
        attrs.evolve(WorkflowContext.new(), **{field: value})


def test_the_capture_id_follows_the_data() -> None:
    """One date and partition is one capture, whenever it runs; without both each context is one of its own."""
    new = WorkflowContext.new
    assert new(as_of_date="2013-02-28").capture_id == "2013-02-28"
    assert new(partition={"region": "EU"}).capture_id == "region=EU"
    dated = new(as_of_date="2013-02-28", partition={"region": "EU"})
    assert dated.capture_id == "2013-02-28/region=EU"
    assert dated.with_partition(region="US").capture_id == "2013-02-28/region=US"
    assert new(as_of_date="2013-02-28", capture_id="mine").with_partition(region="US").capture_id == "mine"
    assert new().capture_id != new().capture_id
    assert new().with_partition(region="US").capture_id == "region=US"


# --- immutability -----------------------------------------------------------------------------------------------------


def test_a_context_does_not_share_what_it_was_given() -> None:
    """Changing what was passed in, however it came in and however deep, does not reach the context."""

    def data() -> dict[str, Any]:
        return {"flat": 1, "deep": {"rows": [1, {"x": 2}]}}

    given = {name: data() for name in ("params", "metadata", "outputs", "output", "updates", "more")}
    context = (
        WorkflowContext.new(
            given["params"], metadata=given["metadata"], step_outputs={"first": given["outputs"]}, partition={"p": 1}
        )
        .with_step_output("second", given["output"])
        .with_updates({"u": given["updates"]})
        .with_metadata({"m": given["more"]})
    )
    for mapping in given.values():
        mapping["flat"] = 2
        mapping["deep"]["rows"][1]["x"] = 3
        mapping["deep"]["rows"].append(4)
        mapping["deep"]["new"] = 5
    assert context.params == {**data(), "u": data()}
    assert context.metadata == {**data(), "m": data()}
    assert context.step_outputs == {"first": data(), "second": data()}


def test_a_context_cannot_be_changed() -> None:
    """Neither its fields nor its mappings nor the mappings inside those can be written to."""
    context = full_context()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        context.run_id = "x"  # type: ignore[misc]
    for mapping in (context.params, context.metadata, context.step_outputs, context.step_outputs["fetch"]):
        with pytest.raises(TypeError):
            mapping["new"] = 1  # type: ignore[index]
    assert "new" not in context.params


def test_a_context_built_directly_is_frozen_too() -> None:
    """The constructor and ``attrs.evolve`` take copies like ``new``."""
    params = {"rows": [1]}
    direct = WorkflowContext(run_id="r", trace_id="t", started_at=dt.datetime.now(dt.UTC), params=params)
    evolved = attrs.evolve(direct, params=params, run_id="s")
    params["rows"].append(2)
    assert direct.params == evolved.params == {"rows": [1]}
    assert evolved.run_id == "s"
    assert evolved.trace_id == "t"


def test_contexts_are_compared_by_content_and_not_hashable() -> None:
    """Equal content is equal; there is no hash that could disagree with that."""
    context = full_context()
    assert attrs.evolve(context) == context
    assert context.with_updates({"x": 1}) != context
    for value in (context, StepResult.ok(), QualityMetrics()):
        with pytest.raises(TypeError, match=f"unhashable type: '{type(value).__name__}'"):
            hash(value)


# --- making the next context ------------------------------------------------------------------------------------------


def test_with_methods_change_one_thing_in_a_new_context() -> None:
    """Each ``with_...`` gives a context that differs in its own field and leaves the old one alone."""
    old = full_context()
    snapshot = copy.deepcopy(old)
    changes = {
        "step_outputs": old.with_step_output("load", {"n": 1}),
        "params": old.with_updates({"limit": 2}),
        "metadata": old.with_metadata({"user": "u"}),
        "partition": attrs.evolve(old.with_partition(region="US"), capture_id=old.capture_id),
    }
    for field, new in changes.items():
        assert [name for name in FIELDS if getattr(new, name) != getattr(old, name)] == [field]
    assert changes["step_outputs"].step_outputs["load"] == {"n": 1}
    assert list(changes["step_outputs"].step_outputs) == ["fetch", "empty", "load"]
    assert changes["params"].params == {**old.params, "limit": 2}
    assert changes["metadata"].metadata == {"host": "h", "user": "u"}
    assert changes["partition"].partition == PartitionKey(region="US", week_ending=dt.date(2013, 3, 1))
    assert old == snapshot


def test_merging_does_output_and_updates_at_once() -> None:
    """The runner's merge equals ``with_step_output`` followed by ``with_updates``."""
    context = full_context()
    merged = context._merged("load", {"rows": [1]}, {"limit": 2})
    assert merged == context.with_step_output("load", {"rows": [1]}).with_updates({"limit": 2})
    assert type(merged.step_outputs["load"]) is type(merged.params) is FrozenDict
    assert context._merged("load", None) == context.with_step_output("load", None)


def test_updates_must_be_a_mapping() -> None:
    """Pairs, which ``dict.update`` would take, are refused by name."""
    with pytest.raises(InputError, match=r"^updates: expected a mapping"):
        WorkflowContext.new().with_updates([("a", 1)])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^metadata: expected a mapping"):
        WorkflowContext.new().with_metadata(5)  # type: ignore[arg-type]


def test_a_subclass_stays_one() -> None:
    """What is made from a context of one's own class is of that class."""

    class Mine(WorkflowContext):
        pass

    assert type(Mine.new().with_step_output("a", 1).with_updates({"b": 2})) is Mine


# --- looking things up ------------------------------------------------------------------------------------------------


def test_an_empty_output_is_an_output() -> None:
    """The default is only for a step without output or key; None, {} and 0 are answers."""
    context = WorkflowContext.new()
    for name, output in {"none": None, "empty": {}, "zero": 0, "dict": {"k": None, "n": 1}, "list": [1]}.items():
        context = context.with_step_output(name, output)
    assert context.get_output("none", default="d") is None
    assert context.get_output("empty", default="d") == {}
    assert context.get_output("zero", default="d") == 0
    assert context.get_output("missing", default="d") == "d"
    assert context.get_output("missing") is None
    assert context.get_output("dict", "k", "d") is None
    assert context.get_output("dict", "n", "d") == 1
    assert context.get_output("dict", "missing", "d") == "d"
    assert context.get_output("missing", "k", "d") == "d"
    assert context.get_output("none", "k", "d") == "d"
    assert context.get_output("list", "k", "d") == "d"
    assert context.has_output("none")
    assert context.has_output("empty")
    assert not context.has_output("missing")


def test_params_have_defaults_only_when_missing() -> None:
    """A param that is None is not missing."""
    context = WorkflowContext.new({"none": None, "zero": 0})
    assert context.get_param("none", "d") is None
    assert context.get_param("zero", "d") == 0
    assert context.get_param("missing", "d") == "d"
    assert context.get_param("missing") is None


# --- to JSON and back -------------------------------------------------------------------------------------------------

names = st.text(min_size=1, max_size=8)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.dates(),
    st.decimals(allow_nan=False),
    st.builds(Bar, st.text(max_size=4), st.decimals(allow_nan=False)),
)
contents = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(names | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
mappings = st.dictionaries(names | st.just("$"), contents, max_size=3)
coordinates = st.dictionaries(
    st.sampled_from(["region", "week_ending", "symbol", "n"]), st.text(max_size=5) | st.dates() | st.integers()
)
optional_names = st.none() | names
times = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(dt.UTC))
checkpoints = st.builds(CheckpointState, names, names, completed_steps=st.lists(names, max_size=3), created_at=times)
contexts = st.builds(
    WorkflowContext,
    run_id=names,
    trace_id=names,
    batch_id=optional_names,
    started_at=times,
    params=mappings,
    step_outputs=mappings,
    metadata=mappings,
    checkpoint=st.none() | checkpoints,
    partition=st.none() | coordinates.map(PartitionKey),
    as_of_date=st.none() | st.dates(),
    capture_id=optional_names,
    idempotency_key=optional_names,
)
metrics = st.builds(
    QualityMetrics,
    record_count=st.integers(0),
    valid_count=st.integers(0),
    passed=st.booleans(),
    custom_metrics=mappings,
    failure_reasons=st.lists(names, max_size=3),
)
results = st.one_of(
    st.builds(
        StepResult.ok,
        contents,
        context_updates=mappings,
        quality=st.none() | metrics,
        events=st.lists(contents, max_size=2),
    ),
    st.builds(StepResult.fail, names, category=st.sampled_from(ErrorCategory), output=contents, quality=metrics),
    st.builds(StepResult.skip, names),
)


def shape(value: Any) -> Any:
    """The types of a value and of all that is in it."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [shape(item) for item in value]
    if attrs.has(type(value)):
        return type(value), [shape(getattr(value, field.name)) for field in attrs.fields(type(value))]
    return type(value)


@settings(max_examples=100, deadline=None)
@given(contexts)
def test_every_generated_context_comes_back(context: WorkflowContext) -> None:
    """All fields survive JSON with equal values of the same types, frozen as before."""
    for other in (WorkflowContext.from_dict(context.to_dict()), WorkflowContext.from_json(context.to_json())):
        assert other == context
        assert shape(other) == shape(context)
        assert type(other.params) is type(other.metadata) is FrozenDict


@settings(max_examples=60, deadline=None)
@given(st.one_of(results, metrics, checkpoints, coordinates.map(PartitionKey)))
def test_every_generated_part_comes_back(value: Any) -> None:
    """Step results, metrics, checkpoints and partition keys survive JSON like contexts."""
    other = type(value).from_dict(json.loads(json.dumps(value.to_dict(), allow_nan=False)))
    assert other == value
    assert shape(other) == shape(value)


@pytest.mark.parametrize(
    "value",
    [
        full_context(),
        StepResult.ok({"bars": [Bar("a", Decimal(1))]}, quality=QualityMetrics(record_count=1), events=["e"]),
        StepResult.fail("x", category=ErrorCategory.TIMEOUT),
        CheckpointState("r", "s"),
        PartitionKey(region="EU", week_ending=dt.date(2013, 3, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_they_can_be_stored_pickled_and_copied_as_values(value: Any) -> None:
    """Inside an output, through pickle and through copy they stay equal, of their class, and frozen."""
    for other in (
        codec.loads(codec.dumps([value]))[0],
        pickle.loads(pickle.dumps(value)),
        copy.copy(value),
        copy.deepcopy(value),
    ):
        assert other == value
        assert shape(other) == shape(value)


def test_the_json_of_a_context_can_be_read_by_people() -> None:
    """Known fields are plain, and only what needs it is tagged."""
    data = full_context().to_dict()
    assert list(data) == FIELDS
    assert data["as_of_date"] == "2013-02-28"
    assert data["started_at"].endswith("+00:00")
    assert data["partition"] == {"region": "EU", "week_ending": {"$": "date", "v": "2013-03-01"}}
    assert data["checkpoint"]["completed_steps"] == ["fetch"]
    assert data["metadata"] == {"host": "h"}
    assert data["step_outputs"]["empty"] is None
    assert StepResult.fail(ValueError("bad"), category="TIMEOUT").to_dict() == {
        "success": False,
        "output": None,
        "context_updates": {},
        "error": "ValueError: bad",
        "category": "TIMEOUT",
        "quality": None,
        "events": [],
        "skipped": None,
    }


def test_data_written_by_people_is_enough() -> None:
    """What has a default may be missing from the data."""
    context = WorkflowContext.from_dict({"run_id": "r", "trace_id": "t", "started_at": "2013-02-28T00:00:00Z"})
    assert context.params == context.step_outputs == {}
    assert context.partition is None
    assert WorkflowContext.from_dict(context) is context


def test_wrong_data_names_every_field() -> None:
    """A missing, an unknown and each wrong field are named at once."""
    data = {
        "run_id": 5,
        "started_at": "yesterday",
        "param": {},
        "params": {"a": {"$": "no_such_module:Class", "v": 1}},
        "metadata": [],
        "partition": {"a b": 1},
        "checkpoint": {"run_id": "r"},
        "as_of_date": "2013-02-30",
    }
    with pytest.raises(InputError) as caught:
        WorkflowContext.from_dict(data)
    lines = str(caught.value).splitlines()
    assert lines[0] == "WorkflowContext: 9 problems"
    assert [line.strip().split(":")[0] for line in lines[1:]] == [
        "run_id",
        "trace_id",
        "started_at",
        "params",
        "metadata",
        "checkpoint.step_name",
        "partition",
        "as_of_date",
        "unknown field 'param', did you mean 'params'?",
    ]


@pytest.mark.parametrize("text", ["{", "[]", "5", '{"run_id": NaN}'])
def test_wrong_text_is_an_input_error(text: str) -> None:
    """Text that is no JSON object is refused like wrong data."""
    with pytest.raises(InputError, match=r"^WorkflowContext: "):
        WorkflowContext.from_json(text)


def test_what_cannot_be_stored_is_named_with_its_path() -> None:
    """An output that JSON cannot keep is refused by field, step and place."""
    context = WorkflowContext.new().with_step_output("fetch", {"rows": [1, object()]})
    with pytest.raises(SerializationError, match=r"^WorkflowContext\.step_outputs\['fetch'\]\['rows'\]\[1\]: cannot"):
        context.to_dict()


# --- PartitionKey -----------------------------------------------------------------------------------------------------


def test_coordinates_are_attributes() -> None:
    """Every coordinate is an attribute; a name that is none says which there are."""
    key = PartitionKey(region="EU", week_ending=dt.date(2013, 3, 1))
    assert key.region == "EU"
    assert key.week_ending == dt.date(2013, 3, 1)
    with pytest.raises(AttributeError, match="no coordinate 'regoin' in this partition key, it has: region, week_end"):
        key.regoin
    assert not hasattr(key, "_anything")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        key.region = "US"


def test_the_order_of_coordinates_does_not_matter() -> None:
    """Equality, hash, text and iteration are the same for every order."""
    key, other = PartitionKey(b=2, a=1), PartitionKey({"a": 1}, b=2)
    assert key == other
    assert hash(key) == hash(other)
    assert str(key) == str(other) == "a=1/b=2"
    assert list(key) == list(other) == [("a", 1), ("b", 2)]
    assert repr(key) == "PartitionKey(a=1, b=2)"
    assert len(key) == 2
    assert "a" in key
    assert "c" not in key
    assert key != PartitionKey(a=1)
    assert key != PartitionKey(a="1", b=2)


def test_the_text_of_a_key_is_unambiguous() -> None:
    """Dates are written in ISO 8601, and a value cannot look like another coordinate."""
    assert str(PartitionKey(region="EU", week_ending=dt.date(2013, 3, 1))) == "region=EU/week_ending=2013-03-01"
    assert str(PartitionKey(a="1/b=2")) != str(PartitionKey(a="1", b="2"))
    assert str(PartitionKey(a="1%2Fb=2")) != str(PartitionKey(a="1/b=2"))


def test_keys_evolve() -> None:
    """``with_`` adds and replaces in a new key."""
    key = PartitionKey(a=1)
    assert key.with_(a=2, b=3) == PartitionKey(a=2, b=3)
    assert key == PartitionKey(a=1)


@pytest.mark.parametrize("name", ["a b", "1a", "", "class", "_a", "__len__", "with_", "to_dict", "parse", 5])
def test_names_that_cannot_be_attributes_are_refused(name: Any) -> None:
    """A coordinate's name is a public identifier that does not hide a method."""
    with pytest.raises(InputError, match="cannot name a coordinate of a partition"):
        PartitionKey({name: 1})


def test_unhashable_coordinates_are_refused() -> None:
    """A key is hashable, so its coordinates are."""
    with pytest.raises(InputError, match=r"the partition's a must be hashable, got \[1\]"):
        PartitionKey(a=[1])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["region=EU"], PartitionKey(region="EU")),
        (["region=EU,week_ending=2013-03-01"], PartitionKey(region="EU", week_ending=dt.date(2013, 3, 1))),
        (["region=EU", "n=007"], PartitionKey(region="EU", n="007")),
        (["names=a,b,n=1"], PartitionKey(names="a,b", n="1")),
        ([" region = EU , n = 1 "], PartitionKey(region="EU", n="1")),
        (["expr=a=b"], PartitionKey(expr="a=b")),
        (["region="], PartitionKey(region="")),
        ([], PartitionKey()),
    ],
)
def test_command_line_words_make_a_key(texts: list[str], expected: PartitionKey) -> None:
    """``name=value`` pairs, together or apart; dates become dates and everything else stays text."""
    assert PartitionKey.parse(*texts) == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["EU"], "partition: expected name=value, got 'EU'"),
        (["a=1", "a=2"], "partition: a is given twice"),
        (["day=2013-02-30"], "partition: day: expected datetime.date, got '2013-02-30'"),
        (["a b=1"], "'a b' cannot name a coordinate"),
        (["=1"], "'' cannot name a coordinate"),
    ],
)
def test_wrong_command_line_words_are_refused(texts: list[str], message: str) -> None:
    """A word that is no coordinate is named."""
    with pytest.raises(InputError, match=message):
        PartitionKey.parse(*texts)


# --- the small values -------------------------------------------------------------------------------------------------


def test_checkpoints_know_their_time() -> None:
    """A checkpoint is dated now unless told otherwise, in UTC, and refuses a time without zone."""
    before = dt.datetime.now(dt.UTC)
    assert before <= CheckpointState("r", "s").created_at <= dt.datetime.now(dt.UTC)
    assert CheckpointState("r", "s", completed_steps=["a", "b"]).completed_steps == ("a", "b")
    with pytest.raises(InputError, match="created_at"):
        CheckpointState("r", "s", created_at=dt.datetime(2013, 1, 1))
    with pytest.raises(InputError, match="step_name"):
        CheckpointState("r", "")


def test_error_categories_are_their_names() -> None:
    """Each category is the text of its name."""
    assert [str(category) for category in ErrorCategory] == [category.name for category in ErrorCategory]
    assert set(ErrorCategory) >= {"TRANSIENT", "TIMEOUT", "DEPENDENCY"}


def test_rates_of_quality_metrics() -> None:
    """Rates are per record seen; of no records all are valid and none is null."""
    metrics = QualityMetrics(record_count=4, valid_count=3, invalid_count=1, null_count=1)
    assert metrics.valid_rate == 0.75
    assert metrics.null_rate == 0.25
    assert QualityMetrics().valid_rate == 1.0
    assert QualityMetrics().null_rate == 0.0


@pytest.mark.parametrize("field", ["record_count", "valid_count", "invalid_count", "null_count"])
@pytest.mark.parametrize("value", [-1, 1.5, True, None, "1"])
def test_counts_are_counts(field: str, value: Any) -> None:
    """A count that is negative or no whole number is refused by name."""
    with pytest.raises(InputError, match=f"^{field}: expected 0 or more"):
        QualityMetrics(**{field: value})


def test_metrics_do_not_share_what_they_were_given() -> None:
    """Custom metrics are a read-only copy, and a single reason is one reason."""
    custom = {"spread": [1]}
    metrics = QualityMetrics(custom_metrics=custom, failure_reasons="too wide")
    custom["spread"].append(2)
    assert metrics.custom_metrics == {"spread": [1]}
    assert metrics.failure_reasons == ("too wide",)


# --- StepResult -------------------------------------------------------------------------------------------------------


def test_the_three_kinds_of_result() -> None:
    """``ok``, ``fail`` and ``skip`` set what belongs to them and nothing else."""
    quality, error = QualityMetrics(), ValueError("bad")
    ok = StepResult.ok({"n": 1}, context_updates={"p": 2}, quality=quality, events=iter(["e"]))
    assert attrs.asdict(ok, recurse=False) == {
        "success": True,
        "output": {"n": 1},
        "context_updates": {"p": 2},
        "error": None,
        "category": None,
        "quality": quality,
        "events": ("e",),
        "skipped": None,
    }
    fail = StepResult.fail(error, category="TRANSIENT", output=1)
    assert (fail.success, fail.error, fail.category, fail.output) == (False, error, ErrorCategory.TRANSIENT, 1)
    assert StepResult.fail("bad").category is ErrorCategory.UNKNOWN
    skip = StepResult.skip("market closed")
    assert (skip.success, skip.skipped, skip.output, skip.error) == (True, "market closed", None, None)
    assert StepResult.ok() == StepResult.ok(None, context_updates={}, events=())


@pytest.mark.parametrize(
    "fields",
    [
        {"success": True, "error": "x"},
        {"success": True, "category": ErrorCategory.TIMEOUT},
        {"success": False},
        {"success": False, "error": "x"},
        {"success": False, "error": None, "category": "TIMEOUT"},
        {"success": False, "error": 5, "category": "TIMEOUT"},
        {"success": False, "error": "x", "category": "TIMEOUT", "context_updates": {"a": 1}},
        {"success": False, "error": "x", "category": "TIMEOUT", "skipped": "y"},
        {"success": False, "error": "x", "category": "NO SUCH"},
        {"success": True, "skipped": ""},
        {"success": True, "skipped": "x", "output": 1},
        {"success": True, "skipped": "x", "context_updates": {"a": 1}},
        {"success": 1},
        {"success": None},
        {"success": True, "context_updates": 5},
    ],
    ids=str,
)
def test_a_result_cannot_contradict_itself(fields: dict[str, Any]) -> None:
    """No result is both a success and a failure, or a failure without a reason."""
    with pytest.raises(InputError):
        StepResult(**fields)


def test_a_failure_keeps_its_exception() -> None:
    """The exception object itself is there for the runner; in JSON it is a text."""
    error = ConnectionError("refused")
    result = StepResult.fail(error, category=ErrorCategory.DEPENDENCY)
    assert result.error is error
    assert StepResult.from_dict(result.to_dict()).error == "ConnectionError: refused"


# --- the import -------------------------------------------------------------------------------------------------------


def test_importing_is_cheap() -> None:
    """Contexts can be made and passed on without cattrs; only typing things in and out needs it."""
    code = """
import sys
from workflow_runner._workflow.context import StepResult, WorkflowContext
context = WorkflowContext.new({"a": [1]}, partition={"region": "EU"}).with_step_output("s", {"b": 1})
StepResult.ok({"a": 1}), StepResult.fail("x")
assert "cattrs" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
