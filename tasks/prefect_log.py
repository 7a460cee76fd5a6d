"""What a stage says while it runs, in Prefect: its lines in the run's log, its progress as one artifact."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogHandler

from tasks.job import LogLine, OnProgress, Progress

PROGRESS_SECONDS = 3.0  # between two updates: each is a request and a write to the server's database


@contextlib.asynccontextmanager
async def sent_to_prefect(stage: str) -> AsyncIterator[OnProgress]:
    """Yields what a stage is given to speak to; it may be called from any thread.

    The artifact `progress-STAGE` is updated in place, so a long stage leaves one row in Prefect's database.
    """
    logger = get_run_logger()  # knows the run, also on a thread that does not
    latest: list[Progress] = []

    def on_progress(said: LogLine | Progress) -> None:
        if isinstance(said, LogLine):
            logger.info("%s", said.text)
        else:
            latest[:] = [said]

    shown = asyncio.create_task(_show_progress(stage, latest))
    try:
        yield on_progress
    finally:
        shown.cancel()
        await asyncio.wait({shown})


async def _show_progress(stage: str, latest: list[Progress]) -> None:
    """Until cancelled: show the newest progress where it is a new one. A server that is away misses some of it."""
    artifact: UUID | None = None
    shown: Progress | None = None
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        if latest and latest[0] != shown:
            shown = latest[0]
            with contextlib.suppress(httpx.HTTPError, PrefectHTTPStatusError):
                artifact = await _show(stage, shown, artifact)


async def _show(stage: str, progress: Progress, artifact: UUID | None) -> UUID:
    percent = 100.0 * min(progress.done / progress.total, 1.0) if progress.total else 0.0
    text = f"{progress.title}: {progress.done:g} of {progress.total:g} {progress.unit}".strip()
    if artifact is None:
        return await acreate_progress_artifact(progress=percent, key=f"progress-{stage}", description=text)
    return await aupdate_progress_artifact(artifact, progress=percent, description=text)


def send_logs_to_prefect() -> None:
    """What logger `lnl` says becomes the log of the run in whose context it is said; outside a run it stays here.

    Prefect's setting `extra_loggers` does the same, but only where prefect.toml is found and nothing has since replaced
    the logger's handlers.
    """
    log = logging.getLogger("lnl")
    log.setLevel(logging.INFO)  # without a level the root's WARNING would apply
    if not any(isinstance(handler, APILogHandler) for handler in log.handlers):
        log.addHandler(APILogHandler())
