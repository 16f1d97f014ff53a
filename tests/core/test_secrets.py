"""Secrets: which fields are some, which texts are masked and for how long, and what is stored in their place."""

from __future__ import annotations

import copy
import dataclasses
import gc
import pickle
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypedDict

import attrs
import pytest

from workflow_runner import Scope, Secret, errors, flow, tag
from workflow_runner._core import codec, secrets
from workflow_runner._core.secrets import MASK, REDACTED, mask, mask_data


@attrs.frozen
class Login:
    user: str
    password: Annotated[str, Secret]


@attrs.frozen
class Job:
    login: Login
    limit: int = attrs.field(default=1, validator=attrs.validators.gt(0))
    pin: Annotated[int, Secret] | None = None
    key: str = attrs.field(default="", metadata={"secret": True})


@dataclasses.dataclass
class Account:
    name: str
    token: Annotated[str, Secret()]
    key: str = dataclasses.field(default="", metadata={"secret": True})


class Pair(NamedTuple):
    name: str
    token: Annotated[str, Secret]


class Options(TypedDict):
    password: Annotated[str, Secret]


class Later(Login):
    extra: str = ""


class Owner:
    """Something that has secrets."""


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (Login, {"password"}),
        (Job, {"pin", "key"}),
        (Account, {"token", "key"}),
        (Pair, {"token"}),
        (Later, {"password"}),
    ],
)
def test_fields_are_secrets_by_annotation_and_by_metadata(cls: Any, names: set[str]) -> None:
    """Attrs classes, dataclasses, named tuples and what is derived from them."""
    assert secrets.secret_fields(cls) == names


def test_an_annotation_that_nobody_can_evaluate_counts_by_its_words() -> None:
    """A class inside a function may name what only that function knows; its secret is one all the same."""

    class Hidden: ...

    @attrs.frozen
    class Local:
        other: Hidden
        password: Annotated[Hidden, Secret]

    assert secrets.secret_fields(Local) == {"password"}


def test_a_collection_of_secrets_is_one_as_a_whole() -> None:
    """A list of them, or a dict."""

    @attrs.frozen
    class Many:
        tokens: list[Annotated[str, Secret]]
        by_name: dict[str, Annotated[str, Secret] | None]
        names: list[str]

    assert secrets.secret_fields(Many) == {"tokens", "by_name"}


def test_a_typed_dict_has_no_secrets(scope: Scope) -> None:
    """Its instances are plain dicts: nobody could tell which of them have one. That is an error, and no leak."""

    @flow
    def takes(ctx: Any, options: Options) -> None: ...

    with pytest.raises(errors.DefinitionError, match="Options is a TypedDict"):
        scope.exec(takes, {"password": "hunter-two"})


def test_a_type_knows_the_secrets_at_any_depth() -> None:
    """Inside records, collections and unions."""
    assert secrets.secret_names(dict[str, list[Login] | None]) == {"password"}
    assert secrets.secret_names(Job) == {"password", "pin", "key"}
    assert not secrets.secret_names(dict[str, int])


def test_what_is_held_is_masked_as_long_as_its_owner_lives() -> None:
    """And one that two hold until both are gone."""
    first, second = Owner(), Owner()
    secrets.hold(first, "hunter-two")
    secrets.hold(second, "hunter-two", 12345)
    assert mask("it is hunter-two, or 12345") == "it is ***, or ***"
    del first
    gc.collect()
    assert mask("it is hunter-two") == "it is ***"
    del second
    gc.collect()
    assert mask("it is hunter-two, or 12345") == "it is hunter-two, or 12345"
    assert not secrets._texts


def test_a_secret_is_masked_however_it_is_spelt() -> None:
    """In JSON, in a repr, in a URL; and the longer one of two that begin alike."""
    owner = Owner()
    secrets.hold(owner, 'pä"ss\\word/1', "abcd", "abcdef")
    for text in ('pä"ss\\word/1', '"pä\\"ss\\\\word/1"', '"p\\u00e4\\"ss\\\\word/1"', "p%C3%A4%22ss%5Cword%2F1"):
        assert "word" not in mask(text)
    assert mask(repr('pä"ss\\word/1')) == "'***'"
    assert mask("abcdef abcd") == "*** ***"


def test_short_texts_are_left_alone() -> None:
    """A pin of three digits would be found in every number."""
    owner = Owner()
    secrets.hold(owner, "abc", 12, None, True, "")
    assert mask("abc 12 None True") == "abc 12 None True"


def test_plain_data_is_masked_at_any_depth() -> None:
    """Texts, keys, and numbers that are a secret as a whole; without secrets the data itself comes back."""
    owner, data = Owner(), {"a": ["x hunter-two", {"hunter-two": (1, None, True)}], "n": 98765, "m": 987651}
    assert mask_data(data) is data
    secrets.hold(owner, "hunter-two", {"deep": [98765]})
    assert mask_data(data) == {"a": ["x ***", {"***": (1, None, True)}], "n": "***", "m": 987651}


def test_nothing_is_let_go_while_something_is_still_to_be_shown() -> None:
    """Whoever shows what a run was keeps its secrets for so long."""
    with secrets.kept():
        owner = Owner()
        secrets.hold(owner, "hunter-two")
        del owner
        gc.collect()
        assert mask("hunter-two") == MASK
    gc.collect()
    assert mask("hunter-two") == "hunter-two"


def test_many_threads_hold_and_let_go(together: Callable[..., list[Any]]) -> None:
    """What a living owner has is masked whatever the others do."""

    def work(number: int) -> Callable[[], bool]:
        def run() -> bool:
            for _ in range(100):
                owner = Owner()
                secrets.hold(owner, f"hunter-{number}-")
                if mask(f"hunter-{number}-") != MASK:
                    return False
            return True

        return run

    assert together(*map(work, range(8))) == [True] * 8


