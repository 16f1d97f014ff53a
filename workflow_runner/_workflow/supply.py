"""The secrets of a run that is gone on with: a store does not have them, so they are supplied anew."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any

from workflow_runner._core import codec
from workflow_runner._core.flow import Arguments, Flow
from workflow_runner._core.secrets import REDACTED, Secret, field_types, is_record, parts
from workflow_runner._workflow.context import WorkflowContext
from workflow_runner._workflow.definition import Workflow
from workflow_runner._workflow.mapping import freeze
from workflow_runner._workflow.resume import recorded_input
from workflow_runner._workflow.runner import step_secrets
from workflow_runner.errors import InputError
from workflow_runner.store.base import RunRecord, StepRow

PREFIX = "WORKFLOW_RUNNER_PARAM_"
"""The environment variable of a secret ``password`` is ``WORKFLOW_RUNNER_PARAM_PASSWORD``."""

# Where in an input a secret is: names of params and fields, numbers of items.
Place = tuple[str | int, ...]
# Gives the value of a secret by its place and its annotated type; `REDACTED` if it does not have it.
Source = Callable[[Place, Any], Any]


def left_input(
    flow: Flow[Any, Any], record: RunRecord, steps: Callable[[str], Iterable[StepRow]]
) -> tuple[Any, list[str]]:
    """The input that a run has left in its store.

    Args:
        flow: the run's flow.
        record: the run.
        steps: gives what it has recorded: a param that is a secret and was updated by a step has to be supplied, too.

    Returns:
        The input, with `REDACTED` in the place of what has to be supplied, and the names of that: of what lies deeper
        with dots, such as ``db.password``.
    """
    input = recorded_input(flow, record)
    if isinstance(input, WorkflowContext) and codec.has_secret(record.overrides):
        for override in codec.loads(record.overrides or "[]"):
            input = input.with_updates(override["params"])
    elif not codec.has_secret(record.input) and not flow._takes_secrets:
        return input, []
    if isinstance(input, WorkflowContext) and flow.secret_params:
        updated = {name: REDACTED for row in steps(record.run_id) for name in step_secrets(row)}
        input = input.with_updates(updated)
    return input, [_name(place) for place in _redacted(root_of(input), ())]


def _redacted(value: Any, above: Place) -> Iterator[Place]:
    for name, part in parts(value):
        place = (*above, name)
        if part is REDACTED:
            yield place
        else:
            yield from _redacted(part, place)


def _name(place: Place) -> str:
    return ".".join(map(str, place))


def supplied(flow: Flow[Any, Any], run_id: str, input: Any, *sources: Source) -> Any:
    """An input with its secrets, each from the first source that has it.

    Args:
        flow: whose input it is.
        run_id: whose input it is, for the message.
        input: as `left_input` gives it.
        sources: `by_name`, `from_environment`, `same_place`.

    Raises:
        InputError: secrets are missing; names them, and the ways to give them.
    """
    missing: list[Place] = []

    def supply(place: Place, type_: Any) -> Any:
        for source in sources:
            value = source(place, type_)
            if value is not REDACTED:
                return value
        missing.append(place)
        return REDACTED

    filled = _filled(root_of(input), (), supply, _param_types(flow))
    if missing:
        raise InputError(f"run {run_id} of {flow.name!r}: {_missing(missing)}")
    if isinstance(input, WorkflowContext):
        return input._evolved({"params": filled})
    return Arguments(input.function, *filled) if isinstance(input, Arguments) else filled


def root_of(input: Any) -> Any:
    """Where the places in an input begin."""
    if isinstance(input, WorkflowContext):
        return input.params
    return (input.args, input.kwargs) if isinstance(input, Arguments) else input


def _param_types(flow: Flow[Any, Any]) -> Mapping[str, Any]:
    return field_types(flow.params_type) if isinstance(flow, Workflow) and flow.params_type is not None else {}


def _missing(places: list[Place]) -> str:
    names = ", ".join(repr(_name(place)) for place in places)
    is_one = f"{names} is a secret" if len(places) == 1 else f"{names} are secrets"
    return (
        f"{is_one}, and secrets are not stored: give params_override={{{_name(places[0])!r}: ...}},"
        f" or set {variable_of(places[0])} in the environment"
    )


def _filled(value: Any, above: Place, supply: Source, types: Mapping[str, Any]) -> Any:
    """``value`` with what is supplied for each secret; itself if there is none."""
    cls: Any = type(value)
    if is_record(cls):
        types = field_types(cls)
    filled: dict[Any, Any] = {}
    for name, part in parts(value):
        place = (*above, name)
        new = supply(place, types.get(name)) if part is REDACTED else _filled(part, place, supply, {})
        if new is not part:
            filled[name] = new
    if not filled:
        return value
    if isinstance(value, Mapping):
        return freeze({**value, **filled})
    if hasattr(value, "_replace"):
        return value._replace(**filled)
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(filled.get(index, item) for index, item in enumerate(value))
    new = copy.copy(value)
    for name, part in filled.items():
        object.__setattr__(new, name, part)
    return new


def parted(
    params: Mapping[str, Any] | None, secret: Iterable[str]
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """Params that are given: the secrets among them, which go into the input, and the others, which are recorded."""
    params = params or {}
    names = set(secret)
    others = {name: value for name, value in params.items() if name not in names}
    return {name: value for name, value in params.items() if name in names}, others or None


# --- sources ----------------------------------------------------------------------------------------------------------


def by_name(params: Mapping[str, Any]) -> Source:
    """What somebody gives by name, as `left_out` names them."""

    def source(place: Place, type_: Any) -> Any:
        value = params.get(_name(place), REDACTED)
        return value if value is REDACTED else _fitting(value, type_, _name(place))

    return source


def from_environment(place: Place, type_: Any) -> Any:
    """What the environment of this process has."""
    text = os.environ.get(variable_of(place))
    return REDACTED if text is None else _fitting(text, type_, variable_of(place))


def variable_of(place: Place) -> str:
    """The environment variable of a secret; numbers of items do not count."""
    return PREFIX + "_".join(part.strip("_") for part in place if isinstance(part, str)).upper()


def _fitting(value: Any, type_: Any, what: str) -> Any:
    return value if type_ is None else codec.structure(value, Annotated[type_, Secret], what=what)


def same_place(other: Any) -> Source:
    """What another input of the flow has there."""

    def source(place: Place, _: Any) -> Any:
        found = root_of(other)
        for name in place:
            found = dict(parts(found)).get(name)
        return REDACTED if found is None else found

    return source
