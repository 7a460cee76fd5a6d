"""The sweep on digits in seconds: cells as tasks, a second run that skips them, one that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from flows.sweep import sweep
from lnl_core.bench.records import read_records
from lnl_core.config import ConfigError
from tasks.cell import CellFailed

pytestmark = pytest.mark.usefixtures("prefect_server")
QUICK = [
    "run.threads=1",
    "run.device=cpu",
    "model.width=4",
    "pretrain.simclr.epochs=1",
    "pretrain.simclr.warmup_epochs=0",
    "train.cross_entropy.epochs=1",
]


def test_a_sweep_runs_its_cells_once_and_shows_the_table(tmp_path: Path) -> None:
    for _ in range(2):
        asyncio.run(sweep("digits", ["cross_entropy"], ["sym20", "sym50"], [0], str(tmp_path), QUICK))
        assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2
    artifact = asyncio.run(Artifact.aget("sweep-table"))
    assert artifact is not None
    assert "| sym20 | cross_entropy |" in str(artifact.data)
    assert (tmp_path / "table.md").read_text().strip() == str(artifact.data).strip()


def test_a_failed_cell_is_reported_at_the_end(tmp_path: Path) -> None:
    broken = [*QUICK, "run.precision=float16"]  # not on a CPU
    with pytest.raises(CellFailed, match="2 of 2 cells failed: digits"):
        asyncio.run(sweep("digits", ["cross_entropy"], ["sym20", "sym50"], [0], str(tmp_path), broken))
    assert all("float16" in record["error"] for record in read_records(tmp_path / "results.jsonl").values())


def test_a_typo_is_found_before_the_first_cell(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'cross_entropy'"):
        asyncio.run(sweep("digits", ["cross_entropi"], ["sym20"], [0], str(tmp_path), QUICK))
    assert not list(tmp_path.iterdir())
