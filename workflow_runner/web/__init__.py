"""Pictures of runs and workflows: functions of records, which the command and the history page share."""
