"""One stage as a flow of its own, which a worker of a pool runs: the deployments `stage/cpu` and `stage/gpu`.

Other flows call it (`tasks/stage_calls.py`); a person has no reason to. What to do is in its parameters, and what came
of it is an artifact that the caller reads.
"""

from __future__ import annotations

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from tasks.job import StageJob
from tasks.stage_calls import leave_result, run_here


@flow(name="stage", persist_result=False)
async def stage(job: StageJob, gpu: bool = False) -> State[None] | None:
    """Run one stage of a run through git and DVC.

    Args:
        job: which, and what the stages before it have made.
        gpu: whether it takes the GPU, so that no other stage may have it meanwhile.
    """
    try:
        done = await run_here(job, gpu=gpu)
    except (ConfigError, ContractError) as error:
        # The caller raises it again by this name, and does not retry: an exception would arrive as any other.
        return Failed(name=type(error).__name__, message=str(error))
    await leave_result(done)
    return None
