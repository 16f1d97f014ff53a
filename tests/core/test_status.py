"""The table of an execution's life."""

from __future__ import annotations

from workflow_runner import ExecutionStatus
from workflow_runner._core.status import TRANSITIONS


def test_the_table_is_the_promised_one() -> None:
    """pending -> running -> completed, failed or cancelled; also pending -> cancelled; nothing else."""
    edges = {(before.value, after.value) for before, afters in TRANSITIONS.items() for after in afters}
    assert edges == {
        ("pending", "running"),
        ("pending", "cancelled"),
        ("running", "completed"),
        ("running", "failed"),
        ("running", "cancelled"),
    }
    assert set(TRANSITIONS) == set(ExecutionStatus)


def test_terminal_is_what_nothing_follows() -> None:
    """``terminal`` agrees with the table."""
    assert {status for status in ExecutionStatus if status.terminal} == {
        ExecutionStatus.COMPLETED,
        ExecutionStatus.FAILED,
        ExecutionStatus.CANCELLED,
    }


def test_a_status_is_its_lower_case_text() -> None:
    """The values are the lower-case names, and compare and print as texts."""
    for status in ExecutionStatus:
        assert status == status.name.lower() == str(status) == f"{status}"
        assert ExecutionStatus(status.value) is status
