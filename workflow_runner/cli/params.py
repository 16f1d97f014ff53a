"""A flow's parameters as options: typed by its input class, with names, help and defaults taken from there.

cyclopts knows options; how a text becomes a value is decided by the one converter that every input goes through, so
that a command line, a JSON document and a dict in ``scope.exec`` mean the same.
"""

from __future__ import annotations

import collections.abc
import datetime as dt
import difflib
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import EnumType
from functools import partial
from typing import Annotated, Any, NoReturn

import attrs
import cyclopts
from cyclopts import Parameter

from workflow_runner import Flow, Workflow, WorkflowContext
from workflow_runner._core import codec, secrets
from workflow_runner._workflow.supply import variable_of
from workflow_runner.cli.exits import CommandError, Exit
from workflow_runner.errors import DefinitionError, InputError

_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def takes_context(flow: Flow[Any, Any]) -> bool:
    """Whether a flow works on a `WorkflowContext`: a workflow, or a flow that is annotated so."""
    return flow.input_type is WorkflowContext


def read(
    flow: Flow[Any, Any],
    words: Sequence[str],
    *,
    command: str,
    some: bool = False,
    file: Mapping[str, Any] | None = None,
    source: str = "",
) -> Callable[[], Any] | None:
    """Read a flow's parameters from the words after the target.

    - A class with fields, as the annotated input of a flow or as the ``params`` of a workflow, gives an option for each
      of them: ``dry_run`` becomes ``--dry-run``.
    - Any other type gives one option, called as the handler's argument.
    - Without a type every ``--some-name value`` is taken, as ``some_name``. A value that stands as JSON would write a
      number, ``true``, ``false`` or ``null`` becomes that; every other stays a text, so that ``007`` and ``1.10`` lose
      nothing.

    Args:
        flow: whose parameters.
        words: as they stand on the command line.
        command: what comes before them there, for the help page.
        some: none of them has to be given.
        file: parameters by name, as plain data; the words win over them.
        source: where those are from, for errors.

    Returns:
        What gives the data for ``scope.exec``, or for the params of a `WorkflowContext`; None if the help page was
        asked for, which has been printed.

    Raises:
        CommandError: a parameter is unknown, missing or wrong; says which, and what it should be.
    """
    try:
        parameters, finish = _options(flow)
    except (DefinitionError, NameError) as error:
        raise CommandError(Exit.NOT_FOUND, f"the input of flow {flow.name!r} cannot be understood: {error}") from error

    if some:
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [one.replace(default=None) if one.kind is keyword else one for one in parameters]

    if file:
        parameters, finish = _with_file(parameters, finish, file, source)

    secret = {one.name for one in parameters if secrets.is_secret(one.annotation)}

    def collect(**given: Any) -> Callable[[], Any]:
        secrets.hold(flow, *(value for name, value in given.items() if name in secret))
        return partial(finish, given)

    collect.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    collect.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = new_app(command, help=_summary(flow), version_flags=[])
    app.default(collect)
    try:
        made: Callable[[], Any] | None = app(words)
    except cyclopts.CycloptsError as error:
        # cyclopts looks for what is missing before it looks at what is too much: a misspelt name is both.
        unknown = _misspelt(app, words) if isinstance(error, cyclopts.MissingArgumentError) else None
        example = "" if unknown or error.argument is None else _example(error.argument)
        hint = f"{example}see {command} --help"
        raise CommandError(Exit.PARAMETERS, unknown or explain(error, words), hint=hint) from error
    return made


def _misspelt(app: cyclopts.App, words: Sequence[str]) -> str | None:
    if words and not words[0].startswith("-"):
        return _no_option(words[0])
    known = [name for argument in app.assemble_argument_collection() for name in argument.names]
    for word in words:
        name = word.partition("=")[0]
        near = difflib.get_close_matches(name, known, n=1)
        if name.startswith("--") and near and name.partition(".")[0] not in known:
            return f"Unknown option: {name}. Did you mean {near[0]}?"
    return None


def _no_option(word: str) -> str:
    return f"{word!r} is no option: parameters are given as --name value"


def new_app(name: str, **settings: Any) -> cyclopts.App:
    """A cyclopts app that returns and raises, and leaves it to us to print and to exit."""
    app = cyclopts.App(
        name=name,
        help_flags=["--help"],
        result_action="return_value",
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
        **settings,
    )
    app["--help"].group = ""  # every page has it, none needs to say so
    return app


def explain(error: cyclopts.CycloptsError, words: Sequence[str]) -> str:
    """What is wrong with the words, in our own."""
    argument = error.argument
    if isinstance(error.__cause__, ValueError) and not isinstance(error, cyclopts.ValidationError):
        return str(error.__cause__)
    if isinstance(error, cyclopts.MissingArgumentError) and argument is not None:
        if argument.index is not None:
            return f"{argument.name} is missing"
        if argument.field_info.kind is inspect.Parameter.VAR_KEYWORD:
            return f"{words[-1]} needs a value"
        given = any(word.partition("=")[0] in argument.names for word in words)
        meaning = f" ({argument.parameter.help.rstrip('.')})" if argument.parameter.help else ""
        return (
            f"{argument.name} {'needs a value' if given else 'is missing'}: {codec.type_name(argument.hint)}{meaning}"
        )
    if isinstance(error, cyclopts.UnusedCliTokensError) and error.unused_tokens:
        return _no_option(error.unused_tokens[0])
    if isinstance(error, cyclopts.UnknownCommandError):
        return str(error).partition(" Available commands")[0].rstrip(".")
    return str(error).rstrip(".")


