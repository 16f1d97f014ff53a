"""Typed JSON, and input that has to fit an annotation."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import json
import math
import socket
import struct
import subprocess
import sys
import threading
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Literal
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow_runner._core import codec
from workflow_runner.errors import DefinitionError, InputError, SerializationError

# --- classes that values and annotations are made of ------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias on purpose
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Side(enum.StrEnum):
    BUY = "buy"
    SELL = "sell"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    A = 1
    B = 4


class Point(typing.NamedTuple):
    x: int
    y: str = "north"


Pair = collections.namedtuple("Pair", "left right")


@attrs.frozen
class Line:
    sku: str
    qty: int
    price: Decimal = Decimal(1)


@attrs.define
class Order:
    id: int
    lines: list[Line]
    _secret: str = "s"
    color: Color = Color.RED
    when: dt.datetime | None = None
    parent: Order | None = None
    seen: int = attrs.field(init=False, default=0)


@attrs.frozen
class Envelope:
    order: Order


@attrs.define(slots=False)
class Doubled:
    """Its converter does not take its own result back unchanged."""

    value: int = attrs.field(converter=lambda value: 2 * value)


@attrs.frozen
class FromText:
    """Its converter takes nothing but a text."""

    day: dt.date = attrs.field(converter=dt.date.fromisoformat)


@attrs.define
class Late:
    """One of its fields may never get a value."""

    a: int
    b: int = attrs.field(init=False)


@attrs.frozen(cache_hash=True)
class Hashed:
    a: int


@attrs.frozen
class Positive:
    a: int = attrs.field(validator=attrs.validators.gt(0))


@dataclasses.dataclass(frozen=True, slots=True)
class Trade:
    qty: int
    tags: tuple[str, ...] = ()


class Depth(typing.TypedDict):
    depth: int


class Settings(Depth, total=False):
    name: str


class Plain:
    """A class like any other: neither stored nor made from data."""

    made = 0

    def __init__(self, value: object = None) -> None:
        type(self).made += 1


class Connection:
    """A class that a field's own converter makes."""

    def __init__(self, url: str) -> None:
        self.url = url


@attrs.frozen
class Client:
    connection: Connection = attrs.field(
        converter=lambda value: value if isinstance(value, Connection) else Connection(value)
    )


class MyDict(dict):  # type: ignore[type-arg]
    pass


class Ticker(str):
    __slots__ = ()


def local_instance() -> Any:
    @attrs.frozen
    class Local:
        a: int

    return Local(1)


