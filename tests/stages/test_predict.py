"""Prediction from a saved model: every kind of source, what is set aside, and errors that say what to do."""

from __future__ import annotations

import csv
import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lnl_core.config import ConfigError, ImageSettings, ModelSettings
from lnl_core.contracts import ContractError, read_quarantine
from lnl_core.models.classifier import Ensemble, build_classifier
from lnl_core.models.predictions import predict_probabilities
from lnl_core.models.saved import AboutClassifier, save_classifier
from lnl_core.runtime import Runtime
from lnl_core.stages.predict import predict

RUNTIME = Runtime(device=torch.device("cpu"), precision="float32", seed=0, image_memory_mb=64)
NAMES = ("nought", "=one, or 'I'", *"23456789")
SCANS = np.round(load_digits().images[:12] * (255 / 16)).astype(np.uint8)


def png(scan):
    buffer = io.BytesIO()
    Image.fromarray(scan).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def model(tmp_path):
    networks = [build_classifier(ModelSettings(arch="small_cnn", width=4), 1, 10, seed=seed).eval() for seed in (0, 1)]
    about = AboutClassifier(class_names=NAMES, images=ImageSettings(size=8, channels=1, flip=False), about={})
    save_classifier(tmp_path / "model" / "best", networks, about)
    expected = predict_probabilities(Ensemble(networks), torch.from_numpy(SCANS)[:, None], RUNTIME)
    return tmp_path / "model", expected


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "images"
    for row, scan in enumerate(SCANS):
        path = root / f"part{row % 2}" / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(scan))
    return root


def write_tables(root, parts=2):
    root.mkdir()
    for part, rows in enumerate(np.array_split(np.arange(12), parts)):
        table = pa.table({"id": [f"{row:02d}" for row in rows], "image": [png(SCANS[row]) for row in rows]})
        pq.write_table(table, root / f"part-{part:05d}.parquet")
    return root


def check(out, expected, ids):
    table = pq.read_table(out)
    assert table["id"].to_pylist() == ids
    found = np.array(table["probabilities"].to_pylist(), dtype=np.float32)
    assert np.allclose(found, expected, atol=1e-6)
    assert table["label"].to_pylist() == expected.argmax(axis=1).tolist()
    assert table["class_name"].to_pylist() == [NAMES[label] for label in expected.argmax(axis=1)]
    assert np.allclose(table["confidence"].to_numpy(), expected.max(axis=1), atol=1e-6)


@pytest.mark.parametrize("batch_size", [5, 100])
def test_folder(model, folder, tmp_path, batch_size):
    path, expected = model
    counts = predict(path, folder, tmp_path / "out.parquet", batch_size, RUNTIME)
    assert counts == {"images": 12, "predicted": 12, "quarantined": 0}
    rows = [*range(0, 12, 2), *range(1, 12, 2)]
    check(tmp_path / "out.parquet", expected[rows], [f"part{row % 2}/{row:02d}.png" for row in rows])
    assert read_quarantine(tmp_path / "out.quarantine.parquet") == []


def test_shards_and_one_table(model, tmp_path):
    path, expected = model
    shards = write_tables(tmp_path / "shards")
    ids = [f"{row:02d}" for row in range(12)]
    predict(path, shards, tmp_path / "out.parquet", 5, RUNTIME)
    check(tmp_path / "out.parquet", expected, ids)
    predict(path / "best", shards / "part-00000.parquet", tmp_path / "one.parquet", 5, RUNTIME)
    check(tmp_path / "one.parquet", expected[:6], ids[:6])


def test_other_column_names(model, tmp_path):
    path, expected = model
    pq.write_table(pa.table({"name": [7], "png": [png(SCANS[3])]}), tmp_path / "table.parquet")
    source, out = tmp_path / "table.parquet", tmp_path / "out.parquet"
    predict(path, source, out, 5, RUNTIME, id_column="name", image_column="png")
    check(out, expected[3:4], ["7"])
    with pytest.raises(ContractError, match=r"has no column 'id' \(it has: name, png\)"):
        predict(path, source, out, 5, RUNTIME)
    with pytest.raises(ContractError, match="'name' is int64, must be binary"):
        predict(path, source, out, 5, RUNTIME, id_column="png", image_column="name")


