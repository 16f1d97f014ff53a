"""The Django app: finds the scope of the settings and makes it at home."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings


class WorkflowRunnerConfig(AppConfig):
    """``"workflow_runner.integrations.django"`` in ``INSTALLED_APPS``."""

    name = "workflow_runner.integrations.django"
    label = "workflow_runner"
    verbose_name = "workflow_runner"

    def ready(self) -> None:
        if getattr(settings, "WORKFLOW_RUNNER_SCOPE", None) is not None:
            from workflow_runner.integrations.django import default_scope

            default_scope()
