"""Values to text and back: the typed JSON, and the door to the one cattrs converter.

Two ways lead through here.

*Stored values* (``dumps`` and ``loads``) come back with the types they went in with. What JSON has of its own is stored
as itself, so that a person can read the store; everything else is an object with the key ``"$"``::

    {"at": {"$": "datetime", "v": "2013-03-01T00:00:00+00:00"}, "rows": 3}
    {"$": "shop.orders:Order", "v": {"qty": 5, "price": {"$": "Decimal", "v": "1.10"}}}

A tag with a colon is the import path of an attrs class, dataclass, enum or named tuple. The other tags are ``tuple``,
``set``, ``frozenset``, ``dict`` (one with keys that are no plain text), ``int`` (a huge one), ``float`` (NaN and the
infinities) and the names of the scalar classes; ``secret`` stands without a value where a secret was (see ``secrets``),
so that nothing of one is stored, and one that was rotated changes no digest. What would not come back as it went in is
refused when it is written, not when it is needed.

*Input from outside* (``structure``) is plain data that has to become an annotated type: a command line's words, a JSON
document, a dict.

Importing this module is cheap. cattrs and the hooks (module ``structuring``) are imported by the first call that needs
them.
"""

from __future__ import annotations

import functools
import importlib
import math
import reprlib
import sys
import threading
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, Flag
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

from workflow_runner._core.secrets import REDACTED, Redacted, secret_fields, shielded
from workflow_runner.errors import SerializationError

if TYPE_CHECKING:
    from cattrs import Converter

T = TypeVar("T")

TYPED: Final = "stored with its type"
Typed = Annotated[T, TYPED]
"""``Typed[X]`` as the annotation of a field: its value is written as typed JSON, because ``X`` does not say it all."""

_TAG: Final = "$"
_SECRET: Final = {_TAG: "secret"}
# As `write_json` writes it, and as the standard library does by default.
_SECRET_TEXT: Final = '"$":"secret"'
_TEXT: Final = frozenset({str})
# Written nested deeper, a value might not be readable again: JSON's own parser and this one recurse, and the reader
# may start from a deeper stack than the writer. The limit also catches a value that contains itself.
_MAX_DEPTH: Final = 100
# Python refuses to parse decimal numbers beyond some thousand digits; hexadecimal has no such limit.
_MAX_PLAIN_BITS: Final = 1024

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def short_repr(value: object) -> str:
    """Write a value for a message: shortened, and without failing whatever the value does.

    Any thread.
    """
    try:
        return _repr.repr(value)
    except Exception:
        return f"<{type_name(type(value))}>"


# --- classes and their import paths -----------------------------------------------------------------------------------


def import_path(cls: type) -> str:
    """Say where a class can be imported from.

    Args:
        cls: a class at the top level of a module, or nested in such a class.

    Returns:
        ``"module:Qual.Name"``; ``find_class`` of it gives this very class.

    Raises:
        SerializationError: the class cannot be found again, because it is made inside a function, or because its
            module has something else under its name.

    Any thread.
    """
    path = f"{cls.__module__}:{cls.__qualname__}"
    if "<locals>" in cls.__qualname__:
        raise SerializationError(f"the class {path} is made inside a function, so nobody can import it again")
    if _look_up(path) is not cls:
        raise SerializationError(f"an import of {path} does not find this class")
    return path


def find_class(path: str) -> type:
    """Import a class.

    Args:
        path: ``"module:Qual.Name"``, as ``import_path`` gives it.

    Returns:
        The class.

    Raises:
        SerializationError: there is no such module, or no such class in it.

    Any thread.
    """
    found = _look_up(path)
    if not isinstance(found, type):
        raise SerializationError(f"there is no class {path}")
    return found


def _look_up(path: str) -> Any:
    """Give what an import path leads to, or None."""
    module, colon, qualname = path.partition(":")
    if not colon:
        raise SerializationError(f"{path!r} is no import path of a class, which is 'module:Name'")
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
    except Exception as error:  # whatever the module's own code raises
        raise SerializationError(f"there is no class {path}: {error}") from error
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


