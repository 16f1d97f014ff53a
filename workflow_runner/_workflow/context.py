"""What goes from step to step: the workflow context, and what a step returns.

All of these are values: frozen, compared by content, and written to JSON and back without loss. There, their own fields
are plain JSON (times in ISO 8601), and what users put into them is typed JSON, see ``codec``.
"""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from workflow_runner._core import codec
from workflow_runner._core.codec import Typed
from workflow_runner._core.traceparent import current_trace_id
from workflow_runner._workflow.mapping import FrozenDict, SecretDict, StepOutputs, freeze, freeze_value
from workflow_runner.errors import InputError, SerializationError

if TYPE_CHECKING:
    from cattrs import Converter


# --- how fields take their values -------------------------------------------------------------------------------------

_EMPTY: Final[FrozenDict[str, Any]] = FrozenDict()


def _new_id() -> str:
    """32 hexadecimal digits: what a W3C trace id is, and ``uuid.UUID.hex``."""
    return os.urandom(16).hex()


def new_trace_id() -> str:
    """The id of the trace that work begun here belongs to, or else of a new one."""
    return current_trace_id() or _new_id()


def _now() -> datetime:
    return datetime.now(UTC)


def _to_utc(value: datetime) -> datetime:
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else value


def _to_date(value: date | str | None) -> date | None:
    if value is None or type(value) is date:
        return value
    return codec.structure(value, date, what="as_of_date")  # type: ignore[no-any-return]


def _to_partition(value: PartitionKey | Mapping[str, Any] | None) -> PartitionKey | None:
    return PartitionKey(value) if isinstance(value, Mapping) else value


def _to_category(value: ErrorCategory | str | None) -> ErrorCategory | None:
    if value is None or type(value) is ErrorCategory:
        return value
    return codec.structure(value, ErrorCategory, what="category")  # type: ignore[no-any-return]


def _to_tuple(value: Iterable[Any]) -> tuple[Any, ...]:
    # A text is one item: nobody means its characters.
    return (value,) if isinstance(value, str) else tuple(value)


