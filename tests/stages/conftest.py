"""A finished run on the real digits, written through the contracts, without the stages that would make it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from lnl_core.config import ImageSettings, ModelSettings
from lnl_core.contracts import (
    IMAGES,
    Labels,
    Purified,
    QuarantineRow,
    Truth,
    read_purified,
    string_ids,
    write_labels,
    write_purified,
    write_quarantine,
    write_table,
    write_truth,
)
from lnl_core.files import write_json
from lnl_core.layout import Layout
from lnl_core.models.classifier import Classifier, build_classifier
from lnl_core.models.saved import AboutClassifier, save_classifier
from lnl_core.stages.stage import run_stage
from lnl_core.training.training_trace import TraceEpoch, write_trace

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOISE = 0.6  # exclusive: a share of the rows gets another class
EvaluatedRun = Callable[..., tuple[Layout, dict[str, Any]]]
IMAGE_SETTINGS = ImageSettings(size=8, channels=1, flip=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitsRun:
    """What a test may ask of a run."""

    truth: bool = True
    trusted: int = 200
    yardstick: bool = True
    test: bool = True
    trace: bool = True
    class_names: tuple[str, ...] = DIGITS
    id_prefix: str = "digit"


@dataclasses.dataclass(frozen=True)
class Rows:
    pixels: np.ndarray  # [n, 8, 8] uint8
    true: np.ndarray
    observed: np.ndarray
    trusted: np.ndarray
    test: np.ndarray


@pytest.fixture(scope="session")
def trained() -> dict[str, Classifier]:
    """Small networks: on true labels (as from a perfect purifier) and on labels that are wrong to 60 %."""
    rows = _rows(trusted=200)
    train = ~rows.test
    return {
        "model": _fit(rows.pixels[train], rows.true[train]),
        "yardstick": _fit(rows.pixels[train], rows.observed[train]),
    }


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory, trained: dict[str, Classifier]) -> Callable[[DigitsRun], Path]:
    """The folder of a run, written when it is first wished for; nobody may change it."""

    def make(wish: DigitsRun) -> Path:
        paths = Layout(tmp_path_factory.mktemp("digits") / "run")
        rows = _rows(wish.trusted)
        ids = string_ids([f"{wish.id_prefix}-{row:04d}" for row in range(len(rows.true))])
        _write_images(paths, ids, rows)
        _write_label_tables(paths, ids, rows, wish)
        _write_purified(paths, ids, rows, wish)
        _write_models(paths, trained, wish)
        _write_curves_and_metrics(paths, wish)
        if wish.trace:
            _write_trace(paths)
        return paths.root

    return functools.cache(make)


@pytest.fixture
def digits_run(tmp_path: Path, written: Callable[[DigitsRun], Path]) -> Callable[..., Layout]:
    """`digits_run(truth=False, ...)` gives a run of the test's own, as the fields of `DigitsRun` wish it."""

    def make(root: str = "run", **wishes: Any) -> Layout:
        return Layout(Path(shutil.copytree(written(DigitsRun(**wishes)), tmp_path / root)))

    return make


@pytest.fixture(scope="session")
def scored(
    tmp_path_factory: pytest.TempPathFactory, written: Callable[[DigitsRun], Path]
) -> Callable[[DigitsRun], tuple[Path, dict[str, Any]]]:
    """The folder of a run after stage evaluate, and its scores; nobody may change them."""

    def make(wish: DigitsRun) -> tuple[Path, dict[str, Any]]:
        root = Path(shutil.copytree(written(wish), tmp_path_factory.mktemp("evaluated") / "run"))
        return root, dict(run_stage("evaluate", {"run": {"device": "cpu", "threads": 1}}, Layout(root)))

    return functools.cache(make)


@pytest.fixture
def evaluated_run(tmp_path: Path, scored: Callable[[DigitsRun], tuple[Path, dict[str, Any]]]) -> EvaluatedRun:
    """As `digits_run`, after stage evaluate with its defaults; with the scores."""

    def make(root: str = "run", **wishes: Any) -> tuple[Layout, dict[str, Any]]:
        folder, scores = scored(DigitsRun(**wishes))
        return Layout(Path(shutil.copytree(folder, tmp_path / root))), copy.deepcopy(scores)

    return make


