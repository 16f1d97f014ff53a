"""What a workflow's author may write, and what is refused when it is built."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from workflow_runner import Retry, Scope, Step, Workflow, WorkflowContext, errors, flow


def body(context: WorkflowContext) -> dict[str, Any]:
    return {}


def refusal(*steps: Any, **options: Any) -> str:
    with pytest.raises(errors.DefinitionError) as caught:
        Workflow("w", steps=steps, **options)
    return str(caught.value)


def test_one_error_lists_everything_that_is_wrong() -> None:
    """Duplicate names, unknown needs, cycles, empty choices and bad options come together in one DefinitionError."""
    message = refusal(
        Step("a", body),
        Step("a", body, needs=("nowhere",)),
        Step("c", body, needs=("d",)),
        Step("d", body, needs=("c",)),
        Step.choice("e", when=bool, then=[]),
        Step("f", 3),
        Step("g", body, timeout=-1),
        Step("h", body, on_error="ignore"),
    )
    for part in (
        "step 'a': the name is used twice",
        "step 'a': needs 'nowhere', which does not exist",
        "in a circle: c -> d -> c",
        "step 'e': a choice needs a branch",
        "step 'f': body must be a function (context, config) or (context), not 3",
        "step 'g': timeout must be more than zero",
        "step 'h': on_error is 'stop' or 'continue', not 'ignore'",
    ):
        assert part in message


def test_a_definition_error_is_a_value_error() -> None:
    """Old code that catches ValueError keeps working."""
    with pytest.raises(ValueError, match="at least one step"):
        Workflow("w", steps=[])


def test_a_misspelt_need_names_the_near_one() -> None:
    """A typo in needs is answered with the step that was probably meant."""
    assert "did you mean 'fetch'?" in refusal(Step("fetch", body), Step("load", body, needs=("fetsch",)))


def test_names_are_unique_over_branches() -> None:
    """A step in a branch may not take the name of a step outside."""
    assert "'a': the name is used twice" in refusal(
        Step("a", body), Step.choice("c", when=bool, then=[Step("a", body)])
    )


def test_a_need_across_a_branch_is_explained() -> None:
    """Naming a step inside a branch from outside says to name the choice."""
    message = refusal(Step.choice("c", when=bool, then=[Step("in", body)]), Step("out", body, needs=("in",)))
    assert "needs 'in', which stands in another branch; name the choice instead" in message


def test_needs_given_as_a_text_is_refused() -> None:
    """``needs="fetch"`` is not taken for its letters."""
    assert "needs must be names of steps, not 'fetch'" in refusal(Step("fetch", body), Step("b", body, needs="fetch"))


@pytest.mark.parametrize("name", ["", " ", "a/b", None, 3])
def test_a_name_must_fit_a_path(name: Any) -> None:
    """Empty names, names with a slash and names that are no text are refused, for steps and for workflows."""
    assert "needs a name" in refusal(Step(name, body))
    with pytest.raises(errors.DefinitionError, match="needs a name"):
        Workflow(name, steps=[Step("a", body)])


async def coroutine(context: WorkflowContext) -> None: ...


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (Step("a", coroutine), "cannot be async"),
        (Step("a", lambda: None), "this one is ()"),
        (Step("a", lambda a, b, c: None), "this one is (a, b, c)"),
        (Step("a", body, config=[1]), "config must be a mapping"),
        (Step("a", body, retry=3), "retry must be a Retry"),
        (Step("a", body, timeout=float("nan")), "timeout must be"),
        (Step.wait("a", seconds=-1), "seconds must be zero or more"),
        (Step.choice("a", when=None, then=[Step("b", body)]), "when must be a function (context), not None"),
        (Step.map("a", body, items=3), "items must be a function (context), not 3"),
        (Step.map("a", body, items="x", max_concurrency=0), "max_concurrency must be"),
        (Step.map("a", body, items="x", item_timeout=0), "item_timeout must be"),
        ("a", "'a' is no Step"),
    ],
)
def test_a_wrong_step_is_named_with_its_problem(step: Any, problem: str) -> None:
    """Each option is checked when the workflow is built, not when the step is reached."""
    assert problem in refusal(step)


def test_a_row_of_ten_thousand_steps_can_be_checked() -> None:
    """The search for cycles does not recurse."""
    workflow = Workflow("long", steps=[Step(f"s{n}", body) for n in range(10_000)])
    assert len(workflow.step_names) == 10_000


def test_retry_checks_its_numbers() -> None:
    """A Retry that makes no sense is refused where it is written."""
    for options in ({"attempts": 0}, {"initial": -1}, {"factor": 0}, {"max_delay": float("inf")}):
        with pytest.raises(errors.DefinitionError):
            Retry(**options)  # type: ignore[arg-type]


def test_step_names_are_in_order_of_declaration() -> None:
    """``step_names`` lists branches after their choice."""
    choice = Step.choice("c", when=bool, then=[Step("t", body)], otherwise=[Step("o", body)])
    assert Workflow("w", steps=[Step("a", body), choice, Step("z", body)]).step_names == ("a", "c", "t", "o", "z")


@attrs.frozen
class Params:
    region: str
    limit: int = 10


def test_declared_params_are_checked_and_completed() -> None:
    """Params of the wrong type are an InputError naming the field, and defaults are filled in."""
    workflow = Workflow("w", steps=[Step("a", lambda context: dict(context.params))], params=Params)
    with Scope() as scope:
        assert scope.run(workflow, {"region": "EU"}).context.get_output("a") == {"region": "EU", "limit": 10}
        with pytest.raises(errors.InputError, match="limit"):
            scope.exec(workflow, {"region": "EU", "limit": "many"})
        with pytest.raises(errors.InputError, match="region"):
            scope.exec(workflow, {})


def test_params_must_be_an_attrs_class() -> None:
    """``params=dict`` is refused when the workflow is built."""
    assert "params must be an attrs class" in refusal(Step("a", body), params=dict)


def test_an_input_that_is_no_context_is_refused() -> None:
    """A workflow takes a context or a mapping of params."""
    with Scope() as scope, pytest.raises(errors.InputError, match="expected a WorkflowContext or a mapping"):
        scope.exec(Workflow("w", steps=[Step("a", body)]), 3)


def test_mermaid_draws_every_kind_of_step() -> None:
    """Choices are diamonds with labelled edges, maps are subroutines, nested workflows are subgraphs."""
    inner = Workflow("inner", steps=[Step("i1", body), Step("i2", body)])
    workflow = Workflow(
        "w",
        steps=[
            Step("a", body),
            Step.choice("c", when=bool, then=[Step("t", body)]),
            Step.map("m", flow(lambda ctx, item: item), items="x"),
            Step.wait("w", seconds=1),
            Step('n"<b>', inner),
        ],
    )
    assert workflow.to_mermaid().splitlines() == [
        "flowchart TD",
        '    s1["a"]',
        '    s2{"c"}',
        '    s3["t"]',
        "    s2 -->|then| s3",
        '    s4[["m"]]',
        '    s5(["w"])',
        '    subgraph s6["n#quot;#lt;b#gt;"]',
        '        s7["i1"]',
        '        s8["i2"]',
        "        s7 --> s8",
        "    end",
        "    s1 --> s2",
        "    s3 --> s4",
        "    s2 -->|otherwise| s4",
        "    s4 --> s5",
        "    s5 --> s6",
    ]


def test_mermaid_draws_needs_in_any_order_of_declaration() -> None:
    """A step may need one that is declared after it."""
    workflow = Workflow("w", steps=[Step("last", body, needs=("first",)), Step("first", body, needs=())])
    assert "s2 --> s1" in workflow.to_mermaid()
