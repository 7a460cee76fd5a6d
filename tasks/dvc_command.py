"""dvc as a command in a worktree: its environment, its retries where the remote is away, its errors in one sentence."""

from __future__ import annotations

import configparser
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from tasks.child_process import Ended, run_child
from tasks.disk_space import disk_full, says_full
from tasks.git_command import git_environment
from tasks.job import LogLine, OnProgress, StageCancelled, StageFailed
from tasks.machine import Machine, turn_lock

# An outage of minutes is waited out here; a longer one fails the attempt, and the flow's retries go on.
REMOTE_RETRY_SECONDS = (3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 60.0)
QUOTED_LINES = 20
USAGE_ERROR, DATA_ERROR = 2, 3  # exit codes of `lnl`
_REMOTE_IS_AWAY = re.compile(
    r"(could not|cannot|failed to) connect|connect call failed|connection ?(refused|reset|was closed|aborted|error)|"
    r"time(d ?|-)?out|server disconnected|service ?unavailable|slow ?down|internal ?error|max retries|broken pipe|"
    r"name resolution|incomplete ?read|payload|eof occurred|bad gateway|\b50[0234]\b",
    re.IGNORECASE,
)
_STAGE_FAILED = re.compile(r"failed to run: (?P<command>.+), exited with (?P<code>-?\d+)")
_NOISE = re.compile(  # advice to people at a terminal, and that there is no remote, which we know
    r"failed to pull run cache: config file error: no remote|dvc remote add -d|track the changes with git|git add dvc|"
    r"enable auto staging|core\.autostage|Use `dvc push`|(Generating|Updating) lock file|Having any troubles",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Dvc:
    """DVC in one worktree of one machine, for one attempt at one stage."""

    worktree: Path
    machine: Machine
    on_progress: OnProgress
    cancel: threading.Event | None = None
    tick: Callable[[], None] = lambda: None

    @property
    def has_remote(self) -> bool:
        """Whether there is anything to pull from and to push to."""
        config = configparser.ConfigParser(interpolation=None, strict=False)
        config.read(self.worktree / ".dvc" / "config", encoding="utf-8")
        return bool(self.machine.remote) or config.has_option("core", "remote")

    def run(self, *arguments: str) -> None:
        """Run dvc with `arguments`; where the remote is away, again after a while.

        Raises:
            ConfigError, ContractError: the stage said that its settings or its tables are wrong.
            StageFailed, StageCancelled
        """
        for seconds in (*REMOTE_RETRY_SECONDS, None):
            ended = self._once(arguments)
            if ended.code == 0:
                return
            if seconds is None or not remote_is_away(ended) or not self.has_remote:
                raise self._error(arguments, ended)
            self.on_progress(LogLine(f"the DVC remote is away; dvc {arguments[0]} again in {seconds:.0f} s"))
            self._wait(seconds)

    def _once(self, arguments: tuple[str, ...]) -> Ended:
        return run_child(
            [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments],
            cwd=self.worktree,
            env=self._environment(),
            log_line=self._log_line,
            tick=self.tick,
            cancel=self.cancel,
        )

    def _log_line(self, line: str) -> None:
        if not _NOISE.search(line):
            self.on_progress(LogLine(line))

    def _wait(self, seconds: float) -> None:
        if self.cancel is None:
            time.sleep(seconds)
        elif self.cancel.wait(seconds):
            raise StageCancelled("cancelled while the DVC remote was away")

    def _environment(self) -> dict[str, str]:
        bin_folder = str(Path(sys.executable).parent)
        return {
            **git_environment(),
            "PATH": os.pathsep.join([bin_folder, os.environ.get("PATH", os.defpath)]),
            # The stage must run the code of its worktree, for that is what DVC has hashed as its dependencies; an
            # installed package, even an editable one, comes after PYTHONPATH.
            "PYTHONPATH": str(self.worktree),
            "SHELL": str(self.machine.shell()),
            "LNL_STAGE_LOG": str(stage_log(self.worktree)),
            "LNL_STAGE_TURN": str(turn_lock(self.worktree)),
            "LNL_PROGRESS_FILE": str(progress_file(self.worktree)),
            "LNL_VERBOSE": "1",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(self.worktree / ".dvc" / "tmp" / "site"),  # else /var/tmp grows with each run
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "160",  # of log lines, which nothing shall wrap
        }

    def _error(self, arguments: tuple[str, ...], ended: Ended) -> Exception:
        last = "\n".join(line for line in ended.lines[-QUOTED_LINES:] if line.strip() and not _NOISE.search(line))
        failed = _STAGE_FAILED.search(ended.text)
        if failed and failed["command"].startswith("lnl "):
            kind = {USAGE_ERROR: ConfigError, DATA_ERROR: ContractError}.get(int(failed["code"]))
            if kind is not None:
                return kind(last)
        if says_full(ended.text):
            return disk_full(last, self.worktree, self.machine.cache)
        how = f"was killed by signal {-ended.code}" if ended.code < 0 else f"failed ({ended.code})"
        return StageFailed(f"dvc {' '.join(arguments)} {how}:\n{last}")


def stage_log(worktree: Path) -> Path:
    """A line for each start of the stage's command in this worktree."""
    return worktree / ".dvc" / "tmp" / "lnl-starts.log"


def progress_file(worktree: Path) -> Path:
    """Where lnl_core/progress.py says how far the stage is."""
    return worktree / ".dvc" / "tmp" / "lnl-progress.json"


def remote_is_away(ended: Ended) -> bool:
    """Whether DVC, and not the stage's command, failed, and for a reason that may pass."""
    return ended.code > 0 and not _STAGE_FAILED.search(ended.text) and bool(_REMOTE_IS_AWAY.search(ended.text))