def _rows(trusted: int) -> Rows:
    digits = load_digits()
    true = digits.target.astype(np.int32)
    draw = np.random.default_rng(0)
    observed = np.where(draw.random(len(true)) < NOISE, (true + draw.integers(1, 10, len(true))) % 10, true)
    order = draw.permutation(len(true))
    test, trust = np.zeros(len(true), bool), np.zeros(len(true), bool)
    test[order[:360]] = True
    trust[order[360 : 360 + trusted]] = True
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return Rows(pixels, true, observed.astype(np.int32), trust, test)


def _write_images(paths: Layout, ids: np.ndarray, rows: Rows) -> None:
    for part, chosen in enumerate(np.array_split(np.arange(len(ids)), 3)):
        images = [_png(rows.pixels[row]) for row in chosen]
        columns = [
            pa.array(ids[chosen], pa.string()),
            pa.array(images, pa.binary()),
            pa.array([8] * len(chosen), pa.int32()),
            pa.array([8] * len(chosen), pa.int32()),
            pa.array([hashlib.sha256(image).hexdigest() for image in images], pa.string()),
        ]
        write_table(paths.images / f"part-{part:05d}.parquet", pa.Table.from_arrays(columns, schema=IMAGES), {})


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _write_label_tables(paths: Layout, ids: np.ndarray, rows: Rows, wish: DigitsRun) -> None:
    keep = np.ones(len(ids), bool) if wish.test else ~rows.test
    noisy = ~(rows.trusted | rows.test)
    labels = Labels(
        ids=ids[keep],
        label=np.where(noisy, rows.observed, rows.true)[keep],
        observed_label=np.where(rows.test, rows.true, rows.observed)[keep],
        trusted=rows.trusted[keep],
        split=np.where(rows.test, "test", "train").astype(object)[keep],
        class_names=wish.class_names,
        protocol={
            "type": "symmetric",
            "protocol": "exclusive",
            "counting": "exact",
            "nominal_rate": NOISE,
            "rate_realised": 0.6006,
            "rate_realised_overall": 0.6024,
            "seed": 0,
            "sha256": "5e" * 32,
        },
    )
    write_labels(paths.labels, labels)
    known = np.ones(len(ids), bool) if wish.truth else np.zeros(len(ids), bool)
    write_truth(paths.truth, Truth(ids=ids[known], true_label=rows.true[known]))
    write_quarantine(
        paths.quarantine,
        [
            QuarantineRow(
                stage="prepare", reason="truncated-image", detail="ends after 12 bytes; copy it again", path="a/b.png"
            )
        ],
    )


def _write_purified(paths: Layout, ids: np.ndarray, rows: Rows, wish: DigitsRun) -> None:
    """Logistic regression on the trusted rows, then the posterior under the uniform transition matrix."""
    noisy = ~(rows.trusted | rows.test)
    anchors = rows.trusted if wish.trusted else noisy
    features = rows.pixels.reshape(len(ids), -1) / 255
    target = rows.true if wish.trusted else rows.observed
    model = LogisticRegression(max_iter=300).fit(features[anchors], target[anchors])
    evidence = np.where(np.arange(10)[None, :] == rows.observed[noisy, None], 1 - NOISE, NOISE / 9)
    joint = model.predict_proba(features[noisy]) * evidence
    soft = (joint / joint.sum(axis=1, keepdims=True)).astype(np.float32)
    purified = Purified(
        ids=ids[noisy],
        label=rows.observed[noisy],
        purified_label=soft.argmax(axis=1).astype(np.int32),
        confidence=soft.max(axis=1).clip(0, 1),
        soft_label=soft,
        class_names=wish.class_names,
        about={"method": "ipc_ensemble", "settings": {"mode": "fixed"}},
    )
    write_purified(paths.purified, purified)


