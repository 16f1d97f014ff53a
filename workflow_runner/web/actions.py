"""What people may do on the pages, if they may: cancel, resume, retry, start, run what is missing."""

from __future__ import annotations

import datetime as dt
import threading
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import flask

from workflow_runner._core import codec
from workflow_runner._core.flow import Flow
from workflow_runner._core.secrets import secret_fields
from workflow_runner._workflow.context import PartitionKey, WorkflowContext
from workflow_runner._workflow.definition import Workflow
from workflow_runner._workflow.history import find_run
from workflow_runner._workflow.lookup import find_flow
from workflow_runner._workflow.scope import Scope
from workflow_runner.errors import InputError, RunNotFound, WorkflowRunnerError
from workflow_runner.extensions.capture import Capture
from workflow_runner.store.base import Store
from workflow_runner.web import pages
from workflow_runner.web.security import Guard, Token

# So many missing business dates are started at once.
MOST_MISSING = 366


@attrs.frozen(kw_only=True)
class Field:
    """One field of a run's form.

    Attributes:
        name: the parameter.
        kind: its type in words.
        input: the kind of HTML input: "text", "date", "number", "checkbox", "password" or "textarea".
        required: whether it has no default.
        default: what stands there at first.
        help: what it means.
    """

    name: str
    kind: str
    input: str
    required: bool
    default: str = ""
    help: str = ""


class Desk:
    """Starts runs in this process. Any thread.

    Args:
        store: where they are recorded.
        scope: where they are executed; None: one of its own, made when the first is started.
    """

    def __init__(self, store: Store, scope: Scope | None) -> None:
        self._store = store
        self._scope = scope
        self._lock = threading.Lock()

    @property
    def scope(self) -> Scope:
        """Where runs are executed."""
        with self._lock:
            if self._scope is None:
                self._scope = Scope(name="web", store=self._store, extensions=[Capture()])
            return self._scope

    def close(self) -> None:
        """Hand back what runs, for anybody to resume."""
        if self._scope is not None:
            self._scope.close(cancel=True, timeout=5.0, reason="the page's server stops")

    def flow_of(self, name: str) -> Flow[Any, Any]:
        """The flow of the newest run with this name, imported from where it says.

        Raises:
            RunNotFound: there is no run of such a flow.
            StoreError: it cannot be imported; says why.
        """
        found = self._store.runs(flow=name, limit=1)
        if not found:
            raise RunNotFound(f"there is no run of a flow {name!r}")
        return find_flow(found[0].target, name, found[0].run_id)

    def start(self, flow: Flow[Any, Any], texts: Mapping[str, str], *, key: str | None = None) -> str:
        """Start a run with what a form has said; gives its id.

        Raises:
            FormError: a text does not fit its field.
        """
        input, wrong = _input(flow, texts)
        if wrong:
            raise FormError(wrong)
        try:
            return self.scope.exec(flow, input, idempotency_key=key).id
        except InputError as error:
            raise FormError({"": str(error)}) from error

    def run_missing(self, flow: Flow[Any, Any], days: Sequence[dt.date]) -> str:
        """Start a run for each of these business dates, in one batch; gives the batch's id."""
        batch = f"missing-{dt.datetime.now():%Y%m%dT%H%M%S}"
        for day in days:
            self.scope.exec(flow, WorkflowContext.new(as_of_date=day, batch_id=batch))
        return batch


class FormError(Exception):
    """What is wrong in a form, by the names of its fields; by "" what belongs to none."""

    def __init__(self, wrong: Mapping[str, str]) -> None:
        super().__init__("; ".join(wrong.values()))
        self.wrong = dict(wrong)


# --- the form ---------------------------------------------------------------------------------------------------------


def fields_of(flow: Flow[Any, Any]) -> list[Field]:
    """The fields of a run's form: those of the flow's input class, or of a workflow's ``params``, and its date."""
    type_ = _input_class(flow)
    fields = []
    if flow.input_type is WorkflowContext:
        fields.append(Field(name="as_of_date", kind="a date", input="date", required=False, help="The business date."))
        fields.append(
            Field(name="partition", kind="NAME=VALUE", input="text", required=False, help="Coordinates, by spaces.")
        )
    if type_ is not None:
        attrs.resolve_types(type_)
        fields += [_field(type_, field) for field in attrs.fields(type_) if field.init]
    elif flow.input_type is not WorkflowContext:
        fields.append(Field(name="input", kind="JSON", input="textarea", required=False))
    return fields


def _input_class(flow: Flow[Any, Any]) -> Any:
    type_ = flow.input_type
    if type_ is WorkflowContext:
        type_ = flow.params_type if isinstance(flow, Workflow) else None
    return type_ if type_ is not None and attrs.has(type_) else None


def _field(cls: Any, field: attrs.Attribute[Any]) -> Field:
    inputs = {bool: "checkbox", int: "number", dt.date: "date"}
    secret = field.name in secret_fields(cls)
    return Field(
        name=field.alias or field.name,
        kind=codec.type_name(field.type),
        input="password" if secret else inputs.get(typing.cast(Any, field.type), "text"),
        required=field.default is attrs.NOTHING,
        default="" if secret else _default(field),
        help=str(field.metadata.get("help", "")),
    )


