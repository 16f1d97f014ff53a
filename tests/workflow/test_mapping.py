"""Read-only mappings, and the outputs of the steps so far."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow_runner._workflow.mapping import FrozenDict, StepOutputs, freeze, freeze_value


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads switch as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_together(*functions: Callable[[], None]) -> None:
    """Run functions in threads that start at one moment, and raise what any of them raised."""
    barrier = threading.Barrier(len(functions))
    errors: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        barrier.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# --- FrozenDict -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda mapping: mapping.__setitem__("a", 2),
        lambda mapping: mapping.__delitem__("a"),
        lambda mapping: mapping.__ior__({"b": 2}),
        lambda mapping: mapping.clear(),
        lambda mapping: mapping.pop("a"),
        lambda mapping: mapping.popitem(),
        lambda mapping: mapping.setdefault("a", 1),
        lambda mapping: mapping.setdefault("b", 1),
        lambda mapping: mapping.update(b=2),
    ],
)
def test_every_change_is_refused(change: Callable[[Any], Any]) -> None:
    """No method changes a frozen dict, and the error says what to do."""
    mapping = FrozenDict({"a": 1})
    with pytest.raises(TypeError, match="read-only: change a copy, dict"):
        change(mapping)
    assert mapping == {"a": 1}


def test_operators_do_not_change_it_either() -> None:
    """``|=``, item assignment and ``del`` are refused like the methods."""
    mapping = original = FrozenDict({"a": 1})
    with pytest.raises(TypeError, match="read-only"):
        mapping |= {"b": 2}
    with pytest.raises(TypeError, match="read-only"):
        mapping["a"] = 2
    with pytest.raises(TypeError, match="read-only"):
        del mapping["a"]
    assert mapping is original
    assert original == {"a": 1}


def test_it_behaves_like_a_dict_when_read() -> None:
    """It equals a dict, is JSON for ``json``, and its ``copy()`` and ``|`` are dicts that can be changed."""
    mapping = FrozenDict({"a": 1, "b": [2]})
    assert mapping == {"a": 1, "b": [2]}
    assert json.dumps(mapping) == '{"a": 1, "b": [2]}'
    for changeable in (mapping.copy(), mapping | {}, dict(mapping)):
        assert type(changeable) is dict
        changeable["c"] = 3
    assert mapping | {"a": 3} == {"a": 3, "b": [2]}
    assert {"a": 3} | mapping == {"a": 1, "b": [2]}
    assert "c" not in mapping


def test_it_can_be_copied_and_pickled() -> None:
    """Copies are frozen too; a deep copy shares nothing changeable, a shallow one is the original."""
    mapping = FrozenDict({"a": [1], "b": FrozenDict({"c": 2})})
    assert copy.copy(mapping) is mapping
    for other in (copy.deepcopy(mapping), pickle.loads(pickle.dumps(mapping))):
        assert other == mapping
        assert type(other) is FrozenDict
        assert type(other["b"]) is FrozenDict
        assert other["a"] is not mapping["a"]


# --- freeze -----------------------------------------------------------------------------------------------------------


def test_freezing_shares_nothing_changeable() -> None:
    """Whatever is done to the original afterwards, at any depth, the frozen one stays as it was."""
    original: dict[str, Any] = {
        "flat": 1,
        "dict": {"x": {"y": [1]}},
        "list": [{"z": 1}, [2]],
        "tuple": ([3], {"t": 4}),
        "set": {5},
    }
    expected = copy.deepcopy(original)
    frozen = freeze(original)

    original["new"] = 1
    original["dict"]["x"]["y"].append(2)
    original["dict"]["x"]["new"] = 1
    original["list"][0]["z"] = 2
    original["list"][1].append(3)
    original["tuple"][0].append(4)
    original["tuple"][1]["t"] = 5
    original["set"].add(6)

    assert frozen == expected


def test_freezing_keeps_the_kinds() -> None:
    """Dicts become frozen dicts; lists, tuples and sets stay what they are; everything else is the original itself."""
    thing = object()
    ordered = MappingProxyType({"a": 1})
    frozen = freeze({"d": {"e": {}}, "l": [{}], "t": ({},), "s": {1}, "f": frozenset({1}), "o": thing, "m": ordered})
    assert type(frozen["d"]) is type(frozen["d"]["e"]) is type(frozen["l"][0]) is type(frozen["t"][0]) is FrozenDict
    assert [type(frozen[key]) for key in "ltsf"] == [list, tuple, set, frozenset]
    assert frozen["o"] is thing
    assert frozen["m"] is ordered
    assert type(freeze(ordered)) is FrozenDict


def test_what_is_frozen_is_not_copied_again() -> None:
    """A frozen dict is returned as it is, alone and inside another."""
    frozen = freeze({"a": [1]})
    assert freeze(frozen) is frozen
    assert freeze({"b": frozen})["b"] is frozen
    assert freeze_value(frozen) is frozen


def test_any_value_can_be_frozen() -> None:
    """``freeze_value`` does for a value on its own what ``freeze`` does inside a mapping."""
    rows = [1, [2]]
    frozen = freeze_value(rows)
    rows[1].append(3)  # type: ignore[union-attr]
    assert frozen == [1, [2]]
    assert freeze_value(None) is None
    assert type(freeze_value({})) is FrozenDict


# --- StepOutputs ------------------------------------------------------------------------------------------------------


def test_it_reads_like_the_dict_of_its_items() -> None:
    """Lookup, default, membership, length, order, equality and repr are those of a dict; None and {} are outputs."""
    outputs: StepOutputs[Any] = StepOutputs({"b": None, "a": {}}).with_item("c", 3)
    assert list(outputs) == ["b", "a", "c"]
    assert list(outputs.items()) == [("b", None), ("a", {}), ("c", 3)]
    assert list(outputs.values()) == [None, {}, 3]
    assert len(outputs) == 3
    assert outputs == {"a": {}, "b": None, "c": 3}
    assert outputs != {"a": {}, "b": None}
    assert outputs["b"] is None
    assert outputs.get("b", "default") is None
    assert outputs.get("z", "default") == "default"
    assert "b" in outputs
    assert "z" not in outputs
    assert repr(outputs) == "StepOutputs({'b': None, 'a': {}, 'c': 3})"
    with pytest.raises(KeyError, match="z"):
        outputs["z"]
    with pytest.raises(TypeError):
        outputs["a"] = 1  # type: ignore[index]


def test_no_version_sees_what_came_after_it() -> None:
    """An extension leaves every older version as it was, also those that share its storage."""
    versions: list[StepOutputs[int]] = [StepOutputs()]
    for number in range(20):
        versions.append(versions[-1].with_item(f"step {number}", number))
    for length, version in enumerate(versions):
        assert version == {f"step {number}": number for number in range(length)}
        assert list(version) == [f"step {number}" for number in range(length)]
        assert f"step {length}" not in version
        assert version.get(f"step {length}") is None


def test_a_version_can_be_extended_twice() -> None:
    """Two extensions of one version know nothing of each other, even with the same name."""
    base = StepOutputs({"a": 1})
    left, right, other = base.with_item("b", 2), base.with_item("b", 3), base.with_item("c", 4)
    assert [base, left, right, other] == [{"a": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1, "c": 4}]
    assert right.with_item("d", 5) == {"a": 1, "b": 3, "d": 5}
    assert left.with_item("d", 6) == {"a": 1, "b": 2, "d": 6}


def test_an_output_can_be_replaced() -> None:
    """A replaced output keeps its place, and the version before keeps the old one."""
    before = StepOutputs({"a": 1, "b": 2})
    after = before.with_item("a", 3)
    assert list(after.items()) == [("a", 3), ("b", 2)]
    assert before["a"] == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcdefgh"), st.integers()), max_size=30))
def test_versions_are_what_dicts_would_be(extensions: list[tuple[int, str, int]]) -> None:
    """Whichever versions are extended in whatever order, each equals the dict made in the same way."""
    versions: list[StepOutputs[int]] = [StepOutputs()]
    dicts: list[dict[str, int]] = [{}]
    for which, name, output in extensions:
        which %= len(versions)
        versions.append(versions[which].with_item(name, output))
        dicts.append({**dicts[which], name: output})
    assert versions == dicts
    assert [list(version.items()) for version in versions] == [list(items.items()) for items in dicts]


def test_adding_to_the_newest_does_not_touch_those_before() -> None:
    """The work of an extension is the same for 10 and for 1,000 outputs: no older name is looked at."""

    class Name(str):
        hashed = 0

        def __hash__(self) -> int:
            Name.hashed += 1
            return super().__hash__()

    def work(length: int) -> int:
        outputs: StepOutputs[int] = StepOutputs()
        for number in range(length):
            outputs = outputs.with_item(Name(number), number)
        before = Name.hashed
        outputs.with_item(Name("last"), 0)
        return Name.hashed - before

    assert work(1000) == work(10) <= 3


def test_it_does_not_alias_what_it_was_made_from() -> None:
    """The mapping that it was made from can change without it."""
    original = {"a": 1}
    outputs = StepOutputs(original)
    original["b"] = 2
    assert outputs == {"a": 1}


def test_versions_can_be_copied_and_pickled() -> None:
    """A copy has this version's items and no later ones; a deep copy shares no value."""
    outputs: StepOutputs[list[int]] = StepOutputs({"a": [1]})
    outputs.with_item("later", [2])
    assert copy.copy(outputs) is outputs
    for other in (copy.deepcopy(outputs), pickle.loads(pickle.dumps(outputs))):
        assert type(other) is StepOutputs
        assert other == {"a": [1]}
        assert other["a"] is not outputs["a"]
        assert other.with_item("b", [3]) == {"a": [1], "b": [3]}


