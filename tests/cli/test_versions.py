"""`lnl versions`, `lnl promote` and `lnl rollback` as typed: a story of three versions, and its errors."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lnl_core.cli.app import app
from lnl_core.config import ConfigError
from lnl_core.ledger.store import Ledger
from tests.versions.conftest import write_run

Add = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("LNL_VERSIONS", "LNL_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    write_run(tmp_path / "monday", labels={"row-00": "dog"}, wrong=30)
    write_run(tmp_path / "tuesday", labels={"row-01": "eel"}, wrong=20)
    write_run(tmp_path / "wednesday", wrong=90)
    return tmp_path


def lnl(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, ConfigError)
    return f"{result.output}{result.exception}"


def starred() -> str:
    """The number of the promoted version, as `lnl versions` marks it."""
    (line,) = [line for line in lnl("versions").splitlines() if line.startswith("*")]
    return line.split()[1]


@pytest.mark.usefixtures("folder")
def test_three_versions() -> None:
    assert "no versions yet" in lnl("versions")
    assert "version 1: run monday-" in lnl("versions", "add", "--root", "monday")
    assert "### Version 1 is the first to be promoted" in lnl("promote", "1", "--ledger", "ledger")
    lnl("versions", "add", "--root", "tuesday")
    assert "version 2: run tuesday-" in lnl("versions", "add", "--root", "tuesday")  # twice is one version
    assert "### Version 2 may replace version 1" in lnl("promote", "2", "--ledger", "ledger")
    lnl("versions", "add", "--root", "wednesday")
    assert "Version 3 does not replace version 2" in refused("promote", "3")
    assert starred() == "2"
    listed = [line.split() for line in lnl("versions").splitlines()]
    assert listed[0] == ["version", "made", "rows", "trusted", "changed", "churn", "probe", "model", "gate", "against"]
    assert [row[-4:] for row in listed[1:]] == [
        ["90.0%", "90.0%", "first", "-"],
        ["93.3%", "93.3%", "promote", "1"],
        ["70.0%", "70.0%", "refuse", "2"],
    ]
    assert [run.rows for run in Ledger(Path("ledger")).runs()] == [1, 2]
    back = lnl("rollback", "--reason", "socks", "--ledger", "ledger")
    assert "version 1 is promoted again, in place of version 2" in back
    assert "2 labels appended; 0 rows keep the label that a person gave them" in back
    assert starred() == "1"
    assert "version 1 is the promoted one" in lnl("promote", "1", "--ledger", "ledger")
    assert len(Ledger(Path("ledger")).runs()) == 3


@pytest.mark.usefixtures("folder")
def test_a_person_overrules_and_the_history_says_so() -> None:
    for name in ("monday", "wednesday"):
        lnl("versions", "add", "--root", name)
    lnl("promote", "1")
    assert "--force needs --reason" in refused("promote", "2", "--force")
    lnl("promote", "2", "--force", "--reason", "the eels were wrong before")
    shown = lnl("versions", "show", "2", "--against", "1")
    assert "the eels were wrong before" in shown
    assert "purify/purified.parquet" in shown
    assert "### Version 2 does not replace version 1" in shown
    tolerant = ["-S", "tolerance=0.3", "-S", "class_tolerance=0.4"]
    assert "may replace version 1" in lnl("versions", "show", "2", "--against", "1", *tolerant)


@pytest.mark.usefixtures("folder")
def test_marks_in_git() -> None:
    run = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*run, "init", "--quiet", "repository"], check=True)
    commit = [*run, "-C", "repository", "commit", "--quiet", "--allow-empty", "--message", "a run"]
    subprocess.run(commit, check=True)
    head = subprocess.run([*run, "-C", "repository", "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    lnl("versions", "add", "--root", "monday", "--commit", head.stdout.strip())
    assert "tag version-0001, branch promoted" in lnl("promote", "1", "--repository", "repository")
    tags = subprocess.run([*run, "-C", "repository", "tag"], check=True, capture_output=True, text=True)
    assert tags.stdout.strip() == "version-0001"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("versions", "add", "--root", "sunday"), "--root sunday: no such folder"),
        (("versions", "show", "4"), "no version 4"),
        (("promote", "4"), "no version 4"),
        (("rollback", "--reason", "x"), "nothing to roll back"),
        (("promote", "1", "-S", "tolerence=0.1"), "did you mean 'tolerance'"),
    ],
)
def test_errors_name_the_mend(arguments: tuple[str, ...], message: str) -> None:
    assert message in refused(*arguments)
