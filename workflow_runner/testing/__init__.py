"""What tests of workflows need; nothing of it is needed at run time.

    ManualClock                     a clock that stands still until the test moves it
    assert_resumable, Resumable     kills a run after every step in turn, and goes on with it

With pytest come fixtures: ``wf_scope``, ``wf_store`` and ``wf_clock``, see ``testing.plugin``.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in the package's own facade; pytest imports this when it starts
if TYPE_CHECKING:
    from workflow_runner.testing.clock import ManualClock
    from workflow_runner.testing.resumable import Resumable, assert_resumable

_HOME = {"ManualClock": "clock", "Resumable": "resumable", "assert_resumable": "resumable"}

__all__ = ["ManualClock", "Resumable", "assert_resumable"]


def __getattr__(name: str) -> object:
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
