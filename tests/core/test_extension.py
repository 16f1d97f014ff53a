"""Extensions: wrappers and observers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import attrs
import pytest

from workflow_runner import Extension, FlowContext, Operation, Retry, Scope, call, errors, flow, tag
from workflow_runner._core.extension import overriding

LONG = 20.0

tenant = tag(str, label="tenant", default="nobody")


@attrs.frozen
class Order:
    qty: int


@flow
def double(ctx: FlowContext, n: int) -> int:
    return 2 * n


@flow
def top(ctx: FlowContext, n: int) -> list[int]:
    return [ctx.exec(double, n), *ctx.parallel(double.each([n, n + 1]))]


class Recorder(Extension):
    """Notes what it sees."""

    def __init__(self, name: str = "recorder", notes: list[Any] | None = None) -> None:
        self.name = name
        self.notes: list[Any] = [] if notes is None else notes

    def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
        self.notes.append((self.name, "before", operation.kind, operation.name))
        try:
            return next()
        finally:
            self.notes.append((self.name, "after", operation.kind, operation.name))


def test_the_first_extension_is_the_outermost(make_scope: Callable[..., Scope]) -> None:
    """Wraps nest in the order of registration."""
    notes: list[Any] = []
    scope = make_scope(extensions=[Recorder("a", notes), Recorder("b", notes)])
    assert scope.run(double, 3) == 6
    assert [(name, when) for name, when, *_ in notes] == [
        ("a", "before"),
        ("b", "before"),
        ("b", "after"),
        ("a", "after"),
    ]


def test_every_operation_is_wrapped_once(make_scope: Callable[..., Scope]) -> None:
    """Kinds: "execution" for root, child and item, "parallel" for the whole fan-out, "journal" for a keyed call."""

    @flow
    def all_kinds(ctx: FlowContext, n: int) -> Any:
        ctx.exec(double, 1)
        ctx.exec(double, 2, name="named")
        ctx.parallel([double.bind(3)], name="many")
        ctx.exec(double, 4, timeout=LONG)
        ctx.exec(double, 5, key="k")
        return ctx.exec(double, 5, key="k")

    recorder = Recorder()
    make_scope(max_workers=1, extensions=[recorder]).run(all_kinds, 0)
    assert [(kind, name) for _, when, kind, name in recorder.notes if when == "before"] == [
        ("execution", "all_kinds"),
        ("execution", "double"),
        ("execution", "named"),
        ("parallel", "many"),
        ("execution", "double"),
        ("execution", "double"),
        ("journal", "double"),
        ("execution", "double"),
        ("journal", "double"),  # answered from the journal: nothing ran
    ]
    assert len(recorder.notes) == 18


def test_an_operation_says_what_it_is_about(make_scope: Callable[..., Scope]) -> None:
    """Flow, prepared input, key, tags, parent, depth and attempt are those of the operation."""
    seen: list[Operation] = []

    class Looks(Extension):
        def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
            seen.append(operation)
            assert operation.context.get(tenant) == "t"
            return next()

    @flow
    def order(ctx: FlowContext, order: Order) -> int:
        if ctx.attempt == 1:
            raise ValueError("again")
        return order.qty

    @flow
    def outer(ctx: FlowContext, _: Any) -> Any:
        return ctx.exec(order, {"qty": 2}, key="k", retry=Retry(attempts=2, initial=0)), ctx.parallel([double.bind(1)])

    scope = make_scope(extensions=[Looks()])
    assert scope.run(outer, tags=[tenant("t")]) == (2, [2])
    assert [(o.kind, o.name, o.flow, o.input, o.key, o.parent, o.depth, o.attempt) for o in seen] == [
        ("execution", "outer", outer, None, None, None, 0, 1),
        ("journal", "order", order, Order(2), "k", None, 0, 1),
        ("execution", "order", order, Order(2), "k", "outer", 1, 1),
        ("execution", "order", order, Order(2), "k", "outer", 1, 2),
        ("parallel", "parallel", None, None, None, None, 0, 1),
        ("execution", "double", double, 1, None, "outer", 1, 1),
    ]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        seen[0].input = 5  # type: ignore[misc]


def test_a_wrap_may_replace_the_result(make_scope: Callable[..., Scope]) -> None:
    """What wrap returns is the result: of the root, of a child, of an item and of the whole fan-out."""

    class AddsOne(Extension):
        def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
            result = next()
            return result + 1 if isinstance(result, int) else [*result, operation.kind]

    assert make_scope(extensions=[AddsOne()]).run(top, 5) == [11, 11, 13, "parallel", "execution"]


def test_a_wrap_may_skip(make_scope: Callable[..., Scope]) -> None:
    """Without calling next the handler does not run, and the operation has completed."""
    ran: list[int] = []

    @flow
    def handler(ctx: FlowContext, n: int) -> int:
        ran.append(n)
        return n

    class Skips(Extension):
        def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
            return -1 if operation.flow is handler else next()

    @flow
    def outer(ctx: FlowContext, n: int) -> list[int]:
        return [ctx.exec(handler, n), *ctx.parallel(handler.each([1, 2]))]

    scope = make_scope(extensions=[Skips()])
    assert scope.run(outer, 5) == [-1, -1, -1]
    execution = scope.exec(handler, 5)
    assert (execution.result(LONG), execution.status) == (-1, "completed")
    assert ran == []


def test_a_wrap_may_catch(make_scope: Callable[..., Scope]) -> None:
    """An error it swallows has not happened for those outside."""

    @flow
    def fails(ctx: FlowContext, n: int) -> int:
        raise ValueError(n)

    class Catches(Extension):
        def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
            try:
                return next()
            except ValueError as error:
                return f"caught {error}"

    @flow
    def outer(ctx: FlowContext, n: int) -> Any:
        return ctx.exec(fails, 1), ctx.parallel(fails.each([2, 3]))

    scope = make_scope(extensions=[Catches()])
    assert scope.run(outer, 0) == ("caught 1", ["caught 2", "caught 3"])
    execution = scope.exec(fails, 4)
    assert (execution.result(LONG), execution.status) == ("caught 4", "completed")


def test_a_wrap_may_call_next_again(make_scope: Callable[..., Scope]) -> None:
    """Each call of next runs the handler; the last word is the wrap's."""
    ran: list[int] = []

    @flow
    def counts(ctx: FlowContext, n: int) -> int:
        ran.append(n)
        if len(ran) % 3:
            raise ValueError("again")
        return len(ran)

    class Repeats(Extension):
        def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
            while True:
                try:
                    return next()
                except ValueError:
                    pass

    @flow
    def outer(ctx: FlowContext, n: int) -> Any:
        return ctx.exec(counts, 0), ctx.parallel([counts.bind(1)])

    scope = make_scope(extensions=[Repeats()])
    assert scope.run(outer, 0) == (3, [6])
    assert scope.run(counts, 2) == 9
    assert ran == [0] * 3 + [1] * 3 + [2] * 3


