"""Steps and workflows as their authors write them, and every check that can be made before anything runs."""

from __future__ import annotations

import datetime as dt
import difflib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from workflow_runner._core import codec, secrets
from workflow_runner._core.clock import seconds as check_seconds
from workflow_runner._core.flow import Flow, check_name
from workflow_runner._core.flow_context import FlowContext
from workflow_runner._core.retry import Retry
from workflow_runner._core.tags import Tagged
from workflow_runner._workflow import runner
from workflow_runner._workflow.context import WorkflowContext
from workflow_runner._workflow.graph import Graph, Inner
from workflow_runner._workflow.mapping import SecretDict, freeze
from workflow_runner._workflow.result import WorkflowResult
from workflow_runner.errors import DefinitionError, InputError

# (context, config) -> StepResult, or (context)
PlainBody = Callable[..., Any]


def _needs(needs: Any) -> Any:
    # a text is left as it is: it is refused with the other problems, instead of being taken for its letters
    return needs if needs is None or isinstance(needs, str) else tuple(needs)


@attrs.frozen(eq=False)
class Step:
    """One named step of a workflow.

    Args:
        name: unique in the workflow, branches included.
        body: a function ``(context, config)`` or ``(context)``; a `Flow` ``(ctx, context)`` for a step that wants
            ``ctx.parallel``, the signal or the token; or a `Workflow`, which nests. A function and a flow return a
            ``StepResult``, a mapping (the output), None (no output), or a workflow to run in their place.
        config: a mapping for the function; a flow finds it under the tag ``flow_meta.config``.
        retry: how a failed attempt is repeated; default: the flow's own.
        timeout: seconds for each attempt; default: the flow's own.
        on_error: "stop" ends the workflow, "continue" goes on and makes the result partial.
        needs: names of the steps it waits for; None: the step before it, ``()``: none.
        checkpoint: False for a cheap, pure step that is not recorded: a resumed run makes it again.
        on_crash: "repeat", or "fail" for a step that must not run twice: it is noted before it begins, and a resumed
            run that finds it begun and not recorded fails there instead of repeating it.
    """

    name: str
    body: Any = attrs.field(repr=False)
    config: Mapping[str, Any] = attrs.field(default=None, kw_only=True, repr=False)
    retry: Retry | None = attrs.field(default=None, kw_only=True)
    timeout: float | dt.timedelta | None = attrs.field(default=None, kw_only=True)
    on_error: str = attrs.field(default="stop", kw_only=True)
    needs: tuple[str, ...] | None = attrs.field(default=None, kw_only=True, converter=_needs)
    checkpoint: bool = attrs.field(default=True, kw_only=True)
    on_crash: str = attrs.field(default="repeat", kw_only=True)

    @staticmethod
    def choice(
        name: str,
        *,
        when: Callable[[WorkflowContext], object],
        then: Sequence[Step],
        otherwise: Sequence[Step] = (),
        needs: Iterable[str] | None = None,
        on_error: str = "stop",
    ) -> Choice:
        """Take one of two branches; the steps of the other one are skipped.

        Args:
            name: the choice's own name; its output is ``{"branch": "then"}`` or ``{"branch": "otherwise"}``.
            when: ``(context) -> bool``.
            then: the steps to run when it is true.
            otherwise: the steps to run when it is not.
            needs: as for `Step`.
            on_error: as for `Step`.
        """
        return Choice(name, when, then=tuple(then), otherwise=tuple(otherwise), needs=needs, on_error=on_error)

    @staticmethod
    def map(
        name: str,
        body: Flow[Any, Any] | Callable[[Any], Any],
        *,
        items: str | Callable[[WorkflowContext], Iterable[Any]],
        max_concurrency: int | None = None,
        item_timeout: float | dt.timedelta | None = None,
        retry: Retry | None = None,
        timeout: float | dt.timedelta | None = None,
        needs: Iterable[str] | None = None,
        on_error: str = "stop",
    ) -> Map:
        """Run a flow or a function for each of many items, side by side; the output is ``{"items": [...]}``, in order.

        Args:
            name: the step's name.
            body: a flow ``(ctx, item)`` or a function ``(item)``.
            items: the name of a param, or ``(context) -> iterable``.
            max_concurrency: as for ``ctx.parallel``.
            item_timeout: seconds for each item.
            retry: of the whole step; a flow's own retry repeats its item.
            timeout: seconds for each attempt of the whole step.
            needs: as for `Step`.
            on_error: as for `Step`.
        """
        return Map(
            name,
            body,
            items=items,
            max_concurrency=max_concurrency,
            item_timeout=item_timeout,
            retry=retry,
            timeout=timeout,
            needs=needs,
            on_error=on_error,
        )

    @staticmethod
    def wait(name: str, *, seconds: float | dt.timedelta, needs: Iterable[str] | None = None) -> Wait:
        """Do nothing for so many seconds, unless the run is cancelled.

        Args:
            name: the step's name.
            seconds: how long.
            needs: as for `Step`.
        """
        return Wait(name, seconds, needs=needs)

    def problems(self) -> Iterator[str]:
        """What is wrong with this step alone."""
        try:
            check_name(self.name, "a step")
        except DefinitionError as error:
            yield str(error)
        if self.on_error not in ("stop", "continue"):
            yield f"on_error is 'stop' or 'continue', not {self.on_error!r}"
        if self.on_crash not in ("repeat", "fail"):
            yield f"on_crash is 'repeat' or 'fail', not {self.on_crash!r}"
        if self.retry is not None and not isinstance(self.retry, Retry):
            yield f"retry must be a Retry, not {self.retry!r}"
        yield from _bad_seconds(self.timeout, "timeout")
        if isinstance(self.needs, str) or not all(isinstance(need, str) for need in self.needs or ()):
            yield f"needs must be names of steps, not {self.needs!r}"
        yield from self._body_problems()

    def _body_problems(self) -> Iterator[str]:
        if not isinstance(self.config, Mapping) and self.config is not None:
            yield f"config must be a mapping, not {self.config!r}"
        if not isinstance(self.body, Flow):
            yield from _not_callable(self.body, "body", "(context, config)", "(context)")

    def branches(self) -> Iterator[tuple[str, tuple[Step, ...]]]:
        """The steps inside this one, by branch."""
        return iter(())


