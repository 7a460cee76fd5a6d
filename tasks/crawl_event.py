"""New shards of a crawl as a Prefect event, reported once."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.variables import Variable

from lnl_core.crawl.listing import Shard
from lnl_core.versions.store import VersionStore
from tasks.base_commit import BaseCommit
from tasks.crawl_news import crawl_path, default_store, new_shards, versions_before
from tasks.machine import Machine

EVENT = "lnl.crawl.new-shards"
CLEANING = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]


@dataclass(frozen=True)
class Found:
    """New shards below a path."""

    path: str
    shards: tuple[Shard, ...]

    @property
    def crawl(self) -> str:
        """A short name of the crawl, which Prefect's resources and variables can bear."""
        return hashlib.sha256(self.path.encode()).hexdigest()[:16]

    @property
    def content(self) -> str:
        """Of these very shards."""
        return hashlib.sha256("".join(f"{shard.name}\0{shard.content}\0" for shard in self.shards).encode()).hexdigest()


async def find_new(base: BaseCommit, store: str | None, min_age: float) -> Found:
    """The shards that are ready and that the latest version has not seen."""

    def look() -> Found:
        before = versions_before(VersionStore.open(store or default_store()))
        return Found(crawl_path(base.params), tuple(new_shards(base, Machine(), before, min_age)))

    return await asyncio.to_thread(look)


async def is_cleaning() -> bool:
    """Whether a run of the flow reclean is at work."""
    async with get_client() as client:
        found = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["reclean"])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=CLEANING))),
            limit=1,
        )
    return bool(found)


async def emit_once(found: Found) -> bool:
    """Emit the event; False where these very shards were reported before (Prefect's variable lnl_crawl_ID)."""
    name = f"lnl_crawl_{found.crawl}"
    if await Variable.aget(name) == found.content:
        return False
    emit_event(
        event=EVENT,
        resource={"prefect.resource.id": f"lnl.crawl.{found.crawl}", "prefect.resource.name": found.path},
        payload={"shards": len(found.shards), "first": found.shards[0].name},
    )
    await Variable.aset(name, found.content, overwrite=True)
    return True
