"""Tags: typed values that belong to a scope or an execution and are seen by everything below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from workflow_runner._core import secrets
from workflow_runner.errors import InputError, TagNotFound

if TYPE_CHECKING:
    from workflow_runner._core.context import ExecutionContext

T = TypeVar("T")

_MISSING: Any = object()


class Tag(Generic[T]):
    """A key with a type. Make one with `tag`; two tags of one label are two tags."""

    __slots__ = ("__weakref__", "default", "label", "secret", "type", "validator")

    def __init__(
        self, type: type[T], label: str, default: T, validator: Callable[[T], bool] | None, *, secret: bool = False
    ) -> None:
        self.type = type
        self.label = label
        self.default = default
        self.validator = validator
        self.secret = secret

    def __call__(self, value: T) -> Tagged[T]:
        """``value`` under this tag, for ``tags=[...]``.

        Raises:
            InputError: the value is not of the tag's type, or its validator refuses it.
        """
        return Tagged(self, self.check(value))

    def check(self, value: T) -> T:
        """``value`` itself, if it fits."""
        if value is not None and self.type is not object and not isinstance(value, self.type):
            raise InputError(f"tag {self.label!r} takes {self.type.__name__}, got {self.shown(value)}")
        if self.validator is not None and self.validator(value) is False:
            raise InputError(f"tag {self.label!r} refuses {self.shown(value)}")
        return value

    def shown(self, value: object) -> str:
        """``value`` for a message; that of a secret is not."""
        return secrets.MASK if self.secret else repr(value)

    def __repr__(self) -> str:
        return f"tag({self.label!r})"


class Tagged(Generic[T]):
    """A value under its tag."""

    __slots__ = ("tag", "value")

    def __init__(self, tag: Tag[T], value: T) -> None:
        self.tag = tag
        self.value = value

    def __repr__(self) -> str:
        return f"{self.tag!r}({self.tag.shown(self.value)})"


def tag(
    type: type[T],
    *,
    label: str,
    default: T = _MISSING,
    validator: Callable[[T], bool] | None = None,
    secret: bool = False,
) -> Tag[T]:
    """Make a tag.

    Args:
        type: the class of its values (``object`` for any); ``None`` is a value of every tag.
        label: its name in errors and pictures.
        default: what ``get`` answers where nobody has set it; without one ``get`` raises.
        validator: called with each value; returns False or raises to refuse it.
        secret: its values are not shown: logs, recorded errors and what the command prints have ``***`` in the place
            of their text, as long as the run lives, or the scope for one of the scope's tags.

    Returns:
        The tag. ``my_tag(value)`` makes a tagged value.
    """
    made = Tag(type, label, default, validator, secret=secret)
    if default is not _MISSING:
        made.check(default)
        if secret:
            secrets.hold(made, default)
    return made


class DerivedTag(Tag[T]):
    """A tag whose value is read off the execution; it cannot be set."""

    __slots__ = ("_read",)

    def __init__(self, type: type[T], label: str, read: Callable[[ExecutionContext], T]) -> None:
        super().__init__(type, label, _MISSING, None)
        self._read = read

    def check(self, value: T) -> T:
        raise InputError(f"tag {self.label!r} is derived from the execution and cannot be set")


def table(tags: Iterable[Tagged[Any]], owner: object) -> dict[Tag[Any], Any] | None:
    """Tagged values as a dictionary; None for none. Those of them that are secrets are ``owner``'s."""
    values: dict[Tag[Any], Any] = {}
    for tagged in tags:
        if not isinstance(tagged, Tagged):
            raise InputError(f"tags must be tagged values such as my_tag(value), got {tagged!r}")
        values[tagged.tag] = tagged.value
        if tagged.tag.secret:
            secrets.hold(owner, tagged.value)
    return values or None


class TagStore:
    """The tags as one execution sees them: its own, its live parents', the scope's, the defaults. Any thread."""

    __slots__ = ("_context",)

    def __init__(self, context: ExecutionContext) -> None:
        self._context = context

    def get(self, tag: Tag[T]) -> T:
        """The nearest value of ``tag``.

        Raises:
            TagNotFound: nobody has set it and it has no default.
        """
        value = self._look_up(tag)
        if value is _MISSING:
            raise TagNotFound(f"tag {tag.label!r} has no value in {self._context.name!r}, its parents or its scope")
        return value

    def find(self, tag: Tag[T]) -> T | None:
        """The nearest value of ``tag``, or None."""
        value = self._look_up(tag)
        return None if value is _MISSING else value

    def set(self, tag: Tag[T], value: T) -> None:
        """Set ``tag`` here and for everything below; parents and siblings do not see it."""
        tag.check(value)
        if tag.secret:
            secrets.hold(self._context.root, value)
        values = self._context._tags
        if values is None:
            # `setdefault` on the instance: two threads that come first together agree on one dictionary
            values = self._context.__dict__.setdefault("_tags", {})
            if values is None:
                values = self._context._tags = {}
        values[tag] = value

    def _look_up(self, tag: Tag[T]) -> T:
        if isinstance(tag, DerivedTag):
            found: T = tag._read(self._context)
            return found
        node: ExecutionContext | None = self._context
        own = node
        while node is not None:
            values = node._tags
            if values is not None and tag in values and (node is own or not node._status.terminal):
                value: T = values[tag]
                return value
            node = node._parent
        shared = self._context._scope._tags
        if shared is not None and tag in shared:
            value = shared[tag]
            return value
        return tag.default
