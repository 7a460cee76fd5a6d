"""Nothing that makes labels or models sees the held-out trusted rows: wrong labels on them change no byte."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from lnl_core.config import load_preset
from lnl_core.contracts import read_labels, write_labels
from lnl_core.evaluate.held_out import read_held_out
from lnl_core.layout import Layout
from lnl_core.stages.chain import run_chain
from lnl_core.stages.stage import run_stage

QUICK: list[str] = yaml.safe_load((Path(__file__).parents[1] / "quick_overrides.yaml").read_text(encoding="utf-8"))
SETTINGS = [
    *QUICK,
    "prepare.trusted.count=400",
    "prepare.trusted.held_out_share=0.4",
    "prepare.val_share=0.1",
    "pretrain.simclr.epochs=1",
    "pretrain.simclr.warmup_epochs=0",
    "purify.max_wrong_changes=0.2",
    "train.held_out=val",  # the epoch is chosen on val rows: on those that nobody verified
    "train.method=cross_entropy",
    "train.cross_entropy.epochs=2",
    "evaluate.embedding_rows=0",
]
MADE_WITHOUT_THEM = ("encoder", "purified", "model", "yardstick")


def corrupt(path: Path) -> int:
    """Give every held-out trusted row the next class, as verified and as observed label."""
    labels = read_labels(path)
    rows = labels.where(split="val", trusted=True)
    wrong = {name: getattr(labels, name).copy() for name in ("label", "observed_label")}
    for values in wrong.values():
        values[rows] = (np.maximum(values[rows], 0) + 1) % len(labels.class_names)
    write_labels(path, dataclasses.replace(labels, **wrong))
    return len(rows)


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.mark.slow
def test_wrong_labels_on_them_change_the_gates_table_alone(tmp_path: Path) -> None:
    params = load_preset("digits", SETTINGS)
    clean = Layout(tmp_path / "clean")
    run_chain(params, clean, last="evaluate")
    wrong = Layout(tmp_path / "wrong")
    shutil.copytree(clean.root, wrong.root)
    assert corrupt(wrong.labels) == corrupt(wrong.source_labels) > 100
    for name in MADE_WITHOUT_THEM:
        target: Path = getattr(wrong, name)
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    for stage in ("pretrain", "features", "purify", "train", "evaluate"):
        run_stage(stage, params, wrong)
    for name in MADE_WITHOUT_THEM:
        assert contents(getattr(wrong, name)) == contents(getattr(clean, name)), name
    now, before = read_held_out(wrong.held_out), read_held_out(clean.held_out)
    for classifier in ("probe", "model"):
        assert np.array_equal(now.predictions[classifier].label, before.predictions[classifier].label)
        assert now.right(classifier).sum() < before.right(classifier).sum()
