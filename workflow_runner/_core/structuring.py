"""The hooks of the one cattrs converter: texts of scalar values, and input that has to fit an annotation.

``codec`` is the door to this module and imports it late, because everything heavy is imported here. The rules are in
the docstring of ``codec.structure``. cattrs provides the generated code for classes and the errors that know where
they happened; its own hooks for scalars, collections and unions are replaced, because they cut (``int(5.7)``), guess
(``bool("false")``) and spell out texts as lists of characters.
"""

from __future__ import annotations

import base64
import difflib
import functools
import pathlib
import re
import types
import typing
import uuid
import zoneinfo
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
    Set,
)
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from fractions import Fraction
from typing import Any, Final, NoReturn

import attrs
from cattrs import (
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from workflow_runner._core import codec, secrets
from workflow_runner._core.codec import short_repr, type_name
from workflow_runner.errors import DefinitionError, InputError


class Unfit(ValueError):
    """A value that does not fit its annotation."""

    def __init__(self, expected: str, value: object, reasons: str = "") -> None:
        super().__init__(f"expected {expected}, got {short_repr(value)}{reasons}")
        self.expected = expected


class Foreign(Unfit):
    """A value that is no instance of a class about which the converter knows nothing else."""


def structure_input(value: Any, type_: Any, what: str) -> Any:
    """Do the work of ``codec.structure``.

    Any thread.
    """
    try:
        return codec.converter().structure(value, type(None) if type_ is None else type_)
    except (NameError, StructureHandlerNotFoundError) as error:
        raise DefinitionError(f"{what}: cannot make a {type_name(type_)}: {error}") from error
    except Exception as error:
        problems = list(_problems(error))
        if len(problems) > 1:
            problems.insert(0, f"{len(problems)} problems")
        text = f"{what}: " + "\n  ".join(problems)
        if secrets.is_secret(type_):
            raise InputError(f"{what}: {_without_value(error)}") from None
        names = {name.lstrip("_") for name in secrets.secret_names(type_)}
        if names:  # in none of the errors behind this one either
            raise InputError(secrets.hide(text, secrets.under(names, value))) from None
        raise InputError(text) from error


def _problems(error: BaseException, path: str = "") -> Iterator[str]:
    """Flatten what cattrs raised into lines of ``path: problem``."""
    start = f"{path.removeprefix('.')}: " if path else ""
    if isinstance(error, ClassValidationError):
        names = _init_names(error.cl)
        secret = secrets.secret_fields(_origin(error.cl))
        fields, whole = error.group_exceptions()
        for inner, field in fields:
            name = names.get(field.name, field.name)
            missing = type(inner) is KeyError and inner.args == (name,)
            if missing:
                inner = ValueError("required field missing")
            elif field.name in secret:
                inner = ValueError(_without_value(inner))
            yield from _problems(inner, f"{path}.{name}")
        for inner in whole:
            yield from _problems(inner, path)
    elif isinstance(error, IterableValidationError):
        for inner, item in error.group_exceptions()[0]:
            yield from _problems(inner, f"{path}[{item.index!r}]")
    elif isinstance(error, ForbiddenExtraKeysError):
        known = list(_init_names(error.cl).values())
        for key in sorted(map(str, error.extra_fields)):
            near = difflib.get_close_matches(key, known, n=1)
            yield f"{start}unknown field {key!r}" + (f", did you mean {near[0]!r}?" if near else "")
    else:
        # Of an attrs validator's error the first argument is the text, the others are objects for programs.
        text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
        yield f"{start}{text or type(error).__name__}"


def _without_value(error: BaseException) -> str:
    """What is wrong with a secret."""
    return f"expected {error.expected}, got {secrets.MASK}" if isinstance(error, Unfit) else "this secret does not fit"


def _init_names(cls: Any) -> dict[str, str]:
    if typing.is_typeddict(cls):
        return {name: name for name in cls.__annotations__}
    fields = codec.record_fields(_origin(cls)) or {}
    return {name: alias for name, alias in fields.items() if alias is not None}


def _origin(type_: Any) -> Any:
    return typing.get_origin(type_) or type_


# --- scalars ----------------------------------------------------------------------------------------------------------

_WORDS: Final = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def _refuse(value: Any) -> NoReturn:
    raise TypeError


def _read_str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError


def _read_bool(value: Any) -> bool:
    return _WORDS[value.strip().lower()]


def _read_int(value: Any) -> int:
    if isinstance(value, str) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    raise TypeError


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise TypeError
    return value


def _read_float(value: Any) -> float:
    if isinstance(value, (str, int)):
        return float(_number(value))
    raise TypeError


def _read_decimal(value: Any) -> Decimal:
    # The 1.1 of a JSON document means the decimal 1.1, not the binary fraction nearest to it.
    return Decimal(repr(value) if isinstance(value, float) else _number(value))


def _write_seconds(value: timedelta) -> str:
    microseconds = value // timedelta(microseconds=1)
    seconds, rest = divmod(abs(microseconds), 10**6)
    return f"{'-' if microseconds < 0 else ''}{seconds}.{rest:06}".rstrip("0").rstrip(".")


def _read_seconds(value: Any) -> timedelta:
    return timedelta(microseconds=round(Fraction(_number(value)) * 10**6))


def _write_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _read_bytes(value: Any) -> bytes:
    return base64.b64decode(value, validate=True)


_STAMP: Final = re.compile(r"([^\[]*)(?:\[([^\[\]=]+)\])?(\[fold=1\])?")


def _write_stamp(value: datetime | time) -> str:
    """ISO 8601, with the name of the zone and the fold as suffixes: ``2024-10-27T02:30:00+01:00[Europe/Berlin]``."""
    zone, text = value.tzinfo, value.isoformat()
    if type(zone) is zoneinfo.ZoneInfo and zone.key is not None:
        text += f"[{zone.key}]"
    elif type(zone) is timezone:
        if timedelta(0) < abs(zone.utcoffset(None)) < timedelta(seconds=1):  # fromisoformat takes it for UTC
            raise codec.Refused("cannot store a time zone less than a second off UTC")
    elif zone is not None:
        raise codec.Refused(f"cannot store a time zone of type {type_name(type(zone))}, take a ZoneInfo with a key")
    return f"{text}[fold=1]" if value.fold else text


def _read_stamp(cls: Any, value: Any) -> Any:
    text, zone, fold = _STAMP.fullmatch(value).groups()  # type: ignore[union-attr]  # no match: as wrong as any
    stamp = cls.fromisoformat(text)
    if zone:
        # The wall clock and the zone are what was stored; the offset in the text is there for the reader.
        stamp = stamp.replace(tzinfo=zoneinfo.ZoneInfo(zone))
    return stamp.replace(fold=1) if fold else stamp


SCALARS: Final[dict[type, tuple[Callable[[Any], str], Callable[[Any], Any]]]] = {
    bytes: (_write_bytes, _read_bytes),
    Decimal: (str, _read_decimal),
    uuid.UUID: (str, uuid.UUID),
    date: (date.isoformat, date.fromisoformat),
    datetime: (_write_stamp, functools.partial(_read_stamp, datetime)),
    time: (_write_stamp, functools.partial(_read_stamp, time)),
    timedelta: (_write_seconds, _read_seconds),
    **{cls: (str, cls) for cls in (pathlib.PurePosixPath, pathlib.PureWindowsPath, type(pathlib.Path()))},
}
"""The classes that a text stands for: how to write it, and how to read it or what is usual in its place."""

# What JSON itself has is written as it is; these are for reading what came as something else.
_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    str: _read_str,
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
    type(None): _refuse,
    pathlib.PurePath: pathlib.PurePath,
    pathlib.Path: pathlib.Path,
}