def test_what_a_wrap_raises_is_the_handlers_failure(make_scope: Callable[..., Scope]) -> None:
    """An error of wrap fails the operation, with the run named in a note."""

    class Refuses(Extension):
        def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
            raise PermissionError("not you")

    execution = make_scope(extensions=[Refuses()]).exec(double, 1)
    with pytest.raises(PermissionError, match="not you") as caught:
        execution.result(LONG)
    assert execution.status == "failed"
    assert caught.value.__notes__ == [f"in flow 'double', run {execution.id}"]


def test_wrap_runs_where_the_operation_runs(make_scope: Callable[..., Scope]) -> None:
    """It is called in the thread of the handler, so that what it binds is seen there."""
    threads: list[Any] = []

    class Notes(Extension):
        def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
            threads.append(threading.get_ident())
            return next()

    @flow
    def where(ctx: FlowContext, _: Any) -> int:
        return threading.get_ident()

    @flow
    def outer(ctx: FlowContext, _: Any) -> list[int]:
        return [ctx.exec(where, timeout=LONG), threading.get_ident()]

    child, root = make_scope(extensions=[Notes()]).exec(outer).result(LONG)
    assert threads == [root, child]
    assert root != child


# -- observing


def test_on_status_sees_each_change_of_a_root_in_order(make_scope: Callable[..., Scope]) -> None:
    """Running, then the end, once each, for every extension; children are not roots."""
    notes: list[Any] = []

    class Observes(Extension):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_status(self, execution: Any, status: Any) -> None:
            notes.append((self.name, execution.flow_name, status.value, execution.status.value))

    scope = make_scope(extensions=[Observes("a"), Observes("b")])
    scope.run(top, 1)
    assert [(name, status) for name, _, status, _ in notes] == [
        ("a", "running"),
        ("b", "running"),
        ("a", "completed"),
        ("b", "completed"),
    ]
    assert {flow_name for _, flow_name, *_ in notes} == {"top"}


