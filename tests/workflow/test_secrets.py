"""Secrets of runs in a store: nothing of one is on the disk, and who goes on with a run supplies it anew."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import attrs
import pytest

from workflow_runner import Scope, Secret, Step, StepResult, Workflow, WorkflowContext, call, errors, flow, tag
from workflow_runner._core import codec
from workflow_runner.store import open_store

VALUE = 's3cr"ät-value'
OTHER = "rotated/value"


@attrs.frozen
class Database:
    user: str
    password: Annotated[str, Secret]


@attrs.frozen
class Params:
    region: str = "EU"
    password: Annotated[str, Secret] = ""
    token: Annotated[str | None, Secret] = None
    db: Database | None = None


class Log:
    """What the steps have seen, and whether the second one fails."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.fails = True


@pytest.fixture
def log() -> Log:
    """What the steps have seen."""
    return Log()


@pytest.fixture
def nightly(log: Log) -> Workflow:
    """Connects, and fails to load with the secret in the message."""

    def connect(context: WorkflowContext) -> StepResult:
        log.seen.append("connect")
        return StepResult.ok({"dsn": f"db://me:{context.params['password']}@host"}, events=[context.params["password"]])

    def load(context: WorkflowContext) -> dict[str, Any]:
        log.seen.append((context.params["password"], context.get_output("connect", "dsn")))
        if log.fails:
            try:
                raise ValueError(f"refused {context.params['password']!r}")
            except ValueError as error:
                raise ConnectionError(f"{context!r} {context.params['password']}") from error
        return {"rows": 3}

    return Workflow("nightly", steps=[Step("connect", connect), Step("load", load)], params=Params)


@pytest.fixture
def make(tmp_path: Path, make_scope: Callable[..., Scope]) -> Callable[..., Scope]:
    """Makes scopes on one file."""
    return lambda **options: make_scope(store=f"sqlite:///{tmp_path}/runs.db", **options)


@pytest.fixture(autouse=True)
def nothing_on_the_disk(tmp_path: Path) -> Any:
    """After each test: no file of the store has a secret in any spelling."""
    yield
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    for file in files:
        for secret in ("s3cr", "rotated", "new-token"):
            assert secret.encode() not in file.read_bytes(), file
    assert files


def failed(scope: Scope, workflow: Workflow, **params: Any) -> str:
    """The id of a run that has failed at its second step."""
    execution = scope.exec(workflow, {"password": VALUE, **params})
    with pytest.raises(errors.WorkflowFailed):
        execution.result()
    return execution.id


def on_disk(scope: Scope, tmp_path: Path) -> bytes:
    """All bytes of the store while it is open, the log of the last writes included."""
    return b"".join(file.read_bytes() for file in sorted(tmp_path.glob("runs.db*")) if file.is_file())


def test_no_byte_of_a_secret_is_written(make: Callable[..., Scope], nightly: Workflow, tmp_path: Path) -> None:
    """Not of the input, not of an output or an event, not of an error with causes, in the file or its log."""
    scope = make()
    run_id = failed(scope, nightly)
    written = on_disk(scope, tmp_path)
    assert b"connect" in written
    assert b"s3cr" not in written
    assert scope.store is not None
    record = scope.store.run(run_id)
    assert '"password":{"$":"secret"}' in record.input
    assert '"token":null' in record.input
    assert "***" in (record.error or "")
    assert "***password***" in (scope.store.steps(run_id)[0].output or "")


def test_the_result_of_a_run_has_no_secrets(make: Callable[..., Scope], nightly: Workflow, log: Log) -> None:
    """The params of its context say that there was one."""
    log.fails = False
    scope = make()
    result = scope.run(nightly, {"password": VALUE}, run_id="one")
    assert result.context.params["password"] == VALUE
    assert "s3cr" not in repr(result.context.params)
    assert result.context.to_dict()["params"]["password"] == {"$": "secret"}
    answered = scope.resume("one", flow=nightly)  # needs no secret: nothing runs
    assert answered.answered
    assert str(answered.result().context.params["password"]) == "***"


