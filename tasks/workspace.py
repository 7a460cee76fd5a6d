"""Where a stage runs. The flow knows only `Workspace`; a workspace on another machine is another class here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lnl_core.config import Params
from lnl_core.layout import Layout
from lnl_core.stages.stage import run_stage


class Workspace(Protocol):
    """Runs stages and says where their files are."""

    def run(self, stage: str) -> Mapping[str, Any]:
        """Run one stage to its end and return its metrics; blocks."""
        ...

    @property
    def results(self) -> Layout:
        """Where the finished stages' files can be read on this machine."""
        ...


@dataclass(frozen=True, kw_only=True)
class InPlace:
    """The current process and folder: no worktree, no transfer. One stage at a time, for they share the device."""

    params: Params
    root: Path

    def run(self, stage: str) -> Mapping[str, Any]:
        return run_stage(stage, self.params, self.results)

    @property
    def results(self) -> Layout:
        return Layout(self.root)
