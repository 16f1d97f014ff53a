"""Read-only mappings: a frozen dict, and the outputs of a workflow's steps so far.

A workflow context is passed on and never changed, so its mappings can neither be written to nor share anything with
what the caller passed in. And a workflow of a thousand steps makes a thousand contexts, so a step's output is added
without copying those before it.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn, TypeVar

from workflow_runner._core import codec
from workflow_runner._core.secrets import REDACTED

K = TypeVar("K")
V = TypeVar("V")

# Nothing in a value of these types can change. Others pass as well, this is the short way.
_ATOMIC: Final = frozenset(
    {type(None), bool, int, float, complex, str, bytes, datetime.date, datetime.datetime, datetime.timedelta}
)


def _read_only(self: FrozenDict[Any, Any], *args: Any, **kwargs: Any) -> NoReturn:
    raise TypeError(
        "this mapping is read-only: change a copy, dict(mapping), or let the context make a new one (with_...)"
    )


class FrozenDict(dict[K, V]):
    """A dict that cannot be changed.

    It equals a dict with the same items, and ``json.dumps`` takes it. ``copy()`` and ``|`` give a plain dict, which can
    be changed. It is as shallow as a tuple: what it holds may be changeable. ``freeze`` makes one that shares nothing.

    Any thread.
    """

    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = _read_only
    clear = pop = popitem = setdefault = update = _read_only

    def __copy__(self) -> FrozenDict[K, V]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenDict[K, V]:
        return FrozenDict(copy.deepcopy(dict(self), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


class SecretDict(FrozenDict[K, V]):
    """A frozen dict that knows which of its items are secrets: they are not shown in its repr, and not stored.

    Args:
        items: all of them.
        secret: the keys of the secrets.
    """

    __slots__ = ("secret",)

    secret: frozenset[K]

    def __init__(self, items: Mapping[K, V], secret: frozenset[K]) -> None:
        super().__init__(items)
        self.secret = secret

    def __repr__(self) -> str:
        return repr({key: REDACTED if key in self.secret else item for key, item in self.items()})

    def __deepcopy__(self, memo: dict[int, Any]) -> SecretDict[K, V]:
        return SecretDict(copy.deepcopy(dict(self), memo), self.secret)

    def __reduce__(self) -> tuple[Any, ...]:
        return SecretDict, (dict(self), self.secret)


def freeze(mapping: Mapping[K, V]) -> FrozenDict[K, V]:
    """Make a read-only copy that shares nothing changeable with the original.

    Args:
        mapping: any mapping.

    Returns:
        A frozen dict. In it, at any depth, dicts are frozen dicts too, and lists, tuples and sets are copies; whatever
        else, such as an instance of a class, is the original itself. A frozen dict is returned as it is: whoever made
        it answers for the lists in it.

    Raises:
        RecursionError: the mapping contains itself.

    Any thread.
    """
    if type(mapping) is FrozenDict or type(mapping) is SecretDict:
        return mapping
    frozen = FrozenDict(mapping)
    if _ATOMIC.issuperset(map(type, frozen.values())):
        return frozen
    return FrozenDict({key: freeze_value(value) for key, value in frozen.items()})


def freeze_value(value: Any) -> Any:
    """Do for any value what ``freeze`` does for one inside its mapping.

    Args:
        value: anything.

    Returns:
        A frozen dict for a dict; a copy of a list, tuple or set; everything else as it is.

    Raises:
        RecursionError: the value contains itself.

    Any thread.
    """
    cls = type(value)
    if cls is dict:
        return freeze(value)
    if cls is list or cls is tuple:
        items = cls(value)
        return items if _ATOMIC.issuperset(map(type, items)) else cls([freeze_value(item) for item in items])
    if cls is set:
        return set(value)
    return value


class StepOutputs(Mapping[str, V]):
    """The outputs of the steps so far, by step name, in the order in which they came.

    Versions share their storage: adding to the newest one takes the same short time however many there are, and leaves
    the older ones as they were. None and ``{}`` are outputs.

    Args:
        outputs: the first outputs; they are copied, not frozen.

    Any thread may read and extend any version at any time.
    """

    # Entry n of the storage belongs to every version longer than n, and no entry is ever replaced. So the right to
    # extend a version of length n is the right to write entry n, which goes to the first thread that does
    # (``dict.setdefault`` is atomic); whoever comes later finds it taken and copies. The index is written after the
    # entry and before the longer version is returned, and a shorter version ignores what lies beyond its length. So
    # no reader needs a lock, and no lock can be left held in a forked child.
    __slots__ = ("_entries", "_index", "_length")

    _entries: dict[int, tuple[str, V]]
    _index: dict[str, int]
    _length: int

    def __init__(self, outputs: Mapping[str, V] | None = None) -> None:
        self._entries = dict(enumerate((outputs or {}).items()))
        self._index = {name: position for position, (name, _) in self._entries.items()}
        self._length = len(self._entries)

    def with_item(self, name: str, output: V) -> StepOutputs[V]:
        """Make a version with one more output, or with one replaced in its place.

        Args:
            name: the step's name.
            output: its output, kept as it is.

        Returns:
            The new version. A replaced output and a second extension of one version cost a copy.

        Any thread.
        """
        length, entry = self._length, (name, output)
        if self._index.get(name, length) < length or self._entries.setdefault(length, entry) is not entry:
            return StepOutputs({**self, name: output})
        self._index[name] = length
        longer: StepOutputs[V] = object.__new__(StepOutputs)
        longer._entries = self._entries
        longer._index = self._index
        longer._length = length + 1
        return longer

    def __getitem__(self, name: str) -> V:
        position = self._index.get(name, self._length)
        if position >= self._length:
            raise KeyError(name)
        return self._entries[position][1]

    def get(self, name: str, default: Any = None) -> Any:
        """Give a step's output, or the default if the step has none.

        Any thread.
        """
        position = self._index.get(name, self._length)
        return default if position >= self._length else self._entries[position][1]

    def __contains__(self, name: object) -> bool:
        return self._index.get(name, self._length) < self._length  # type: ignore[call-overload, no-any-return]

    def __iter__(self) -> Iterator[str]:
        entries = self._entries
        return (entries[position][0] for position in range(self._length))

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"StepOutputs({dict(self)!r})"

    def __copy__(self) -> StepOutputs[V]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> StepOutputs[V]:
        return StepOutputs(copy.deepcopy(dict(self), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return StepOutputs, (dict(self),)


codec.register_mapping(FrozenDict)
codec.register_mapping(SecretDict)
codec.register_mapping(StepOutputs)
