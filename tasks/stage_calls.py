"""Running a stage: here, on a thread, or as a flow run of its own in a work pool.

A call is made once: its idempotency key is RUN:STAGE:NUMBER, and only a flow run that has ended badly uses a number up.
Whoever asks again (a retried task, `prefect flow-run retry`) finds the living or finished flow run of the last time.
The result comes back as an artifact of the child, a few kilobytes in Prefect's own database: no shared storage to set
up, and none that could be away when the stage is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import asdict
from uuid import UUID

import httpx
from prefect.artifacts import Artifact
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import arun_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Cancelling
from pydantic import TypeAdapter

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from tasks.executor import run_stage_job
from tasks.gpu_limit import gpu_slot
from tasks.job import StageCancelled, StageDone, StageFailed, StageJob
from tasks.machine import Machine
from tasks.prefect_log import send_logs_to_prefect, sent_to_prefect

POLL_SECONDS = 1.0
WANTED_SECONDS = 15.0  # between two looks at whether this flow run is still wanted
NOBODY_SECONDS = 60.0  # after which the log says that no worker has taken the stage
MOST_CALLS = 50  # flow runs of one stage of one run
STOP_SECONDS = 20.0  # less than the 30 s after which a worker kills a flow run that it has ordered to stop
RESULT = "result"  # an artifact type that Prefect's pages do not list
NO_RETRY = {error.__name__: error for error in (ConfigError, ContractError)}  # also the names of the child's state
_DONE = TypeAdapter(StageDone)


async def run_here(job: StageJob, *, gpu: bool) -> StageDone:
    """Run the stage on a thread of this process; cancelled, it stops the stage's processes before it returns.

    Raises:
        StageCancelled: the server holds this flow run to be cancelled or lost, so another may already do the stage.
    """
    send_logs_to_prefect()
    cancel = threading.Event()
    async with gpu_slot(gpu), sent_to_prefect(job.stage) as on_progress:
        work = asyncio.create_task(
            asyncio.to_thread(run_stage_job, job, Machine(), on_progress=on_progress, cancel=cancel)
        )
        watch = asyncio.create_task(_until_unwanted())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cancel.set()
            watch.cancel()
            ended, _ = await asyncio.wait({work}, timeout=STOP_SECONDS)
            for one in ended:
                one.exception()  # asyncio complains about an error that nobody has looked at
        return await work


async def _until_unwanted() -> None:
    """Returns when this flow run is no longer to run.

    Its worker should hear of that, but stops listening for good where the server was away for half a minute; and a
    flow run whose heartbeats did not arrive has been replaced.
    """
    async with get_client() as client:
        while True:
            await asyncio.sleep(WANTED_SECONDS)
            with contextlib.suppress(httpx.TransportError, PrefectHTTPStatusError):  # the server restarts
                state = (await client.read_flow_run(UUID(flow_run.id))).state
                if state is not None and (state.is_final() or state.is_cancelling()):
                    get_run_logger().warning("this flow run is %s on the server: its stage stops", state.name)
                    return


async def call_stage(job: StageJob, pool: str, *, gpu: bool) -> StageDone:
    """Have a worker of `pool` run the stage; cancelled, it cancels the worker's flow run.

    Raises:
        ConfigError, ContractError: as the stage raised them in its worker.
        StageFailed: the flow run failed or crashed; the next call makes a new one.
        StageCancelled: somebody cancelled the flow run.
    """
    async with get_client() as client:
        called = await _living_run(client, job) or await _new_run(client, job, pool, gpu)
        try:
            ended = await _until_final(client, called.id, pool)
        except asyncio.CancelledError:
            await client.set_flow_run_state(called.id, Cancelling(message="the run that wanted it was cancelled"))
            raise
        return await _stage_done(client, ended)


async def leave_result(done: StageDone) -> None:
    """Called in the child: where `call_stage` finds what came of it."""
    await Artifact(type=RESULT, data=asdict(done)).acreate()


async def _runs(client: PrefectClient, job: StageJob) -> list[FlowRun]:
    keys = [_key(job, number) for number in range(1, MOST_CALLS + 1)]
    wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys))
    return await client.read_flow_runs(flow_run_filter=wanted, limit=MOST_CALLS)


async def _living_run(client: PrefectClient, job: StageJob) -> FlowRun | None:
    """The flow run of an earlier call that still runs or has ended well."""
    for found in await _runs(client, job):
        if found.state is None or not found.state.is_final() or found.state.is_completed():
            get_run_logger().info("stage %s: found its flow run %s of an earlier call", job.stage, found.name)
            return found
    return None


async def _new_run(client: PrefectClient, job: StageJob, pool: str, gpu: bool) -> FlowRun:
    used = {found.idempotency_key for found in await _runs(client, job)}
    number = next((number for number in range(1, MOST_CALLS + 1) if _key(job, number) not in used), None)
    if number is None:
        raise StageFailed(f"stage {job.stage} of run {job.run} was called {MOST_CALLS} times and never ended well")
    return await arun_deployment(
        f"stage/{pool}",
        client=client,
        parameters={"job": asdict(job), "gpu": gpu},
        flow_run_name=f"{job.stage} of {job.run}" + (f", call {number}" if number > 1 else ""),
        idempotency_key=_key(job, number),
        timeout=0,  # we wait ourselves: for as long as it takes, through a server that restarts
    )


def _key(job: StageJob, number: int) -> str:
    return f"{job.run}:{job.stage}:{number}"


async def _until_final(client: PrefectClient, called: UUID, pool: str) -> FlowRun:
    waited = 0.0
    while True:
        with contextlib.suppress(httpx.TransportError, PrefectHTTPStatusError):  # the server restarts
            found = await client.read_flow_run(called)
            if found.state is not None and found.state.is_final():
                return found
            waited = waited + POLL_SECONDS if found.state is None or found.state.is_scheduled() else 0.0
        if waited == NOBODY_SECONDS:
            get_run_logger().warning(
                "no worker of pool %s has taken flow run %s for %.0f s: start one, or raise the pool's limit",
                *(pool, found.name, NOBODY_SECONDS),
            )
        await asyncio.sleep(POLL_SECONDS)


async def _stage_done(client: PrefectClient, ended: FlowRun) -> StageDone:
    state = ended.state
    assert state is not None, "a final flow run has a state"
    if state.is_completed():
        return _DONE.validate_json(await _data(client, ended.id))
    said = state.message or state.name or ""
    if state.name in NO_RETRY:
        raise NO_RETRY[state.name](said)
    if state.type == StateType.CANCELLED:
        raise StageCancelled(f"flow run {ended.name} was cancelled")
    raise StageFailed(f"flow run {ended.name} is {state.name}: {said}")


async def _data(client: PrefectClient, called: UUID) -> str:
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[called]), type=ArtifactFilterType(any_=[RESULT]))
    [found] = await client.read_artifacts(artifact_filter=wanted)
    return str(found.data)  # Prefect stores it as JSON text