def type_name(type_: Any) -> str:
    """Write a type as a person does, for a message.

    Any thread.
    """
    if not isinstance(type_, type) or typing.get_args(type_):
        return str(type_).replace("typing.", "")
    return type_.__qualname__ if type_.__module__ == "builtins" else f"{type_.__module__}.{type_.__qualname__}"


# --- typed JSON: writing ----------------------------------------------------------------------------------------------

_mappings: set[type] = {dict}


def register_mapping(cls: type) -> None:
    """Let instances of a mapping class be written like plain dicts; they come back as dicts.

    Args:
        cls: a class with ``items()``; its subclasses are not meant.

    Any thread.
    """
    _mappings.add(cls)


class Refused(SerializationError):
    """A value that cannot be stored. The containers around it add, from the inside out, the path that leads to it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []

    def located(self, where: str) -> SerializationError:
        """Make the error for the caller, who knows where the outermost value belongs.

        Any thread.
        """
        path = self.path[::-1]
        if len(path) > 10:
            path[5:-2] = [" ... "]
        return SerializationError(f"{where}{''.join(path)}: {self.reason}")


def encode(value: Any, *, where: str = "value") -> Any:
    """Turn a value into JSON-ready data that remembers its types.

    Accepted are None, bool, int, float, str, bytes, list, tuple, set, frozenset, dict (with any keys), datetime, date,
    time, timedelta, Decimal, UUID, paths, enum members, instances of attrs classes and dataclasses (their fields) and
    named tuples, nested as you like. A subclass of a plain type is refused, since it would lose its type; so is a
    bytearray, which is a buffer and no value.

    Args:
        value: what to store.
        where: what the value is, to begin an error message with.

    Returns:
        None, bool, int, finite float, str, and lists and str-keyed dicts of these. Equal sets give equal lists.

    Raises:
        SerializationError: the value, or one inside it, would not come back as it is; the message gives its path.

    Any thread.
    """
    try:
        return _encode(value, 0)
    except Refused as refused:
        raise refused.located(where) from None
    except RecursionError:
        raise SerializationError(f"{where}: nested too deeply for what is left of the stack") from None


def _encode(value: Any, depth: int) -> Any:
    cls = type(value)
    if cls is str:
        return value if value.isascii() else _checked(value)
    if value is None or cls is bool:
        return value
    if cls is int:
        return value if value.bit_length() <= _MAX_PLAIN_BITS else _tagged("int", hex(value))
    if cls is float:
        return value if math.isfinite(value) else _tagged("float", repr(value))
    if depth == _MAX_DEPTH:
        raise Refused(f"cannot store what is nested deeper than {_MAX_DEPTH} levels, or contains itself")
    depth += 1
    if cls in _mappings:
        return _encode_mapping(value, depth)
    if cls is list:
        return _encode_items(enumerate(value), depth, "[{}]".format)
    if cls is tuple:
        return _tagged("tuple", _encode_items(enumerate(value), depth, "[{}]".format))
    if cls is set or cls is frozenset:
        items = _encode_items(((item, item) for item in value), depth, _element_step)
        return _tagged(cls.__name__, sorted(items, key=_sorted_text))
    if _scalars().get(cls.__name__) is cls:
        return _tagged(cls.__name__, _checked(converter().unstructure(value)))
    return _encode_instance(value, cls, depth)


def _tagged(tag: str, content: Any) -> dict[str, Any]:
    return {_TAG: tag, "v": content}


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused("cannot store text with lone surrogates, it is no valid Unicode") from None
    return text


def _element_step(item: Any) -> str:
    return f" element {short_repr(item)}"


def _key_step(key: Any) -> str:
    return f" key {short_repr(key)}"


def _item_step(key: Any) -> str:
    return f"[{short_repr(key)}]"


def _encode_items(items: Iterable[tuple[Any, Any]], depth: int, step: Callable[[Any], str]) -> list[Any]:
    """Encode labelled values; ``step`` makes a label a part of the path to what is refused."""
    encoded = []
    label: Any = None
    try:
        for label, item in items:  # noqa: B007 - the label is for the error
            encoded.append(_encode(item, depth))
    except Refused as refused:
        refused.path.append(step(label))
        raise
    return encoded


def _encode_mapping(mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    data = dict(mapping)
    if type(mapping) is not dict:
        secret = getattr(mapping, "secret", ())
        if secret:
            data = {key: shielded(item) if key in secret else item for key, item in data.items()}
    texts = _TEXT.issuperset(map(type, data))
    # keys that are ASCII are stored as they are
    keys = None if texts and "".join(data).isascii() else _encode_items(zip(data, data, strict=True), depth, _key_step)
    label: Any = None
    try:
        for label, item in data.items():
            # what is most often there costs no call
            data[label] = item if type(item) is str and item.isascii() else _encode(item, depth)
    except Refused as refused:
        refused.path.append(_item_step(label))
        raise
    if texts and _TAG not in data:
        return data
    return _tagged("dict", [list(pair) for pair in zip(keys or data, data.values(), strict=True)])


def _encode_instance(value: Any, cls: type, depth: int) -> dict[str, Any]:
    fields = record_fields(cls)
    content: Any
    if isinstance(value, Enum):
        # By its name, which a reader knows it by; flags by their value, since combined ones have no name.
        content = value.value if isinstance(value, Flag) else value.name
        if _member(type(value), content) is not value:
            raise Refused(f"cannot store {value!r}: {type_name(cls)} does not find it again")
    elif fields is not None:
        # A field that never got a value (``init=False``) stays without one.
        names = [name for name in fields if hasattr(value, name)]
        secret = secret_fields(cls)
        parts = [(name, getattr(value, name)) for name in names]
        if secret:
            parts = [(name, shielded(part) if name in secret else part) for name, part in parts]
        encoded = _encode_items(parts, depth, ".{}".format)
        content = dict(zip(names, encoded, strict=True))
    elif cls is Redacted:
        return dict(_SECRET)
    else:
        base = _plain_base(cls)
        loss = "" if base is None else f": it would come back as {type_name(base)}"
        raise Refused(f"cannot store a value of type {type_name(cls)}{loss}")
    try:
        return _tagged(import_path(cls), content)
    except SerializationError as error:
        raise Refused(f"cannot store a value of type {type_name(cls)}: {error}") from None


def _member(cls: type[Enum], content: Any) -> Any:
    return cls(content) if issubclass(cls, Flag) else cls.__members__.get(content)


@functools.cache
def record_fields(cls: Any) -> dict[str, str | None] | None:
    """List the fields of an attrs class, dataclass or named tuple.

    Args:
        cls: any class.

    Returns:
        For each field the name that ``__init__`` has for it, None where it has none; None for a class of another kind.

    Any thread.
    """
    if hasattr(cls, "_fields") and hasattr(cls, "_make") and issubclass(cls, tuple):
        return {name: name for name in cls._fields}
    if _plain_base(cls) is not None:
        return None
    if hasattr(cls, "__attrs_attrs__"):
        return {field.name: field.alias if field.init else None for field in cls.__attrs_attrs__}
    if hasattr(cls, "__dataclass_fields__"):
        import dataclasses

        return {field.name: field.name if field.init else None for field in dataclasses.fields(cls)}
    return None


def _plain_base(cls: type) -> type | None:
    """Give the type that a subclass of a plain type would come back as."""
    plain = {str, int, float, list, tuple, set, frozenset, dict, *_scalars().values()}
    return next((base for base in cls.__mro__ if base in plain), None)


# --- typed JSON: reading ----------------------------------------------------------------------------------------------

_COLLECTIONS: Final[dict[str, Callable[[Iterable[Any]], Any]]] = {cls.__name__: cls for cls in (tuple, set, frozenset)}


def decode(data: Any) -> Any:
    """Give back the value that ``encode`` made this data from.

    Of the classes named in the data only attrs classes, dataclasses, enums and named tuples are ever instantiated.
    An instance is made by its class; where ``__init__`` does not take the fields' own values, or changes them, the
    fields are set to what was stored.

    Args:
        data: what ``encode`` returned.

    Returns:
        A value equal to the encoded one, of the same types throughout.

    Raises:
        SerializationError: the data is not from ``encode``, or a class in it is gone or has changed.

    A secret comes back as ``REDACTED``.

    Any thread.
    """
    try:
        return _decode(data)
    except RecursionError:
        raise SerializationError("cannot read a stored value that is nested so deeply") from None


def _decode(data: Any) -> Any:
    cls = type(data)
    if cls in _mappings:
        if _TAG in data:
            return _decode_tagged(data[_TAG], data)
        return {key: _decode(item) for key, item in data.items()}
    if cls is list:
        return [_decode(item) for item in data]
    return data


def _decode_tagged(tag: Any, data: Mapping[str, Any]) -> Any:
    if tag == "secret":
        return REDACTED
    try:
        content = data["v"]
        if tag == "dict":
            return {_decode(key): _decode(item) for key, item in content}
        if tag in _COLLECTIONS:
            return _COLLECTIONS[tag](_decode(item) for item in content)
        if tag == "int":
            return int(content, 16)
        if tag == "float":
            return float(content)
        if tag in _scalars():
            return converter().structure(content, _scalars()[tag])
        cls: Any = find_class(tag)
        if issubclass(cls, Enum):
            return _decode_member(cls, content)
        fields = record_fields(cls)
        if fields is None:
            raise TypeError("it is no attrs class, dataclass, enum or named tuple")
        return _decode_record(cls, fields, content)
    except (SerializationError, RecursionError):
        raise
    except Exception as error:
        raise SerializationError(f"cannot read a stored {tag}: {error}") from error


def _decode_member(cls: type[Enum], content: Any) -> Enum:
    member = _member(cls, content)
    if not isinstance(member, cls):
        raise TypeError(f"the enum has no member {content!r}")
    return member


def _decode_record(cls: Any, fields: dict[str, str | None], content: dict[str, Any]) -> Any:
    unknown = content.keys() - fields.keys()
    if unknown:
        raise TypeError(f"the class has no field {', '.join(sorted(unknown))}")
    values = {name: _decode(item) for name, item in content.items()}
    if issubclass(cls, tuple):
        complete = {**cls._field_defaults, **values}
        return cls._make(complete[name] for name in fields)
    try:
        instance = cls(**{alias: values[name] for name, alias in fields.items() if alias and name in values})
    except Exception:
        # Only a field that the class gained since can be missing, and it has no default, or this would not have failed.
        if any(alias and name not in values for name, alias in fields.items()):
            raise
        instance = object.__new__(cls)
    for name, value in values.items():
        made = getattr(instance, name, _TAG)
        if made is not value and made != value:
            object.__setattr__(instance, name, value)
    return instance


# --- text -------------------------------------------------------------------------------------------------------------


def dumps(value: Any, *, where: str = "value") -> str:
    """Write a value as typed JSON text.

    Args:
        value: what to store, see ``encode``.
        where: what the value is, to begin an error message with.

    Returns:
        Strict JSON in one line; dicts keep their order.

    Raises:
        SerializationError: as ``encode``.

    Any thread.
    """
    return write_json(encode(value, where=where))


def loads(text: str) -> Any:
    """Read a value from typed JSON text.

    Args:
        text: what ``dumps`` returned.

    Returns:
        A value equal to the written one, of the same types throughout.

    Raises:
        SerializationError: the text is no JSON, or as ``decode``.

    Any thread.
    """
    return decode(read_json(text))


def write_json(data: Any) -> str:
    """Write data that is JSON already, such as ``encode`` returns.

    Args:
        data: JSON-ready data.

    Returns:
        Strict JSON in one line.

    Raises:
        ValueError: the data is not JSON-ready.

    Any thread.
    """
    return _writer(False)(data)


def has_secret(text: str | None) -> bool:
    """Whether typed JSON text has the marker of a secret somewhere. Texts inside it cannot look like one.

    Any thread.
    """
    return text is not None and _SECRET_TEXT in text


def read_json(text: str) -> Any:
    """Read JSON text as it stands, tags and all.

    Args:
        text: what ``write_json`` or ``dumps`` returned.

    Returns:
        The data.

    Raises:
        SerializationError: the text is no strict JSON.

    Any thread.
    """
    try:
        return _reader()(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise SerializationError(f"cannot read this, it is no JSON: {error}") from error


def digest(value: Any, *, where: str = "value") -> str:
    """Give the identity of a value: equal for equal content, in whatever order its dicts were filled.

    Types count: 1, 1.0 and True have three digests.

    Args:
        value: any value that can be stored.
        where: what the value is, to begin an error message with.

    Returns:
        The SHA-256 of the canonical text, as 64 hexadecimal digits.

    Raises:
        SerializationError: as ``encode``.

    Any thread.
    """
    import hashlib

    return hashlib.sha256(_sorted_text(_canonical(encode(value, where=where))).encode()).hexdigest()


def _canonical(data: Any) -> Any:
    """Sort what is a dict or a set and yet a list in the encoded data."""
    if type(data) is list:
        return [_canonical(item) for item in data]
    if type(data) is not dict:
        return data
    result = {key: _canonical(item) for key, item in data.items()}
    if result.get(_TAG) in ("dict", "set", "frozenset"):
        result["v"].sort(key=_sorted_text)
    return result


def _sorted_text(data: Any) -> str:
    return _writer(True)(data)


@functools.cache
def _writer(sort_keys: bool) -> Callable[[Any], str]:
    import json
    from json import encoder

    slow = json.JSONEncoder(
        allow_nan=False, check_circular=False, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys
    )
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:  # not CPython
        return slow.encode
    # What `encode` makes anew for each value, which takes as long as writing a small one.
    fast = make(None, slow.default, encoder.encode_basestring, None, ":", ",", sort_keys, False, False)
    return lambda data: "".join(fast(data, 0))


@functools.cache
def _reader() -> Callable[[str], Any]:
    import json

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not in the standard")

    return json.JSONDecoder(parse_constant=refuse).decode


# --- the converter ----------------------------------------------------------------------------------------------------

_converter: Converter | None = None
_converter_lock = threading.RLock()
_configurations: list[Callable[[Converter], None]] = []


def converter() -> Converter:
    """Give the one cattrs converter. More hooks may be registered on it, before the classes they are for are used.

    Any thread.
    """
    global _converter
    if _converter is None:
        with _converter_lock:
            if _converter is None:
                from workflow_runner._core.structuring import build_converter

                new = build_converter()
                for hooks in _configurations:
                    hooks(new)
                _converter = new
    return _converter


def configure(hooks: Callable[[Converter], None]) -> Callable[[Converter], None]:
    """Register hooks on the converter, without building it before it is needed (a decorator).

    Args:
        hooks: called once, with the converter, as soon as there is one.

    Returns:
        ``hooks``.

    Any thread.
    """
    with _converter_lock:
        if _converter is None:
            _configurations.append(hooks)
        else:
            hooks(_converter)
    return hooks


@functools.cache
def _scalars() -> dict[str, type]:
    from workflow_runner._core.structuring import SCALARS

    return {cls.__name__: cls for cls in SCALARS}


def structure(value: Any, type_: Any, *, what: str) -> Any:
    """Turn plain data into an annotated type.

    What already is an instance passes untouched, at any depth. Texts become numbers, booleans (true, yes, on, 1 and
    their opposites), dates and times (ISO 8601), timedeltas (seconds), bytes (base64), paths, enum members (by value or
    name) and so on, but nothing is cut or guessed: no 5.7 for an int, no number or None for a str, no bool for an int,
    no datetime for a date. The keys of a mapping that becomes an attrs class or dataclass are the names of
    ``__init__``; an unknown one is an error. Of a union that member wins that the value is an instance of, else the
    first one that fits.

    Args:
        value: plain data, or an instance, or a mixture.
        type_: the annotation.
        what: what the value is for, to begin an error message with.

    Returns:
        The value as ``type_``.

    Raises:
        InputError: the value does not fit; the message gives the path of every field that is wrong.
        DefinitionError: the annotation itself cannot be understood.

    Any thread.
    """
    if type(value) is type_:
        return value
    from workflow_runner._core.structuring import structure_input

    return structure_input(value, type_, what)
