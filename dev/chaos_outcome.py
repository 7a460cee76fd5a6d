"""What a disturbed run left: the chaos test writes it, its checks read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.job import Lock


@dataclass(frozen=True)
class Event:
    """One thing that the monkey did."""

    seconds: float
    kind: str
    stage: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the disturbed run left, for the checks."""

    run: str
    state: str
    seconds: float
    events: list[Event]
    attempts: dict[str, int]  # flow runs of each stage; without Prefect, calls of the executor
    lock: Lock
    origin: Path
    homes: Mapping[str, Path]
    executions: list[tuple[float, str]]  # when each stage's command really started
