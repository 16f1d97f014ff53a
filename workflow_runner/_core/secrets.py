"""Secrets: values that are never shown and never stored.

A secret is a field that is annotated so (``password: Annotated[str, Secret]``, or ``metadata={"secret": True}``), or
the value of a tag (``tag(str, label="api_key", secret=True)``). Two things follow:

- *Stored* it is not: ``codec`` writes a marker in its place, by the field and not by the value, and who goes on with a
  run supplies it anew.
- *Shown* it is not: while whoever holds a secret lives, its text is known here, and `mask` puts ``***`` in its place
  wherever a text is shown or recorded that others have made. Texts of fewer than four characters are left alone there:
  they would be found everywhere.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import threading
import types
import typing
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Annotated, Any, Final

from workflow_runner.errors import DefinitionError

MASK: Final = "***"
"""What is shown in the place of a secret."""

SHORTEST: Final = 4
"""A text with fewer characters is not looked for in other texts."""


class Secret:
    """Marks a field whose value is neither shown nor stored: ``password: Annotated[str, Secret]``.

    It counts in attrs classes, dataclasses and named tuples: the input class of a flow, the ``params`` class of a
    workflow, and classes inside these. In a log, a recorded error or an output of the command its text is replaced by
    ``***``, and a store never gets it: a run that is gone on with takes it from ``params_override``, from the
    environment (``WORKFLOW_RUNNER_PARAM_PASSWORD``), or from the start that has the same idempotency key. A text of
    four characters or more is also left out of what steps have recorded, such as a connection string, and put back
    when a run is gone on with. Two inputs that differ in secrets only are the same input.
    """


class Redacted:
    """What stands where a secret was, in everything that comes from a store. There is one, `REDACTED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return MASK

    def __reduce__(self) -> str:
        return "REDACTED"


REDACTED: Final = Redacted()


def shielded(value: Any) -> Any:
    """What is stored of a secret: `REDACTED`, and None for one that was not given."""
    return None if value is None else REDACTED


# --- which fields are secrets -----------------------------------------------------------------------------------------


@functools.cache
def field_types(cls: Any) -> dict[str, Any]:
    """The annotations of a class's fields, its bases' included; one that cannot be evaluated stays a text.

    Any thread.
    """
    import inspect

    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        scope = {**vars(sys.modules.get(base.__module__, typing)), **vars(base)}
        for name, annotation in inspect.get_annotations(base).items():
            found[name] = _evaluated(annotation, scope)
    for field in getattr(cls, "__attrs_attrs__", ()):  # an attrs field may have its type as an argument
        if field.name not in found and field.type is not None:
            found[field.name] = field.type
    return found


def _evaluated(annotation: Any, scope: dict[str, Any]) -> Any:
    only = types.SimpleNamespace(__annotations__={"field": annotation})
    try:
        return typing.get_type_hints(only, scope, include_extras=True)["field"]
    except Exception:  # it names something of a function around the class, which nobody can look up
        return annotation


@functools.cache
def secret_fields(cls: Any) -> frozenset[str]:
    """The names of those fields of a class that are secrets.

    Any thread.
    """
    fields = [*getattr(cls, "__attrs_attrs__", ()), *getattr(cls, "__dataclass_fields__", {}).values()]
    marked = {field.name for field in fields if field.metadata.get("secret")}
    return frozenset(marked | {name for name, annotation in field_types(cls).items() if is_secret(annotation)})


def is_secret(annotation: Any) -> bool:
    """Whether an annotation says that the value is a secret, or a collection of secrets."""
    if isinstance(annotation, str):  # not evaluated: the word alone counts
        return re.search(r"\bSecret\b", annotation) is not None
    if typing.get_origin(annotation) is Annotated:
        if any(mark is Secret or isinstance(mark, Secret) for mark in annotation.__metadata__):
            return True
        annotation = annotation.__origin__
    # `Annotated[str, Secret] | None`, a list of secrets
    return any(map(is_secret, typing.get_args(annotation)))


def secret_names(annotation: Any) -> frozenset[str]:
    """The names of all secrets that can be somewhere inside a value of this type.

    Any thread.
    """
    try:
        return _cached_names(annotation)
    except TypeError:  # metadata that cannot be hashed
        return _secret_names(annotation, frozenset())


@functools.cache
def _cached_names(annotation: Any) -> frozenset[str]:
    return _secret_names(annotation, frozenset())


def _secret_names(annotation: Any, seen: Set[Any]) -> frozenset[str]:
    if not isinstance(annotation, type) or typing.get_args(annotation):
        return frozenset().union(*(_secret_names(part, seen) for part in typing.get_args(annotation)))
    if typing.is_typeddict(annotation) and any(map(is_secret, field_types(annotation).values())):
        raise DefinitionError(f"{annotation.__qualname__} is a TypedDict, whose values cannot be told to be a Secret")
    if annotation in seen or not is_record(annotation):
        return frozenset()
    inner = (_secret_names(part, {*seen, annotation}) for part in field_types(annotation).values())
    return secret_fields(annotation).union(*inner)


def under(names: Set[str], data: Any) -> Iterator[Any]:
    """What plain data has under these names, at any depth.

    Any thread.
    """
    for name, inner in parts(data):
        if isinstance(name, str) and name.lstrip("_") in names:
            yield inner
        else:
            yield from under(names, inner)


def is_record(cls: type) -> bool:
    """Whether instances of a class have named fields."""
    return any(hasattr(cls, mark) for mark in ("__attrs_attrs__", "__dataclass_fields__", "_fields"))


def secrets_in(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """All secrets inside a value: those of a context's params, and of the fields of records.

    Returns:
        Pairs of a name, with dots for what lies deeper, and a value.

    Any thread.
    """
    cls: Any = type(value)
    secret: Set[str] = getattr(value, "secret", frozenset()) if isinstance(value, Mapping) else secret_fields(cls)
    for name, inner in parts(value):
        if name in secret:
            yield f"{above}{name}", inner
        else:
            yield from secrets_in(inner, f"{above}{name}.")


def parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """What is directly inside a mapping, a record or a collection, by key, name or number; nothing for another value.

    Any thread.
    """
    if isinstance(value, Mapping):
        yield from value.items()
    elif is_record(type(value)):
        from workflow_runner._core.codec import record_fields  # which imports this module

        cls: Any = type(value)
        for name in record_fields(cls) or ():
            if hasattr(value, name):
                yield name, getattr(value, name)
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from enumerate(value)


# --- which texts are secrets, now -------------------------------------------------------------------------------------

# Who has which texts. The references tell of the end of those who have them in `_gone`; that may be at any moment, in
# any thread, inside this module too, so nothing else is done there.
_held: dict[weakref.ref[Any], set[str]] = {}
_gone: deque[weakref.ref[Any]] = deque()
# All of them, the longest first, so that of two that begin alike the whole of the longer one is replaced.
_texts: tuple[str, ...] = ()
# Reentrant: the handler of a signal may log while its thread is in here.
_lock = threading.RLock()
_keeper: _Keeper | None = None


class _Keeper:
    """Has secrets for a whole block."""


def hold(owner: object, *values: object) -> None:
    """Make `mask` know secrets for as long as ``owner`` lives.

    Args:
        owner: anything that can be referred to weakly: the context of a run.
        values: texts, and whatever else by its ``str()``; of containers and records, what is in them.

    Any thread.
    """
    texts = {spelt for value in values for text in _leaves(value) for spelt in _spellings(text)}
    if texts:
        with _lock:
            key = weakref.ref(owner if _keeper is None else _keeper, _gone.append)
            _held.setdefault(key, set()).update(texts)
            _renew()


def _renew() -> None:
    global _texts
    while _gone:
        _held.pop(_gone.popleft(), None)
    _texts = tuple(sorted(set().union(*_held.values()), key=lambda text: (-len(text), text)))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif isinstance(value, (Mapping, list, tuple, set, frozenset)) or is_record(type(value)):
        for _, inner in parts(value):
            yield from _leaves(inner)
    elif value is not None and not isinstance(value, (bool, Redacted)):
        yield str(value)


def _spellings(text: str, *, shortest: int = SHORTEST) -> Iterator[str]:
    """A text as it stands, and as it stands inside JSON, a repr, an error of ours (which is shortened) and a URL."""
    if len(text) >= shortest:
        import json
        from urllib.parse import quote

        from workflow_runner._core.codec import short_repr  # which imports this module

        yield text
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
        yield repr(text)[1:-1]
        yield short_repr(text)[1:-1]
        yield quote(text, safe="")


def hide(text: str, values: Iterable[object]) -> str:
    """``text`` with ``***`` in the place of these values.

    Args:
        text: what may repeat them.
        values: as for `hold`; here of any length but none.
    """
    known = {spelt for value in values for leaf in _leaves(value) if leaf for spelt in _spellings(leaf, shortest=1)}
    return _replaced(text, sorted(known, key=len, reverse=True))


@contextmanager
def kept() -> Iterator[None]:
    """Let no secret go before the end of the block, in which there is still to be shown what a run was."""
    global _keeper
    _keeper = _Keeper()
    try:
        yield
    finally:
        _keeper = None


def mask(text: str) -> str:
    """``text`` with ``***`` in the place of every secret that is known. Costs nothing when there are none.

    Any thread.
    """
    if not _texts:
        return text
    if _gone:
        with _lock:
            _renew()
    return _replaced(text, _texts)


def _replaced(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def mask_data(data: Any) -> Any:
    """Nested plain data with ``***`` in the place of every secret that is known, in keys too.

    Args:
        data: dicts, lists and tuples of texts, numbers and None; nothing else is looked into.

    Returns:
        The data itself if there are no secrets.

    Any thread.
    """
    return _masked(data) if _texts else data


def _masked(data: Any) -> Any:
    if isinstance(data, str):
        return mask(data)
    if isinstance(data, Mapping):
        return {_masked(key): _masked(item) for key, item in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(map(_masked, data)) if type(data) in (list, tuple) else [*map(_masked, data)]
    if data is None or isinstance(data, bool):
        return data
    return MASK if str(data) in _texts else data


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # the parent's may be held by a thread that is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
