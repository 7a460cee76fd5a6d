"""One stage as a Prefect task: named after the stage, retried where a retry can help, its log in the task's log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from lnl_core.s3 import Unreachable
from tasks.job import StageCancelled, StageDone, StageJob
from tasks.placement import INLINE
from tasks.prefect_log import send_logs_to_prefect
from tasks.stage_artifacts import show_metrics
from tasks.stage_calls import call_stage, run_here
from tasks.workspace import Workspace

# A lost worker is replaced, a full disk cleared, S3 back: most within minutes, and a checkpoint continues the stage.
STAGE_RETRIES = 5
STAGE_RETRY_DELAYS = [5.0, 15.0, 30.0, 60.0, 120.0]  # seconds before each retry


async def worth_retrying(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """A broken table or setting is broken the second time, too; and who cancels a stage wants it to end.

    An endpoint of S3 that does not reply may be misspelt, but it may also be back in a minute.
    """
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, Unreachable) or not isinstance(error, ConfigError | ContractError | StageCancelled)


@task(
    task_run_name="{job.stage}",
    retries=STAGE_RETRIES,
    retry_delay_seconds=STAGE_RETRY_DELAYS,
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,  # DVC is the cache
    persist_result=False,  # whoever needs it again gets it from DVC
)
async def stage_task(job: StageJob, place: str, gpu: bool) -> StageDone:
    """Run a stage through git and DVC, in this process or by a worker of the pool `place`."""
    done = await (run_here(job, gpu=gpu) if place == INLINE else call_stage(job, place, gpu=gpu))
    how = f"{done.how} on {done.machine} in {done.seconds:.1f} s"
    get_run_logger().info("stage %s: %s", done.stage, how)
    await show_metrics(done.stage, done.metrics, how)
    return done


@task(
    task_run_name="{stage}",
    retries=STAGE_RETRIES,
    retry_delay_seconds=STAGE_RETRY_DELAYS,
    retry_condition_fn=worth_retrying,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def stage_in_place(stage: str, workspace: Workspace) -> Mapping[str, Any]:
    """Run a stage in a folder, on a thread, so that Prefect's heartbeat and cancellation stay alive."""
    send_logs_to_prefect()
    metrics = await asyncio.to_thread(workspace.run, stage)
    await show_metrics(stage, metrics, "run in place")
    return metrics
