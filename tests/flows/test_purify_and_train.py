"""The flow on digits in a folder of its own, in this process, with settings that take seconds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.artifacts import Artifact

from flows.purify_and_train import purify_and_train
from lnl_core.config import ConfigError
from lnl_core.contracts import read_purified
from lnl_core.layout import Layout

REPOSITORY = Path(__file__).parents[2]
QUICK: list[str] = yaml.safe_load((REPOSITORY / "tests" / "quick_overrides.yaml").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_flow_runs_the_chain_and_shows_its_results(tmp_path: Path) -> None:
    asyncio.run(purify_and_train(str(REPOSITORY / "params.yaml"), str(tmp_path), QUICK))
    results = Layout(tmp_path)
    assert len(read_purified(results.purified)) > 1000
    assert results.report.read_text(encoding="utf-8").startswith("<!")
    artifacts = asyncio.run(latest_artifacts("summary", "noise-protocol", "report", "plots", "metrics-purify"))
    assert json.loads(artifacts["summary"])[0]["what"] == "labels right before"
    assert "symmetric" in artifacts["noise-protocol"]
    assert results.report.as_uri() in artifacts["report"]
    assert artifacts["plots"].count("](data:image/svg+xml;base64,") > 3
    assert "seconds" in [row["metric"] for row in json.loads(artifacts["metrics-purify"])]


async def latest_artifacts(*keys: str) -> dict[str, Any]:
    found = {key: await Artifact.aget(key) for key in keys}
    missing = [key for key, artifact in found.items() if artifact is None]
    assert not missing, f"no artifact {missing}"
    return {key: artifact.data for key, artifact in found.items() if artifact is not None}


@pytest.mark.usefixtures("prefect_server")
def test_a_typo_is_found_before_the_first_stage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sede.*did you mean 'seed'"):
        asyncio.run(purify_and_train(str(REPOSITORY / "params.yaml"), str(tmp_path), ["run.sede=1"]))
    assert not list(tmp_path.iterdir())