# An instance of the right class is one of the left class too, and yet means something else.
_CONFUSABLE: Final[dict[type, type]] = {int: bool, date: datetime}


def _scalar_hook(base: type, read: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Make the hook for a scalar class, for its subclasses, and for the enums whose members are such values."""

    def hook(value: Any, cls: Any) -> Any:
        if isinstance(value, cls) and not (cls in _CONFUSABLE and isinstance(value, _CONFUSABLE[cls])):
            return value
        if issubclass(cls, Enum):
            return _structure_enum(value, cls)
        try:
            result = read(value)
            return result if isinstance(result, cls) else cls(result)
        except Exception:
            raise Unfit(type_name(cls), value) from None

    return hook


def _structure_enum(value: Any, cls: Any) -> Any:
    try:
        return cls(value)
    except Exception:
        for name, member in cls.__members__.items():
            if isinstance(value, str) and value in (name, str(member.value)):
                return member
    raise Unfit(f"one of {', '.join(cls.__members__)}", value)


def _structure_literal(value: Any, type_: Any) -> Any:
    choices = typing.get_args(type_)
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    for choice in choices:
        spellings = (choice.name, choice.value) if isinstance(choice, Enum) else (str(choice),)
        if isinstance(value, str) and value in spellings:
            return choice
    raise Unfit(f"one of {', '.join(map(repr, choices))}", value)


# --- unions and collections -------------------------------------------------------------------------------------------


def _structure_union(value: Any, type_: Any) -> Any:
    members = [member for member in typing.get_args(type_) if member is not type(None)]
    if value is None and type(None) in typing.get_args(type_):
        return None
    structure = codec.converter().structure
    if len(members) == 1:
        return structure(value, members[0])
    reasons = ""
    for member in sorted(members, key=lambda member: type(value) is not _origin(member)):
        try:
            return structure(value, member)
        except Unfit:
            continue
        except Exception as error:
            reasons += f"; as {type_name(member)}: {', '.join(_problems(error))}"
    raise Unfit(" or ".join(map(type_name, members)), value, reasons)


_BUILDERS: Final[dict[Any, Callable[[list[Any]], Any]]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    Iterable: tuple,
    Collection: tuple,
    Sequence: tuple,
    MutableSequence: list,
    Set: frozenset,
    MutableSet: set,
}


def _structure_items(value: Any, type_: Any) -> Any:
    # Nobody means its characters by a text, or its keys by a mapping.
    if isinstance(value, (str, bytes, bytearray, Mapping)) or not isinstance(value, Iterable):
        raise Unfit(type_name(type_), value)
    origin, args = _origin(type_), typing.get_args(type_)
    if not args and isinstance(value, origin):
        return value
    items = list(value)
    if origin is not tuple or not args or args[-1] is ...:
        args = (args[0] if args else Any,) * len(items)
    elif len(args) != len(items):
        raise Unfit(f"{len(args)} items", value)
    return _BUILDERS[origin](_structure_each(zip(range(len(items)), items, args, strict=True), type_))


def _structure_mapping(value: Any, type_: Any) -> Any:
    if not isinstance(value, Mapping):
        raise Unfit(type_name(type_), value)
    key_type, item_type = typing.get_args(type_) or (Any, Any)
    if key_type is Any and item_type is Any and isinstance(value, _origin(type_)):
        return value
    parts = ((key, part, cls) for key, item in value.items() for part, cls in ((key, key_type), (item, item_type)))
    done = _structure_each(parts, type_)
    return dict(zip(done[::2], done[1::2], strict=True))


def _structure_each(items: Iterable[tuple[Any, Any, Any]], type_: Any) -> list[Any]:
    """Structure every ``(index, value, type)``, and raise the errors of all of them together."""
    done, errors = [], []
    structure = codec.converter().structure
    for index, item, cls in items:
        try:
            done.append(structure(item, cls))
        except Exception as error:
            error.add_note(IterableValidationNote(f"at {index!r}", index, cls))
            errors.append(error)
    if errors:
        raise IterableValidationError(f"while making a {type_name(type_)}", errors, type_)
    return done


def _structure_namedtuple(value: Any, cls: Any) -> Any:
    if isinstance(value, cls):
        return value
    item_types = tuple(typing.get_type_hints(cls, include_extras=True).values())
    return cls(*_structure_items(value, tuple.__class_getitem__(item_types)))


# --- classes ----------------------------------------------------------------------------------------------------------


def _is_record(type_: Any) -> bool:
    cls = _origin(type_)
    return hasattr(cls, "__attrs_attrs__") or hasattr(cls, "__dataclass_fields__")


def _is_namedtuple(type_: Any) -> bool:
    return issubclass(type_, tuple) and hasattr(type_, "_fields") and bool(typing.get_type_hints(type_))


def _is_typed(type_: Any) -> bool:
    return codec.TYPED in getattr(type_, "__metadata__", ())


def _attrs_fields(cls: Any) -> Sequence[Any]:
    """Give the fields of an attrs class with real types. A dataclass has neither converters nor ``Typed`` fields."""
    return attrs.fields(attrs.resolve_types(cls)) if attrs.has(cls) else ()


def _structure_for_own_converter(value: Any, type_: Any) -> Any:
    """Structure a field that has an attrs converter: a class unknown to the rest is the business of that one."""
    try:
        return codec.converter().structure(value, type_)
    except Foreign:
        return value


def _record_hook(type_: Any) -> Callable[[Any, Any], Any]:
    cls = _origin(type_)
    overrides: dict[str, Any] = {
        field.name: override(struct_hook=_structure_for_own_converter)
        for field in _attrs_fields(cls)
        if field.converter is not None and field.type is not None
    }
    make = make_dict_structure_fn(
        type_, codec.converter(), _cattrs_forbid_extra_keys=True, _cattrs_use_alias=True, **overrides
    )

    def hook(value: Any, _: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            shown = secrets.REDACTED if secrets.secret_names(cls) else value  # it may be nothing but the secret
            raise Unfit(f"the fields of {type_name(cls)}", shown)
        return make(value, type_)

    return hook


def _record_unstructure_hook(type_: Any) -> Callable[[Any], Any]:
    cls = _origin(type_)
    overrides: dict[str, Any] = {
        field.name: override(unstruct_hook=functools.partial(codec.encode, where=f"{cls.__name__}.{field.alias}"))
        for field in _attrs_fields(cls)
        if _is_typed(field.type)
    }
    return make_dict_unstructure_fn(type_, codec.converter(), _cattrs_use_alias=True, **overrides)


def _is_instance(value: Any, type_: Any) -> bool:
    try:
        return isinstance(value, _origin(type_))
    except TypeError:  # Any, a protocol, a type variable: nothing can be checked
        return True


def _instance_hook(type_: Any) -> Callable[[Any, Any], Any]:
    """Make the hook for everything else: a class that cannot be made from plain data, but instances of it may come."""

    def hook(value: Any, _: Any) -> Any:
        if not _is_instance(value, type_):
            raise Foreign(type_name(type_), value)
        return value

    return hook


def _structure_typed(value: Any, type_: Any) -> Any:
    """Decode typed JSON; what is in it brought its own types along, so only the whole is checked."""
    decoded = codec.decode(value)
    if not _is_instance(decoded, type_.__origin__):
        raise Unfit(type_name(type_.__origin__), decoded)
    return decoded


def build_converter() -> Converter:
    """Build the converter, for ``codec.converter`` alone.

    Any thread.
    """
    new = Converter(forbid_extra_keys=True, structure_fallback_factory=_instance_hook)
    for cls, (write, read) in SCALARS.items():
        new.register_unstructure_hook(cls, write)
        new.register_structure_hook(cls, _scalar_hook(cls, read))
    for cls, read in _PLAIN.items():
        new.register_structure_hook(cls, _scalar_hook(cls, read))
    new.register_structure_hook(Enum, _structure_enum)
    new.register_unstructure_hook(StrEnum, lambda member: member.value)

    # The last one registered is asked first.
    hooks: list[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]]] = [
        (lambda t: typing.get_origin(t) is typing.Literal, _structure_literal),
        (lambda t: typing.get_origin(t) in (typing.Union, types.UnionType), _structure_union),
        (lambda t: _origin(t) in _BUILDERS, _structure_items),
        (lambda t: _origin(t) in (dict, Mapping, MutableMapping), _structure_mapping),
        (_is_namedtuple, _structure_namedtuple),
    ]
    for applies, hook in hooks:
        new.register_structure_hook_func(applies, hook)
    new.register_structure_hook_factory(_is_record, _record_hook)
    new.register_unstructure_hook_factory(_is_record, _record_unstructure_hook)
    new.register_structure_hook_func(_is_typed, _structure_typed)
    new.register_unstructure_hook_func(_is_typed, codec.encode)
    return new