@pytest.mark.parametrize("way", ["override", "environment", "key"])
def test_a_resumed_run_is_supplied_with_its_secrets(
    way: str, make: Callable[..., Scope], nightly: Workflow, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, by the environment, or by the same start; what was recorded has the value of now in its place."""
    scope = make()
    with pytest.raises(errors.WorkflowFailed):
        scope.run(nightly, {"password": VALUE}, idempotency_key="k", run_id="one")
    log.fails = False
    if way == "override":
        result = scope.resume("one", flow=nightly, params_override={"password": OTHER}).result()
    elif way == "environment":
        monkeypatch.setenv("WORKFLOW_RUNNER_PARAM_PASSWORD", OTHER)
        result = scope.resume("one", flow=nightly).result()
    else:
        result = make().run(nightly, {"password": OTHER}, idempotency_key="k")
    assert result.status == "completed"
    assert log.seen == ["connect", (VALUE, f"db://me:{VALUE}@host"), (OTHER, f"db://me:{OTHER}@host")]
    assert scope.store is not None
    assert scope.store.run("one").overrides is None


def test_a_missing_secret_is_named_before_anything_is_claimed(
    make: Callable[..., Scope], nightly: Workflow, log: Log
) -> None:
    """With the ways to give it; the run is as it was."""
    scope = make()
    run_id = failed(scope, nightly, db={"user": "me", "password": VALUE})
    assert scope.store is not None
    before = scope.store.run(run_id)
    message = (
        "'password', 'db.password' are secrets, and secrets are not stored: give params_override={'password': ...},"
        " or set WORKFLOW_RUNNER_PARAM_PASSWORD in the environment"
    )
    for go_on in (scope.resume, scope.retry):
        with pytest.raises(errors.InputError, match=re.escape(message)):
            go_on(run_id, flow=nightly)
    assert scope.store.run(run_id) == before
    assert len(scope.store.runs()) == 1
    assert len(log.seen) == 2


def test_a_secret_inside_a_param_is_supplied_by_its_path(
    make: Callable[..., Scope], nightly: Workflow, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``db.password``, or ``DB_PASSWORD`` in the environment."""
    scope = make()
    run_id = failed(scope, nightly, db={"user": "me", "password": VALUE})
    log.fails = False
    monkeypatch.setenv("WORKFLOW_RUNNER_PARAM_DB_PASSWORD", OTHER)
    result = scope.resume(run_id, flow=nightly, params_override={"password": VALUE}).result()
    assert result.context.params["db"] == Database("me", OTHER)


def test_a_wrong_secret_is_refused_without_showing_it(
    make: Callable[..., Scope], nightly: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of the error has its name only."""
    run_id = failed(make(), nightly)
    with pytest.raises(errors.InputError, match=r"password: expected str, got \*\*\*$"):
        make().resume(run_id, flow=nightly, params_override={"password": 98765})


def test_other_overrides_are_recorded_and_secrets_are_not(
    make: Callable[..., Scope], nightly: Workflow, log: Log
) -> None:
    """Given once more at the next resume, they are applied as ever."""
    scope = make()
    run_id = failed(scope, nightly)
    given = {"password": OTHER, "token": "new-token", "region": "US"}
    with pytest.raises(errors.WorkflowFailed):
        scope.resume(run_id, flow=nightly, params_override=given).result()
    assert scope.store is not None
    assert codec.loads(scope.store.run(run_id).overrides or "")[0]["params"]["region"] == "US"
    with pytest.raises(errors.InputError, match="'password', 'token' are secrets"):
        scope.resume(run_id, flow=nightly)
    log.fails = False
    again = {"password": VALUE, "token": "new-token-2"}
    result = scope.resume(run_id, flow=nightly, params_override=again).result()
    assert dict(result.context.params) == {"region": "US", "password": VALUE, "token": "new-token-2", "db": None}


def test_a_retry_is_supplied_with_its_secrets(make: Callable[..., Scope], nightly: Workflow, log: Log) -> None:
    """The new run has the old one's rows, with the value of now."""
    scope = make()
    run_id = failed(scope, nightly)
    log.fails = False
    retried = scope.retry(run_id, flow=nightly, params_override={"password": OTHER})
    assert retried.result().status == "completed"
    assert log.seen[-1] == (OTHER, f"db://me:{OTHER}@host")
    assert log.seen.count("connect") == 1


def test_a_rotated_secret_is_the_same_input(make: Callable[..., Scope], nightly: Workflow, log: Log) -> None:
    """Under a key only what is no secret counts."""
    log.fails = False
    scope = make()
    first = scope.run(nightly, {"password": VALUE}, idempotency_key="k")
    assert scope.run(nightly, {"password": OTHER}, idempotency_key="k").run_id == first.run_id
    with pytest.raises(errors.IdempotencyConflict):
        scope.run(nightly, {"password": VALUE, "region": "US"}, idempotency_key="k")


def test_a_secret_that_a_step_has_got_is_supplied_anew(make: Callable[..., Scope]) -> None:
    """An update of a param that is a secret is not recorded; without one the run is not gone on with."""
    fails = [True]

    def login(context: WorkflowContext) -> StepResult:
        return StepResult.ok({"header": "Bearer new-token"}, context_updates={"token": "new-token", "region": "US"})

    def work(context: WorkflowContext) -> dict[str, Any]:
        if fails.pop() if fails else False:
            raise ValueError(f"refused {context.params['token']}")
        return {"header": context.get_output("login", "header")}

    workflow = Workflow("api", steps=[Step("login", login), Step("work", work)], params=Params)
    scope = make()
    run_id = failed(scope, workflow)
    with pytest.raises(errors.InputError, match="'token'"):
        scope.resume(run_id, flow=workflow, params_override={"password": VALUE})
    result = scope.resume(run_id, flow=workflow, params_override={"password": VALUE, "token": "new-token-2"}).result()
    assert result.steps["work"].output == {"header": "Bearer new-token-2"}
    assert result.context.params["token"] == "new-token-2"
    assert result.context.params["region"] == "US"


def test_a_nested_workflow_keeps_the_secrets_of_both(make: Callable[..., Scope], log: Log) -> None:
    """Its params have a class of their own, and updates go to the outer ones."""
    inner = Workflow(
        "inner",
        steps=[Step("see", lambda context: {"length": len(context.params["password"])})],
        params=Params,
    )
    outer = Workflow("outer", steps=[Step("nested", inner), Step("after", lambda context: None)], params=Params)
    result = make().run(outer, {"password": VALUE})
    assert result.context.get_output("nested", "see") == {"length": len(VALUE)}


def test_the_input_of_a_flow_has_no_secrets_in_the_store(
    make: Callable[..., Scope], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither has its children's, of which a digest is kept: it is the same for any password."""
    fails, seen = [True], []

    @flow
    def login(ctx: Any, db: Database) -> str:
        seen.append(db.password)
        return f"session of {db.user}"

    @flow
    def report(ctx: Any, db: Database) -> str:
        session: str = ctx.exec(login, db)
        sessions = ctx.parallel(login.each([db, db]))
        if fails.pop() if fails else False:
            raise ValueError(f"no report for {db.password}")
        return f"{session} and {len(sessions)} more"

    scope = make()
    execution = scope.exec(report, Database("me", VALUE))
    with pytest.raises(ValueError, match="no report"):
        execution.result()
    assert scope.store is not None
    hashes = {row.input_hash for row in scope.store.steps(execution.id)}
    assert hashes == {codec.digest(Database("me", OTHER))} or len(hashes) == 1
    with pytest.raises(errors.InputError, match="'password' is a secret"):
        scope.resume(execution.id, flow=report)
    with pytest.raises(errors.InputError, match="no workflow"):
        scope.resume(execution.id, flow=report, params_override={"password": OTHER, "user": "you"})
    result = scope.resume(execution.id, flow=report, params_override={"password": OTHER}).result()
    assert result == "session of me and 2 more"
    assert seen == [VALUE] * 3  # answered, though the password is another one now


def tell(database: Database) -> str:
    """A function that any module could have."""
    return f"{database.user} {len(database.password)}"


def test_the_arguments_of_a_function_have_no_secrets_in_the_store(
    make: Callable[..., Scope], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are supplied by the name of the field."""
    scope = make()
    execution = scope.exec(call(tell, Database("me", VALUE)))
    assert execution.result() == f"me {len(VALUE)}"
    monkeypatch.setenv("WORKFLOW_RUNNER_PARAM_PASSWORD", "12345678")
    assert scope.retry(execution.id).result() == "me 8"


def test_a_secret_is_not_given_back(make: Callable[..., Scope]) -> None:
    """A record of a step or a call would come back without: that is an error where it is written."""

    @flow
    def gives(ctx: Any, _: None) -> Database:
        return Database("me", VALUE)

    @flow
    def asks(ctx: Any, _: None) -> None:
        ctx.exec(gives)

    step = Workflow("steps", steps=[Step("gives", lambda context: {"db": Database("me", VALUE)})])
    for one in (gives, asks, step):
        with pytest.raises((errors.SerializationError, errors.WorkflowFailed), match="secrets are not stored"):
            make().run(one)


def test_a_run_that_waits_for_a_slot_has_no_secret_in_the_store(
    make: Callable[..., Scope], nightly: Workflow, tmp_path: Path, event: Callable[[], threading.Event]
) -> None:
    """It is inserted before it runs."""
    begun, go = event(), event()

    @flow
    def waits(ctx: Any, _: None) -> None:
        begun.set()
        go.wait(20)

    scope = make(max_workers=1)
    first = scope.exec(waits)
    assert begun.wait(20)
    scope.exec(nightly, {"password": VALUE})
    assert b"s3cr" not in on_disk(scope, tmp_path)
    go.set()
    first.result()


def test_the_value_of_a_secret_tag_is_not_in_a_recorded_error(make: Callable[..., Scope]) -> None:
    """Whatever the message repeats."""
    api_key = tag(str, label="api_key", secret=True)

    @flow
    def fails(ctx: Any, _: None) -> None:
        raise ValueError(f"refused {ctx.get(api_key)}")

    scope = make()
    execution = scope.exec(fails, tags=[api_key(VALUE)])
    with pytest.raises(ValueError, match="refused"):
        execution.result()
    assert scope.store is not None
    assert "refused ***" in (scope.store.run(execution.id).error or "")


def test_a_store_in_memory_keeps_no_secret_either(
    make_scope: Callable[..., Scope], make: Any, nightly: Workflow
) -> None:
    """The contract is the scope's, not the file's."""
    make()
    store = open_store("memory:")
    scope = make_scope(store=store)
    run_id = failed(scope, nightly)
    assert "s3cr" not in repr((store.run(run_id), store.steps(run_id), store.attempts(run_id)))
