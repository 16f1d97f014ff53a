"""Flows and calls, and how input becomes what a handler declares."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any

import attrs
import pytest

from workflow_runner import Call, Flow, FlowContext, Retry, Scope, call, errors, flow

ran: list[Any] = []


@attrs.frozen
class Line:
    sku: str
    price: Decimal


@attrs.frozen
class Order:
    qty: int
    day: dt.date
    lines: list[Line] = attrs.field(factory=list)


@flow
def price(ctx: FlowContext, order: Order) -> Order:
    ran.append(order)
    return order


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    del ran[:]


# -- definitions


def test_a_flow_is_its_function_with_a_name() -> None:
    """Usable bare or with options; the name defaults to the function's; called it is the plain function."""

    @flow
    def bare(ctx: Any, n: int) -> int:
        return n + 1

    @flow(name="other", version="2", timeout=dt.timedelta(minutes=1), retry=Retry(attempts=2), tags=[])
    def full(ctx: Any, n: int) -> tuple[Any, int]:
        return ctx, n

    assert (bare.name, bare.version, bare.timeout, bare.retry, bare.tags) == ("bare", None, None, None, ())
    assert (full.name, full.version, full.timeout, full.retry) == ("other", "2", 60.0, Retry(attempts=2))
    assert bare(None, 1) == 2  # type: ignore[arg-type]
    assert full("ctx", 3) == ("ctx", 3)  # type: ignore[arg-type]
    assert repr(full) == "<Flow 'other'>"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: flow(name="")(lambda ctx, n: n), "a name that is not empty"),
        (lambda: flow(name="a/b")(lambda ctx, n: n), "has no '/'"),
        (lambda: flow(name=5)(lambda ctx, n: n), "a name that is not empty"),  # type: ignore[arg-type]
        (lambda: flow(functools.partial(lambda ctx, n: n)), "a name that is not empty"),
        (lambda: flow(timeout=0)(lambda ctx, n: n), "timeout must be more than zero"),
        (lambda: flow(timeout=float("nan"))(lambda ctx, n: n), "timeout must be more than zero"),
        (lambda: flow(retry=3)(lambda ctx, n: n), "retry must be a Retry"),  # type: ignore[arg-type]
        (lambda: flow(name="n")(5), "a handler is a function"),  # type: ignore[arg-type]
        (lambda: flow(lambda: 1), r"a handler takes \(ctx, input\)"),  # type: ignore[arg-type,misc]
        (lambda: flow(lambda ctx, a, b: 1), r"a handler takes \(ctx, input\)"),  # type: ignore[arg-type,misc]
        (lambda: call(5), "call\\(\\) needs a function"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_definition_is_refused_at_once(make: Callable[[], Any], message: str) -> None:
    """A DefinitionError, which is a ValueError, before anything runs."""
    with pytest.raises(errors.DefinitionError, match=message) as caught:
        make()
    assert isinstance(caught.value, ValueError)


def test_what_cannot_run_on_a_thread_is_refused() -> None:
    """Coroutine functions and generators are no handlers."""

    async def coroutine(ctx: Any, n: int) -> None: ...

    async def generator(ctx: Any, n: int) -> Any:
        yield 1

    def lazy(ctx: Any, n: int) -> Any:
        yield 1

    for handler, message in ((coroutine, "async"), (generator, "async"), (lazy, "generator")):
        with pytest.raises(errors.DefinitionError, match=message):
            flow(handler)


def test_bind_each_and_call_make_calls(scope: Scope) -> None:
    """``bind`` is one call, ``each`` one for each input in order, ``call`` any function with its arguments."""

    @flow
    def triple(ctx: Any, n: int) -> int:
        return 3 * n

    bound = triple.bind(2)
    assert isinstance(bound, Call)
    assert (bound.flow, bound.input) == (triple, 2)
    assert [(c.flow, c.input) for c in triple.each(iter([1, 2]))] == [(triple, 1), (triple, 2)]
    assert scope.run(bound) == 6
    assert scope.run(call(divmod, 7, 2)) == (3, 1)
    assert scope.run(call(int, "ff", base=16)) == 255
    assert scope.run(call(functools.partial(int, base=2), "11")) == 3
    assert (call(divmod, 7, 2).flow.name, repr(call(int, "ff", base=16))) == ("divmod", "<Call 'int' 'ff', base=16>")


@pytest.mark.parametrize("what", [len, lambda ctx, n: n, 5, None, "price", object()])
def test_what_is_no_flow_is_refused(scope: Scope, what: Any) -> None:
    """``scope.exec`` and ``ctx.exec`` of something else: DefinitionError with a hint, and nothing started."""
    hint = r"@flow or use call\(" if callable(what) else "expected a flow or a call"
    for start in (scope.exec, scope.run):
        with pytest.raises(errors.DefinitionError, match=hint):
            start(what)
    assert scope.executions == ()

    @flow
    def outer(ctx: FlowContext, _: Any) -> None:
        with pytest.raises(errors.DefinitionError, match="item 1 is no call"):
            ctx.parallel([call(len, "ab"), what])
        if not isinstance(what, str):
            with pytest.raises(errors.DefinitionError, match=hint):
                ctx.exec(what)

    scope.run(outer)


def test_a_flow_without_input_may_stand_for_its_call(scope: Scope) -> None:
    """In a fan-out a bare flow is the flow with None."""

    @flow
    def echo(ctx: Any, value: Any) -> Any:
        return value

    @flow
    def outer(ctx: FlowContext, _: Any) -> Any:
        return ctx.parallel([echo, echo.bind(1)]), list(ctx.stream([echo]))

    assert scope.run(outer) == ([None, 1], [None])


# -- input


def test_a_dict_is_structured_into_the_annotated_class(scope: Scope) -> None:
    """Plain data becomes the annotated type, nested; an instance passes as the very object."""
    data = {"qty": 2, "day": "2013-02-28", "lines": [{"sku": "a", "price": "1.10"}]}
    expected = Order(2, dt.date(2013, 2, 28), [Line("a", Decimal("1.10"))])
    assert scope.run(price, data) == expected
    assert scope.run(price, expected) is expected


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"qty": "many", "day": "2013-02-28"}, "qty"),
        ({"day": "2013-02-28"}, "qty"),
        ({"qty": 1, "day": "2013-02-30"}, "day"),
        ({"qty": 1, "day": "2013-02-28", "lines": [{"sku": "a", "price": "x"}]}, r"lines\[0\]\.price"),
        ({"qty": 1, "day": "2013-02-28", "colour": "red"}, "colour"),
        (5, "Order"),
        (None, "Order"),
    ],
)
def test_an_input_that_does_not_fit_names_the_field_and_runs_nothing(scope: Scope, data: Any, field: str) -> None:
    """InputError (a ValueError) with the path of the field; the handler does not run, nothing was started."""
    for start in (scope.exec, scope.run):
        with pytest.raises(errors.InputError, match=field) as caught:
            start(price, data)
        assert isinstance(caught.value, ValueError)

    @flow
    def outer(ctx: FlowContext, _: Any) -> None:
        for run in (
            lambda: ctx.exec(price, data),
            lambda: ctx.exec(price, data, timeout=20),
            lambda: ctx.exec(price, data, key="k"),
            lambda: ctx.parallel([price.bind(data)]),
            lambda: list(ctx.stream([price.bind(data)])),
        ):
            with pytest.raises(errors.InputError, match=field):
                run()

    scope.run(outer)
    assert ran == []
    assert scope.executions == ()