def test_on_status_sees_failures_and_cancelled_ones(make_scope: Callable[..., Scope]) -> None:
    """A failed run ends "failed"; one cancelled in the queue goes from pending to "cancelled"."""
    notes: list[str] = []

    class Observes(Extension):
        def on_status(self, execution: Any, status: Any) -> None:
            notes.append(f"{execution.flow_name} {status}")

    go = threading.Event()

    @flow
    def waits(ctx: FlowContext, _: Any) -> None:
        assert go.wait(LONG)
        raise ValueError("no")

    scope = make_scope(max_workers=1, extensions=[Observes()])
    first, second = scope.exec(waits), scope.exec(double, 1)
    second.cancel()
    go.set()
    with pytest.raises(ValueError, match="no"):
        first.result(LONG)
    scope.close()
    assert sorted(notes) == sorted(["waits running", "double cancelled", "waits failed"])


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), errors.Aborted()])
def test_a_failing_observer_never_breaks_a_run(
    make_scope: Callable[..., Scope], caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """What on_status raises is logged; the run, its result and the other observers are as if nothing had happened."""
    seen: list[str] = []

    class Breaks(Extension):
        def on_status(self, execution: Any, status: Any) -> None:
            raise error

    class Observes(Extension):
        def on_status(self, execution: Any, status: Any) -> None:
            seen.append(status.value)

    scope = make_scope(extensions=[Breaks(), Observes()])
    assert scope.exec(double, 2).result(LONG) == 4
    scope.close()
    assert seen == ["running", "completed"]
    assert [record.event for record in caplog.records] == ["callback.failed"] * 2  # type: ignore[attr-defined]
    assert all(record.exc_info is not None and record.exc_info[1] is error for record in caplog.records)


def test_init_and_dispose_are_called_once_in_order(make_scope: Callable[..., Scope]) -> None:
    """``init`` in order when the scope is made, ``dispose`` in reverse when it has closed, however often it closes."""
    notes: list[Any] = []

    class Lives(Extension):
        def __init__(self, name: str) -> None:
            self.name = name

        def init(self, scope: Scope) -> None:
            notes.append(("init", self.name, scope.run(double, 1)))

        def dispose(self, scope: Scope) -> None:
            notes.append(("dispose", self.name, scope.executions))

    scope = make_scope(extensions=[Lives("a"), Lives("b")])
    assert notes == [("init", "a", 2), ("init", "b", 2)]
    del notes[:]
    scope.close()
    scope.close()
    assert notes == [("dispose", "b", ()), ("dispose", "a", ())]


def test_dispose_is_called_once_by_racing_closes(make_scope: Callable[..., Scope], together: Any) -> None:
    """Threads that close together dispose once, and return when it is done."""
    for _ in range(30):
        disposed: list[int] = []

        class Lives(Extension):
            def dispose(self, scope: Scope, disposed: list[int] = disposed) -> None:
                disposed.append(1)

        scope = make_scope(extensions=[Lives()])
        scope.exec(double, 1)

        def close(scope: Scope = scope, disposed: list[int] = disposed) -> int:
            scope.close()
            return len(disposed)

        assert together(*[close] * 4) == [1] * 4


def test_a_failing_dispose_is_logged_and_the_others_are_called(
    make_scope: Callable[..., Scope], caplog: pytest.LogCaptureFixture
) -> None:
    """``close`` returns all the same."""
    disposed: list[int] = []

    class Breaks(Extension):
        name = "breaks"

        def dispose(self, scope: Scope) -> None:
            raise ValueError("no")

    class Lives(Extension):
        def dispose(self, scope: Scope) -> None:
            disposed.append(1)

    make_scope(extensions=[Lives(), Breaks()]).close()
    assert disposed == [1]
    (record,) = caplog.records
    assert (record.event, record.extension) == ("extension.failed", "breaks")  # type: ignore[attr-defined]


def test_a_failing_init_stops_the_scope_from_being_made() -> None:
    """What init raises comes out of ``Scope()``."""

    class Breaks(Extension):
        def init(self, scope: Scope) -> None:
            raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no$"):
        Scope(extensions=[Breaks()])


def test_only_what_is_overridden_is_called() -> None:
    """A method that an extension inherits is in no table, so that it costs nothing."""

    class Wraps(Extension):
        def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
            return next()

    class Deeper(Wraps):
        def on_status(self, execution: Any, status: Any) -> None: ...

    plain, wraps, deeper = Extension(), Wraps(), Deeper()
    every = [plain, wraps, deeper]
    assert overriding(every, "wrap") == (wraps.wrap, deeper.wrap)
    assert overriding(every, "on_status") == (deeper.on_status,)
    assert plain.wrap(None, lambda: 5, None) == 5  # type: ignore[arg-type]


class Carrier(Extension):
    """Carries a thread-local name along, as a tracer does with its span."""

    def __init__(self) -> None:
        self.here = threading.local()

    def wrap_task(self, task: Any) -> Any:
        name = getattr(self.here, "name", None)

        def carried(*args: Any) -> Any:
            before, self.here.name = getattr(self.here, "name", None), name
            try:
                return task(*args)
            finally:
                self.here.name = before

        return carried


def test_what_belongs_to_a_thread_is_carried_to_others(make_scope: Callable[..., Scope]) -> None:
    """Into executions, timed children, and every item of a fan-out and of a stream, on whatever thread; not out."""
    carrier = Carrier()
    scope = make_scope(max_workers=4, extensions=[carrier])
    seen: list[tuple[str, str | None]] = []

    def look(where: str) -> None:
        seen.append((where, getattr(carrier.here, "name", None)))

    @flow
    def top(ctx: FlowContext, n: int) -> None:
        look("top")
        carrier.here.name = "inner"
        ctx.exec(call(look, "inline"))
        ctx.exec(call(look, "timed"), timeout=5)
        together = threading.Barrier(4)
        ctx.parallel([call(lambda: (together.wait(LONG), look("item"))) for _ in range(4)])
        list(ctx.stream([call(look, "streamed") for _ in range(8)]))

    carrier.here.name = "outer"
    scope.exec(top, 1).result(LONG)
    assert ("top", "outer") in seen
    assert {name for where, name in seen if where != "top"} == {"inner"}
    assert len(seen) == 1 + 2 + 4 + 8
    carrier.here.name = None
    seen.clear()
    scope.exec(call(look, "later")).result(LONG)
    assert seen == [("later", None)]


def test_an_extension_can_be_added_later(make_scope: Callable[..., Scope]) -> None:
    """For what starts from then on; one that fails to begin leaves the scope as it was."""
    seen: list[str] = []

    class Watches(Extension):
        def wrap(self, scope: Any, next: Any, operation: Operation) -> Any:
            seen.append(operation.kind)
            return next()

    class Broken(Watches):
        def init(self, scope: Any) -> None:
            raise RuntimeError("no")

    scope = make_scope(max_workers=1)
    scope.run(call(int))
    with pytest.raises(RuntimeError, match="no"):
        scope.use(Broken())
    scope.run(call(int))
    assert (seen, scope.extensions) == ([], ())
    scope.use(Watches())
    scope.run(call(int))
    assert seen == ["execution"]


class Above(Recorder):
    """Wraps no items."""

    around = ("execution", "parallel")


def test_an_extension_may_pass_over_items(make_scope: Callable[..., Scope]) -> None:
    """It sees runs, children and whole fan-outs; others see the items all the same."""
    above, every = Above("above"), Recorder("every")
    assert make_scope(extensions=[above]).run(top, 1) == [2, 2, 4]
    assert make_scope(extensions=[above, every]).run(top, 1) == [2, 2, 4]
    begun = [(kind, name) for _, when, kind, name in above.notes if when == "before"]
    assert begun == [("execution", "top"), ("execution", "double"), ("parallel", "parallel")] * 2
    assert sum(when == "before" and name == "double" for _, when, _, name in every.notes) == 3


def test_items_see_what_was_set_around_their_fan_out(make_scope: Callable[..., Scope]) -> None:
    """A context variable that a wrap sets around a fan-out is there for its items, on every thread."""
    around: ContextVar[str] = ContextVar("around", default="nothing")
    met = threading.Barrier(2)

    class Sets(Extension):
        around = ("parallel",)

        def wrap(self, scope: Scope, next: Callable[[], Any], operation: Operation) -> Any:
            token = around.set(operation.kind)
            try:
                return next()
            finally:
                around.reset(token)

    @flow
    def item(ctx: FlowContext, n: int) -> tuple[str, int]:
        met.wait(LONG)
        return around.get(), threading.get_ident()

    @flow
    def both(ctx: FlowContext, _input: None) -> list[tuple[str, int]]:
        return ctx.parallel(item.each([1, 2]))

    found = make_scope(max_workers=2, extensions=[Sets()]).run(both)
    assert [kind for kind, _ in found] == ["parallel"] * 2
    assert len({thread for _, thread in found}) == 2
