"""Flows and calls: what can be executed."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from workflow_runner._core import secrets
from workflow_runner._core.clock import seconds
from workflow_runner._core.retry import Retry
from workflow_runner.errors import DefinitionError

if TYPE_CHECKING:
    import datetime as dt

    from workflow_runner._core.flow_context import FlowContext
    from workflow_runner._core.tags import Tagged

In = TypeVar("In")
Out = TypeVar("Out")

# Annotations that say nothing a value could be checked against.
_ANYTHING = (typing.Any, object, inspect.Parameter.empty)


class Flow(Generic[In, Out]):
    """A unit of work: a function ``(ctx, input) -> output`` with a name. Make one with `flow`.

    Attributes:
        name: what it is called in logs, paths and pictures.
        version: recorded with the run.
        timeout: seconds, or None; for a root execution of running time, for a child of each attempt.
        retry: how a failed attempt is repeated, or None.
        tags: set on each of its executions.
        handler: the function.
    """

    # Whether what it does is recorded piece by piece, so that its own result need not be.
    records_itself = False
    # Whether an input of its type may have a secret inside.
    _takes_secrets = False

    def __init__(
        self,
        handler: Callable[[Any, Any], Out],
        *,
        name: str,
        version: str | None = None,
        timeout: float | None = None,
        retry: Retry | None = None,
        tags: tuple[Tagged[Any], ...] = (),
        input_type: Any = inspect.Parameter.empty,
    ) -> None:
        self.handler = handler
        # where it can be found again by those who only know its import path
        self.module: str | None = getattr(handler, "__module__", None)
        self.name = name
        self.version = version
        self.timeout = timeout
        self.retry = retry
        self.tags = tags
        self._hint = input_type
        # What `isinstance` may wave through; None until the annotation is first needed, since it may name a class that
        # is defined below the flow.
        self._accepts = None if input_type is inspect.Parameter.empty else _what_passes(input_type)
        self._default: Any = inspect.Parameter.empty

    def __call__(self, ctx: FlowContext, input: In) -> Out:
        """Call the handler as the plain function it is; for tests and for composing by hand."""
        return self.handler(ctx, input)

    def bind(self, input: In) -> Call:
        """This flow with its input, for ``ctx.parallel`` and ``ctx.exec``."""
        return Call(self, input)

    def each(self, inputs: Iterable[In]) -> Each:
        """One call for each input, in order."""
        return Each(self, inputs)

    @property
    def input_type(self) -> Any:
        """The annotated type of the input; ``Any`` without an annotation."""
        if self._accepts is None:
            self._read_annotations()
        return self._hint

    @property
    def accepts(self) -> Any:
        """What ``isinstance`` may wave through: ``object`` for everything, ``()`` when each value is looked into."""
        accepts = self._accepts
        return self._read_annotations() if accepts is None else accepts

    def prepare(self, value: Any) -> Any:
        """``value`` as the handler's annotation wants it: an instance passes as it is, plain data is structured.

        Raises:
            InputError: it does not fit; the message names the offending field.
        """
        accepts = self.accepts
        if accepts is object or isinstance(value, accepts):
            return value
        if value is None and self._default is not inspect.Parameter.empty:
            return self._default
        if self._hint is typing.Any:
            return value
        from workflow_runner._core import codec

        value = codec.structure(value, self._hint, what=f"flow {self.name!r}")
        if self._takes_secrets:
            self._shield(value)
        return value

    def _shield(self, value: Any) -> None:
        """Let the secrets in the input of a child be masked; those of a run its own execution takes care of."""
        from workflow_runner._core.context import CURRENT  # which imports this module

        above = CURRENT.get()
        if above is not None:
            secrets.hold(above.root, *(secret for _, secret in secrets.secrets_in(value)))

    @property
    def secret_params(self) -> frozenset[str]:
        """The names of those fields of the input, or params of a workflow, that are secrets."""
        return secrets.secret_fields(self.input_type) if isinstance(self.input_type, type) else frozenset()

    def trace_id(self, input: Any) -> str | None:
        """The trace id that the input brings along, if any."""
        return None

    def _read_annotations(self) -> Any:
        parameter = _input_parameter(self.handler)
        hint = inspect.Parameter.empty
        if parameter is not None:
            self._default = parameter.default
            hint = self._evaluate(parameter)
            if secrets.is_secret(hint):
                raise DefinitionError(f"flow {self.name!r}: Secret marks a field of a class, and not the whole input")
            if typing.get_origin(hint) is typing.Annotated:
                hint = hint.__origin__
        self._hint = typing.Any if hint in _ANYTHING else hint
        # a default stands in for None where the annotation does not say that None is meant
        optional = self._default is not inspect.Parameter.empty and self._default is not None
        self._takes_secrets = bool(secrets.secret_names(self._hint))
        looked_into = self._takes_secrets or (optional and self._hint is typing.Any)
        self._accepts = () if looked_into else _what_passes(self._hint)
        return self._accepts

    def _evaluate(self, parameter: inspect.Parameter) -> Any:
        """The parameter's annotation, which is a text under ``from __future__ import annotations``."""
        annotation = parameter.annotation
        if not isinstance(annotation, str):
            return annotation
        handler = inspect.unwrap(self.handler)
        while isinstance(handler, functools.partial):
            handler = inspect.unwrap(handler.func)
        if not hasattr(handler, "__globals__") and not isinstance(handler, type):
            handler = type(handler).__call__  # an object that can be called
        only = types.SimpleNamespace(__annotations__={"input": annotation})
        try:
            return typing.get_type_hints(only, getattr(handler, "__globals__", {}), include_extras=True)["input"]
        except Exception as error:  # whatever evaluating somebody's annotation raises
            if "<locals>" in getattr(handler, "__qualname__", ""):
                return typing.Any  # it names something of the function around, which nobody can look up
            raise DefinitionError(
                f"flow {self.name!r}: cannot resolve the annotation {annotation!r} of {parameter.name!r}: {error}"
            ) from error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


