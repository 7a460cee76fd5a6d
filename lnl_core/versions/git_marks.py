"""The marks of a version in git: tag version-0007 at its commit, for good, and branch `promoted`, which moves."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lnl_core.config import ConfigError
from lnl_core.versions.manifest import Manifest

BRANCH = "promoted"


def tag_version(repository: Path, manifest: Manifest) -> None:
    """Set the version's tag in the repository of a folder; one that is there must be at the same commit.

    Raises:
        ConfigError: no repository, no such commit, or the tag is elsewhere.
    """
    commit = _commit(repository, manifest)
    found = _git(repository, "rev-parse", "--verify", "--quiet", f"refs/tags/{manifest.tag}^{{commit}}", check=False)
    if found and found != commit:
        raise ConfigError(f"{repository}: tag {manifest.tag} is at {found}, the version at {commit}; tags do not move")
    if not found:
        _git(repository, "tag", manifest.tag, commit)


def mark_promoted(repository: Path, manifest: Manifest) -> None:
    """Set the tag and move branch `promoted` to the version's commit; working trees are left as they are."""
    tag_version(repository, manifest)
    _git(repository, "update-ref", f"refs/heads/{BRANCH}", _commit(repository, manifest))


def _commit(repository: Path, manifest: Manifest) -> str:
    if manifest.commit is None:
        raise ConfigError(f"version {manifest.number} has no commit (it was made in a folder); leave out --repository")
    commit = f"{manifest.commit}^{{commit}}"
    found = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", commit, check=False)
    if not found:
        raise ConfigError(f"{repository}: has no commit {manifest.commit} of version {manifest.number}; fetch it first")
    return found


def _git(repository: Path, *arguments: str, check: bool = True) -> str:
    command = ["git", "-C", str(repository), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError("git is not installed, so --repository cannot be used") from error
    if check and done.returncode:
        raise ConfigError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout.strip() if not done.returncode else ""
