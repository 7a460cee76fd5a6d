"""Stage `train`: a robust model from the noisy rows, on observed or purified labels, and its yardstick beside it.

The training rows are the train rows that are not trusted. The checkpoint is chosen on held-out rows: the trusted ones,
where there are none the val split, else the last epoch is the best. The yardstick is the same method with the same
start on the observed labels: the report's accuracy without purification.
Held in memory: the label tables, the networks, and the decoded train and held-out images (above `run.image_memory_mb`
in a memory-mapped file; on a GPU they move there as a whole where they take less than half of what is free).
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import SerializeAsAny, field_validator
from torch import Tensor

from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import ContractError, Labels, Purified, positions, read_labels, read_purified
from lnl_core.files import atomic_folder, atomic_path
from lnl_core.images.store import ImageStore, load_images
from lnl_core.models.classifier import Classifier, build_classifier, new_classifier
from lnl_core.models.normalise import pixel_statistics, set_normalisation
from lnl_core.models.saved import AboutClassifier, load_encoder, read_config, save_classifier
from lnl_core.stages.stage import Metrics, Stage, StageContext, section_with_methods
from lnl_core.train import TRAINERS
from lnl_core.train.task import HeldOut, Trained, TrainTask

log = logging.getLogger("lnl")
Rows = npt.NDArray[np.intp]
LabelKind = Literal["observed", "purified_hard", "purified_soft"]
_HASHED_ROWS = 4096  # images hashed at a time


class TrainSettings(Settings):
    """Section `train`; each method has a sub-section of its own."""

    method: str = "divide_mix"
    labels: LabelKind = "purified_hard"  # what the model learns from
    init: Literal["scratch", "simclr"] = "scratch"  # simclr: from the encoder of stage pretrain
    yardstick: bool = True  # also train on the observed labels; nothing to do where `labels` is observed already
    held_out: Literal["auto", "trusted", "val", "none"] = "auto"  # auto: trusted rows, else val rows, else none
    options: dict[str, SerializeAsAny[Settings]]

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        TRAINERS.get(name)
        return name


@dataclass(frozen=True, kw_only=True)
class _Data:
    """What both arms train on."""

    labels: Labels
    purified: Purified | None  # None where only observed labels are asked for
    rows: Rows  # training rows of `labels`
    pixels: Tensor  # of `rows`
    held_out: HeldOut
    statistics: tuple[Tensor, Tensor]  # mean and standard deviation of `pixels` a channel
    digest: str  # of everything above


def run(settings: TrainSettings, context: StageContext) -> Metrics:
    """Train the model and, where asked, its yardstick; write both, the curves, and return the metrics."""
    data = _read(settings, context)
    arms: dict[str, LabelKind] = {"model": settings.labels}
    if settings.yardstick and settings.labels != "observed":
        arms["yardstick"] = "observed"
    folders = {"model": context.paths.model, "yardstick": context.paths.yardstick}
    trained = {}
    for arm, kind in arms.items():
        trained[arm] = _train(settings, context, data, arm, kind)
        _save(folders[arm], trained[arm], kind, settings, context, data)
    if "yardstick" not in arms:
        with atomic_folder(context.paths.yardstick):
            pass  # an empty folder says that none was trained
    _write_curves(context.paths.train_curves, trained)
    scores = {arm: _scores(result, data) for arm, result in trained.items()}
    return {
        "method": settings.method,
        "labels": settings.labels,
        "init": settings.init,
        "rows": len(data.rows),
        "parameters": _parameters(settings, context, data),
        "device": str(context.runtime.device),
        "precision": context.runtime.precision,
        **scores["model"],
        "yardstick": {"labels": "observed", **scores["yardstick"]} if "yardstick" in scores else None,
    }


def _read(settings: TrainSettings, context: StageContext) -> _Data:
    paths = context.paths
    labels = read_labels(paths.labels)
    rows = labels.where(split="train", trusted=False)
    if not len(rows):
        raise ContractError(f"{paths.labels}: has no untrusted train rows, so there is nothing to train on")
    held_rows, kind = _held_out_rows(settings, labels)
    purified = None if settings.labels == "observed" else _purified(paths.purified, labels)
    store = load_images(
        paths.images,
        context.shared.images,
        ids=labels.ids[np.concatenate([rows, held_rows])],
        scratch=paths.resume("train"),
        memory_mb=context.runtime.image_memory_mb,
    )
    pixels = _near_the_networks(store.pixels, context.runtime.device)
    held_label = torch.from_numpy(labels.label[held_rows].astype(np.int64))
    return _Data(
        labels=labels,
        purified=purified,
        rows=rows,
        pixels=pixels[: len(rows)],
        held_out=HeldOut(pixels=pixels[len(rows) :], label=held_label, kind=kind),
        statistics=pixel_statistics(store.pixels[: len(rows)]),
        digest=_digest(store, labels, purified),
    )


def _held_out_rows(settings: TrainSettings, labels: Labels) -> tuple[Rows, str]:
    found = {"trusted": labels.where(split="train", trusted=True), "val": labels.where(split="val")}
    if settings.held_out in found and not len(found[settings.held_out]):
        raise ConfigError(
            f"train.held_out = {settings.held_out!r}: there are no such rows; use 'auto', 'none', or set "
            f"{'trusted rows' if settings.held_out == 'trusted' else 'a val split'} aside in prepare"
        )
    asked = ("trusted", "val") if settings.held_out == "auto" else (settings.held_out,)
    for kind in asked:
        if kind in found and len(found[kind]):
            return found[kind], kind
    return np.empty(0, dtype=np.intp), "none"


def _purified(path: Path, labels: Labels) -> Purified:
    purified = read_purified(path)
    if purified.class_names != labels.class_names:
        raise ContractError(f"{path}: its class names are not those of labels.parquet; run the stage purify again")
    return purified


def _near_the_networks(pixels: Tensor, device: torch.device) -> Tensor:
    """All pixels on a GPU that has ample room, so that batches need not cross the bus; else where they are."""
    if device.type != "cuda" or pixels.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return pixels
    return pixels.to(device)


def _train(settings: TrainSettings, context: StageContext, data: _Data, arm: str, kind: LabelKind) -> Trained:
    entry = TRAINERS.get(settings.method)
    label, soft = _targets(data, kind, context.paths.purified)
    task = TrainTask(
        ids=data.labels.ids[data.rows],
        pixels=data.pixels,
        label=label,
        soft_label=soft,
        held_out=data.held_out,
        classes=len(data.labels.class_names),
        flip=context.shared.images.flip,
        make_model=lambda seed: _new_model(settings, context, data, seed),
        runtime=context.runtime,
        checkpoint=context.paths.resume("train") / f"{arm}.pt",
        fingerprint=_fingerprint(settings, context, data, kind),
        purpose=arm,
    )
    return entry.make(task, settings.options[settings.method])


def _targets(data: _Data, kind: LabelKind, path: Path) -> tuple[Tensor, Tensor | None]:
    """Labels [n] and, where asked for, soft labels [n, K] of the training rows, joined by id."""
    if kind == "observed":
        return torch.from_numpy(data.labels.label[data.rows].astype(np.int64)), None
    assert data.purified is not None
    spots = positions(data.labels.ids[data.rows], data.purified.ids, str(path))
    label = torch.from_numpy(data.purified.applied_label[spots].astype(np.int64))
    return label, torch.from_numpy(data.purified.soft_label[spots]) if kind == "purified_soft" else None


def _new_model(settings: TrainSettings, context: StageContext, data: _Data, seed: int) -> Classifier:
    classes = len(data.labels.class_names)
    if settings.init == "simclr":
        return new_classifier(load_encoder(context.paths.encoder).train(), classes, seed=seed)
    model = build_classifier(context.shared.model, context.shared.images.channels, classes, seed=seed)
    set_normalisation(model, *data.statistics)
    return model


def _save(
    folder: Path, trained: Trained, kind: LabelKind, settings: TrainSettings, context: StageContext, data: _Data
) -> None:
    config = settings.options[settings.method].model_dump(mode="json")
    about: dict[str, Any] = {"method": settings.method, "labels": kind, "init": settings.init, "settings": config}
    about |= {"seed": context.runtime.seed, "rows": len(data.rows), "held_out": data.held_out.kind}
    with atomic_folder(folder) as temporary:
        for name, weights in (("best", trained.best), ("last", trained.last)):
            networks = []
            for state in weights:
                network = _new_model(settings, context, data, seed=0)
                network.load_state_dict(state)
                networks.append(network)
            epoch = trained.best_epoch if name == "best" else len(trained.curve)
            card = AboutClassifier(
                class_names=data.labels.class_names,
                images=context.shared.images,
                about={**about, "checkpoint": name, "epoch": epoch},
            )
            save_classifier(temporary / name, networks, card)


def _write_curves(path: Path, trained: Mapping[str, Trained]) -> None:
    """One row an arm and epoch; the columns are the union of what the epochs record."""
    columns = list(dict.fromkeys(name for result in trained.values() for record in result.curve for name in record))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["arm", *columns], restval="", lineterminator="\n")
        writer.writeheader()
        for arm, result in trained.items():
            for record in result.curve:
                rounded = {name: value if name == "epoch" else round(value, 6) for name, value in record.items()}
                writer.writerow({"arm": arm, **rounded})


def _scores(trained: Trained, data: _Data) -> dict[str, Any]:
    best, last = trained.curve[trained.best_epoch - 1], trained.curve[-1]
    held_out = {
        "kind": data.held_out.kind,
        "rows": len(data.held_out.label),
        "accuracy_best": best.get("held_out_accuracy"),
        "accuracy_last": last.get("held_out_accuracy"),
    }
    return {
        "epochs": len(trained.curve),
        "best_epoch": trained.best_epoch,
        "best_is": "last epoch" if data.held_out.kind == "none" else f"best on {data.held_out.kind} rows",
        "networks": len(trained.best),
        "held_out": held_out,
        **trained.metrics,
    }


def _parameters(settings: TrainSettings, context: StageContext, data: _Data) -> int:
    """Trainable numbers of one network."""
    return sum(weights.numel() for weights in _new_model(settings, context, data, seed=0).parameters())


def _fingerprint(settings: TrainSettings, context: StageContext, data: _Data, kind: LabelKind) -> str:
    """Everything that a resumed run must share with the one that wrote the checkpoint."""
    what = {
        "method": settings.method,
        "config": settings.options[settings.method].model_dump(mode="json"),
        "labels": kind,
        "init": read_config(context.paths.encoder, "encoder")["sha256"] if settings.init == "simclr" else "scratch",
        "held_out": data.held_out.kind,
        "model": context.shared.model.model_dump(),
        "images": context.shared.images.model_dump(),
        "seed": context.runtime.seed,
        "precision": context.runtime.precision,
        "data": data.digest,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _digest(store: ImageStore, labels: Labels, purified: Purified | None) -> str:
    digest = hashlib.blake2b(json.dumps([list(labels.class_names), list(store.ids)]).encode())
    for start in range(0, len(store), _HASHED_ROWS):
        digest.update(store.pixels[start : start + _HASHED_ROWS].contiguous().numpy().tobytes())
    arrays: Sequence[npt.NDArray[Any]] = [labels.label, labels.trusted]
    if purified is not None:
        arrays = [*arrays, purified.applied_label, purified.soft_label]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


STAGE = Stage(
    name="train",
    summary="Train a robust model on observed or purified labels, from scratch or from the SimCLR encoder.",
    settings=section_with_methods("train", TrainSettings, TRAINERS),
    run=run,
    reads=("images", "labels", "purified", "encoder"),
    writes=("model", "yardstick", "train_curves"),
    shared=("run.seed", "run.precision", "images", "model"),
    pool="gpu",
)
