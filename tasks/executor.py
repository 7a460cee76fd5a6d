"""Runs one stage of one run through git and DVC, on any machine, so that no machine does it again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lnl_core.stages.layout import Layout
from tasks.machine import Machine

Lock = dict[str, Any]  # stage name -> its entry in dvc.lock


@dataclass(frozen=True)
class LogLine:
    """A line that git, DVC or the stage has printed; without its line end."""

    text: str


@dataclass(frozen=True)
class Progress:
    """How far the stage is: `done` of `total` `unit`; sent at most once a second."""

    title: str
    done: float
    total: float
    unit: str = ""


Tell = Callable[[LogLine | Progress], None]


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """What a machine needs to know to run one stage; plain JSON values, a few kilobytes.

    `repository`: URL or folder of the git repository. `revision`: commit that `open_run` gave. `run`: the full run id.
    `lock`: dvc.lock entries of the finished upstream stages. `previous`: those of an earlier version, by stage name.
    """

    repository: str
    revision: str
    run: str
    stage: str
    lock: Lock
    previous: Lock = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StageDone:
    """What came of it. `lock` is this stage's own entry of dvc.lock, `metrics` its namespace of metrics.json.

    `how`: "run", its command was started; "restored", from what some machine had made for the same inputs;
    "unchanged", its entry of `previous` still holds.
    """

    stage: str
    lock: dict[str, Any]
    metrics: dict[str, Any]
    how: Literal["run", "restored", "unchanged"]
    seconds: float
    machine: str


class StageFailed(RuntimeError):
    """git, DVC or the stage's command failed; the message has the last lines that it printed. A retry may help."""


class StageCancelled(RuntimeError):
    """The caller asked for it; no process of the stage is left."""


def run_stage_job(job: StageJob, machine: Machine, *, tell: Tell, cancel: threading.Event | None = None) -> StageDone:
    """Run, or restore, one stage; blocks. Push what it made, where there is a remote.

    Call it on a thread of its own. Once `cancel` is set it stops its processes within a second.

    Raises:
        ConfigError, ContractError: the stage's settings or tables are wrong; a retry cannot help.
        StageFailed: anything else, a full disk, a remote that stays away or a killed process among them.
        StageCancelled: `cancel` was set.
    """
    raise NotImplementedError


def open_run(
    repository: str,
    base_revision: str,
    run: str,
    *,
    params: str,
    files: Mapping[str, str | bytes],
    machine: Machine,
) -> str:
    """Commit params.yaml and `files` (path in the repository -> content) on branch runs/RUN and push it.

    Returns the commit's id. If the branch is there already, nothing is committed and its first commit is returned.
    """
    raise NotImplementedError


def close_run(repository: str, revision: str, run: str, lock: Lock, message: str, machine: Machine) -> str:
    """Commit dvc.lock on top of `revision` on branch runs/RUN and push it; the commit's id is the version's.

    If that was done before, nothing is committed and the same id is returned.
    """
    raise NotImplementedError


def fetch_outputs(repository: str, commit: str, machine: Machine, paths: Sequence[str], target: Path) -> Layout:
    """Files of a version, for reading: `paths` are names of Layout ("report", "plots", "purified", "model", ...).

    "metrics" stands for the metrics.json of all stages. They lie in `target` as they lie in data/. A stage of which
    the version's dvc.lock has no entry is left out.
    """
    raise NotImplementedError


def lock_of(repository: str, commit: str, machine: Machine) -> Lock:
    """The stages of that commit's dvc.lock; empty where it has none."""
    raise NotImplementedError
