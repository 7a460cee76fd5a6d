"""A GPU takes one stage at a time, whoever starts it: a run in this process or a worker of the pool `gpu`.

Prefect's global concurrency limit is a lease that its holder renews: a process that dies loses it a minute later. Where
machines have GPUs of their own, give each its limit: LNL_GPU_LIMIT names it, `gpu` where it is not set.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

LEASE_SECONDS = 60.0  # Prefect's least: a GPU whose holder was killed is free again after it


def limit_name() -> str:
    """The limit that this machine's GPU stages take."""
    return os.environ.get("LNL_GPU_LIMIT") or "gpu"


@contextlib.asynccontextmanager
async def gpu_slot(wanted: bool) -> AsyncIterator[None]:
    """Wait for the GPU and hold it; where none is `wanted`, nothing.

    A server that is away for longer than the lease does not end a stage of hours: it goes on, and says so in the log.
    """
    if not wanted:
        yield
        return
    await make_limit(limit_name())
    async with concurrency(
        limit_name(), strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False
    ):
        yield


async def make_limit(name: str, slots: int = 1) -> None:
    """Make the limit where it is missing; one that a person has changed is left as it is."""
    async with get_client() as client:
        try:
            await client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            with contextlib.suppress(ObjectAlreadyExists):  # another was quicker
                await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))
