"""`lnl labels ...` as typed: one story from a purified table to folders of links, and its errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from lnl_core.cli.app import app
from lnl_core.config import ConfigError
from lnl_core.contracts import Purified, read_purified, string_ids, write_purified


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    label = np.array([0, 1, 1], dtype=np.int32)
    purified = Purified(
        ids=string_ids(["a.png", "b.png", "c.png"]),
        label=np.zeros(3, dtype=np.int32),
        purified_label=label,
        confidence=np.full(3, 0.8, dtype=np.float32),
        soft_label=np.eye(2, dtype=np.float32)[label],
        class_names=("cat", "dog"),
        about={"method": "dmlp", "version": "0.1.0"},
        review=np.array([False, False, True]),
    )
    write_purified(tmp_path / "purified.parquet", purified)
    (tmp_path / "base.csv").write_text("id,label\na.png,cat\nb.png,cat\nc.png,cat\n")
    (tmp_path / "photos").mkdir()
    for name in "abc":
        (tmp_path / "photos" / f"{name}.png").write_text(name)
    return tmp_path


def lnl(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["labels", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_from_a_purified_table_to_links(folder: Path) -> None:
    assert "run 000001-dmlp appended, 1 changes of 3 rows" in lnl("commit", "purified.parquet")
    assert "nothing to append" in lnl("commit", "purified.parquet")
    assert "1 rows for review" in lnl("review", "purified.parquet", "--out", "review.csv")
    listed = (folder / "review.csv").read_text()
    assert "c.png,cat,dog,0.8" in listed
    assert "1 rows have no label yet" in lnl("apply", "review.csv")
    (folder / "review.csv").write_text("id,label\nc.png,dog\n")
    assert "run 000002-anna appended" in lnl("apply", "review.csv", "--reviewer", "anna")
    history = lnl("history", "c.png")
    assert "000002-anna" in history
    assert "person" in history
    assert "no change" in lnl("history", "a.png")
    assert "second only" in lnl("diff", "1", "2")
    assert "run 000003-revert-1 appended" in lnl("revert", "1")
    assert "000001-dmlp" in lnl("list").splitlines()[-1]
    lnl("export", "--base", "base.csv", "--out", "now.csv", "--links", "links", "--images", "photos")
    assert (folder / "now.csv").read_text().splitlines()[1:] == [
        "a.png,cat,cat,base,",
        "b.png,cat,cat,revert,000003-revert-1",
        "c.png,dog,cat,person,000002-anna",
    ]
    assert sorted(str(path.relative_to(folder / "links")) for path in (folder / "links").rglob("*.png")) == [
        "cat/a.png",
        "cat/b.png",
        "dog/c.png",
    ]
    lnl("export", "--base", "base.csv", "--out", "said.csv", "--source", "person")
    assert len((folder / "said.csv").read_text().splitlines()) == 2


def test_the_ledger_may_be_named_by_a_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LNL_LEDGER", str(folder / "elsewhere"))
    lnl("commit", "purified.parquet")
    assert (folder / "elsewhere" / "part-000001.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--base", "base.csv"], "give --out FILE, --links FOLDER, or both"),
        (["export", "--base", "base.csv", "--links", "l"], "--links needs --images"),
        (["export", "--base", "base.csv", "--out", "o.csv", "--source", "men"], "allowed are base"),
        (["revert", "1"], "the ledger has no runs yet"),
        (["export", "--base", "none.csv", "--out", "o.csv"], "no such file"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_wrong_use_is_said(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lnl(*arguments)


def test_errors_are_one_message_and_an_exit_code(folder: Path) -> None:
    command = [sys.executable, "-m", "lnl_core.cli", "labels", "revert", "7"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "no runs yet" in done.stderr


def test_purify_with_a_promise_and_a_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_digits(n_class=3)
    rng = np.random.default_rng(0)
    ids = [f"{row:03d}" for row in range(len(data.target))]
    wrong = (data.target + rng.integers(1, 3, len(ids))) % 3
    observed = np.where(rng.random(len(ids)) < 0.5, wrong, data.target)
    pq.write_table(pa.table({"id": ids, "feature": list(data.data.astype(np.float32))}), "features.parquet")
    pq.write_table(pa.table({"id": ids, "label": observed}), "labels.parquet")
    pq.write_table(pa.table({"id": ids[:200], "label": data.target[:200]}), "trusted.parquet")
    files = ["--features", "features.parquet", "--labels", "labels.parquet", "--trusted", "trusted.parquet"]
    command = ["purify", *files, "--method", "trusted_only", "--out", "purified.parquet", "--ledger", "ledger"]
    result = CliRunner().invoke(app, [*command, "--max-wrong-changes", "0.1"], catch_exceptions=False)
    assert "at most 0.1 wrong among the changed" in result.output
    assert "run 000001-trusted_only appended" in result.output
    found = read_purified(Path("purified.parquet"))
    true = data.target[[int(name) for name in found.ids]]
    assert (found.route == "relabel").sum() > 50
    assert (found.applied_label != true)[found.changed].mean() < 0.1
    history = lnl("history", str(found.ids[found.changed][0]))
    assert "relabel" in history
    result = CliRunner().invoke(app, [*command, "--max-wrong-changes", "0.001"], catch_exceptions=False)
    assert "must be at least 2302" in result.output.replace("\n", " ")
    assert not read_purified(Path("purified.parquet")).changed.any()