def same(a: Any, b: Any) -> bool:
    """Equal and of one type, all the way down; NaN is the same as NaN, 0.0 is not the same as -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, Decimal):
        return str(a) == str(b)
    if isinstance(a, (dt.datetime, dt.time)):
        return a.replace(tzinfo=None) == b.replace(tzinfo=None) and a.fold == b.fold and same_zone(a.tzinfo, b.tzinfo)
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if attrs.has(type(a)) or dataclasses.is_dataclass(a):
        fields = attrs.fields(type(a)) if attrs.has(type(a)) else dataclasses.fields(a)
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields)
    return bool(a == b)


def same_zone(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a.key == b.key if isinstance(a, ZoneInfo) else a == b)


def there_and_back(value: Any) -> Any:
    return codec.loads(codec.dumps(value))


# --- round trips ------------------------------------------------------------------------------------------------------

offsets = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23))
zones = (
    st.none() | st.timezones() | offsets.filter(lambda offset: abs(offset) >= dt.timedelta(seconds=1)).map(dt.timezone)
)
folds = st.sampled_from([0, 1])
finite = st.decimals(allow_nan=False)


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers().map(lambda number: number << 1500),
    st.floats(),
    st.text(),
    st.sampled_from(["$", "v", "$$"]),
    st.binary(max_size=20),
    st.dates(),
    st.builds(lambda moment, fold: moment.replace(fold=fold), st.datetimes(timezones=zones), folds),
    st.builds(lambda moment, fold: moment.replace(fold=fold), st.times(timezones=zones), folds),
    st.timedeltas(),
    finite,
    st.uuids(),
    st.sampled_from([*Color, *Level, *Side, Access.READ | Access.WRITE, Access(0), Bits(5), Bits(8)]),
    st.sampled_from([Path("/data/x.csv"), PurePosixPath("a//b/../c"), PureWindowsPath("C:\\x"), Path()]),
    st.builds(Line, st.text(), st.integers(), finite),
    st.builds(Hashed, st.integers()),
)
_hashables = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.tuples(inner, inner),
        st.frozensets(inner, max_size=3),
        st.builds(Trade, st.integers(), st.tuples(inner)),
        st.builds(Pair, inner, inner),
    ),
    max_leaves=4,
)


# A function, because Hypothesis spells out every other strategy where it is used, and this one is long.
@st.composite
def hashables(draw: st.DrawFn) -> Any:
    """Values that may be keys and elements of sets."""
    return draw(_hashables)


_values = st.recursive(
    hashables() | st.decimals(allow_nan=True),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5) | st.just("$"), inner, max_size=4),
        st.dictionaries(hashables(), inner, max_size=4),
        st.sets(hashables(), max_size=4),
        st.builds(Order, inner, inner, secret=inner, when=inner),
        st.builds(Point, inner, inner),
    ),
    max_leaves=12,
)


@st.composite
def values(draw: st.DrawFn) -> Any:
    """Everything that can be stored."""
    return draw(_values)


@settings(max_examples=200, deadline=None)
@given(values())
def test_every_generated_value_comes_back_with_its_types(value: Any) -> None:
    """What is written comes back equal, of the same types, in the same order."""
    assert same(there_and_back(value), value)


@settings(max_examples=150, deadline=None)
@given(values())
def test_text_is_strict_json_and_stable(value: Any) -> None:
    """The text is JSON for every parser, and writing what was read gives the same text."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = codec.dumps(value)
    json.loads(text.encode().decode(), parse_constant=refuse)
    assert codec.dumps(codec.loads(text)) == text