def _input_parameter(handler: Callable[..., Any]) -> inspect.Parameter | None:
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        return None
    return parameters[1] if len(parameters) > 1 else None


def _what_passes(hint: Any) -> Any:
    """What `isinstance` can decide: ``object`` when everything passes, ``()`` when each value has to be looked into."""
    if hint is typing.Any or isinstance(hint, TypeVar):
        return object
    origin = typing.get_origin(hint)
    if (
        origin is not None
        and getattr(origin, "__module__", "") == "collections.abc"
        and not issubclass(origin, Mapping)
    ):
        # Callable[...], Iterator[...], Iterable[...]: looking inside would use them up
        return object if not hasattr(origin, "__getitem__") else ()
    try:
        isinstance(None, hint)
    except TypeError:
        return ()
    return hint


class Call:
    """A flow with its input: a unit of work that nobody has started. Made by ``Flow.bind`` and `call`."""

    __slots__ = ("flow", "input")

    def __init__(self, flow: Flow[Any, Any], input: Any) -> None:
        self.flow = flow
        self.input = input

    def __repr__(self) -> str:
        return f"<Call {self.flow.name!r} {self.input!r}>"


class Each:
    """The calls of one flow over many inputs, made one by one when they are asked for."""

    __slots__ = ("flow", "inputs")

    def __init__(self, flow: Flow[Any, Any], inputs: Iterable[Any]) -> None:
        self.flow = flow
        self.inputs = inputs

    def __iter__(self) -> Iterator[Call]:
        flow = self.flow
        return (Call(flow, value) for value in self.inputs)


class Arguments:
    """A plain function and what it is called with."""

    __slots__ = ("args", "function", "kwargs")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Arguments):
            return NotImplemented
        return (self.function, self.args, self.kwargs) == (other.function, other.args, other.kwargs)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return ", ".join([*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())])


def _apply(_ctx: Any, arguments: Arguments) -> Any:
    return arguments.function(*arguments.args, **arguments.kwargs)


class FunctionFlow(Flow[Arguments, Any]):
    """Any function as a flow: it gets its own arguments and no ctx."""

    def __init__(self, name: str) -> None:
        super().__init__(_apply, name=name, input_type=typing.Any)


def call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call:
    """Any function with its arguments as a unit of work; it gets no ctx.

    Args:
        function: what to call.
        *args: its positional arguments.
        **kwargs: its keyword arguments.

    Returns:
        A call for ``scope.exec``, ``ctx.exec`` and ``ctx.parallel``.
    """
    if not callable(function):
        raise DefinitionError(f"call() needs a function, got {function!r}")
    name = getattr(function, "__name__", None) or type(function).__name__
    return Call(FunctionFlow(name), Arguments(function, args, kwargs))


def check_name(name: object, what: str) -> str:
    """``name`` itself, if it can stand in a journal path.

    Raises:
        DefinitionError: it is no text, is empty, or contains ``/``, which separates the parts of a path.
    """
    if not isinstance(name, str) or not name.strip() or "/" in name:
        raise DefinitionError(f"{what} needs a name that is not empty and has no '/', got {name!r}")
    return name


@overload
def flow(function: Callable[[Any, In], Out], /) -> Flow[In, Out]: ...


@overload
def flow(
    *,
    name: str | None = None,
    version: str | None = None,
    timeout: float | dt.timedelta | None = None,
    retry: Retry | None = None,
    tags: Iterable[Tagged[Any]] = (),
) -> Callable[[Callable[[Any, In], Out]], Flow[In, Out]]: ...


def flow(
    function: Callable[[Any, Any], Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: str | None = None,
    timeout: float | dt.timedelta | None = None,
    retry: Retry | None = None,
    tags: Iterable[Tagged[Any]] = (),
) -> Any:
    """Make a flow of a function ``(ctx, input) -> output``. Usable bare or with options.

    Args:
        function: the handler; its second parameter's annotation is the type of the input.
        name: default: the function's name.
        version: recorded with each run.
        timeout: seconds, or a timedelta; see `Flow`.
        retry: how a failed attempt is repeated.
        tags: tagged values set on each execution.

    Returns:
        A `Flow`, which can still be called as the plain function.

    Raises:
        DefinitionError: the function cannot be a handler, or an option makes no sense.
    """

    def make(handler: Callable[[Any, Any], Any]) -> Flow[Any, Any]:
        label = name if name is not None else getattr(handler, "__name__", None)
        check_name(label, "a flow")
        assert label is not None
        if timeout is not None:
            try:
                limit: float | None = seconds(timeout)
            except ValueError as error:
                raise DefinitionError(f"flow {label!r}: {error}") from None
        else:
            limit = None
        if retry is not None and not isinstance(retry, Retry):
            raise DefinitionError(f"flow {label!r}: retry must be a Retry, got {retry!r}")
        _check_handler(handler, label)
        return Flow(handler, name=label, version=version, timeout=limit, retry=retry, tags=tuple(tags))

    return make if function is None else make(function)


def _check_handler(handler: Any, label: str) -> None:
    if not callable(handler):
        raise DefinitionError(f"flow {label!r}: a handler is a function (ctx, input), got {handler!r}")
    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        raise DefinitionError(f"flow {label!r}: a handler runs synchronously, on a thread; it cannot be async")
    if inspect.isgeneratorfunction(handler):
        raise DefinitionError(f"flow {label!r}: a generator function returns before it has run; return a list instead")
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise DefinitionError(f"flow {label!r}: a handler takes (ctx, input), this one is {signature}") from error
