"""The first state of a scheduled run as an event, which Prefect's scheduler leaves out.

Automations look at a change of state only after the one that it follows. The scheduler writes a run's first state
without an event, so for the first quarter of an hour they would wait for it and see none of the run's states: a crash
would not be taken up, an end not be known.
"""

from __future__ import annotations

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event


async def emit_first_state() -> None:
    """Emit the event that is missing; nothing for a run that no schedule has made."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or not run.auto_scheduled:
        return
    async with get_client() as client:
        first = min(await client.read_flow_run_states(run.id), key=lambda state: state.timestamp)
    emit_event(
        event=f"prefect.flow-run.{first.name}",
        resource={"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name},
        occurred=first.timestamp,
        id=first.id,
    )
