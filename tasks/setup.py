"""What a Prefect server needs once before `prefect deploy --all`: work pools, the GPU's limit, two automations.

    python -m tasks.setup

It may be called again at any time: what is there stays as it is, limits that a person has changed too; the automations
are brought up to date.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from tasks.gpu_limit import limit_name, make_limit

# How many flow runs a pool has at a time; None: as many as there are. `cpu` has no limit because the runs that call
# stages are in it, too: with one they could fill the pool and wait for ever for the stages that they call.
POOLS = {"local": None, "cpu": None, "gpu": 1}
CALLERS = ("purify-and-train", "reclean")  # flows whose stages are found done, so that they can be taken up again
RESUME_SECONDS = 45  # see RESUME
LOST_SECONDS = 90  # three heartbeats of 30 s (prefect.toml)
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDINGS = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")}

LOST = AutomationCore(
    name="lnl: flow runs without a heartbeat have crashed",
    description="A machine that is lost reports nothing; without this its flow runs stay Running for ever.",
    trigger=EventTrigger(
        after={HEARTBEAT},
        expect={HEARTBEAT, *ENDINGS},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=LOST_SECONDS),
    ),
    actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {LOST_SECONDS} s")],
)
# Not at once: a worker reports a killed process twice, some seconds apart, and the second report would make a second
# crash of a run that is already taken up again. And later than this after a restart of the server: it knows from memory
# alone which events it has seen, and looks at a change of state that follows one from before a quarter of an hour late.
RESUME = AutomationCore(
    name="lnl: runs whose process has crashed are taken up again",
    description="A new process finds the stages that are done and the flow runs of those that still run.",
    trigger=EventTrigger(
        after={"prefect.flow-run.Crashed"},
        expect={"prefect.flow-run.*"},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": list(CALLERS)},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=RESUME_SECONDS),
    ),
    actions=[ChangeFlowRunState(state=StateType.SCHEDULED, name="AwaitingRetry", message="its process has crashed")],
)


async def setup() -> None:
    """Make what is missing on the server that PREFECT_API_URL names, and say what was made."""
    async with get_client() as client:
        for name, limit in POOLS.items():
            print(f"work pool {name}: {await _make_pool(client, name, limit)}")
        for automation in (LOST, RESUME):
            print(f"automation {automation.name!r}: {await _make_automation(client, automation)}")
    await make_limit(limit_name())
    print(f"concurrency limit {limit_name()}: there")


async def _make_pool(client: PrefectClient, name: str, limit: int | None) -> str:
    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
    try:
        await client.create_work_pool(pool)
    except ObjectAlreadyExists:
        return "there"
    return "made"


async def _make_automation(client: PrefectClient, automation: AutomationCore) -> str:
    found = await client.read_automations_by_name(automation.name)
    if not found:
        await client.create_automation(automation)
        return "made"
    await client.update_automation(found[0].id, automation.model_copy(update={"enabled": found[0].enabled}))
    return "brought up to date"


if __name__ == "__main__":
    asyncio.run(setup())
