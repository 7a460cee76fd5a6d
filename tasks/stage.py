"""One stage as a Prefect task: named after the stage, retried where a retry can help, its log in the task's log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging.handlers import APILogHandler

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from tasks.workspace import Workspace

STAGE_RETRIES = 2  # a full disk or a busy device may be gone a minute later; a checkpoint continues the stage
STAGE_RETRY_DELAYS = [10.0, 60.0]  # seconds before the first and the second retry


async def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """A broken table or setting is broken the second time, too."""
    error = await state.aresult(raise_on_failure=False)
    return not isinstance(error, ConfigError | ContractError)


@task(
    task_run_name="{stage}",
    retries=STAGE_RETRIES,
    retry_delay_seconds=STAGE_RETRY_DELAYS,
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,  # DVC is the cache
    persist_result=False,  # the result is files
)
async def stage_task(stage: str, workspace: Workspace) -> Mapping[str, Any]:
    """Run one stage in `workspace` on a thread, so that Prefect's heartbeat and cancellation stay alive."""
    send_logs_to_prefect()
    return await asyncio.to_thread(workspace.run, stage)


def send_logs_to_prefect() -> None:
    """What logger `lnl` says becomes the log of the task run in whose context it is said; outside a run it stays here.

    Prefect's setting `extra_loggers` does the same, but only where prefect.toml is found and nothing has since replaced
    the logger's handlers.
    """
    log = logging.getLogger("lnl")
    log.setLevel(logging.INFO)  # without a level the root's WARNING would apply
    if not any(isinstance(handler, APILogHandler) for handler in log.handlers):
        log.addHandler(APILogHandler())
