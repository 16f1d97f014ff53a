"""Tags: typed values seen by everything below."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from workflow_runner import FlowContext, Scope, errors, flow, flow_meta, tag
from workflow_runner._core.tags import Tag

LONG = 20.0

tenant = tag(str, label="tenant")
level = tag(int, label="level", default=3)
anything = tag(object, label="anything", default="default")
even = tag(int, label="even", validator=lambda value: value % 2 == 0)


@flow
def tenant_of(ctx: FlowContext, _: Any) -> str | None:
    return ctx.find(tenant)


# -- making them


def test_a_tagged_value_is_checked(scope: Scope) -> None:
    """A value of another type, or one the validator refuses, is an InputError that names the tag."""
    with pytest.raises(errors.InputError, match="tag 'tenant' takes str, got 5"):
        tenant(5)  # type: ignore[arg-type]
    with pytest.raises(errors.InputError, match="tag 'even' refuses 3"):
        even(3)
    with pytest.raises(errors.InputError, match="tag 'even' refuses 3"):
        tag(int, label="even", validator=lambda value: value % 2 == 0, default=3)
    assert even(4).value == 4


def test_a_validator_may_raise_its_own_error() -> None:
    """What a validator raises goes to the one who sets the value."""

    def refuse(value: int) -> bool:
        raise LookupError("not today")

    with pytest.raises(LookupError, match="not today"):
        tag(int, label="t", validator=refuse)(1)


def test_only_tagged_values_are_tags(make_scope: Callable[..., Scope]) -> None:
    """Anything else in ``tags=`` is refused where it is given."""
    with pytest.raises(errors.InputError, match="tags must be tagged values"):
        make_scope(tags=["tenant"])
    scope = make_scope()
    with pytest.raises(errors.InputError, match="tags must be tagged values"):
        scope.exec(tenant_of, tags=[tenant])  # type: ignore[list-item]
    assert scope.executions == ()


# -- finding them


def test_get_of_a_missing_tag_names_it_and_find_gives_none(scope: Scope) -> None:
    """No value, no default: ``get`` raises TagNotFound (a LookupError) naming the tag, ``find`` answers None."""

    @flow
    def asks(ctx: FlowContext, _: Any) -> Any:
        assert ctx.find(tenant) is None
        assert ctx.tag_store.find(tenant) is None
        with pytest.raises(errors.TagNotFound, match="tag 'tenant' has no value in 'asks'"):
            ctx.tag_store.get(tenant)
        return ctx.get(tenant)

    with pytest.raises(LookupError, match="tag 'tenant' has no value in 'asks'"):
        scope.run(asks)


@pytest.mark.parametrize("value", [None, 0, False, "", [], float("nan")])
def test_values_that_look_like_nothing_are_values(scope: Scope, value: object) -> None:
    """None, 0, False and "" are found, wherever they are set, and hide the default."""

    @flow
    def below(ctx: FlowContext, _: Any) -> tuple[Any, Any]:
        return ctx.get(anything), ctx.find(anything)

    @flow
    def top(ctx: FlowContext, _: Any) -> list[Any]:
        found = [ctx.get(anything), *ctx.exec(below)]
        ctx.set(anything, value)
        return [*found, ctx.get(anything), *ctx.parallel([below.bind(1)])[0]]

    found = scope.run(top, tags=[anything(value)])
    assert len(found) == 6
    assert all(item is value for item in found)


def test_the_nearest_value_wins(make_scope: Callable[..., Scope]) -> None:
    """Own, then the parents', then the scope's, then the default."""

    @flow
    def leaf(ctx: FlowContext, own: int | None) -> int:
        if own is not None:
            ctx.set(level, own)
        return ctx.get(level)

    @flow
    def middle(ctx: FlowContext, own: int | None) -> int:
        return ctx.exec(leaf, own)

    @flow
    def top(ctx: FlowContext, values: list[int | None]) -> int:
        if values[0] is not None:
            ctx.set(level, values[0])
        return ctx.exec(middle, values[1])

    with_tag, without = make_scope(tags=[level(10)]), make_scope()
    assert without.run(top, [None, None]) == 3
    assert with_tag.run(top, [None, None]) == 10
    assert with_tag.run(top, [None, None], tags=[level(20)]) == 20
    assert with_tag.run(top, [30, None], tags=[level(20)]) == 30
    assert with_tag.run(top, [30, 40], tags=[level(20)]) == 40


def test_a_flow_brings_its_tags_and_the_caller_wins(scope: Scope) -> None:
    """``@flow(tags=...)`` sets them on each execution, root, child and item; ``exec(tags=...)`` overrides."""

    @flow(tags=[level(7)])
    def tagged(ctx: FlowContext, _: Any) -> int:
        return ctx.get(level)

    @flow
    def top(ctx: FlowContext, _: Any) -> list[int]:
        return [ctx.exec(tagged), *ctx.parallel(tagged.each([1, 2])), *ctx.stream(tagged.each([1])), ctx.get(level)]

    assert scope.run(tagged) == 7
    assert scope.run(tagged, tags=[level(8)]) == 8
    assert scope.run(top) == [7, 7, 7, 7, 3]


def test_a_set_never_leaks_up_or_sideways(scope: Scope) -> None:
    """What a child or an item sets is seen below it only."""

    @flow
    def child(ctx: FlowContext, name: str) -> tuple[str | None, str | None]:
        before = ctx.find(tenant)
        ctx.set(tenant, name)
        return before, ctx.exec(tenant_of)

    @flow
    def top(ctx: FlowContext, _: Any) -> Any:
        return [
            ctx.exec(child, "a"),
            *ctx.parallel(child.each("bcd")),
            *ctx.stream(child.each("e")),
            ctx.exec(child, "f", timeout=LONG),
            ctx.find(tenant),
        ]

    assert scope.run(top) == [(None, name) for name in "abcdef"] + [None]
    assert scope.run(tenant_of) is None


def test_a_parent_that_has_ended_is_asked_no_more(scope: Scope) -> None:
    """Tags come from live parents: what an ended one had set is gone, an ended context's own values stay."""
    kept: list[FlowContext] = []

    @flow
    def keeps(ctx: FlowContext, _: Any) -> None:
        kept.append(ctx)

    @flow
    def top(ctx: FlowContext, _: Any) -> str:
        ctx.set(tenant, "t")
        kept.append(ctx)
        ctx.exec(keeps)
        return kept[1].get(tenant)

    assert scope.run(top) == "t"
    assert kept[0].get(tenant) == "t"
    assert kept[1].find(tenant) is None


