"""What made a report, inside and outside a repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from lnl_core import __version__
from lnl_core.report.versions import git_commit, versions


def test_versions_outside_a_repository(tmp_path: Path) -> None:
    found = dict(versions(torch.device("cpu"), tmp_path))
    assert found["lnl"] == __version__
    assert found["torch"] == torch.__version__
    assert found["commit"] == "not in a git repository"
    assert found["device"].startswith("cpu")


def test_commit_says_when_files_differ_from_it(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "a.txt").write_text("one")
    git("add", "a.txt")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert git_commit(tmp_path) == commit
    (tmp_path / "a.txt").write_text("two")
    assert git_commit(tmp_path) == f"{commit}-dirty"
