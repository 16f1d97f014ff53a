"""The command ``workflow-runner``: a thin skin over plain functions.

Nothing here is imported before it is needed: ``--version`` loads neither cyclopts nor rich.
"""

NAME = "workflow-runner"
ALIAS = "wf"