@attrs.frozen(eq=False)
class Choice(Step):
    """See `Step.choice`; ``body`` is the predicate."""

    then: tuple[Step, ...] = attrs.field(kw_only=True)
    otherwise: tuple[Step, ...] = attrs.field(default=(), kw_only=True)

    def _body_problems(self) -> Iterator[str]:
        yield from _not_callable(self.body, "when", "(context)")
        if not self.then and not self.otherwise:
            yield "a choice needs a branch: then=[...]"

    def branches(self) -> Iterator[tuple[str, tuple[Step, ...]]]:
        yield "then", self.then
        yield "otherwise", self.otherwise


@attrs.frozen(eq=False)
class Map(Step):
    """See `Step.map`."""

    items: str | Callable[[WorkflowContext], Iterable[Any]] = attrs.field(kw_only=True)
    max_concurrency: int | None = attrs.field(default=None, kw_only=True)
    item_timeout: float | dt.timedelta | None = attrs.field(default=None, kw_only=True)

    def _body_problems(self) -> Iterator[str]:
        if not isinstance(self.body, Flow):
            yield from _not_callable(self.body, "body", "(item)")
        if not isinstance(self.items, str):
            yield from _not_callable(self.items, "items", "(context)")
        if self.max_concurrency is not None and (not isinstance(self.max_concurrency, int) or self.max_concurrency < 1):
            yield f"max_concurrency must be a whole number from 1, not {self.max_concurrency!r}"
        yield from _bad_seconds(self.item_timeout, "item_timeout")


