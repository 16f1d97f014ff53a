"""The commands, a file for each family. Each reads its words, calls plain functions, and returns what they give."""

COMMANDS = {
    "run": "run:run",
    "list": "history:list_",
    "show": "history:show",
    "logs": "history:logs",
    "status": "history:status",
    "resume": "going_on:resume",
    "retry": "going_on:retry",
    "cancel": "going_on:cancel",
    "backfill": "backfill:backfill",
    "catchup": "backfill:catchup",
    "prune": "upkeep:prune",
    "doctor": "upkeep:doctor",
    "emit": "emit:emit",
    "timeline": "pictures:timeline",
    "graph": "pictures:graph",
    "serve": "serve:serve",
    "completion": "completion:completion",
}
"""Where each command is, ``module:function``: one is imported when it is asked for."""

TAKES_TARGET = ("run",)
"""What follows the target of these commands is the flow's own."""

PARAMETERS_LAST = ("backfill", "catchup", "emit")
"""What is the flow's own follows a ``--`` in these, at the end."""

FLAGS = ("--json", "--debug", "--dry-run", "--progress", "--no-progress", "--quiet", "--help")
"""The options of those commands that take no value."""

EXAMPLES = {
    "list": "list --store sqlite:///runs.db --status failed --since 7d",
    "show": "show --store sqlite:///runs.db RUN",
    "logs": "logs --store sqlite:///runs.db --level warning RUN",
    "status": "status --store sqlite:///runs.db --max-age 26h",
    "resume": "resume --store sqlite:///runs.db --last market_close",
    "retry": "retry --store sqlite:///runs.db --from compute RUN",
    "cancel": 'cancel --store sqlite:///runs.db --reason "wrong date" RUN',
    "backfill": "backfill --store sqlite:///runs.db --calendar weekdays \\\n"
    "    --from 2013-02-25 --to 2013-02-28 \\\n"
    "    workflow_runner.examples.market_close:nightly",
    "catchup": 'catchup --schedule "30 18 * * MON-FRI" --policy skip \\\n'
    "    --store sqlite:///runs.db workflow_runner.examples.market_close:nightly",
    "timeline": "timeline --store sqlite:///runs.db --output run.html RUN",
    "graph": "graph workflow_runner.examples.market_close:nightly",
    "prune": "prune --store sqlite:///runs.db --older-than 90d \\\n    --keep-last 30",
    "serve": "serve --store sqlite:///runs.db --port 8080",
    "doctor": "doctor --store sqlite:///runs.db",
    "completion": "completion bash > ~/.workflow-runner.bash",
    "emit": "emit systemd --schedule '30 18 * * MON-FRI' \\\n"
    "    --store sqlite:///runs.db --key '{flow}/{as_of_date}' \\\n"
    "    --as-of-date today workflow_runner.examples.market_close:nightly",
}
"""What the help page of a command ends with, without the name of the program; default: how to run something."""