def _default(field: attrs.Attribute[Any]) -> str:
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = attrs.NOTHING if default.takes_self else default.factory()
    if default is attrs.NOTHING or default is None:
        return ""
    if isinstance(default, (list, tuple)):
        return ", ".join(str(item) for item in default)
    return str(default)


def _input(flow: Flow[Any, Any], texts: Mapping[str, str]) -> tuple[Any, dict[str, str]]:
    """The input of a flow, or what is wrong with the texts of its form."""
    wrong: dict[str, str] = {}
    type_, context = _input_class(flow), flow.input_type is WorkflowContext
    values: dict[str, Any] = {}
    if type_ is not None:
        attrs.resolve_types(type_)
        for field in (field for field in attrs.fields(type_) if field.init):
            text = texts.get(field.alias, "")
            if field.type is bool:
                values[field.alias] = text == "on"
            elif text:
                try:
                    values[field.alias] = codec.structure(_words(text, field.type), field.type, what=field.alias)
                except InputError as error:
                    wrong[field.alias] = str(error)
            elif field.default is attrs.NOTHING:
                wrong[field.alias] = "is needed"
    elif not context:
        return _json(texts.get("input", ""), wrong), wrong
    if not context:
        return values, wrong
    options: dict[str, Any] = {}
    for name, read in (("as_of_date", dt.date.fromisoformat), ("partition", _partition)):
        if texts.get(name):
            try:
                options[name] = read(texts[name])
            except (ValueError, InputError) as error:
                wrong[name] = str(error)
    return WorkflowContext.new(params=values, **options) if not wrong else None, wrong


def _words(text: str, type_: Any) -> Any:
    """A field of many values takes them with commas between."""
    many = typing.get_origin(type_) in (list, tuple, set, frozenset)
    return [word.strip() for word in text.split(",") if word.strip()] if many else text


def _partition(text: str) -> PartitionKey:
    return PartitionKey.parse(*text.split())


def _json(text: str, wrong: dict[str, str]) -> Any:
    try:
        return codec.read_json(text) if text.strip() else None
    except WorkflowRunnerError as error:
        wrong["input"] = str(error)
        return None


# --- the routes -------------------------------------------------------------------------------------------------------


def add_actions(blueprint: flask.Blueprint, store: Store, desk: Desk, guard: Guard) -> None:
    """Add what can be posted."""
    name = blueprint.name

    def to(endpoint: str, **words: Any) -> Any:
        return flask.redirect(flask.url_for(f"{name}.{endpoint}", **words), 303)

    @blueprint.post("/log-in")
    def log_in() -> Any:
        answer = guard.log_in(flask.request.form.get("token", "")) if isinstance(guard, Token) else None
        if answer is None:
            flask.abort(403, "this is not the token")
        back = flask.request.form.get("back", "")
        own = back.startswith("/") and not back.startswith(("//", "/\\"))
        answer.headers["Location"] = back if own else flask.url_for(f"{name}.runs")
        return answer

    @blueprint.post("/runs/<run_id>/cancel")
    def cancel(run_id: str) -> Any:
        store.request_cancel(
            find_run(store, run_id).run_id, flask.request.form.get("reason") or "cancelled on the page"
        )
        return to("run", run_id=run_id)

    @blueprint.post("/runs/<run_id>/resume")
    def resume(run_id: str) -> Any:
        execution = _tried(lambda: desk.scope.resume(find_run(store, run_id).run_id))
        return to("run", run_id=execution.id)

    @blueprint.post("/runs/<run_id>/retry")
    def retry(run_id: str) -> Any:
        step = flask.request.form.get("step") or None
        execution = _tried(lambda: desk.scope.retry(find_run(store, run_id).run_id, from_step=step))
        return to("run", run_id=execution.id)

    @blueprint.route("/flows/<path:flow>/run", methods=["GET", "POST"])
    def start(flow: str) -> Any:
        found = desk.flow_of(flow)
        form, wrong = flask.request.form, {}
        if flask.request.method == "POST":
            try:
                return to("run", run_id=_tried(lambda: desk.start(found, form)))
            except FormError as error:
                wrong = error.wrong
        page = flask.render_template(
            "workflow_runner/start.html", flow=flow, fields=fields_of(found), given=form, wrong=wrong
        )
        return page, 422 if wrong else 200

    @blueprint.post("/flows/<path:flow>/run-missing")
    def run_missing(flow: str) -> Any:
        found = desk.flow_of(flow)
        if found.input_type is not WorkflowContext:
            flask.abort(409, f"{flow!r} has no business date")
        days = pages.missing(pages.by_day(pages.newest(store, flow)))
        if not days:
            flask.abort(409, "nothing is missing")
        return to("batch", batch=_tried(lambda: desk.run_missing(found, days[:MOST_MISSING])))


def _tried(work: Any) -> Any:
    """What the library refuses is the answer of the page."""
    try:
        return work()
    except RunNotFound:
        raise
    except WorkflowRunnerError as error:
        flask.abort(409, str(error))
