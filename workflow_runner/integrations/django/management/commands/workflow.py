"""``manage.py workflow list``: the commands of ``workflow-runner``, in the project."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand

from workflow_runner.integrations.django import on_store


class Command(BaseCommand):
    """Everything after ``workflow`` is for ``workflow-runner``; the store is that of the default scope."""

    help = "The commands of workflow-runner, on the store of the project's scope."

    def run_from_argv(self, argv: list[str]) -> None:
        # not Django's own parser: the options are those of another command
        from workflow_runner.cli.app import main

        os.environ.update(on_store(argv[2:], os.environ))
        sys.exit(main(argv[2:]))

    def handle(self, *args: Any, **options: Any) -> None:
        from workflow_runner.cli.app import main

        words = [str(word) for word in args]
        os.environ.update(on_store(words, os.environ))
        code = main(words)
        if code:
            sys.exit(code)

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("args", nargs="*", help="a command of workflow-runner and its options")