# --- from a type to options -------------------------------------------------------------------------------------------


def _options(flow: Flow[Any, Any]) -> tuple[list[inspect.Parameter], Callable[[dict[str, Any]], Any]]:
    """The options, and what makes the flow's input of those that were given."""
    type_ = flow.input_type
    if takes_context(flow):
        type_ = (flow.params_type if isinstance(flow, Workflow) else None) or dict
    if attrs.has(type_):
        attrs.resolve_types(type_)
        meanings = _meanings(type_)
        fields = [field for field in attrs.fields(type_) if field.init]
        secret = secrets.secret_fields(type_)
        return [
            _option(f.alias, f.type, _default(f), meanings.get(f.name), secret=f.name in secret) for f in fields
        ], dict
    if type_ is Any or type_ in _MAPPINGS or typing.get_origin(type_) in _MAPPINGS:
        anything = Parameter(
            help="Any name and value, such as --limit 5.", converter=lambda _, tokens: _untyped(tokens)
        )
        name = inspect.Parameter("name", inspect.Parameter.VAR_KEYWORD, annotation=Annotated[Any, anything])
        return [name], partial(_by_name, nothing=None if type_ is Any else {})
    argument = list(inspect.signature(flow.handler).parameters.values())[1]
    option = "*" if _has_fields(type_) else None  # its fields side by side, as those of an attrs class
    parameter = _option(argument.name, type_, argument.default, None, option=option)
    return [parameter], lambda given: given.get(argument.name)


def _with_file(
    parameters: list[inspect.Parameter],
    finish: Callable[[dict[str, Any]], Any],
    file: Mapping[str, Any],
    source: str,
) -> tuple[list[inspect.Parameter], Callable[[dict[str, Any]], Any]]:
    """The options that need not be given any more, and what adds to those that are what stands in a file."""
    if parameters and parameters[0].kind is inspect.Parameter.VAR_KEYWORD:
        return parameters, lambda given: {**file, **(finish(given) or {})}
    hints = {one.name: _hint(one) for one in parameters}
    try:
        if len(parameters) == 1 and _settings(parameters[0]).name == ("*",):  # its fields side by side
            name, hint = next(iter(hints.items()))
            whole = codec.structure(dict(file), hint, what=source)
            if_also = CommandError(Exit.PARAMETERS, f"{source}: give all parameters there, or all of them as words")
            return [parameters[0].replace(default=None)], partial(_one_or_other, finish, {name: whole}, if_also)
        values = {}
        for key, value in file.items():
            name = key.replace("-", "_")
            if name not in hints:
                near = difflib.get_close_matches(name, hints, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(hints) or 'none'}"
                raise CommandError(Exit.PARAMETERS, f"{source}: unknown parameter {key!r}", hint=hint)
            values[name] = value if hints[name] is Any else codec.structure(value, hints[name], what=f"{source}: {key}")
    except InputError as error:
        raise CommandError(Exit.PARAMETERS, str(error)) from error
    return (
        [one.replace(default=None) if one.name in values else one for one in parameters],
        lambda given: finish({**values, **given}),
    )


def _one_or_other(
    finish: Callable[[dict[str, Any]], Any], whole: dict[str, Any], if_also: CommandError, given: dict[str, Any]
) -> Any:
    if given:
        raise if_also
    return finish(whole)


def _hint(parameter: inspect.Parameter) -> Any:
    hint = typing.get_args(parameter.annotation)[0]
    return Annotated[hint, secrets.Secret] if secrets.is_secret(parameter.annotation) else hint


def _settings(parameter: inspect.Parameter) -> Parameter:
    settings: Parameter = parameter.annotation.__metadata__[0]
    return settings


def _has_fields(type_: Any) -> bool:
    """Whether it is a class with fields, or such a class or None."""
    members = [member for member in typing.get_args(type_) if member is not types.NoneType]
    cls = members[0] if len(members) == 1 and types.NoneType in typing.get_args(type_) else type_
    return typing.is_typeddict(cls) or (isinstance(cls, type) and codec.record_fields(cls) is not None)


