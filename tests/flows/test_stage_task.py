"""Retries and logs of the stage task, against a Prefect test server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.context import FlowRunContext

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from lnl_core.layout import Layout
from tasks.stage import STAGE_RETRIES, stage_in_place

pytestmark = pytest.mark.usefixtures("prefect_server")


@dataclass
class Scripted:
    """A workspace that raises the given errors, one a call, and then succeeds."""

    errors: list[Exception] = field(default_factory=list)
    calls: int = 0

    def run(self, stage: str) -> Mapping[str, Any]:
        self.calls += 1
        logging.getLogger("lnl").info("working on %s", stage)
        if self.errors:
            raise self.errors.pop(0)
        return {"stage": stage}

    @property
    def results(self) -> Layout:
        return Layout(Path("unused"))


async def run_one(workspace: Scripted) -> tuple[Mapping[str, Any], Any]:
    @flow
    async def one_stage() -> tuple[Mapping[str, Any], Any]:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        metrics = await stage_in_place.with_options(retry_delay_seconds=0)("purify", workspace)
        return metrics, context.flow_run.id

    return await one_stage()


def test_an_error_of_the_machine_is_tried_again() -> None:
    workspace = Scripted([OSError("disk full")])
    metrics, _ = asyncio.run(run_one(workspace))
    assert metrics == {"stage": "purify"}
    assert workspace.calls == 2


def test_retries_end() -> None:
    workspace = Scripted([OSError(str(number)) for number in range(9)])
    with pytest.raises(OSError, match=str(STAGE_RETRIES)):
        asyncio.run(run_one(workspace))
    assert workspace.calls == 1 + STAGE_RETRIES


@pytest.mark.parametrize(
    "error", [ConfigError("purify.ipc_ensemble.rigde: unknown"), ContractError("labels.parquet: row 3")]
)
def test_a_broken_setting_or_table_is_not_tried_again(error: Exception) -> None:
    workspace = Scripted([error])
    with pytest.raises(type(error), match=str(error)):
        asyncio.run(run_one(workspace))
    assert workspace.calls == 1


def test_the_stages_log_is_the_runs_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("lnl"), "handlers", [])  # whatever ran before in this process
    _, run_id = asyncio.run(run_one(Scripted()))

    async def messages() -> list[str]:
        async with get_client() as client:
            wanted = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
            for _ in range(120):  # the log handler sends in batches, and the machine may be busy
                found = [log.message for log in await client.read_logs(wanted) if log.name == "lnl"]
                if found:
                    return found
                await asyncio.sleep(0.5)
        return []

    assert asyncio.run(messages()) == ["working on purify"]