@pytest.mark.parametrize(
    "value",
    [
        10**5000,
        -(10**5000),
        -0.0,
        math.inf,
        -math.inf,
        dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        dt.datetime(2024, 1, 1, fold=1),
        dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30, seconds=7))),
        dt.time(2, 30, tzinfo=ZoneInfo("Asia/Tokyo")),
        dt.timedelta.max,
        dt.timedelta.min,
        dt.timedelta(microseconds=-1),
        Decimal("sNaN123"),
        Decimal("-0"),
        Decimal("1E+3"),
        [1, (2, {3}), frozenset({(4,)})],
        {1: "a", "1": "b", (1, 2): {}, dt.date(2013, 1, 1): [], Color.RED: None, None: True},
        {"$": "datetime", "v": "not one"},
        {"v": 1, "deep": {"$": {"$": 1}}},
        Pair([1], {2: 3}),
        Doubled(3),
        FromText("2013-02-28"),
        Hashed(1),
        Order(1, [Line("a", 2)], secret="t", parent=Order(2, [])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_at_the_edges_come_back(value: Any) -> None:
    """Huge, infinite, negative zero, folded, nested, tagged-looking: each comes back as it went in."""
    assert same(there_and_back(value), value)


def test_fields_beyond_init_come_back() -> None:
    """A field that ``__init__`` does not take keeps its value, and one without a value stays without."""
    order = Order(1, [])
    order.seen = 7
    assert there_and_back(order).seen == 7

    late = there_and_back(Late(1))
    assert late.a == 1
    assert not hasattr(late, "b")


def test_plain_json_stays_plain() -> None:
    """What JSON has of its own is stored as itself, for people to read."""
    value = {"rows": 3, "name": "Zoë", "ok": True, "rate": 0.5, "none": None, "list": [1, "a"]}
    assert codec.dumps(value) == '{"rows":3,"name":"Zoë","ok":true,"rate":0.5,"none":null,"list":[1,"a"]}'
    assert codec.encode(Line("a", 1)) == {
        "$": f"{__name__}:Line",
        "v": {"sku": "a", "qty": 1, "price": {"$": "Decimal", "v": "1"}},
    }
    assert codec.encode(dt.datetime(2024, 7, 1, 2, tzinfo=ZoneInfo("Europe/Berlin"))) == {
        "$": "datetime",
        "v": "2024-07-01T02:00:00+02:00[Europe/Berlin]",
    }
    assert codec.encode(dt.timedelta(minutes=1.5)) == {"$": "timedelta", "v": "90"}


def test_equal_sets_give_equal_texts() -> None:
    """The order of a set's elements does not depend on how it was filled, or on hashing."""
    names = [f"name {n}" for n in range(50)]
    backwards = names[::-1]
    assert codec.dumps(set(names)) == codec.dumps(set(backwards))
    assert codec.dumps({"b", "a", 3, (1,)}) == '{"$":"set","v":["a","b",3,{"$":"tuple","v":[1]}]}'


def test_mapping_types_are_written_like_dicts() -> None:
    """A registered mapping class is stored as a plain object and comes back as a dict."""

    class View(Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            return {"a": 1}[key]

        def __iter__(self) -> Any:
            return iter(["a"])

        def __len__(self) -> int:
            return 1

    with pytest.raises(SerializationError):
        codec.dumps(View())
    codec.register_mapping(View)
    assert codec.dumps([View()]) == '[{"a":1}]'


# --- identity ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(hashables(), values(), max_size=4), st.randoms(use_true_random=False))
def test_digest_ignores_the_order_of_dicts(value: dict[Any, Any], random: Any) -> None:
    """The same items have one digest, in whatever order they were put in."""
    items = list(value.items())
    random.shuffle(items)
    assert codec.digest([dict(items)]) == codec.digest([value])


def test_digest_tells_values_and_types_apart() -> None:
    """Another value or another type is another identity; list order counts."""
    values = [1, 1.0, True, "1", None, [], {}, (), [1, 2], [2, 1], {1: 2}, {"1": 2}, Decimal(1), Level.LOW]
    digests = [codec.digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert all(len(digest) == 64 for digest in digests)


def test_digest_says_what_cannot_be_identified() -> None:
    """An input that cannot be stored has no identity, and the message says where."""
    with pytest.raises(SerializationError, match=r"^flow 'price'\['a'\]: cannot store a value of type object$"):
        codec.digest({"a": object()}, where="flow 'price'")


# --- refusals when writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), ": cannot store a value of type object"),
        (len, ": cannot store a value of type builtin_function_or_method"),
        ((x for x in []), ": cannot store a value of type generator"),
        (Plain, ": cannot store a value of type type"),
        (1j, ": cannot store a value of type complex"),
        (bytearray(b"x"), ": cannot store a value of type bytearray"),
        (MyDict(), f": cannot store a value of type {__name__}.MyDict: it would come back as dict"),
        (Ticker("a"), f": cannot store a value of type {__name__}.Ticker: it would come back as str"),
        (
            collections.OrderedDict(),
            ": cannot store a value of type collections.OrderedDict: it would come back as dict",
        ),
        (
            collections.defaultdict(int),
            ": cannot store a value of type collections.defaultdict: it would come back as dict",
        ),
        ({"rows": [1, 2, 3, Line(socket, 1)]}, "['rows'][3].sku: cannot store a value of type module"),
        ({"a": {1: (0, object())}}, "['a'][1][1]: cannot store a value of type object"),
        (
            {(1, len): 0},
            " key (1, <built-in function len>)[1]: cannot store a value of type builtin_function_or_method",
        ),
        ({len}, " element <built-in function len>: cannot store a value of type builtin_function_or_method"),
        (["\ud800"], "[0]: cannot store text with lone surrogates, it is no valid Unicode"),
        ({"\ud800": 1}, " key '\\ud800': cannot store text with lone surrogates, it is no valid Unicode"),
        ([Path("\udcff")], "[0]: cannot store text with lone surrogates, it is no valid Unicode"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_would_not_come_back_is_refused_with_its_path(value: Any, message: str) -> None:
    """A value that cannot be stored is refused when written; the message names it and the path to it."""
    with pytest.raises(SerializationError) as caught:
        codec.dumps(value, where="step 'fetch': output")
    assert str(caught.value) == f"step 'fetch': output{message}"


def test_a_class_made_in_a_function_is_refused() -> None:
    """A class that no import finds is refused, and the message says why."""
    with pytest.raises(SerializationError, match="made inside a function, so nobody can import it again"):
        codec.dumps(local_instance())


def test_a_class_hidden_behind_its_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The import path is tried when writing: another class under that name would come back instead."""
    line = Line("a", 1)
    codec.dumps(line)
    monkeypatch.setitem(globals(), "Line", Order)
    with pytest.raises(SerializationError, match=rf"an import of {__name__}:Line does not find this class"):
        codec.dumps(line)


def test_a_time_zone_without_a_name_is_refused() -> None:
    """A zone that a text cannot name is refused."""

    class Zone(dt.tzinfo):
        def utcoffset(self, when: dt.datetime | None) -> dt.timedelta:
            return dt.timedelta(0)

    with pytest.raises(SerializationError, match=r"^value\[0\]: cannot store a time zone of type .*Zone"):
        codec.dumps([dt.datetime(2024, 1, 1, tzinfo=Zone())])


def test_a_time_zone_that_no_parser_reads_is_refused() -> None:
    """An offset below a second, which Python itself does not read back, is refused."""
    with pytest.raises(SerializationError, match="cannot store a time zone less than a second off UTC"):
        codec.dumps(dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(microseconds=1))))


def test_a_value_that_contains_itself_is_refused() -> None:
    """A reference cycle is a SerializationError with a path, not a RecursionError."""
    cyclic: list[Any] = []
    cyclic.append({"again": cyclic})
    with pytest.raises(SerializationError, match=r"^value\[0\]\['again'\].*nested deeper than 100 levels, or contains"):
        codec.dumps(cyclic)


def test_whatever_can_be_written_can_be_read_from_a_deeper_stack() -> None:
    """The depth limit leaves the reader room: the deepest value that is accepted comes back from 300 frames down."""
    value: Any = 1
    for _ in range(100):
        value = {1: value}  # takes the most levels of JSON for one of its own
    text = codec.dumps(value)
    with pytest.raises(SerializationError):
        codec.dumps([value])

    def read_below(frames: int) -> Any:
        return codec.loads(text) if frames == 0 else read_below(frames - 1)

    assert read_below(300) == value


# --- refusals when reading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[NaN]", "NaN is not in the standard"),
        ('{"$":"no_such_module:Order","v":{}}', "no class no_such_module:Order"),
        (f'{{"$":"{__name__}:Gone","v":{{}}}}', f"no class {__name__}:Gone"),
        ('{"$":"antigravity","v":1}', "'antigravity' is no import path"),
        ('{"$":"datetime","v":"yesterday"}', "a stored datetime: expected datetime.datetime, got 'yesterday'"),
        ('{"$":"datetime"}', "a stored datetime: 'v'"),
        ('{"$":["x"],"v":1}', "cannot read a stored"),
        ('{"$":"tuple","v":5}', "a stored tuple: 'int' object is not iterable"),
        (f'{{"$":"{__name__}:Color","v":"PINK"}}', f"a stored {__name__}:Color: the enum has no member 'PINK'"),
        (
            f'{{"$":"{__name__}:Line","v":{{"sku":1,"kind":2}}}}',
            f"a stored {__name__}:Line: the class has no field kind",
        ),
        (f'{{"$":"{__name__}:Line","v":{{"sku":"a"}}}}', f"a stored {__name__}:Line: .*'qty'"),
        (f'{{"$":"{__name__}:Line","v":5}}', f"a stored {__name__}:Line"),
    ],
)
def test_wrong_text_is_refused_naming_the_class(text: str, message: str) -> None:
    """Damaged text, and a class that is gone or has changed, are a SerializationError that says which."""
    with pytest.raises(SerializationError, match=message):
        codec.loads(text)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "path", ["subprocess:Popen", "builtins:eval", "builtins:object", "os:system", "types:SimpleNamespace", "PLAIN"]
)
def test_only_value_classes_are_instantiated(path: str) -> None:
    """A stored text cannot call anything: only attrs classes, dataclasses, enums and named tuples are made."""
    before = Plain.made
    with pytest.raises(SerializationError):
        codec.decode({"$": path.replace("PLAIN", f"{__name__}:Plain"), "v": {}})
    assert Plain.made == before


def test_a_field_that_the_class_gained_since_takes_its_default() -> None:
    """An instance stored before its class got a field with a default can still be read."""
    data = codec.encode(Line("a", 2, Decimal(5)))
    del data["v"]["price"]
    assert codec.decode(data) == Line("a", 2, Decimal(1))


# --- import paths -----------------------------------------------------------------------------------------------------


def test_import_paths_lead_back() -> None:
    """``find_class`` undoes ``import_path``, for nested classes too."""
    assert codec.import_path(Decimal) == "decimal:Decimal"
    assert codec.find_class(codec.import_path(Order)) is Order
    with pytest.raises(SerializationError, match="made inside a function"):
        codec.import_path(type(local_instance()))
    with pytest.raises(SerializationError, match="there is no class decimal:Nope"):
        codec.find_class("decimal:Nope")
    with pytest.raises(SerializationError, match="there is no class os:getcwd"):
        codec.find_class("os:getcwd")


# --- input from outside -----------------------------------------------------------------------------------------------


def structure(value: Any, type_: Any) -> Any:
    return codec.structure(value, type_, what="flow 'price'")


@pytest.mark.parametrize(
    ("value", "type_", "expected"),
    [
        ("5", int, 5),
        (5.0, int, 5),
        ("-1_000", int, -1000),
        (5, float, 5.0),
        ("2.5", float, 2.5),
        ("true", bool, True),
        ("No", bool, False),
        ("0", bool, False),
        ("false", bool, False),
        ("a", str, "a"),
        (1.1, Decimal, Decimal("1.1")),
        ("1.10", Decimal, Decimal("1.10")),
        ("2013-02-28", dt.date, dt.date(2013, 2, 28)),
        ("2013-02-28T01:02:03Z", dt.datetime, dt.datetime(2013, 2, 28, 1, 2, 3, tzinfo=dt.UTC)),
        ("01:02", dt.time, dt.time(1, 2)),
        ("1.5", dt.timedelta, dt.timedelta(seconds=1.5)),
        (90, dt.timedelta, dt.timedelta(seconds=90)),
        ("AP8=", bytes, b"\x00\xff"),
        ("/tmp/x", Path, Path("/tmp/x")),
        ("x", PurePath, PurePath("x")),
        ("12345678-1234-5678-1234-567812345678", uuid.UUID, uuid.UUID("12345678-1234-5678-1234-567812345678")),
        ("RED", Color, Color.RED),
        (1, Color, Color.RED),
        ("1", Color, Color.RED),
        ("blue", Color, Color.BLUE),
        ("HIGH", Level, Level.HIGH),
        ("2", Level, Level.HIGH),
        ("sell", Side, Side.SELL),
        ("A", Ticker, Ticker("A")),
        ("2", Literal[1, 2], 2),
        ("RED", Literal[Color.RED], Color.RED),
        (None, None, None),
        (None, int | None, None),
        ("5", int | None, 5),
        ("5", int | str, "5"),
        ("5", int | list[int], 5),
        (["5"], int | list[int], [5]),
        ("2013-02-28", int | dt.date, dt.date(2013, 2, 28)),
        (["1", 2], list[int], [1, 2]),
        ((1, 2), list[int], [1, 2]),
        (["1", 2], tuple[int, ...], (1, 2)),
        (["1", 2], tuple[int, str | int], (1, 2)),
        (["1", 2, 2], set[int], {1, 2}),
        (["1"], frozenset[int], frozenset({1})),
        (["1"], Sequence[int], (1,)),
        ({"1": ["2"]}, dict[int, list[int]], {1: [2]}),
        ({"a": "1"}, Mapping[str, int], {"a": 1}),
        (["1", "up"], Point, Point(1, "up")),
        ({"qty": "1", "tags": ["a"]}, Trade, Trade(1, ("a",))),
        ({"depth": "3"}, Settings, {"depth": 3}),
        ({"sku": "a", "qty": 1}, Order | Line, Line("a", 1)),
        ({"connection": "db"}, Any, {"connection": "db"}),
        ("7", typing.Annotated[int, "days"], 7),
        ("7", typing.NewType("Days", int), 7),
    ],
    ids=codec.short_repr,
)
def test_plain_data_becomes_the_annotated_type(value: Any, type_: Any, expected: Any) -> None:
    """Texts and JSON data become what the annotation says."""
    assert same(structure(value, type_), expected)


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        (True, int),
        ("5.7", int),
        (5.7, int),
        (math.nan, int),
        (None, int),
        (True, float),
        (10**400, float),
        (None, str),
        (5, str),
        (10**5000, str),
        (["a"], str),
        ("maybe", bool),
        (1, bool),
        (True, Decimal),
        ("abc", Decimal),
        (dt.datetime(2013, 1, 1), dt.date),
        (dt.date(2013, 1, 1), dt.datetime),
        ("2013-02-30", dt.date),
        ("2013-01-01[", dt.datetime),
        ("not base64!", bytes),
        (5, Path),
        ("PINK", Color),
        (3, Literal[1, 2]),
        (True, Literal[1, 2]),
        (5, None),
        ("abc", list[str]),
        ("abc", list),
        (b"abc", tuple[int, ...]),
        ({"a": 1}, list),
        (5, set[int]),
        ([1], tuple[int, int]),
        ([[1]], set[Any]),
        ([("a", 1)], dict[str, int]),
        (5, dict),
        ("ab", Point),
        (5, Settings),
        ({"depth": 1, "nmae": "x"}, Settings),
        (5, Line),
        (["a", 1], Line),
        (5, Connection),
        (5, Callable[[], int]),
        (5, Order | Line),
    ],
    ids=codec.short_repr,
)
def test_what_does_not_fit_is_refused(value: Any, type_: Any) -> None:
    """Nothing is cut, guessed or spelled out into characters."""
    with pytest.raises(InputError, match=r"^flow 'price': "):
        structure(value, type_)


def test_instances_pass_untouched_at_any_depth() -> None:
    """What already is an instance is the very same object afterwards, beside data that has to be made."""
    line, when, parent = Line("a", 1), dt.datetime(2024, 1, 1, fold=1), Order(2, [])
    order = structure({"id": 1, "lines": [line, {"sku": "b", "qty": "2"}], "when": when, "parent": parent}, Order)
    assert order == Order(1, [line, Line("b", 2)], when=when, parent=parent)
    assert order.lines[0] is line
    assert order.when is when
    assert order.parent is parent
    for instance in (order, Color.RED, Ticker("a"), [object()], {"a": object()}, Path("x"), len):
        assert structure(instance, type(instance)) is instance
    connection = Connection("db")
    assert structure([connection], list[Connection])[0] is connection
    assert structure(Ticker("a"), str).__class__ is Ticker


def test_every_wrong_field_is_named_at_once() -> None:
    """The message gives the path of each offending field, and the near match of a misspelt one."""
    data = {
        "order": {
            "idd": 1,
            "lines": [Line("x", 1), {"sku": None, "qtty": 1}, {"sku": "a", "qty": "abc"}, 7],
            "color": "PINK",
            "_secret": "q",
        }
    }
    with pytest.raises(InputError) as caught:
        structure(data, Envelope)
    assert str(caught.value).splitlines() == [
        "flow 'price': 9 problems",
        "  order.id: required field missing",
        "  order.lines[1].sku: expected str, got None",
        "  order.lines[1].qty: required field missing",
        "  order.lines[1]: unknown field 'qtty', did you mean 'qty'?",
        "  order.lines[2].qty: expected int, got 'abc'",
        f"  order.lines[3]: expected the fields of {__name__}.Line, got 7",
        "  order.color: expected one of RED, CRIMSON, BLUE, got 'PINK'",
        "  order: unknown field '_secret', did you mean 'secret'?",
        "  order: unknown field 'idd', did you mean 'id'?",
    ]


@pytest.mark.parametrize(
    ("value", "type_", "message"),
    [
        ("abc", int, "flow 'price': expected int, got 'abc'"),
        ({"a": ["q"]}, dict[str, list[int]], "flow 'price': ['a'][0]: expected int, got 'q'"),
        ({"x": 1}, dict[int, int], "flow 'price': ['x']: expected int, got 'x'"),
        ([1], tuple[int, str], "flow 'price': expected 2 items, got [1]"),
        ({"a": 0}, Positive, "flow 'price': 'a' must be > 0: 0"),
        (
            {"sku": 1, "qty": 1},
            Line | Trade,
            f"flow 'price': expected {__name__}.Line or {__name__}.Trade, got {{'qty': 1, 'sku': 1}}; "
            f"as {__name__}.Line: sku: expected str, got 1; as {__name__}.Trade: unknown field 'sku'",
        ),
    ],
    ids=["top", "item", "key", "length", "validator", "union"],
)
def test_messages_say_what_was_expected_and_what_came(value: Any, type_: Any, message: str) -> None:
    """One problem is one line: the path, what was expected, what came."""
    with pytest.raises(InputError) as caught:
        structure(value, type_)
    assert str(caught.value) == message


def test_a_fields_own_converter_makes_what_nothing_else_can() -> None:
    """A class unknown to the converter is left to the attrs converter of its field."""
    client = structure({"connection": "db://x"}, Client)
    assert client.connection.url == "db://x"
    with pytest.raises(InputError, match=r"expected .*Connection, got 'db'"):
        structure(["db"], list[Connection])


def test_an_annotation_that_cannot_be_understood_is_the_definitions_fault() -> None:
    """An unresolvable annotation is a DefinitionError, not the input's fault."""

    @attrs.define
    class Broken:
        a: NoSuchType  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(DefinitionError, match="NoSuchType"):
        structure({"a": 1}, Broken)


# --- the converter ----------------------------------------------------------------------------------------------------


def test_there_is_one_converter_for_all_threads() -> None:
    """Threads that ask at once for the first time get the same converter, configured once."""
    code = """
import sys, threading
sys.setswitchinterval(1e-6)
from workflow_runner._core import codec
calls = []
codec.configure(calls.append)
barrier = threading.Barrier(4)
found = []
def ask():
    barrier.wait()
    found.append(codec.converter())
threads = [threading.Thread(target=ask) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
codec.configure(calls.append)
assert len(set(map(id, found))) == 1, found
assert calls == [found[0]] * 2, calls
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_importing_is_cheap() -> None:
    """The import alone loads neither cattrs nor the hooks; the first call does."""
    code = """
import sys
from workflow_runner._core import codec
heavy = {"cattrs", "zoneinfo", "workflow_runner._core.structuring"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
codec.converter()
assert heavy <= set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_many_threads_read_and_write_at_once() -> None:
    """Round trips in several threads do not disturb each other."""
    order = Order(1, [Line("a", n) for n in range(5)], when=dt.datetime(2024, 1, 1))
    results: list[bool] = []

    def work() -> None:
        results.extend(there_and_back(order) == order for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80