def test_a_tag_that_is_secret_shows_no_value() -> None:
    """Not in a repr, and not in an error."""
    api_key = tag(str, label="api_key", secret=True, validator=lambda value: value != "bad-value")
    assert repr(api_key("hunter-two")) == "tag('api_key')(***)"
    for value in ("bad-value", 12345):
        with pytest.raises(errors.InputError) as caught:
            api_key(value)  # type: ignore[arg-type]
        assert str(value) not in str(caught.value)
        assert MASK in str(caught.value)


def test_the_value_of_a_secret_tag_is_masked_while_its_run_lives(make_scope: Callable[..., Scope]) -> None:
    """One of the scope's, one of the execution's, and one that is set inside."""
    one, two, three = (tag(str, label=label, secret=True) for label in ("one", "two", "three"))

    @flow
    def shows(ctx: Any, _: None) -> str:
        ctx.set(three, "third-value")
        return mask("first-value second-value third-value")

    scope = make_scope(tags=[one("first-value")])
    assert scope.run(shows, tags=[two("second-value")]) == "*** *** ***"
    gc.collect()
    assert mask("first-value second-value third-value") == "*** second-value third-value"


def test_the_secrets_of_an_input_are_masked_while_its_run_lives(scope: Scope) -> None:
    """Those of a run, and those that only a child gets."""

    @flow
    def child(ctx: Any, login: Login) -> str:
        return mask("outer-secret inner-secret")

    @flow
    def outer(ctx: Any, job: Job) -> str:
        return mask("inner-secret ") + ctx.exec(child, {"user": "me", "password": "inner-secret"})

    assert scope.run(outer, {"login": {"user": "me", "password": "outer-secret"}}) == "inner-secret *** ***"
    gc.collect()
    assert mask("outer-secret inner-secret") == "outer-secret inner-secret"


@pytest.mark.parametrize(
    "wrong",
    [
        {"login": {"user": "me", "password": 987654}},
        {"login": {"user": "me", "password": "hunter-two", "more": 1}},
        {"login": {"user": "me", "password": "hunter-two"}, "pin": "987654x"},
        {"login": ["hunter-two"], "key": "hunter-two", "limit": "hunter-two"},
        {"login": {"user": 1, "password": "hunter-two"}, "key": "hunter-two", "limit": -5},
    ],
)
def test_an_error_about_an_input_shows_no_secret(scope: Scope, wrong: dict[str, Any]) -> None:
    """Not in its text, and not in the errors behind it; what is wrong elsewhere is still said."""

    @flow
    def takes(ctx: Any, job: Job) -> None: ...

    with pytest.raises(errors.InputError) as caught:
        scope.exec(takes, wrong)
    error: BaseException | None = caught.value
    assert error is not None
    assert error.__cause__ is None
    assert error.__suppress_context__
    for secret in ("hunter-two", "987654"):
        assert secret not in str(error)
    if wrong.get("limit") == -5:
        assert "login.user: expected str" in str(error)


def test_a_whole_input_is_no_secret(scope: Scope) -> None:
    """A secret is a field: the rest of the input says which run it is."""

    @flow
    def takes(ctx: Any, password: Annotated[str, Secret]) -> None: ...

    with pytest.raises(errors.DefinitionError, match="marks a field"):
        scope.exec(takes, "hunter-two")


@pytest.mark.parametrize("value", [Login("me", "hunter-two"), Account("me", "hunter-two"), Pair("me", "hunter-two")])
def test_a_secret_is_stored_as_a_marker(value: Any) -> None:
    """The rest of the record is stored as ever; two secrets make one digest."""
    text = codec.dumps([value])
    assert "hunter" not in text
    assert '{"$":"secret"}' in text
    (back,) = codec.loads(text)
    assert type(back) is type(value)
    name = next(iter(secrets.secret_fields(type(value)) - {"key"}))
    assert getattr(back, name) is REDACTED
    assert codec.has_secret(text)
    other = type(value)("me", "changed")
    assert codec.digest(value) == codec.digest(other)
    assert codec.digest(value) != codec.digest(type(value)("you", "hunter-two"))


def test_a_secret_that_was_not_given_is_stored_as_none() -> None:
    """There is nothing to hide, and nobody has to supply it later."""
    assert codec.loads(codec.dumps(Job(Login("me", "x"), pin=None))).pin is None


def test_a_text_cannot_look_like_a_marker() -> None:
    """Whatever a user's own dict or text has."""
    for value in ({"$": "secret"}, '"$":"secret"', {"a": '{"$":"secret"}'}):
        text = codec.dumps(value)
        assert not codec.has_secret(text)
        assert codec.loads(text) == value


def test_there_is_one_marker() -> None:
    """Copies and pickles are the same object."""
    assert copy.deepcopy(REDACTED) is REDACTED
    assert pickle.loads(pickle.dumps(REDACTED)) is REDACTED
    assert str(REDACTED) == MASK


def test_the_library_logs_no_secret(scope: Scope, caplog: pytest.LogCaptureFixture) -> None:
    """What a failed run has raised is a field of an event of ours, whoever shows it."""

    @flow
    def fails(ctx: Any, login: Login) -> None:
        raise ValueError(f"refused {login.password}")

    caplog.set_level("INFO", logger="workflow_runner")
    execution = scope.exec(fails, Login("me", "hunter-two"))
    assert execution.exception(20) is not None
    scope.close()
    assert "refused ***" in caplog.text
    assert "hunter-two" not in caplog.text
