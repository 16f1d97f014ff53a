"""``manage.py workflow list``: the commands of ``workflow-runner``, in the project."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from workflow_runner.cli.embedded import on_store
from workflow_runner.integrations.django import default_scope


class Command(BaseCommand):
    """Everything after ``workflow`` is for ``workflow-runner``; the store is that of the default scope."""

    help = "The commands of workflow-runner, on the store of the project's scope."

    def run_from_argv(self, argv: list[str]) -> None:
        # not Django's own parser: the options are those of another command
        sys.exit(self.handle(*argv[2:]))

    def handle(self, *args: Any, **options: Any) -> Any:
        return on_store(getattr(default_scope(), "store", None), [str(word) for word in args])

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("args", nargs="*", help="a command of workflow-runner and its options")
