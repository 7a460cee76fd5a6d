"""Versions and the gate in a flow: a run of a real git and DVC repository, registered, promoted, refused."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import State

from lnl_core.ledger.store import Ledger
from lnl_core.versions.store import VersionStore
from tasks.executor import Machine, close_run, open_run, run_stage_job
from tasks.job import StageJob
from tasks.promote import gate_and_promote, register_commit
from tests.tasks.conftest import git
from tests.versions.conftest import write_run

DVC_YAML = """
stages:
  evaluate:
    cmd: cp -r source/. data && cp source/purify/metrics.json data/evaluate/metrics.json
    deps: [source]
    outs: [data/inject/labels.parquet, data/purify/purified.parquet, data/evaluate/held_out.parquet]
    metrics: [data/purify/metrics.json, data/evaluate/metrics.json]
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bare repository, as on a server, whose one stage hands out tables that were committed."""
    monkeypatch.setenv("LNL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LNL_DVC_REMOTE", raising=False)
    monkeypatch.delenv("LNL_LEDGER", raising=False)
    work = tmp_path / "work"
    (work / ".dvc").mkdir(parents=True)
    (work / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (work / "dvc.yaml").write_text(DVC_YAML)
    (work / "data").mkdir()
    (work / "data" / ".gitignore").write_text("*\n!.gitignore\n")
    git("init", "--quiet", cwd=work)
    for number, wrong in enumerate((30, 90)):
        shutil.rmtree(work / "source", ignore_errors=True)
        write_run(work / "source", labels={"row-00": "dog"}, wrong=wrong)
        git("add", "--all", cwd=work)
        git("commit", "--quiet", "--message", f"tables {number}", cwd=work)
        git("tag", f"tables-{number}", cwd=work)
    git("clone", "--quiet", "--bare", str(work), str(tmp_path / "server.git"), cwd=tmp_path)
    return str(tmp_path / "server.git")


def finished_run(repository: str, base: str, run: str) -> str:
    """Run the stage through the executor; the commit that is the version."""
    machine = Machine()
    revision = open_run(repository, base, run, params="prepare: {dataset: crawl}\n", files={}, machine=machine)
    job = StageJob(repository=repository, revision=revision, run=run, stage="evaluate", lock={}, previous={})
    done = run_stage_job(job, machine, on_progress=lambda _: None)
    return close_run(repository, revision, run, {"evaluate": done.lock}, "done", machine)


@flow
async def promotion(store: str, number: int, repository: str, ledger: str) -> State[str]:
    return await gate_and_promote(store, number, repository=repository, ledger=ledger)


def ask(store: str, number: int, repository: str, ledger: str) -> State[str]:
    state: State[str] = asyncio.run(promotion(store, number, repository, ledger, return_state=True))
    return state


async def last_artifact() -> str:
    async with get_client() as client:
        found = await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["promotion"])))
    return str(max(found, key=lambda one: one.created).data)


@pytest.mark.usefixtures("prefect_server")
def test_runs_become_versions_and_the_worse_one_stays_behind(
    repository: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, ledger = str(tmp_path / "versions"), str(tmp_path / "ledger")
    server = Path(repository)
    first = finished_run(repository, "tables-0", "run-one")
    assert register_commit(store, repository, "run-one", first) == 1
    assert git("rev-parse", "version-0001", cwd=server) == first
    state = ask(store, 1, repository, ledger)
    assert (state.name, state.message) == ("Promoted", "version 1: no version has been promoted before it")
    assert git("rev-parse", "promoted", cwd=server) == first
    assert [row["id"] for row in Ledger(Path(ledger)).latest().to_pylist()] == ["row-00"]

    second = finished_run(repository, "tables-1", "run-two")
    assert register_commit(store, repository, "run-two", second) == 2
    assert register_commit(store, repository, "run-two", second) == 2  # a retry
    state = ask(store, 2, repository, ledger)
    assert state.name == "NotPromoted"
    assert "it loses over all rows" in str(state.message)
    assert "### Version 2 does not replace version 1" in asyncio.run(last_artifact())
    assert git("rev-parse", "promoted", cwd=server) == first
    assert git("rev-parse", "version-0002", cwd=server) == second

    state = ask(store, 1, repository, ledger)  # taken up again after it was promoted
    assert (state.name, state.message) == ("Promoted", "version 1: it is promoted already")
    opened = VersionStore.open(store)
    assert len(opened.promotions()) == 1
    one, two = opened.versions()
    assert (one.commit, two.commit, two.parent) == (first, second, 1)
    assert one.artefacts["purify/purified.parquet"].md5 == two.artefacts["purify/purified.parquet"].md5
    assert one.artefacts["evaluate/held_out.parquet"].md5 != two.artefacts["evaluate/held_out.parquet"].md5
    assert one.params_sha256 is not None

    assert register_commit(str(tmp_path / "another"), repository, "run-two", second) == 1
    assert "has the repository two stores?" in caplog.text
    assert git("rev-parse", "version-0001", cwd=server) == first