@attrs.frozen(eq=False)
class Wait(Step):
    """See `Step.wait`; ``body`` is the number of seconds."""

    def _body_problems(self) -> Iterator[str]:
        try:
            check_seconds(self.body, what="seconds", zero=True)
        except ValueError as error:
            yield str(error)


def _bad_seconds(value: Any, what: str) -> Iterator[str]:
    if value is not None:
        try:
            check_seconds(value, what=what)
        except ValueError as error:
            yield str(error)


def _not_callable(body: Any, what: str, *shapes: str) -> Iterator[str]:
    """``shapes``: the parameters that it may take, such as "(context)"."""
    expected = f"{what} must be a function {' or '.join(shapes)}"
    if not callable(body):
        yield f"{expected}, not {body!r}"
    elif inspect.iscoroutinefunction(body):
        yield f"{what} runs synchronously, on a thread; it cannot be async"
    elif takes(body, *(shape.count(",") + 1 for shape in shapes)) is None:
        yield f"{expected}, this one is {inspect.signature(body)}"


def takes(function: Callable[..., Any], *counts: int) -> int | None:
    """The first of ``counts`` that can be the number of positional arguments of ``function``; None for none."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return counts[-1]
    for count in counts:
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return count
    return None


class Workflow(Flow[Any, WorkflowResult]):
    """A flow made of named steps: a frozen `WorkflowContext` goes from step to step.

    Without ``needs`` the steps run in order; with it they form a DAG, and steps that do not need each other run side by
    side. ``scope.run(workflow, context)`` returns a `WorkflowResult`; a mapping in place of a context is taken as its
    params.

    Args:
        name: the workflow's name.
        steps: in the order in which they run, or are merged.
        version: recorded with each run.
        params: an attrs class that the params must fit; missing ones take its defaults. Fields that are annotated as a
            ``Secret`` are not shown, and not recorded in a store.
        timeout: seconds of running time for the whole run.
        retry: how a failed run is repeated.
        tags: tagged values set on each execution.

    Raises:
        DefinitionError: lists everything that is wrong: duplicate names, unknown needs, cycles, choices without a
            branch, bodies that are no functions ...
    """

    records_itself = True

    def __init__(
        self,
        name: str,
        *,
        steps: Iterable[Step],
        version: str | None = None,
        params: type[Any] | None = None,
        timeout: float | dt.timedelta | None = None,
        retry: Retry | None = None,
        tags: Iterable[Tagged[Any]] = (),
    ) -> None:
        self.steps = tuple(steps)
        self.params_type: Any = params
        problems = list(_problems(name, self.steps))
        problems += _bad_seconds(timeout, "timeout")
        if params is not None and not attrs.has(params):
            problems.append(f"params must be an attrs class, not {params!r}")
        if problems:
            lines = "".join(f"\n  - {problem}" for problem in problems)
            raise DefinitionError(f"workflow {name!r} is defined wrongly:{lines}")
        super().__init__(
            self._execute,
            name=name,
            version=version,
            timeout=None if timeout is None else check_seconds(timeout),
            retry=retry,
            tags=tuple(tags),
            input_type=WorkflowContext,
        )
        self.module = sys._getframe(1).f_globals.get("__name__")
        self._graph = Graph(self.steps, name)
        self._takes_secrets = bool(secrets.secret_names(params))

    @property
    def step_names(self) -> tuple[str, ...]:
        """All names, in order of declaration, branches included."""
        return tuple(step.name for step in _walk(self.steps))

    def prepare(self, value: Any) -> WorkflowContext:
        """A context as it is, with its params checked; a mapping as a new context's params; None as no params.

        Raises:
            InputError: it is none of these, or the params do not fit ``params``.
        """
        if isinstance(value, WorkflowContext):
            context = value
        elif value is None or isinstance(value, Mapping):
            context = WorkflowContext.new(params=value)
        else:
            raise InputError(
                f"workflow {self.name!r}: expected a WorkflowContext or a mapping of params, got {value!r}"
            )
        if self.params_type is None:
            return context
        params = codec.structure(dict(context.params), self.params_type, what=f"workflow {self.name!r}: params")
        fields: Mapping[str, Any] = {
            field.name: getattr(params, field.name) for field in attrs.fields(self.params_type)
        }
        secret = self.secret_params | getattr(context.params, "secret", frozenset())
        if secret:
            fields = SecretDict(freeze(fields), secret)
        context = attrs.evolve(context, params=fields)
        if self._takes_secrets:
            self._shield(context)
        return context

    @property
    def secret_params(self) -> frozenset[str]:
        return frozenset() if self.params_type is None else secrets.secret_fields(self.params_type)

    def trace_id(self, input: WorkflowContext) -> str | None:
        return input.trace_id

    def to_mermaid(self) -> str:
        """The workflow's shape as a Mermaid flowchart (mermaid.js.org)."""
        from workflow_runner._workflow import mermaid

        return mermaid.flowchart(self)

    def to_dot(self) -> str:
        """The workflow's shape in DOT, the language of Graphviz (graphviz.org)."""
        from workflow_runner._workflow import dot

        return dot.digraph(self)

    def nested(self, ctx: FlowContext, context: WorkflowContext) -> Inner:
        """Run as the body of a step, in the step's execution."""
        return runner.nested(ctx, self._graph, self.name, self.prepare(context))

    def _execute(self, ctx: FlowContext, context: WorkflowContext) -> WorkflowResult:
        return runner.execute(ctx, self._graph, self.name, context)


