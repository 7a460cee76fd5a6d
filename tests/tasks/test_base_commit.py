"""What a run starts from: a commit of a repository, not the files of a checkout."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dev.checkout import commit, git
from lnl_core.config import ConfigError
from lnl_core.layout import STAGE_NAMES
from tasks.base_commit import default_repository, read_base, uncommitted
from tasks.machine import Machine

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(home=tmp_path / "home", remote="")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """dvc.yaml and params.yaml on branch main, and a branch with another seed."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy2(REPOSITORY / name, folder / name)
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder, "first")
    git(folder, "switch", "--quiet", "--create", "other")
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(text.replace("seed: 0", "seed: 5"), encoding="utf-8")
    commit(folder, "another seed")
    git(folder, "switch", "--quiet", "main")
    return folder


def test_head_is_the_repositorys_own(checkout: Path, machine: Machine) -> None:
    base = read_base(str(checkout), "HEAD", "params.yaml", ["report.title=mine"], machine=machine)
    assert base.commit == git(checkout, "rev-parse", "main")
    assert base.params["run"]["seed"] == 0
    assert base.params["report"]["title"] == "mine"
    assert {node.name for node in base.nodes} == set(STAGE_NAMES)


def test_a_branch_that_moves_is_fetched_again(checkout: Path, machine: Machine) -> None:
    assert read_base(str(checkout), "other", machine=machine).params["run"]["seed"] == 5
    git(checkout, "branch", "--force", "other", "main")
    assert read_base(str(checkout), "other", machine=machine).params["run"]["seed"] == 0


def test_what_is_not_committed_is_named_and_not_seen(checkout: Path, machine: Machine) -> None:
    (checkout / "params.yaml").write_text("run: {seed: 9}", encoding="utf-8")
    assert read_base(str(checkout), "HEAD", machine=machine).params["run"]["seed"] == 0
    assert uncommitted(str(checkout)) == ["params.yaml"]


def test_what_cannot_be_run_says_why(checkout: Path, machine: Machine) -> None:
    with pytest.raises(ConfigError, match=r"'nowhere'.*push it first"):
        read_base(str(checkout), "nowhere", machine=machine)
    with pytest.raises(ConfigError, match=r"'my\.yaml': commit \w+ has no such file"):
        read_base(str(checkout), "HEAD", "my.yaml", machine=machine)
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        read_base(str(checkout), "HEAD", overrides=["run.sede=1"], machine=machine)


def test_the_repository_may_come_from_the_worker(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LNL_REPOSITORY", "ssh://git.example/lnl.git")
    assert default_repository() == "ssh://git.example/lnl.git"
    monkeypatch.delenv("LNL_REPOSITORY")
    monkeypatch.chdir(checkout)
    assert Path(default_repository()).resolve() == checkout.resolve()
