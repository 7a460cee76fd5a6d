"""A machine that runs stages: where its bare clones, its DVC cache and its worktrees lie."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path


def _home() -> Path:
    return Path(os.environ.get("LNL_HOME") or Path.home() / ".lnl")


def _remote() -> str:
    return os.environ.get("LNL_DVC_REMOTE", "")


@dataclass(frozen=True)
class Machine:
    """`home` is a folder on a disk of this machine; all its clones, caches and worktrees lie below it.

    `remote` is the DVC remote, an s3:// URL or a folder; empty: the one of the repository's own .dvc/config, or none,
    and then nothing is pulled or pushed. Both default to the environment: LNL_HOME (else ~/.lnl) and LNL_DVC_REMOTE.
    """

    home: Path = field(default_factory=_home)
    remote: str = field(default_factory=_remote)

    @property
    def name(self) -> str:
        """For people: where something was run."""
        return f"{socket.gethostname()}:{self.home}"
