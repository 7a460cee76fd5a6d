"""What travels to a machine and back when it runs a stage; plain values, so that they fit through any queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

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


OnProgress = Callable[[LogLine | Progress], None]


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
    """The caller wanted it; no process of the stage is left."""
