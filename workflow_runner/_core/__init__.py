"""The floor of executions: everything that runs, and nothing that knows a workflow or a database."""