def test_every_way_in_structures_the_input(scope: Scope) -> None:
    """A child, a timed child, an item of a fan-out and of a stream get the annotated type."""
    data = {"qty": 1, "day": "2013-02-28"}

    @flow
    def outer(ctx: FlowContext, _: Any) -> list[Any]:
        return [
            ctx.exec(price, data),
            ctx.exec(price, data, timeout=20),
            ctx.exec(price, data, key="k"),
            *ctx.parallel(price.each([data])),
            *ctx.parallel([price.bind(data), call(lambda: Order(1, dt.date(2013, 2, 28)))]),
            *ctx.stream(price.each([data])),
        ]

    assert scope.run(outer) == [Order(1, dt.date(2013, 2, 28))] * 7


def test_a_default_stands_in_for_no_input(scope: Scope) -> None:
    """A handler with a default gets it when no input is given, annotated or not."""

    @flow
    def annotated(ctx: Any, n: int = 5) -> Any:
        return n

    @flow
    def plain(ctx: Any, n=5) -> Any:  # type: ignore[no-untyped-def]
        return n

    @flow
    def optional(ctx: Any, n: int | None = 5) -> Any:
        return n

    @flow
    def outer(ctx: FlowContext, _: Any) -> Any:
        return [ctx.exec(plain), ctx.exec(annotated), *ctx.parallel([plain]), *ctx.parallel([plain.bind(6), plain])]

    assert [scope.run(one) for one in (annotated, plain, optional)] == [5, 5, None]
    assert [scope.run(one, 7) for one in (annotated, plain, optional)] == [7, 7, 7]
    assert scope.run(outer) == [5, 5, 5, 6, 5]


def test_an_input_that_is_used_up_by_looking_passes_as_it_is(scope: Scope) -> None:
    """Iterators and callables reach the handler untouched."""

    @flow
    def total(ctx: Any, numbers: Iterator[int]) -> int:
        return sum(numbers)

    @flow
    def any_total(ctx: Any, numbers: Iterable[int]) -> int:
        return sum(numbers)

    @flow
    def calls(ctx: Any, function: Callable[[], int]) -> int:
        return function()

    assert scope.run(total, iter([1, 2])) == 3
    assert scope.run(any_total, (n for n in (1, 2))) == 3
    assert scope.run(calls, lambda: 4) == 4


def test_an_annotation_that_nobody_can_resolve_is_a_definition_error(scope: Scope) -> None:
    """It is said at first use, with the annotation."""

    def handler(ctx: Any, value: NoSuchClass) -> None: ...  # type: ignore[name-defined] # noqa: F821

    handler.__qualname__ = "handler"
    with pytest.raises(errors.DefinitionError, match="cannot resolve the annotation 'NoSuchClass' of 'value'"):
        scope.exec(flow(handler), 1)


def test_a_class_may_be_defined_below_its_flow(scope: Scope) -> None:
    """Annotations are read when they are first needed."""
    assert scope.run(uses_later, {"n": 3}) == Later(3)


@flow
def uses_later(ctx: Any, value: Later) -> Later:
    return value


@attrs.frozen
class Later:
    n: int


def test_builtins_and_classes_may_be_handlers(scope: Scope) -> None:
    """What has no signature, or none to read, is taken as it is."""
    assert scope.run(call(max, 3, 5)) == 5
    assert scope.run(Flow(isinstance, name="isinstance"), object) is True

    class Handler:
        def __call__(self, ctx: Any, n: int) -> int:
            return n + 1

    assert scope.run(flow(name="object")(Handler()), "4") == 5
