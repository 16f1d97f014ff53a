"""The command inside another one, such as ``flask workflow`` and ``manage.py workflow``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from workflow_runner.cli.app import main
from workflow_runner.cli.defaults import PREFIX

_NAME = f"{PREFIX}STORE"


def on_store(store: Any, words: Sequence[str]) -> int:
    """Run the command on a store, unless the words or the environment name another one.

    Args:
        store: a scope's; None for none.
        words: without the name of the program.

    Returns:
        The exit code.
    """
    url = getattr(store, "url", None)
    if url is None or _NAME in os.environ:
        return main(words)
    os.environ[_NAME] = url
    try:
        return main(words)
    finally:
        del os.environ[_NAME]