def test_one_image_to_csv(model, folder, tmp_path):
    path, expected = model
    predict(path, folder / "part1" / "01.png", tmp_path / "out.csv", 5, RUNTIME)
    [row] = csv.DictReader((tmp_path / "out.csv").open(newline=""))
    label = int(expected[1].argmax())
    assert row == {
        "id": "01.png",
        "label": str(label),
        "class_name": NAMES[label],
        "confidence": f"{expected[1].max():.6f}",
    }


def test_broken_images_are_set_aside_and_the_rest_is_labelled(model, folder, tmp_path):
    path, _ = model
    (folder / "cut.png").write_bytes(png(SCANS[0])[:60])
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"passed over")
    os.symlink(folder / "nowhere.png", folder / "dangling.png")
    Image.fromarray(SCANS[0]).convert("CMYK").save(folder / "cmyk.jpg")
    counts = predict(path, folder, tmp_path / "out.csv", 4, RUNTIME)
    assert counts == {"images": 17, "predicted": 13, "quarantined": 4}
    rows = {row.id: row for row in read_quarantine(tmp_path / "out.quarantine.parquet")}
    assert {name: row.reason for name, row in rows.items()} == {
        "cut.png": "truncated-image",
        "empty.png": "empty-file",
        "notes.txt": "not-an-image",
        "dangling.png": "missing-file",
    }
    assert all(row.stage == "predict" and row.detail for row in rows.values())


def test_nulls_in_a_table_are_set_aside(model, tmp_path):
    path, expected = model
    table = pa.table({"id": ["a", None, "c"], "image": [png(SCANS[0]), png(SCANS[1]), None]})
    pq.write_table(table, tmp_path / "table.parquet")
    predict(path, tmp_path / "table.parquet", tmp_path / "out.parquet", 5, RUNTIME)
    check(tmp_path / "out.parquet", expected[:1], ["a"])
    reasons = {row.reason: row.detail for row in read_quarantine(tmp_path / "out.quarantine.parquet")}
    assert set(reasons) == {"missing-id", "missing-image"}
    assert "row 2" in reasons["missing-image"]


def test_nothing_readable_gives_an_empty_table(model, tmp_path):
    path, _ = model
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"x")
    assert predict(path, tmp_path / "bad", tmp_path / "out.parquet", 5, RUNTIME)["predicted"] == 0
    assert len(pq.read_table(tmp_path / "out.parquet")) == 0


def test_an_error_leaves_the_old_predictions(model, folder, tmp_path, monkeypatch):
    path, _ = model
    out = tmp_path / "out.csv"
    out.write_text("before")
    monkeypatch.setattr("lnl_core.stages.predict.predict_probabilities", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(path, folder, out, 5, RUNTIME)
    assert out.read_text() == "before"


def test_errors_say_what_to_do(model, folder, tmp_path):
    path, _ = model
    (tmp_path / "nothing").mkdir()
    (tmp_path / "table.parquet").write_bytes(b"no parquet")
    for arguments, error, message in (
        ((path, folder, tmp_path / "out.json"), ConfigError, "must be .csv or .parquet"),
        ((path, tmp_path / "none", tmp_path / "out.csv"), ConfigError, "no such file or folder"),
        ((path, tmp_path / "nothing", tmp_path / "out.csv"), ConfigError, "has no files"),
        ((path, tmp_path / "table.parquet", tmp_path / "out.csv"), ContractError, "not a readable Parquet"),
        ((folder, folder, tmp_path / "out.csv"), ContractError, "not a model folder"),
    ):
        with pytest.raises(error, match=message):
            predict(*arguments, 5, RUNTIME)
