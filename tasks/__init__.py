"""The Prefect tasks: a stage's workspace, retries, logs and artifacts. No science here, and no logic in a task."""
