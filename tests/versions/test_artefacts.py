"""A version's artefacts: the same hashes as DVC's, from a folder and from a dvc.lock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from lnl_core.files import write_json
from lnl_core.layout import Layout
from lnl_core.versions.artefacts import artefacts_of_folder, artefacts_of_lock

STAGES = """\
stages:
  train: {cmd: "true", outs: [data/train/model, data/train/curves.csv], metrics: [data/train/metrics.json]}
"""


def dvc(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "DO_NOT_TRACK": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


def test_hashes_are_those_that_dvc_writes_into_its_lock(tmp_path: Path) -> None:
    """`dvc commit` records what is there; our hashes of the same folder must be the same."""
    paths = Layout(tmp_path / "data")
    for name in ("b/weights", "a.json", "last/é.txt"):
        (paths.model / name).parent.mkdir(parents=True, exist_ok=True)
        (paths.model / name).write_text(name)
    paths.train_curves.write_text("epoch\n1\n")
    write_json(paths.metrics("train"), {"train": {"accuracy": 0.5}})
    (tmp_path / "dvc.yaml").write_text(STAGES)
    dvc(tmp_path, "init", "--no-scm", "--quiet")
    dvc(tmp_path, "commit", "--force", "--quiet")
    lock = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]
    locked, found = artefacts_of_lock(lock), artefacts_of_folder(paths)
    assert list(locked) == ["train/curves.csv", "train/metrics.json", "train/model"]
    assert found == locked
    assert found["train/model"].files == 3


def test_images_and_features_are_counted_and_not_read(make_run: Callable[..., Layout]) -> None:
    paths = make_run("a")
    for part in (0, 1):
        paths.features.mkdir(parents=True, exist_ok=True)
        (paths.features / f"part-{part}.parquet").write_bytes(b"x" * 10)
    (paths.root / ".lnl").mkdir()
    (paths.root / ".lnl" / "stamp.json").write_text("{}")
    found = artefacts_of_folder(paths)
    assert (found["features/parts"].md5, found["features/parts"].size, found["features/parts"].files) == (None, 20, 2)
    assert {"inject/labels.parquet", "purify/purified.parquet", "evaluate/held_out.parquet"} <= set(found)
    assert not [name for name in found if name.startswith(".")]
