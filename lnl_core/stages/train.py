"""Stage `train`: a robust model from the noisy rows, on observed or purified labels, and its yardstick beside it.

The training rows are the train rows that are not trusted, and with `add_trusted` the trusted ones too. The checkpoint
is chosen on held-out rows: trusted train rows, where there are none the val split, else the last epoch is the best.
Trusted rows of the val split are the promotion gate's and are not touched. The yardstick is the same method with the
same start on the observed labels: the report's accuracy without purification.
The noise estimate that a method is given comes from the purification (`stages/train_noise.py`), never from the truth.
Under torch's launcher (`torchrun -m lnl_core.cli stage train`) all processes train together and the first one writes.
Held in memory: the label tables, the networks, and the decoded train and held-out images (above `run.image_memory_mb`
in a memory-mapped file; on a GPU they move there as a whole where they take less than half of what is free).
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor

from lnl_core.config import ConfigError, Settings
from lnl_core.contracts import ContractError, Ids, Labels, Purified, parts, positions, read_labels, read_purified
from lnl_core.files import atomic_folder, atomic_path
from lnl_core.images.content import content_hash
from lnl_core.images.encoded import EncodedPixels, Pixels
from lnl_core.images.store import open_pixels
from lnl_core.models.classifier import Classifier, build_classifier, new_classifier
from lnl_core.models.normalise import pixel_statistics, set_normalisation
from lnl_core.models.saved import AboutClassifier, load_encoder, read_config, save_classifier
from lnl_core.models.start import load_start, start_hash
from lnl_core.runtime import Runtime
from lnl_core.stages.stage import Metrics, Stage, StageContext, section_with_methods
from lnl_core.stages.train_noise import estimated_noise
from lnl_core.statistics.noise_estimate import NoiseEstimate
from lnl_core.train import TRAINERS
from lnl_core.train.sampling import Sampling
from lnl_core.train.task import HeldOut, Trained, TrainTask
from lnl_core.training.training_trace import trace_files
from lnl_core.world import joined_world, rank, world_size

log = logging.getLogger("lnl")
Rows = npt.NDArray[np.intp]
LabelKind = Literal["observed", "purified_hard", "purified_soft", "confidence_weighted"]


class TrainSettings(Settings):
    """Section `train`; each method has a sub-section of its own."""

    method: str = "divide_mix"
    labels: LabelKind = "purified_hard"  # confidence_weighted: the purified label, its loss times the confidence
    init: Literal["scratch", "simclr", "checkpoint"] = "scratch"  # simclr: from the encoder of stage pretrain
    init_checkpoint: str = ""  # init: checkpoint: folder of a saved classifier or encoder; a head that fits is kept
    yardstick: bool = True  # also train on the observed labels; nothing to do where `labels` is observed already
    held_out: Literal["auto", "trusted", "val", "none"] = "auto"  # auto: trusted rows, else val rows, else none
    add_trusted: bool = False  # also learn from trusted rows, as labels known to be right (DivideMix* of the tables)
    trusted_held_out: float = Field(default=0.2, gt=0, lt=1)  # add_trusted: share that is not learned from
    noise_rate: float | Literal["auto"] = "auto"  # share of wrong labels that the method reckons with; auto: estimated
    balanced: bool = False  # an epoch sees each class equally often (Clothing1M)
    epoch_rows: int | None = Field(default=None, ge=2)  # rows an epoch; none: all (Clothing1M: 1,000 batches)
    compile: bool = False  # torch.compile: minutes at the start, then faster epochs on a GPU
    options: dict[str, SerializeAsAny[Settings]]

    @model_validator(mode="after")
    def _fits(self) -> TrainSettings:
        if self.noise_rate != "auto" and not 0 <= self.noise_rate < 1:
            raise ValueError(f"noise_rate = {self.noise_rate}: must be 'auto' or lie in 0..1, 1 excluded")
        if (self.init == "checkpoint") != bool(self.init_checkpoint):
            raise ValueError("init: checkpoint and init_checkpoint belong together; set both or neither")
        return self


@dataclass(frozen=True, kw_only=True)
class _Data:
    """What both arms train on."""

    labels: Labels
    purified: Purified
    rows: Rows  # training rows of `labels`
    verified: npt.NDArray[np.bool_] | None  # of `rows`; None: no trusted row is learned from
    pixels: Pixels  # of `rows`
    held_out: HeldOut
    statistics: tuple[Tensor, Tensor]  # mean and standard deviation of `pixels` a channel
    digest: str  # of everything above


def run(settings: TrainSettings, context: StageContext) -> Metrics:
    """Train the model and, where wanted, its yardstick; write both, the curves, and return the metrics."""
    with joined_world(context.runtime.device):
        return _run(settings, context)


def _run(settings: TrainSettings, context: StageContext) -> Metrics:
    data = _read(settings, context)
    arms: dict[str, LabelKind] = {"model": settings.labels}
    if settings.yardstick and settings.labels != "observed":
        arms["yardstick"] = "observed"
    noise = {arm: _noise(settings, context, data, kind) for arm, kind in arms.items()}
    trained = {arm: _train(settings, context, data, arm, kind, noise[arm]) for arm, kind in arms.items()}
    if not rank():
        _write(settings, context, data, arms, trained)
    scores = {arm: {**_scores(result, data), "noise": noise[arm].as_metrics()} for arm, result in trained.items()}
    return {
        "method": settings.method,
        "labels": settings.labels,
        "init": settings.init,
        "rows": len(data.rows),
        "verified_rows": 0 if data.verified is None else int(data.verified.sum()),
        "parameters": _parameters(settings, context, data),
        "model": context.shared.model.model_dump(),
        "device": str(context.runtime.device),
        "processes": world_size(),
        "precision": context.runtime.precision,
        **scores["model"],
        "yardstick": {"labels": "observed", **scores["yardstick"]} if "yardstick" in scores else None,
    }


def _write(
    settings: TrainSettings,
    context: StageContext,
    data: _Data,
    arms: Mapping[str, LabelKind],
    trained: Mapping[str, Trained],
) -> None:
    for arm, folder in (("model", context.paths.model), ("yardstick", context.paths.yardstick)):
        if arm in arms:
            _save(folder, trained[arm], arms[arm], settings, context, data)
        else:
            with atomic_folder(folder):
                pass  # an empty folder says that none was trained
    with atomic_folder(context.paths.train_trace) as folder:
        for table in trace_files(_trace(context)):
            shutil.copy2(table, folder / table.name)
    _write_curves(context.paths.train_curves, trained)


def _trace(context: StageContext) -> Path:
    """Where the trace grows; it becomes an artefact at the end."""
    return context.paths.resume("train") / "trace"


def _read(settings: TrainSettings, context: StageContext) -> _Data:
    paths = context.paths
    labels = read_labels(paths.labels)
    noisy = labels.where(split="train", trusted=False)
    if not len(noisy):
        raise ContractError(f"{paths.labels}: has no untrusted train rows, so there is nothing to train on")
    held_rows, kind, added = _held_out_rows(settings, labels, context.runtime)
    rows = np.sort(np.concatenate([noisy, added]))
    ids = labels.ids[np.concatenate([rows, held_rows])]
    pixels = open_pixels(
        paths.images,
        context.shared.images,
        ids=ids,
        scratch=paths.resume("train"),
        memory_mb=context.runtime.image_memory_mb,
        disk_mb=context.runtime.image_disk_mb,
    )
    purified = _purified(paths.purified, labels)
    mine, held = _part(pixels, 0, len(rows)), _part(pixels, len(rows), len(pixels))
    held_label = torch.from_numpy(labels.label[held_rows].astype(np.int64))
    return _Data(
        labels=labels,
        purified=purified,
        rows=rows,
        verified=labels.trusted[rows] if len(added) else None,
        pixels=_near_the_networks(mine, context.runtime.device),
        held_out=HeldOut(pixels=_near_the_networks(held, context.runtime.device), label=held_label, kind=kind),
        statistics=pixel_statistics(mine),
        digest=_digest(parts(paths.images), ids, labels, purified),
    )


def _held_out_rows(settings: TrainSettings, labels: Labels, runtime: Runtime) -> tuple[Rows, str, Rows]:
    """Rows that choose the checkpoint, their kind, and the trusted rows that are learned from."""
    trusted, nothing = labels.where(split="train", trusted=True), np.empty(0, dtype=np.intp)
    added = nothing
    if settings.add_trusted:
        if len(trusted) < 2:
            raise ConfigError(f"train.add_trusted: there are {len(trusted)} trusted rows; it takes 2, or set it false")
        held = max(round(settings.trusted_held_out * len(trusted)), 1)
        drawn = runtime.numpy_generator("train", "trusted held out").permutation(trusted)
        trusted, added = np.sort(drawn[:held]), np.sort(drawn[held:])
    found = {"trusted": trusted, "val": labels.where(split="val", trusted=False)}  # trusted val rows: the gate's alone
    if settings.held_out in found and not len(found[settings.held_out]):
        raise ConfigError(
            f"train.held_out = {settings.held_out!r}: there are no such rows; use 'auto', 'none', or set "
            f"{'trusted rows' if settings.held_out == 'trusted' else 'a val split'} aside in prepare"
        )
    kinds = ("trusted", "val") if settings.held_out == "auto" else (settings.held_out,)
    for kind in kinds:
        if kind in found and len(found[kind]):
            return found[kind], kind, added
    return nothing, "none", added


def _purified(path: Path, labels: Labels) -> Purified:
    purified = read_purified(path)
    if purified.class_names != labels.class_names:
        raise ContractError(f"{path}: its class names are not those of labels.parquet; run the stage purify again")
    return purified


def _part(pixels: Pixels, start: int, stop: int) -> Pixels:
    return pixels.part(start, stop) if isinstance(pixels, EncodedPixels) else pixels[start:stop]


def _near_the_networks(pixels: Pixels, device: torch.device) -> Pixels:
    """All pixels on a GPU that has ample room, so that batches need not cross the bus; else where they are."""
    if (
        isinstance(pixels, EncodedPixels)
        or device.type != "cuda"
        or pixels.nbytes > torch.cuda.mem_get_info(device)[0] / 2
    ):
        return pixels
    return pixels.to(device)


def _train(
    settings: TrainSettings, context: StageContext, data: _Data, arm: str, kind: LabelKind, noise: NoiseEstimate
) -> Trained:
    entry = TRAINERS.get(settings.method)
    targets = _targets(data, kind, context.paths.purified)
    task = TrainTask(
        ids=data.labels.ids[data.rows],
        pixels=data.pixels,
        label=targets.label,
        soft_label=targets.soft,
        weight=targets.weight,
        verified=None if data.verified is None else torch.from_numpy(data.verified),
        held_out=data.held_out,
        classes=len(data.labels.class_names),
        flip=context.shared.images.flip,
        noise=noise,
        sampling=Sampling(rows=settings.epoch_rows, balanced=settings.balanced),
        make_model=lambda seed: _new_model(settings, context, data, seed),
        runtime=context.runtime,
        checkpoint=context.paths.resume("train") / f"{arm}.pt",
        fingerprint=_fingerprint(settings, context, data, kind, noise),
        purpose=arm,
        trace=_trace(context) if arm == "model" else None,
        compiled=settings.compile,
    )
    return entry.make(task, settings.options[settings.method])


def _noise(settings: TrainSettings, context: StageContext, data: _Data, kind: LabelKind) -> NoiseEstimate:
    rate = None if settings.noise_rate == "auto" else settings.noise_rate
    return estimated_noise(data.purified, kind != "observed", context.paths.read_metrics("purify"), rate)


@dataclass(frozen=True, kw_only=True)
class _Targets:
    """What the training rows are trained on."""

    label: Tensor  # [n]
    soft: Tensor | None  # [n, K]
    weight: Tensor | None  # [n], mean 1


def _targets(data: _Data, kind: LabelKind, path: Path) -> _Targets:
    """Joined by id; a verified row keeps its label, as one-hot and with full confidence."""
    label = torch.from_numpy(data.labels.label[data.rows].astype(np.int64))
    if kind == "observed":
        return _Targets(label=label, soft=None, weight=None)
    noisy = np.ones(len(data.rows), dtype=bool) if data.verified is None else ~data.verified
    spots = positions(data.labels.ids[data.rows[noisy]], data.purified.ids, str(path))
    mine = torch.from_numpy(noisy)
    label[mine] = torch.from_numpy(data.purified.applied_label[spots].astype(np.int64))
    if kind == "purified_hard":
        return _Targets(label=label, soft=None, weight=None)
    soft = torch.nn.functional.one_hot(label, len(data.labels.class_names)).float()
    soft[mine] = torch.from_numpy(data.purified.soft_label[spots])
    if kind == "purified_soft":
        return _Targets(label=label, soft=soft, weight=None)
    confidence = soft[torch.arange(len(label)), label]  # of the label that is learned from, proposed or kept
    return _Targets(label=label, soft=None, weight=confidence / confidence.mean().clamp_min(1e-6))


def _new_model(settings: TrainSettings, context: StageContext, data: _Data, seed: int) -> Classifier:
    classes = len(data.labels.class_names)
    if settings.init == "simclr":
        return new_classifier(load_encoder(context.paths.encoder).train(), classes, seed=seed)
    if settings.init == "checkpoint":
        return load_start(Path(settings.init_checkpoint), classes, seed=seed)
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


def _fingerprint(
    settings: TrainSettings, context: StageContext, data: _Data, kind: LabelKind, noise: NoiseEstimate
) -> str:
    """Everything that a resumed run must share with the one that wrote the checkpoint."""
    what = {
        "method": settings.method,
        "config": settings.options[settings.method].model_dump(mode="json"),
        "labels": kind,
        "init": _start_hash(settings, context),
        "held_out": data.held_out.kind,
        "sampling": [settings.epoch_rows, settings.balanced],
        "noise": noise.as_metrics(),
        "model": context.shared.model.model_dump(),
        "images": context.shared.images.model_dump(),
        "seed": context.runtime.seed,
        "precision": context.runtime.precision,
        "data": data.digest,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _start_hash(settings: TrainSettings, context: StageContext) -> str:
    if settings.init == "simclr":
        return str(read_config(context.paths.encoder, "encoder")["sha256"])
    return start_hash(Path(settings.init_checkpoint)) if settings.init == "checkpoint" else "scratch"


def _digest(shards: list[Path], ids: Ids, labels: Labels, purified: Purified) -> str:
    """Of images (by the hashes in their shards), ids and labels."""
    content = sorted(content_hash(shard) for shard in shards)
    digest = hashlib.blake2b(json.dumps([list(labels.class_names), list(ids), content]).encode())
    for array in (labels.label, labels.trusted, purified.applied_label, purified.soft_label):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


STAGE = Stage(
    name="train",
    summary="Train a robust model on observed or purified labels, from scratch or from the SimCLR encoder.",
    settings=section_with_methods("train", TrainSettings, TRAINERS),
    run=run,
    reads=("images", "labels", "purified", "encoder"),
    writes=("model", "yardstick", "train_curves", "train_trace"),
    reads_metrics=("purify",),
    shared_by_processes=True,
    shared=("run.seed", "run.precision", "images", "model"),
    pool="gpu",
)
