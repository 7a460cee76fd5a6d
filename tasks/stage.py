"""One stage as a Prefect task: named after the stage, retried where a retry can help, its log in the task's log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

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
    # prefect.toml hands this logger to Prefect; without a level the root's WARNING would apply.
    logging.getLogger("lnl").setLevel(logging.INFO)
    return await asyncio.to_thread(workspace.run, stage)