def _walk(steps: Iterable[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        if isinstance(step, Step):
            for _, branch in step.branches():
                yield from _walk(branch)


def _problems(name: Any, steps: tuple[Step, ...]) -> Iterator[str]:
    try:
        check_name(name, "a workflow")
    except DefinitionError as error:
        yield str(error)
    if not steps:
        yield "a workflow needs at least one step"
    seen: set[str] = set()
    for step in _walk(steps):
        if not isinstance(step, Step):
            yield f"{step!r} is no Step"
            continue
        for problem in step.problems():
            yield f"step {step.name!r}: {problem}"
        if step.name in seen:
            yield f"step {step.name!r}: the name is used twice"
        seen.add(step.name)
    yield from _graph_problems(steps, seen)


def _graph_problems(steps: tuple[Step, ...], everywhere: set[str]) -> Iterator[str]:
    """Unknown needs and cycles among the steps of one level, then of the branches below."""
    steps = tuple(step for step in steps if isinstance(step, Step))
    names = {step.name for step in steps}
    for step in steps:
        for need in step.needs if isinstance(step.needs, tuple) else ():
            if need in everywhere and need not in names:
                yield f"step {step.name!r}: needs {need!r}, which stands in another branch; name the choice instead"
            elif need not in names:
                yield f"step {step.name!r}: needs {need!r}, which does not exist{_near(need, names)}"
    cycle = _cycle(steps)
    if cycle:
        yield f"these steps need each other in a circle: {' -> '.join(cycle)}"
    for step in steps:
        for _, branch in step.branches():
            yield from _graph_problems(branch, everywhere)


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _cycle(steps: tuple[Step, ...]) -> list[str]:
    """The names of one cycle, or nothing."""
    before: dict[str, tuple[str, ...]] = {}
    for index, step in enumerate(steps):
        previous = (steps[index - 1].name,) if index else ()
        before[step.name] = previous if step.needs is None or isinstance(step.needs, str) else step.needs
    done: set[str] = set()
    for start in before:
        # depth first without recursion: a thousand steps in a row are no reason to fail
        path: list[str] = []
        on_path: set[str] = set()
        todo: list[tuple[str, bool]] = [(start, False)]
        while todo:
            name, leaving = todo.pop()
            if leaving:
                path.pop()
                on_path.discard(name)
                done.add(name)
            elif name in on_path:
                return [*path[path.index(name) :], name]
            elif name not in done and name in before:
                path.append(name)
                on_path.add(name)
                todo.append((name, True))
                todo += [(need, False) for need in before[name]]
    return []
