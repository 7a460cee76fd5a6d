"""A run through git and DVC: opened by a commit, driven stage by stage, closed by the commit that is the version."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from tasks.base_commit import BaseCommit, uncommitted
from tasks.job import Lock, StageDone, StageFailed, StageJob
from tasks.machine import Machine
from tasks.patient_task import patient_task
from tasks.placement import Placement, place, wanted_pool
from tasks.run_branch import close_run, open_run
from tasks.stage import stage_task

MOST_STARTS = 20  # of a run's process: an automation starts a crashed one again, and must not do so for ever


@dataclass(frozen=True, kw_only=True)
class OpenRun:
    """A run whose first commit is on branch runs/RUN. `places`: INLINE or a pool for each stage, in graph order.

    `gpu`: the stages that take the GPU. `reads`: whose outputs a stage reads. `previous`: dvc.lock entries of an
    earlier version.
    """

    repository: str
    run: str
    revision: str
    places: Mapping[str, str]
    gpu: frozenset[str]
    reads: Mapping[str, frozenset[str]]
    previous: Lock = field(default_factory=dict)

    def job(self, stage: str, done: Mapping[str, StageDone]) -> StageJob:
        """What a machine needs to know to run `stage`, once those that it reads from are done."""
        return StageJob(
            repository=self.repository,
            revision=self.revision,
            run=self.run,
            stage=stage,
            lock={name: done[name].lock for name in sorted(self.reads[stage])},
            previous={stage: self.previous[stage]} if stage in self.previous else {},
        )


@patient_task("open run")
async def begin_run(
    base: BaseCommit,
    run: str,
    placement: Placement,
    *,
    files: Mapping[str, str | bytes] | None = None,
    previous: Lock | None = None,
) -> OpenRun:
    """Commit the run's params (and `files`, path in the repository -> content) on branch runs/RUN of the repository."""
    log = get_run_logger()
    if changed := uncommitted(base.repository):
        log.warning("not committed in %s, so this run does not see it: %s", base.repository, ", ".join(changed[:10]))
    places = place(placement, base.nodes, base.params)  # a stage that does not exist is found before anything is made
    text = yaml.safe_dump(base.params, sort_keys=False)
    revision = await asyncio.to_thread(
        open_run, base.repository, base.commit, run, params=text, files=files or {}, machine=Machine()
    )
    log.info("run %s at %s of %s: %s", run, revision[:12], base.repository, places)
    return OpenRun(
        repository=base.repository,
        run=run,
        revision=revision,
        places=places,
        gpu=frozenset(node.name for node in base.nodes if wanted_pool(node, base.params) == "gpu"),
        reads={node.name: node.after for node in base.nodes},
        previous=previous or {},
    )


async def drive_stages(run: OpenRun) -> dict[str, StageDone]:
    """One task a stage, in graph order; what each did, by stage.

    Raises:
        ConfigError, ContractError: of a stage, at its first attempt.
        StageFailed: a stage failed as often as its task is retried, or the run's own process crashed MOST_STARTS times.
    """
    if (flow_run.run_count or 0) > MOST_STARTS:
        raise StageFailed(f"run {run.run} was started {MOST_STARTS} times; what kills its process? (memory, disk)")
    done: dict[str, StageDone] = {}
    for stage, where in run.places.items():
        done[stage] = await stage_task(run.job(stage, done), where, stage in run.gpu)
    return done


@patient_task("close run")
async def finish_run(run: OpenRun, done: Mapping[str, StageDone], message: str = "") -> str:
    """Commit dvc.lock on branch runs/RUN. Returns the commit's id: that commit is the version."""
    lock = {stage: made.lock for stage, made in done.items()}
    how = "\n".join(f"{stage}: {made.how} on {made.machine}" for stage, made in done.items())
    text = f"{message or f'Run {run.run}'}\n\n{how}"
    return await asyncio.to_thread(close_run, run.repository, run.revision, run.run, lock, text, Machine())