def test_what_a_parent_sets_later_is_seen(scope: Scope, event: Callable[[], threading.Event]) -> None:
    """Tags are looked up when they are asked for, from whatever thread."""
    started, go = event(), event()

    @flow
    def item(ctx: FlowContext, _: Any) -> str | None:
        started.set()
        assert go.wait(LONG)
        return ctx.find(tenant)

    @flow
    def top(ctx: FlowContext, _: Any) -> list[Any]:
        def set_it() -> None:
            assert started.wait(LONG)
            ctx.set(tenant, "late")
            go.set()

        thread = threading.Thread(target=set_it, daemon=True)
        thread.start()
        return ctx.parallel(item.each([1, 2]))

    assert scope.run(top) == ["late", "late"]


def test_two_tags_of_one_label_are_two_tags(scope: Scope) -> None:
    """A tag is itself, whatever it is called."""
    twin: Tag[str] = tag(str, label="tenant", default="twin")

    @flow
    def asks(ctx: FlowContext, _: Any) -> tuple[str, str]:
        return ctx.get(tenant), ctx.get(twin)

    assert scope.run(asks, tags=[tenant("own")]) == ("own", "twin")


def test_setting_checks_as_well(scope: Scope) -> None:
    """``ctx.set`` refuses what the tag refuses, and sets nothing."""

    @flow
    def sets(ctx: FlowContext, _: Any) -> int | None:
        with pytest.raises(errors.InputError, match="tag 'even' refuses 1"):
            ctx.set(even, 1)
        return ctx.find(even)

    assert scope.run(sets) is None


def test_flow_meta_answers_for_every_execution(scope: Scope) -> None:
    """``flow_meta``: the name, the depth, the parent's name, and whether it is an item of a fan-out."""

    @flow
    def leaf(ctx: FlowContext, _: Any) -> tuple[Any, ...]:
        return (
            ctx.get(flow_meta.flow_name),
            ctx.get(flow_meta.depth),
            ctx.get(flow_meta.parent_name),
            ctx.get(flow_meta.is_parallel),
        )

    @flow
    def top(ctx: FlowContext, _: Any) -> list[Any]:
        return [ctx.exec(leaf), ctx.exec(leaf, name="other"), *ctx.parallel([leaf.bind(1)])]

    assert scope.run(leaf) == ("leaf", 0, None, False)
    assert scope.run(top) == [("leaf", 1, "top", False), ("other", 1, "top", False), ("leaf", 1, "top", True)]


def test_what_is_derived_cannot_be_set(scope: Scope) -> None:
    """A ``flow_meta`` tag refuses values, in ``set`` and as a tagged value."""

    @flow
    def sets(ctx: FlowContext, _: Any) -> None:
        ctx.set(flow_meta.depth, 5)

    with pytest.raises(errors.InputError, match=r"'flow_meta\.depth' is derived"):
        scope.run(sets)
    with pytest.raises(errors.InputError, match=r"'flow_meta\.depth' is derived"):
        flow_meta.depth(5)


def test_tags_of_a_tracked_block(scope: Scope) -> None:
    """``create_execution`` takes tags, and its children see them."""
    with scope.create_execution("block", tags=[tenant("t")]) as block:
        assert block.get(tenant) == "t"
        assert block.exec("child", lambda child: (child.get(tenant), child.set(tenant, "u"), child.get(tenant))) == (
            "t",
            None,
            "u",
        )
        assert block.get(tenant) == "t"


def test_threads_that_set_first_together_lose_nothing(scope: Scope, together: Any, tiny_switches: None) -> None:
    """Concurrent first sets on one context agree on one table."""
    tags = [tag(int, label=str(number)) for number in range(4)]
    for _ in range(100):
        with scope.create_execution("block") as block:
            together(*(lambda one=one: block.set(one, 1) for one in tags))
            assert [block.find(one) for one in tags] == [1, 1, 1, 1]
