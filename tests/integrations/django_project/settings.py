"""A small project: one scope, a database, and another one with persistent connections."""

import importlib.util
import os

SECRET_KEY = "tests"
USE_TZ = True
TIME_ZONE = "UTC"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("PROJECT_DB", "project.db"),
        "OPTIONS": {"timeout": 20},
        "TEST": {"NAME": os.environ.get("PROJECT_DB", "project.db")},
    },
    "other": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("PROJECT_DB", "project.db") + ".other",
        "CONN_MAX_AGE": None,
    },
}
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "workflow_runner.integrations.django"]
WORKFLOW_RUNNER_SCOPE = "integrations.django_project.flows.scope"
TASKS = {"default": {"BACKEND": "workflow_runner.integrations.django.tasks.ThreadBackend"}}
if importlib.util.find_spec("django.tasks") is None:
    INSTALLED_APPS.append("django_tasks")