def _fit(pixels: np.ndarray, labels: np.ndarray) -> Classifier:
    network = build_classifier(ModelSettings(arch="small_cnn", width=8), 1, 10, seed=0)
    images, target = torch.from_numpy(pixels).unsqueeze(1).float() / 255, torch.from_numpy(labels).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(6):
        for rows in torch.randperm(len(images), generator=draw).split(128):
            loss = torch.nn.functional.cross_entropy(network(images[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


def _write_models(paths: Layout, trained: dict[str, Classifier], wish: DigitsRun) -> None:
    about = AboutClassifier(class_names=wish.class_names, images=IMAGE_SETTINGS, about={"method": "ce"})
    paths.yardstick.mkdir(parents=True)
    folders = {"model": paths.model} | ({"yardstick": paths.yardstick} if wish.yardstick else {})
    for name, folder in folders.items():
        for checkpoint in ("best", "last"):
            save_classifier(folder / checkpoint, [trained[name]], about)


def _write_curves_and_metrics(paths: Layout, wish: DigitsRun) -> None:
    arms = ("model", "yardstick") if wish.yardstick else ("model",)
    lines = [f"{arm},{epoch},{2 / epoch},{1 - 0.5 / epoch}" for arm in arms for epoch in range(1, 9)]
    paths.train_curves.write_text("\n".join(["arm,epoch,loss,held_out_accuracy", *lines]) + "\n")
    lines = [
        f"{epoch},{5 / epoch},0.1,1.5,{'' if epoch % 2 else 0.9},{'' if epoch % 2 else 0.8}" for epoch in range(1, 9)
    ]
    paths.pretrain_curve.parent.mkdir(parents=True)
    paths.pretrain_curve.write_text("\n".join(["epoch,loss,lr,seconds,probe_accuracy,knn_accuracy", *lines]) + "\n")
    uniform = [[0.38 if row == column else 0.62 / 9 for column in range(10)] for row in range(10)]
    purify = {
        "method": "ipc_ensemble",
        "settings": {"mode": "fixed", "prior": "uniform"},
        "transition": uniform,
        "noise_rate": 0.62,
        "candidates": [{"ridge": 1.0, "steps": 10, "accuracy": 0.91}, {"ridge": 10.0, "steps": 20, "accuracy": 0.93}],
        "chosen": {"ridge": 10.0, "steps": 20},
        "seconds": 0.4,
    }
    write_json(paths.metrics("prepare"), {"prepare": {"images": 1797, "seconds": 1.0}})
    write_json(paths.metrics("pretrain"), {"pretrain": {"seconds": 12.0}})
    write_json(paths.metrics("purify"), {"purify": purify})
    write_json(paths.metrics("train"), {"train": _train_metrics(wish)})


def _train_metrics(wish: DigitsRun) -> dict[str, Any]:
    """As the stage train leaves them, without the scores of its epochs; without a trace it is an old version's run."""
    metrics: dict[str, Any] = {"method": "divide_mix", "labels": "purified_hard", "seconds": 20.0}
    if not wish.trace:
        return metrics
    even = [[0.82 if row == column else 0.02 for column in range(10)] for row in range(10)]
    noise = {"rate": 0.15, "source": "trusted", "type": "symmetric", "prior": [0.1] * 10, "transition": even}
    return metrics | {"noise": noise, "transition": even, "derived": {"lambda_u": 25.0, "p_threshold": 0.5}}


def _write_trace(paths: Layout) -> None:
    """Three epochs of a method that selects what the purifier is sure of; the first is a warm-up without a split."""
    purified = read_purified(paths.purified)
    doubt = 1 - purified.confidence
    mixture = {"means": [0.05, 0.5], "variances": [0.002, 0.02], "weights": [0.8, 0.2]}
    for epoch in (1, 2, 3):
        split: dict[str, Any] = {"selected": doubt < 0.1 * epoch, "clean": 1 - doubt, "mixture": mixture}
        predicted = purified.purified_label
        split = split if epoch > 1 else {}
        trace = TraceEpoch(epoch=epoch, ids=purified.ids, predicted=predicted, loss=doubt, **split)
        write_trace(paths.train_trace, trace)
