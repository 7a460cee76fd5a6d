"""What a run starts from: a commit of the repository, its params with the overrides, its graph of stages."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lnl_core.config import ConfigError, Params, apply_overrides, parse_params
from lnl_core.layout import STAGE_NAMES
from lnl_core.stages.stage import SHARED_SECTIONS, Shared, check_params, stage_named
from tasks.git_command import fetched, find_commit, git, git_with_remote
from tasks.graph import StageNode, parse_graph
from tasks.job import StageFailed
from tasks.machine import Machine, repository_url

_TEMPLATE = re.compile(r"\$\{(\w+)\.(\w+)\}")  # ${purify.method} in dvc.yaml


@dataclass(frozen=True, kw_only=True)
class BaseCommit:
    """A commit that a run can be opened on; `params` are checked, all sections."""

    repository: str
    commit: str
    params: Params
    nodes: tuple[StageNode, ...]


def default_repository() -> str:
    """LNL_REPOSITORY, else the git checkout of the current folder, else the one that this package is installed from.

    Raises:
        ConfigError: none of them.
    """
    if named := os.environ.get("LNL_REPOSITORY"):
        return named
    for folder in (Path.cwd(), Path(__file__).parents[1]):
        command = ["git", "-C", str(folder), "rev-parse", "--show-toplevel"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and (Path(done.stdout.strip()) / "dvc.yaml").exists():
            return done.stdout.strip()
    raise ConfigError("no repository: give `repository` (URL or folder), or set LNL_REPOSITORY for this worker")


def read_base(
    repository: str,
    revision: str,
    params: str = "params.yaml",
    overrides: Sequence[str] = (),
    *,
    machine: Machine | None = None,
) -> BaseCommit:
    """Fetch `repository` and read what `revision` (commit, branch, tag, or HEAD: the repository's own) has.

    Raises:
        ConfigError: no such revision or file, or settings that cannot be used: every problem of all sections.
    """
    clone = fetched(machine or Machine(), repository)
    commit = find_commit(clone, _head(clone, repository) if revision == "HEAD" else revision)
    if commit is None:
        raise ConfigError(
            f"revision = {revision!r}: {repository} has no such branch, tag or commit on a branch; push it first"
        )
    settings = apply_overrides(parse_params(_text(clone, commit, params), f"{params} of {commit}"), overrides)
    check_params(settings)  # a typo in the last section is found before the first stage starts
    graph = _text(clone, commit, "dvc.yaml")
    nodes = parse_graph(graph, f"dvc.yaml of {commit}")
    return BaseCommit(repository=repository, commit=commit, params=with_watched(settings, graph), nodes=nodes)


def with_watched(params: Params, graph: str) -> Params:
    """`params` with what the text of dvc.yaml names (sections, shared settings, methods), by default where not set.

    DVC stops at a param that params.yaml does not have; everything else takes its default.
    """
    filled: Params = {name: {} for name in (*SHARED_SECTIONS, *STAGE_NAMES)}
    filled |= {name: dict(section or {}) for name, section in params.items()}
    defaults = Shared().model_dump(mode="json")
    for key in {key for name in STAGE_NAMES for key in stage_named(name).shared if "." in key}:
        section, name = key.split(".")
        filled[section].setdefault(name, defaults[section][name])
    for section, name in sorted(set(_TEMPLATE.findall(graph))):
        filled[section].setdefault(name, getattr(stage_named(section).settings(filled[section]), name))
    return filled


def uncommitted(repository: str) -> list[str]:
    """Changed tracked files of a checkout, which no run sees; empty for a URL."""
    if not Path(repository).is_dir():
        return []
    command = ["git", "-C", repository, "status", "--porcelain", "--untracked-files=no"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line[3:] for line in done.stdout.splitlines()]


def _head(clone: Path, repository: str) -> str:
    return git_with_remote("ls-remote", repository_url(repository), "HEAD", cwd=clone).partition("\t")[0]


def _text(clone: Path, commit: str, path: str) -> str:
    try:
        return git("show", f"{commit}:{path}", cwd=clone) + "\n"
    except StageFailed as error:
        raise ConfigError(f"{path!r}: commit {commit} has no such file; give its path in the repository") from error