@pytest.mark.usefixtures("hasty_threads")
def test_threads_that_extend_one_version_all_get_right_answers() -> None:
    """Each thread sees the common outputs and its own, in order, and none of the others'."""
    for _ in range(30):
        base: StepOutputs[Any] = StepOutputs({"common": 0})
        results: dict[int, StepOutputs[Any]] = {}

        def extend(thread: int, base: StepOutputs[Any] = base, results: dict[int, Any] = results) -> None:
            outputs = base.with_item("same name", thread)
            for number in range(20):
                outputs = outputs.with_item(f"{thread}.{number}", number)
                assert outputs["same name"] == thread
            results[thread] = outputs

        run_together(*(lambda thread=thread: extend(thread) for thread in range(4)))
        assert base == {"common": 0}
        for thread in range(4):
            expected = {"common": 0, "same name": thread, **{f"{thread}.{number}": number for number in range(20)}}
            assert list(results[thread].items()) == list(expected.items())


@pytest.mark.usefixtures("hasty_threads")
def test_reading_while_others_extend() -> None:
    """Iterating and comparing a version is safe while newer versions of the same storage are made."""
    base: StepOutputs[int] = StepOutputs({str(number): number for number in range(50)})
    expected = dict(base)

    def extend() -> None:
        outputs = base
        for number in range(2000):
            outputs = outputs.with_item(f"new {number}", number)

    def read() -> None:
        for _ in range(100):
            assert dict(base) == expected
            assert list(base.values()) == list(range(50))

    run_together(extend, read, read)
