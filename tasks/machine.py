"""A machine that runs stages: where its bare clones, its DVC cache and its worktrees lie."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import socket
from dataclasses import dataclass, field
from pathlib import Path

from lnl_core.config import ConfigError
from tasks.child_process import TIED

DEFAULT_KEEP_DAYS = 7.0  # longer than a weekend: a run that died on Friday resumes from its checkpoints on Monday
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _home() -> Path:
    return Path(os.environ.get("LNL_HOME") or Path.home() / ".lnl")


def _remote() -> str:
    return os.environ.get("LNL_DVC_REMOTE", "")


def _keep_days() -> float:
    return float(os.environ.get("LNL_KEEP_WORKTREES_DAYS") or DEFAULT_KEEP_DAYS)


@dataclass(frozen=True)
class Machine:
    """`home` is a folder on a disk of this machine; all its clones, caches and worktrees lie below it.

    `remote` is the DVC remote, an s3:// URL or a folder; empty: the one of the repository's own .dvc/config, or none,
    and then nothing is pulled or pushed. `keep_days`: how long the worktree of an attempt that was killed is kept for
    the next one. All default to the environment: LNL_HOME (else ~/.lnl), LNL_DVC_REMOTE, LNL_KEEP_WORKTREES_DAYS.
    """

    home: Path = field(default_factory=_home)
    remote: str = field(default_factory=_remote)
    keep_days: float = field(default_factory=_keep_days)

    @property
    def name(self) -> str:
        """For people: where something was run."""
        return f"{socket.gethostname()}:{self.home}"

    @property
    def cache(self) -> Path:
        """The one DVC cache of the machine; all worktrees share it."""
        return self.home.absolute() / "cache"

    @property
    def cache_lock(self) -> Path:
        """Held shared by whoever may write to the cache, exclusively by whoever sweeps it."""
        return self.home.absolute() / "locks" / "cache.lock"

    def clone(self, repository: str) -> Path:
        """The bare clone of `repository`."""
        return self.home.absolute() / "repositories" / f"{_key(repository)}.git"

    def clone_lock(self, repository: str) -> Path:
        """Held by whoever changes the bare clone."""
        return self.home.absolute() / "locks" / f"{_key(repository)}.lock"

    def worktrees(self, repository: str) -> Path:
        """Folder of the worktrees of `repository`, named RUN.STAGE."""
        return self.home.absolute() / "worktrees" / _key(repository)

    def worktree(self, repository: str, run: str, stage: str) -> Path:
        """The worktree of a stage of a run. The full run id: scheduled runs' ids begin alike."""
        return self.worktrees(repository) / f"{safe_name(run)}.{safe_name(stage)}"

    def shell(self) -> Path:
        """The program that DVC has to run stages' commands with; see tied_process.py."""
        text = f'#!/bin/sh\nexec {shlex.join(TIED)} shell "$@"\n'
        path = self.home.absolute() / "bin" / f"stage-shell-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            temporary.write_text(text, encoding="utf-8")
            temporary.chmod(0o755)
            os.replace(temporary, path)
        return path


def attempt_lock(worktree: Path) -> Path:
    """Held by the one attempt that works in `worktree`; lies beside it, since the worktree comes and goes."""
    return worktree.with_name(f".{worktree.name}.attempt")


def turn_lock(worktree: Path) -> Path:
    """Held by the stage's own process, so that it cannot run twice at once even where its attempt has died."""
    return worktree.with_name(f".{worktree.name}.turn")


def safe_name(name: str) -> str:
    """`name`, if a file and a branch can be called so.

    Raises:
        ConfigError: they cannot.
    """
    if not _SAFE_NAME.fullmatch(name) or ".." in name or name.endswith((".", ".lock")):
        raise ConfigError(
            f"{name!r}: a run or stage is named by letters, digits, '.', '_' and '-'; begin with a letter"
        )
    return name


def repository_url(repository: str) -> str:
    """`repository` as git takes it from any folder: a path becomes absolute, a URL stays."""
    return str(Path(repository).resolve()) if Path(repository).exists() else repository


def _key(repository: str) -> str:
    """A folder's name for a repository: readable, and different for each."""
    url = repository_url(repository)
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(url).name.removesuffix(".git")).strip("-") or "repository"
    return f"{readable[:40]}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