def _option(
    name: str, type_: Any, default: Any, meaning: str | None, *, option: str | None = None, secret: bool = False
) -> inspect.Parameter:
    option = option or "--" + cyclopts.default_name_transform(name)
    settings = Parameter(
        name=option,
        help=meaning,
        converter=_convert_secret if secret else convert,
        show_default=not secret and not secrets.secret_names(type_),
        # not everybody may read the environment of a process, but its command line
        env_var=variable_of((name,)) if secret else None,
        negative_iterable=(),
        consume_multiple=True,
    )
    # A field without annotation has None for its type: nothing a value could be checked against.
    hint: Any = Any if type_ is None else type_
    if secrets.is_secret(hint) and typing.get_origin(hint) is Annotated:
        hint = hint.__origin__
    hint = Annotated[hint, settings, secrets.Secret] if secret else Annotated[hint, settings]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _default(field: attrs.Attribute[Any]) -> Any:
    """What the help page shows; what is not given is filled in by the class itself."""
    default: Any = field.default
    if default is attrs.NOTHING:
        return inspect.Parameter.empty
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return None if default.takes_self else default.factory()
    return default


def _meanings(type_: Any) -> dict[str, str]:
    """What the fields mean: ``metadata={"help": ...}``, or the docstring of the class."""
    import docstring_parser

    documented = docstring_parser.parse(type_.__doc__ or "").params
    meanings = {entry.arg_name: " ".join((entry.description or "").split()) for entry in documented}
    return meanings | {field.name: field.metadata["help"] for field in attrs.fields(type_) if "help" in field.metadata}


def _summary(flow: Flow[Any, Any]) -> str:
    document = None if isinstance(flow, Workflow) else inspect.getdoc(flow.handler)
    return document.partition("\n\n")[0] if document else f"The parameters of {flow.name}."


# --- from words to values ---------------------------------------------------------------------------------------------


# How to say what is not obvious.
_KINDS: dict[Any, str] = {
    dt.date: "a date such as 2013-02-28",
    dt.datetime: "a time such as 2013-02-28T18:30:00+01:00",
    dt.time: "a time of day such as 18:30",
    dt.timedelta: "a number of seconds",
    Decimal: "a decimal number",
    int: "a whole number",
    float: "a number",
}


_EXAMPLES: dict[Any, str] = {
    str: "text",
    int: "5",
    float: "1.5",
    Decimal: "1.10",
    dt.date: "2013-02-28",
    dt.datetime: "2013-02-28T18:30:00+01:00",
    dt.time: "18:30",
    dt.timedelta: "90",
}


def _example(argument: cyclopts.Argument) -> str:
    """How a parameter of this type is given, for the beginning of a hint; nothing where that is not known."""
    type_ = argument.hint
    value = _EXAMPLES.get(type_)
    if isinstance(type_, EnumType):
        value = cyclopts.default_name_transform(next(iter(type_.__members__)))
    elif typing.get_origin(type_) is typing.Literal:
        value = str(typing.get_args(type_)[0])
    return "" if value is None else f"such as {argument.name} {value}; "


def convert(type_: Any, tokens: Any) -> Any:
    """Make a value of an option's words, by the rules of ``codec.structure``; a converter for cyclopts.

    Args:
        type_: the annotation, without ``None``.
        tokens: the words; by name for an option with names inside, such as ``--prices.AAPL 441.40``.

    Returns:
        The value.

    Raises:
        InputError: it does not fit; names the option.
    """
    if type_ is Any:
        return _untyped(tokens)
    value: Any
    if isinstance(tokens, Mapping):
        option = next(iter(tokens.values()))[0].keyword
        value = {key: found[-1].value for key, found in tokens.items()}
    else:
        option = tokens[-1].keyword
        value = tokens[-1].value
        if _is_collection(typing.get_origin(type_) or type_):
            value = [token.value for token in tokens]
        elif isinstance(type_, EnumType):  # as the help page writes the names; the value itself is right as well
            value = {cyclopts.default_name_transform(name): name for name in type_.__members__}.get(value, value)
    try:
        return codec.structure(value, type_, what=option)
    except InputError:
        if type_ not in _KINDS:
            raise
        raise InputError(f"{option}: expected {_KINDS[type_]}, got {value!r}") from None


def _convert_secret(type_: Any, tokens: Any) -> Any:
    """As `convert`, with an error that does not repeat the value."""
    try:
        return convert(type_, tokens)
    except InputError:
        option = next(iter(tokens.values()))[0].keyword if isinstance(tokens, Mapping) else tokens[-1].keyword
        raise InputError(
            f"{option}: expected {_KINDS.get(type_, codec.type_name(type_))}, got {secrets.MASK}"
        ) from None


def _is_collection(type_: Any) -> bool:
    return (
        isinstance(type_, type) and issubclass(type_, collections.abc.Iterable) and not issubclass(type_, (str, bytes))
    )


def _untyped(tokens: Any) -> Any:
    if isinstance(tokens, Mapping):
        raise ValueError("a name with dots needs a flow with a typed input")
    text = tokens[-1].value
    try:
        value = json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text
    scalar = value is None or isinstance(value, (bool, int, float))
    return value if scalar and json.dumps(value) == text else text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and Infinity are Python's own, not JSON


def _by_name(given: dict[str, Any], *, nothing: Any) -> Any:
    named: dict[str, Any] = {}
    for name, value in given.items():
        name = name.replace("-", "_")
        if name in named:
            raise CommandError(Exit.PARAMETERS, f"--{name.replace('_', '-')} is given twice")
        named[name] = value
    return named or nothing
