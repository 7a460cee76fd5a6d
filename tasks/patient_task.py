"""A task beside the stages that waits out a git server, an S3 or a Prefect server that is away for a minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from tasks.stage import worth_retrying

P = ParamSpec("P")
R = TypeVar("R")


def patient_task(name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """The decorator of a task run called `name`: three retries, and none for what is wrong the second time, too."""
    return task(
        task_run_name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=3,
        retry_delay_seconds=[5, 20, 60],
        retry_condition_fn=worth_retrying,
    )