def _to_frozen(value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is None:
        return _EMPTY
    return freeze(value) if isinstance(value, Mapping) else value


def _to_outputs(value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if type(value) is StepOutputs:
        return value
    frozen = _to_frozen(value)
    return StepOutputs(frozen) if isinstance(frozen, FrozenDict) else frozen


def _must_be(expected: str, fits: Callable[[Any], bool]) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Make an attrs validator whose error names the field."""

    def validator(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if not fits(value):
            raise InputError(f"{field.name}: expected {expected}, got {codec.short_repr(value)}")

    return validator


_text = _must_be("a text", lambda value: isinstance(value, str) and value != "")
_text_or_none = _must_be("a text or None", lambda value: value is None or isinstance(value, str))
_flag = _must_be("True or False", lambda value: isinstance(value, bool))
_aware = _must_be("a datetime with a time zone", lambda value: isinstance(value, datetime) and value.tzinfo is not None)
_mapping = _must_be("a mapping", lambda value: isinstance(value, Mapping))
_count = _must_be("0 or more", lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0)


class _Record:
    """To JSON and back, for the values below."""

    def to_dict(self) -> dict[str, Any]:
        """Write this value as JSON-ready data.

        Returns:
            A new dict with an entry for every field.

        Raises:
            SerializationError: something in it cannot be stored with its type; the message gives the path.

        Any thread.
        """
        return codec.converter().unstructure(self)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Give back the value that ``to_dict`` wrote.

        Args:
            data: what ``to_dict`` returned, or a person wrote; what has a default may be missing.

        Returns:
            A value equal to the written one, of the same types throughout.

        Raises:
            InputError: a field is missing, unknown or wrong; the message names all of them.

        Any thread.
        """
        return codec.structure(data, cls, what=cls.__name__)  # type: ignore[no-any-return]

    def to_json(self) -> str:
        """Write this value as JSON text, see ``to_dict``.

        Raises:
            SerializationError: something in it cannot be stored with its type; the message gives the path.

        Any thread.
        """
        return codec.write_json(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Give back the value that ``to_json`` wrote, see ``from_dict``.

        Raises:
            InputError: the text is no JSON, or not what the class needs.

        Any thread.
        """
        try:
            data = codec.read_json(text)
        except SerializationError as error:
            raise InputError(f"{cls.__name__}: {error}") from error
        return cls.from_dict(data)


# --- the parts of a context -------------------------------------------------------------------------------------------


@attrs.frozen(init=False, repr=False, slots=False)
class PartitionKey:
    """Which part of the data a run is about: named coordinates, read as attributes.

    Two keys with the same coordinates are equal, whatever the order in which they were given. Iterating gives
    ``(name, value)`` by name; ``str(key)`` is ``region=EU/week_ending=2013-03-01``, again by name.

    Args:
        coordinates: the coordinates as a mapping, as in ``dict(...)``.
        more: the coordinates by name. A name is an identifier without leading underscore and none of this class's
            methods; a value is anything hashable.

    Raises:
        InputError: a name or a value is no good.

    Any thread.
    """

    _coordinates: tuple[tuple[str, Any], ...] = attrs.field(init=False)

    def __init__(self, coordinates: Mapping[str, Any] = _EMPTY, /, **more: Any) -> None:
        together = {**coordinates, **more}
        for name, value in together.items():
            is_name = isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
            if not is_name or name.startswith("_") or hasattr(PartitionKey, name):
                raise InputError(f"{name!r} cannot name a coordinate of a partition")
            try:
                hash(value)
            except TypeError:
                raise InputError(f"the partition's {name} must be hashable, got {codec.short_repr(value)}") from None
        object.__setattr__(self, "_coordinates", tuple(sorted(together.items())))

    @classmethod
    def parse(cls, *texts: str) -> Self:
        """Read coordinates as they stand on a command line.

        Args:
            texts: each ``name=value`` or several of them, ``name=value,name=value``. A value that is a date
                (``2013-03-01``) becomes a date, every other stays a text.

        Returns:
            The key with all of them.

        Raises:
            InputError: a text has no ``=``, a name comes twice, or a name is no good.

        Any thread.
        """
        coordinates: dict[str, Any] = {}
        # A comma separates only where a name follows, so that a value may contain one.
        for pair in (pair for text in texts for pair in re.split(r",(?=\s*\w+\s*=)", text)):
            name, equals, value = (part.strip() for part in pair.partition("="))
            if not equals:
                raise InputError(f"partition: expected name=value, got {pair!r}")
            if name in coordinates:
                raise InputError(f"partition: {name} is given twice")
            is_date = re.fullmatch(r"\d{4}-\d\d-\d\d", value)
            coordinates[name] = codec.structure(value, date, what=f"partition: {name}") if is_date else value
        return cls(coordinates)

    def with_(self, **coordinates: Any) -> Self:
        """Make a key with these coordinates added or replaced.

        Raises:
            InputError: a name or a value is no good.

        Any thread.
        """
        return type(self)(dict(self), **coordinates)

    def to_dict(self) -> dict[str, Any]:
        """Write the coordinates as JSON-ready data: a dict of typed JSON by name.

        Raises:
            SerializationError: a coordinate cannot be stored with its type.

        Any thread.
        """
        return codec.encode(dict(self), where="partition")  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Give back the key that ``to_dict`` wrote; values that already are what they should be are taken as well.

        Raises:
            InputError: the data is no mapping with good names and values.

        Any thread.
        """
        return cls(codec.structure(data, Typed[Mapping[str, Any]], what="partition"))

    def __getattr__(self, name: str) -> Any:
        # Python asks for special names before the fields are there, when it copies and unpickles.
        if not name.startswith("_"):
            for known, value in self._coordinates:
                if known == name:
                    return value
            known_names = ", ".join(known for known, _ in self._coordinates) or "none"
            raise AttributeError(f"no coordinate {name!r} in this partition key, it has: {known_names}")
        raise AttributeError(name)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._coordinates)

    def __len__(self) -> int:
        return len(self._coordinates)

    def __contains__(self, name: object) -> bool:
        return any(known == name for known, _ in self._coordinates)

    def __str__(self) -> str:
        # What separates coordinates cannot be in one, so that two keys with one text are one key (but for types).
        texts = (
            (name, value.isoformat() if isinstance(value, (date, time)) else str(value))
            for name, value in self._coordinates
        )
        return "/".join(f"{name}={text.replace('%', '%25').replace('/', '%2F')}" for name, text in texts)

    def __repr__(self) -> str:
        return f"PartitionKey({', '.join(f'{name}={value!r}' for name, value in self._coordinates)})"


@attrs.frozen(slots=False)
class CheckpointState(_Record):
    """How far a run has come.

    Args:
        run_id: the run.
        step_name: the step that finished last.
        completed_steps: the names of all finished steps, in the order in which they finished.
        created_at: when this was noted, with a time zone; kept in UTC. Default: now.

    Raises:
        InputError: a field is of the wrong type.

    Any thread.
    """

    run_id: str = attrs.field(validator=_text)
    step_name: str = attrs.field(validator=_text)
    completed_steps: tuple[str, ...] = attrs.field(default=(), kw_only=True, converter=_to_tuple)
    created_at: datetime = attrs.field(factory=_now, kw_only=True, converter=_to_utc, validator=_aware)


# --- what a step returns ----------------------------------------------------------------------------------------------


class ErrorCategory(StrEnum):
    """Why a step failed, as far as what to do about it depends on that.

    ``Retry`` repeats TRANSIENT, TIMEOUT and DEPENDENCY by default.
    """

    TRANSIENT = "TRANSIENT"
    TIMEOUT = "TIMEOUT"
    DEPENDENCY = "DEPENDENCY"
    VALIDATION = "VALIDATION"
    DATA_QUALITY = "DATA_QUALITY"
    CONFIGURATION = "CONFIGURATION"
    PERMISSION = "PERMISSION"
    RESOURCE = "RESOURCE"
    INTERNAL = "INTERNAL"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"


@attrs.frozen(kw_only=True, slots=False)
class QualityMetrics(_Record):
    """How good the data was that a step saw.

    Not hashable, since it holds mappings.

    Args:
        record_count: records seen.
        valid_count: records found good.
        invalid_count: records found bad.
        null_count: records, or values, found missing.
        passed: whether the data is good enough to go on with.
        custom_metrics: measures of your own; a read-only copy is kept.
        failure_reasons: what is wrong with the data, in words.

    Raises:
        InputError: a count is negative or no whole number, or another field is of the wrong type.

    Any thread.
    """

    record_count: int = attrs.field(default=0, validator=_count)
    valid_count: int = attrs.field(default=0, validator=_count)
    invalid_count: int = attrs.field(default=0, validator=_count)
    null_count: int = attrs.field(default=0, validator=_count)
    passed: bool = attrs.field(default=True, validator=_flag)
    custom_metrics: Typed[Mapping[str, Any]] = attrs.field(default=_EMPTY, converter=_to_frozen, validator=_mapping)
    failure_reasons: tuple[str, ...] = attrs.field(default=(), converter=_to_tuple)

    __hash__ = None  # type: ignore[assignment]

    @property
    def valid_rate(self) -> float:
        """Valid per seen records; 1.0 where there are none, since none of them is bad."""
        return self.valid_count / self.record_count if self.record_count else 1.0

    @property
    def null_rate(self) -> float:
        """Nulls per seen record; 0.0 where there are none."""
        return self.null_count / self.record_count if self.record_count else 0.0


@attrs.frozen(kw_only=True, slots=False)
class StepResult(_Record):
    """What a step returns. Made by ``ok``, ``fail`` and ``skip``.

    Not hashable, since it holds mappings.

    Attributes:
        success: whether the workflow may go on; a skipped step is a success.
        output: the step's output, anything; it is copied when it enters the context, not before.
        context_updates: changes to the context's params.
        error: what went wrong, as a text or an exception, None on success. JSON keeps an exception as a text.
        category: why it went wrong, None on success.
        quality: how good the data was.
        events: what the step wants to tell, for the history.
        skipped: why the step had nothing to do; None if it did something.

    Raises:
        InputError: the fields contradict each other.

    Any thread.
    """

    success: bool
    output: Typed[Any] = None
    context_updates: Typed[Mapping[str, Any]] = _EMPTY
    error: str | Exception | None = None
    category: ErrorCategory | None = attrs.field(default=None, converter=_to_category)
    quality: QualityMetrics | None = None
    events: tuple[Typed[Any], ...] = attrs.field(default=(), converter=_to_tuple)
    skipped: str | None = None

    __hash__ = None  # type: ignore[assignment]

    def __attrs_post_init__(self) -> None:
        if self.success is True:
            if self.error is not None or self.category is not None:
                raise InputError("a success has no error and no category")
            if self.skipped is not None and (self.output is not None or self.context_updates or not self.skipped):
                raise InputError("a skipped step has a reason, and neither output nor context_updates")
        elif self.success is not False:
            raise InputError(f"success is True or False, not {codec.short_repr(self.success)}")
        elif not isinstance(self.error, (str, Exception)) or self.category is None:
            raise InputError("a failure has an error, a text or an exception, and a category")
        elif self.context_updates or self.skipped is not None:
            raise InputError("a failed step neither updates the context nor is it skipped")
        if not isinstance(self.context_updates, Mapping):
            raise InputError(f"context_updates: expected a mapping, got {codec.short_repr(self.context_updates)}")

    @classmethod
    def ok(
        cls,
        output: Any = None,
        context_updates: Mapping[str, Any] | None = None,
        *,
        quality: QualityMetrics | None = None,
        events: Iterable[Any] = (),
    ) -> Self:
        """The step did its work.

        Args:
            output: what later steps get from ``context.get_output(name)``.
            context_updates: params that later steps see.
            quality: how good the data was.
            events: what the step wants to tell, for the history.

        Returns:
            The result.

        Any thread.
        """
        updates = _EMPTY if context_updates is None else context_updates
        return cls(success=True, output=output, context_updates=updates, quality=quality, events=events)

    @classmethod
    def fail(
        cls,
        error: str | Exception,
        category: ErrorCategory | str = ErrorCategory.UNKNOWN,
        *,
        output: Any = None,
        quality: QualityMetrics | None = None,
    ) -> Self:
        """The step could not do its work.

        Args:
            error: what went wrong, in words or as an exception.
            category: why; ``Retry`` goes by it.
            output: what there is nevertheless.
            quality: how good the data was.

        Returns:
            The result.

        Raises:
            InputError: there is no such category.

        Any thread.
        """
        return cls(success=False, output=output, error=error, category=category, quality=quality)

    @classmethod
    def skip(cls, reason: str) -> Self:
        """The step had nothing to do.

        Args:
            reason: why, in words.

        Returns:
            The result, a success without output.

        Raises:
            InputError: the reason is empty.

        Any thread.
        """
        return cls(success=True, skipped=reason)


# --- the context ------------------------------------------------------------------------------------------------------


_FRESH_CAPTURE: Final = "capture-"


def _capture_id(partition: PartitionKey | None, as_of_date: date | None) -> str:
    parts = [str(part) for part in (as_of_date, partition) if part is not None]
    return "/".join(parts) or f"{_FRESH_CAPTURE}{_new_id()}"


@attrs.frozen(kw_only=True, slots=False)
class WorkflowContext(_Record):
    """What a workflow's steps know: where they come from, what was asked for, and what the steps before made.

    A step gets one and cannot change it; the runner merges what the step returns into a new one. All mappings are
    read-only copies, which share nothing with what was passed in; a list inside stays a list, and whoever changes it
    changes it for all who hold this context. A context is compared by content and is not hashable: use ``run_id``.

    Use ``WorkflowContext.new``; it fills in what is left out.

    Args:
        run_id: the run; the runner puts its own here.
        trace_id: the W3C trace that the run belongs to, 32 hexadecimal digits.
        batch_id: what several runs have in common, if anything.
        started_at: when it began, with a time zone; kept in UTC.
        params: what the steps are asked to do, and what they told each other since. Those that the workflow's
            ``params`` class marks as a ``Secret`` are left out of ``repr`` and of JSON, where ``REDACTED`` stands.
        step_outputs: the outputs of the steps so far, by name and in order.
        metadata: what is known about the run and means nothing to the steps.
        checkpoint: where an interrupted run goes on.
        partition: which part of the data; a mapping becomes a ``PartitionKey``.
        as_of_date: which business date; an ISO text becomes a date. A datetime is refused, as its date depends on the
            time zone.
        capture_id: identifies the data that this run captures, for loads that must not be doubled. ``new`` and
            ``with_partition`` derive it, ``attrs.evolve`` does not.
        idempotency_key: two runs with one key are one run.

    Raises:
        InputError: a field does not fit; the message names it.

    Any thread.
    """

    run_id: str = attrs.field(validator=_text)
    trace_id: str = attrs.field(validator=_text)
    batch_id: str | None = attrs.field(default=None, validator=_text_or_none)
    started_at: datetime = attrs.field(converter=_to_utc, validator=_aware)
    params: Typed[Mapping[str, Any]] = attrs.field(default=_EMPTY, converter=_to_frozen, validator=_mapping)
    step_outputs: Typed[Mapping[str, Any]] = attrs.field(default=None, converter=_to_outputs, validator=_mapping)
    metadata: Typed[Mapping[str, Any]] = attrs.field(default=_EMPTY, converter=_to_frozen, validator=_mapping)
    checkpoint: CheckpointState | None = attrs.field(
        default=None,
        validator=_must_be(
            "a CheckpointState or None", lambda value: value is None or isinstance(value, CheckpointState)
        ),
    )
    partition: PartitionKey | None = attrs.field(
        default=None,
        converter=_to_partition,
        validator=_must_be(
            "a PartitionKey, a mapping or None", lambda value: value is None or isinstance(value, PartitionKey)
        ),
    )
    as_of_date: date | None = attrs.field(default=None, converter=_to_date)
    capture_id: str | None = attrs.field(default=None, validator=_text_or_none)
    idempotency_key: str | None = attrs.field(default=None, validator=_text_or_none)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def new(
        cls,
        params: Mapping[str, Any] | None = None,
        *,
        batch_id: str | None = None,
        trace_id: str | None = None,
        partition: PartitionKey | Mapping[str, Any] | None = None,
        as_of_date: date | str | None = None,
        metadata: Mapping[str, Any] | None = None,
        capture_id: str | None = None,
        idempotency_key: str | None = None,
        run_id: str | None = None,
        started_at: datetime | None = None,
        step_outputs: Mapping[str, Any] | None = None,
        checkpoint: CheckpointState | None = None,
    ) -> Self:
        """Make the context that a run starts with.

        Args:
            params: what the steps are asked to do.
            batch_id: what several runs have in common, if anything.
            trace_id: the trace to join; default: the current one if there is one (see `traceparent.joined`), and a new
                one for a run of a batch, which is a trace of its own.
            partition: which part of the data, as a ``PartitionKey`` or a mapping.
            as_of_date: which business date, as a date or an ISO text.
            metadata: what is known about the run and means nothing to the steps.
            capture_id: identifies the data that this run captures. Default: what ``as_of_date`` and ``partition`` say,
                such as ``2013-02-28/region=EU``, so that a repetition captures the same; without both, a new one.
            idempotency_key: two runs with one key are one run.
            run_id: default: a new id; the runner puts its own in place of it.
            started_at: default: now.
            step_outputs: outputs that are already there.
            checkpoint: where an interrupted run goes on.

        Returns:
            The context.

        Raises:
            InputError: a field does not fit; the message names it.

        Any thread.
        """
        partition, as_of_date = _to_partition(partition), _to_date(as_of_date)
        if trace_id is None:
            trace_id = new_trace_id() if batch_id is None else _new_id()
        return cls(
            run_id=_new_id() if run_id is None else run_id,
            trace_id=trace_id,
            batch_id=batch_id,
            started_at=_now() if started_at is None else started_at,
            params=params,
            step_outputs=step_outputs,
            metadata=metadata,
            checkpoint=checkpoint,
            partition=partition,
            as_of_date=as_of_date,
            capture_id=_capture_id(partition, as_of_date) if capture_id is None else capture_id,
            idempotency_key=idempotency_key,
        )

    def with_step_output(self, name: str, output: Any) -> Self:
        """Make a context in which a step has this output.

        Args:
            name: the step's name; an output that it already has is replaced.
            output: anything; a copy is kept of dicts, lists, tuples and sets. None and ``{}`` are outputs.

        Returns:
            The new context. It takes the same time however many outputs there are.

        Any thread.
        """
        return self._merged(name, output)

    def with_updates(self, updates: Mapping[str, Any]) -> Self:
        """Make a context whose params have these added or replaced.

        Raises:
            InputError: the updates are no mapping.

        Any thread.
        """
        return self._evolved({"params": _merge(self.params, updates, "updates")})

    def with_metadata(self, updates: Mapping[str, Any]) -> Self:
        """Make a context whose metadata have these added or replaced.

        Raises:
            InputError: the updates are no mapping.

        Any thread.
        """
        return self._evolved({"metadata": _merge(self.metadata, updates, "metadata")})

    def with_partition(self, **coordinates: Any) -> Self:
        """Make a context whose partition has these coordinates added or replaced.

        Another part of the data is another capture: the capture id that ``new`` gave is made anew, one of your own
        stays.

        Raises:
            InputError: a name or a value is no good.

        Any thread.
        """
        partition = (self.partition or PartitionKey()).with_(**coordinates)
        given = self.capture_id or _FRESH_CAPTURE
        if given.startswith(_FRESH_CAPTURE) or given == _capture_id(self.partition, self.as_of_date):
            given = _capture_id(partition, self.as_of_date)
        return self._evolved({"partition": partition, "capture_id": given})

    def get_output(self, step: str, key: str | None = None, default: Any = None) -> Any:
        """Look up what a step made.

        Args:
            step: the step's name.
            key: an entry of that output; default: the whole output.
            default: what to give when the step has no output, or its output is no mapping with this key.

        Returns:
            The output or its entry as it is, None and ``{}`` included.

        Any thread.
        """
        if key is None:
            return self.step_outputs.get(step, default)
        output = self.step_outputs.get(step)
        return output.get(key, default) if isinstance(output, Mapping) else default

    def has_output(self, step: str) -> bool:
        """Whether a step has an output, be it None or empty.

        Any thread.
        """
        return step in self.step_outputs

    def get_param(self, key: str, default: Any = None) -> Any:
        """Look up a param; the default is for one that is not there, None is a value.

        Any thread.
        """
        return self.params.get(key, default)

    def _merged(self, name: str, output: Any, updates: Mapping[str, Any] = _EMPTY) -> Self:
        """Do ``with_step_output`` and ``with_updates`` at once, for the runner."""
        outputs: Any = self.step_outputs
        changes = {"step_outputs": outputs.with_item(name, freeze_value(output))}
        if updates:
            changes["params"] = _merge(self.params, updates, "updates")
        return self._evolved(changes)

    def _evolved(self, changes: dict[str, Any]) -> Self:
        """Do ``attrs.evolve`` in a tenth of the time, for values that are already checked and frozen."""
        new = object.__new__(type(self))
        object.__setattr__(new, "__dict__", self.__dict__ | changes)
        return new


def _merge(old: Any, updates: Mapping[str, Any], what: str) -> FrozenDict[str, Any]:
    if type(updates) is not dict and not isinstance(updates, Mapping):
        raise InputError(f"{what}: expected a mapping, got {codec.short_repr(updates)}")
    merged: FrozenDict[str, Any] = FrozenDict(old) if type(old) is not SecretDict else SecretDict(old, old.secret)
    dict.update(merged, freeze(updates))
    return merged


@codec.configure
def _register_hooks(converter: Converter) -> None:
    def structure_partition(data: Any, cls: type[PartitionKey]) -> PartitionKey:
        return data if isinstance(data, cls) else cls.from_dict(data)

    def describe(error: Exception) -> str:
        return f"{type(error).__name__}: {error}"

    converter.register_structure_hook(PartitionKey, structure_partition)
    converter.register_unstructure_hook(PartitionKey, PartitionKey.to_dict)
    converter.register_unstructure_hook(Exception, describe)
