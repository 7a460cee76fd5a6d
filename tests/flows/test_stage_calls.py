"""A stage in this process stops where its flow run is no longer wanted, against a Prefect test server."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.runtime import flow_run
from prefect.states import Crashed

from lnl_core.config import ConfigError
from tasks import stage_calls
from tasks.job import OnProgress, Progress, StageCancelled, StageDone, StageJob
from tasks.stage_calls import run_here

pytestmark = pytest.mark.usefixtures("prefect_server")
JOB = StageJob(repository="r", revision="c", run="id", stage="purify", lock={})
DONE = StageDone(stage="purify", lock={}, metrics={}, how="run", seconds=1.0, machine="here")


def in_a_flow(gpu: bool = False, *, crash: bool = False) -> StageDone:
    """`run_here` in a flow run, which the server takes for crashed while it runs."""

    @flow(persist_result=False)
    async def one_stage() -> StageDone:
        work = asyncio.create_task(run_here(JOB, gpu=gpu))
        if crash:
            async with get_client() as client:
                await client.set_flow_run_state(UUID(flow_run.id), Crashed(message="no heartbeat"), force=True)
        return await work

    return asyncio.run(one_stage())


def test_what_it_did_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, on_progress: OnProgress, **__: Any) -> StageDone:
        on_progress(Progress("purify", 1, 2))
        return DONE

    monkeypatch.setattr(stage_calls, "run_stage_job", run)
    assert in_a_flow(gpu=True) == DONE


def test_its_error_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> StageDone:
        raise ConfigError("purify.ipc_ensemble.rigde: unknown")

    monkeypatch.setattr(stage_calls, "run_stage_job", run)
    with pytest.raises(ConfigError, match="rigde"):
        in_a_flow()


def test_it_stops_where_the_server_has_given_the_flow_run_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []

    def run(*_: Any, cancel: threading.Event, **__: Any) -> StageDone:
        stopped.append(cancel.wait(60))
        raise StageCancelled("as wanted")

    monkeypatch.setattr(stage_calls, "run_stage_job", run)
    monkeypatch.setattr(stage_calls, "WANTED_SECONDS", 0.2)
    with pytest.raises(StageCancelled):
        in_a_flow(crash=True)
    assert stopped == [True]
