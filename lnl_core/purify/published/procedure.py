"""DMLP as published (Tu et al., CVPR 2023, Alg. 1): minibatch IPC, EAC beside it, and every T epochs their mixture.

Mode `paper` runs the equations as printed, mode `released` what the released code does; `DMLPConfig` has a
field for each difference. Both give the numbers of the published procedure without its inverse per step, see
`ipc.py`. They are here so that published results can be checked: with fewer trusted rows than features, no ridge
term and no early stop, IPC fits the trusted rows exactly and moves the other labels at random.

Views: a pipeline that encodes two augmentations of each image gives the second as `task.second_view`. IPC reads the
first; EAC learns and predicts on the second, so that what Eq. 11 mixes into the labels comes from other features than
those that moved them. Where there is none, or with `same_view`, both read the first.

Departures: rows are put into equal minibatches of about `batch_rows`, for a short tail would have no inverse; in mode
`paper` they are drawn once and visited in random order, not drawn anew in each step; the soft labels that leave here
are projected onto the simplex, which keeps the largest one.

Memory: labels and Adam's state, 3 n K numbers; features n d in float32 and maps n min(m, d), each in a scratch file
where larger than `memory_mb`. Features stream once; the scratch file is read once an epoch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lnl_core.config import ConfigError
from lnl_core.contracts import FloatArray, IntArray
from lnl_core.progress import progress_bar
from lnl_core.purify.published.eac import Classifier
from lnl_core.purify.published.ipc import LabelSteps, Minibatch, TrustedMap, onto_simplex, step_size, trusted_map
from lnl_core.purify.published.losses import Array, TargetLoss
from lnl_core.purify.published.settings import DMLPConfig
from lnl_core.purify.task import FeatureRows, Purification, PurifyTask
from lnl_core.statistics.moments import check_finite

Rows = npt.NDArray[np.intp]


@dataclass(kw_only=True)
class PublishedRun:
    """The state of Alg. 1 after an epoch."""

    settings: DMLPConfig
    order: Rows  # [n] table row of each row in working order
    batches: list[Minibatch]
    classifier: Classifier | None
    curve: list[dict[str, float]] = field(default_factory=list)

    def labels(self) -> Array:
        """The soft labels [n, K] in the order of the table, as the method left them (off the simplex too)."""
        found = np.empty((len(self.order), len(self.batches[0].labels)), dtype=self.batches[0].labels.dtype)
        for batch in self.batches:
            found[self.order[batch.rows]] = batch.labels.T
        return found


def published_dmlp(task: PurifyTask, settings: DMLPConfig, generator: np.random.Generator) -> Purification:
    """Purify by the published procedure.

    Raises:
        ConfigError: F'F of a minibatch has no inverse, or the second view does not fit; the message says what to set.
        ContractError: NaN or infinite features.
    """
    for run in epochs(task, settings, generator):
        last = run
    labels = last.labels()
    posterior = onto_simplex(labels.T).T.astype(np.float32)
    outside = (labels.min(axis=1) < -1e-6) | (np.abs(labels.sum(axis=1) - 1) > 1e-6)
    metrics = {
        "mode": settings.mode,
        "trusted_rows": len(task.trusted_label),
        "minibatches": len(last.batches),
        "views": 1 if eac_view(task, settings)[0] is task.noisy else 2,
        "off_simplex_share": round(float(outside.mean()), 5),
        "noise_rate": round(float(1 - posterior[np.arange(len(posterior)), task.observed].mean()), 5),
        **{name: value for name, value in last.curve[-1].items() if name != "epoch"},
    }
    return Purification(posterior=posterior, metrics=metrics, curve=tuple(last.curve))


def epochs(task: PurifyTask, settings: DMLPConfig, generator: np.random.Generator) -> Iterator[PublishedRun]:
    """Alg. 1: yields the same object after each epoch, with its labels moved on."""
    features, trusted = eac_view(task, settings)
    order = _working_order(task.noisy.shape[0], settings, generator)
    prior = class_prior(task, settings.prior)
    loss, eac_loss = ipc_loss(settings, prior, len(task.trusted_label)), classifier_loss(settings, prior)
    verified = np.eye(task.classes, dtype=settings.precision)[:, task.trusted_label]
    with tempfile.TemporaryDirectory(prefix="lnl-dmlp-") as folder:
        scratch = _Scratch(folder=Path(folder), memory_mb=settings.memory_mb)
        stored = _stored(task.noisy, order, scratch, "view 1")
        batches = _minibatches(stored, order, task, settings, loss, scratch)
        if features is not task.noisy:
            stored = _stored(features, order, scratch, "view 2")
        classifier = Classifier.zero(task.classes, features.shape[1], settings.eac_precision) if settings.eac else None
        run = PublishedRun(settings=settings, order=order, batches=batches, classifier=classifier)
        with progress_bar("dmlp: as published", settings.epochs, "epochs") as advance:
            for epoch in range(settings.epochs):
                record = _epoch(run, epoch, stored, loss, eac_loss, verified, generator)
                run.curve.append(_record(record, run, epoch, task.observed, task.trusted_label, trusted))
                yield run
                advance(note=f"loss {record['loss']:.3f}")


def _epoch(
    run: PublishedRun,
    epoch: int,
    features: FloatArray,
    loss: TargetLoss,
    eac_loss: TargetLoss,
    verified: Array,
    generator: np.random.Generator,
) -> dict[str, float]:
    """IPC and EAC over all minibatches, then Eq. 11 where it is its turn."""
    settings, classifier = run.settings, run.classifier
    losses, right, eac_losses = [], [], []
    turns = np.arange(len(run.batches))
    if settings.minibatches == "shuffled":
        turns = generator.permutation(len(run.batches))
    for turn in turns:
        batch = run.batches[turn]
        scores = batch.purify(loss, verified)
        losses.append(batch.losses[-1])
        right.append(float((scores.argmax(axis=0) == verified.argmax(axis=0)).mean()))
        if classifier is not None:
            taken = np.asarray(features[batch.rows])
            eac_losses.append(classifier.learn(taken, batch.labels, eac_loss, settings, epoch, generator))
    if classifier is not None and settings.swap_fires and (epoch + 1) % settings.period == 0:
        for batch in run.batches:  # Eq. 11
            batch.labels *= 1 - settings.eta
            batch.labels += settings.eta * classifier(np.asarray(features[batch.rows]))
    record = {"loss": float(np.mean(losses)), "fitted_trusted_accuracy": float(np.mean(right))}
    return record | ({"eac_loss": float(np.mean(eac_losses))} if eac_losses else {})


def _record(
    record: dict[str, float],
    run: PublishedRun,
    epoch: int,
    observed: IntArray,
    trusted_label: IntArray,
    trusted: FloatArray,
) -> dict[str, float]:
    """One point of the curve. Accuracies on trusted rows are no held-out ones: the labels were moved to fit them."""
    changed = sum(int((b.labels.argmax(axis=0) != observed[run.order[b.rows]]).sum()) for b in run.batches)
    record = {"epoch": float(epoch + 1), **record, "changed_share": changed / len(run.order)}
    if run.classifier is not None:
        right = run.classifier.scores(trusted).argmax(axis=0) == trusted_label
        record["eac_trusted_accuracy"] = float(right.mean())
    return {name: round(value, 6) for name, value in record.items()}


# --- losses and prior --------------------------------------------------------------------------------------------


def ipc_loss(settings: DMLPConfig, prior: Array, trusted_rows: int) -> TargetLoss:
    """L_val (Eq. 8) over `trusted_rows` rows."""
    return TargetLoss(
        prior=prior,
        softmaxes=settings.ipc_softmaxes,
        squared_error=1.0 if settings.squared_error == "sum" else 1.0 / trusted_rows,
        prior_weight=settings.ipc_prior_weight,
    )


def classifier_loss(settings: DMLPConfig, prior: Array) -> TargetLoss:
    """L_c (Eq. 10)."""
    return TargetLoss(
        prior=prior,
        softmaxes=settings.eac_softmaxes,
        prior_weight=settings.eac_prior_weight,
        entropy=settings.eac_entropy,
    )


def class_prior(task: PurifyTask, kind: str) -> Array:
    """[K]: equal shares, or those of the trusted or observed labels (one row a class is added)."""
    labels = {"trusted": task.trusted_label, "observed": task.observed, "uniform": np.empty(0, dtype=np.int32)}[kind]
    counts = np.bincount(labels, minlength=task.classes) + 1.0
    return np.asarray(counts / counts.sum())


# --- rows, views and scratch -------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class _Scratch:
    """Arrays in memory, or in a file of `folder` where they are larger than `memory_mb`."""

    folder: Path
    memory_mb: int

    def empty(self, shape: tuple[int, ...], kind: npt.DTypeLike, name: str) -> npt.NDArray[Any]:
        if np.prod(shape, dtype=np.float64) * np.dtype(kind).itemsize <= self.memory_mb * 2**20:
            return np.empty(shape, dtype=kind)
        return np.lib.format.open_memmap(self.folder / f"{name}.npy", "w+", np.dtype(kind), shape)


def eac_view(task: PurifyTask, settings: DMLPConfig) -> tuple[FeatureRows, FloatArray]:
    """What EAC reads: (features of the noisy rows, of the trusted rows).

    Raises:
        ConfigError: a second view without its trusted rows, or of other rows.
    """
    second, trusted = task.second_view, task.trusted_second_view
    if settings.same_view or second is None:
        return task.noisy, task.trusted
    if trusted is None:
        raise ConfigError("dmlp: there is a second view of the noisy rows but none of the trusted rows; give both")
    if second.shape[0] != task.noisy.shape[0] or trusted.shape != (len(task.trusted), second.shape[1]):
        raise ConfigError(
            f"dmlp: the second view is {second.shape} and {trusted.shape} where the first is {task.noisy.shape} and "
            f"{task.trusted.shape}; both must hold the same rows, and their trusted rows be as wide"
        )
    return second, trusted


def _working_order(rows: int, settings: DMLPConfig, generator: np.random.Generator) -> Rows:
    return generator.permutation(rows) if settings.minibatches == "shuffled" else np.arange(rows)


def _stored(features: FeatureRows, order: Rows, scratch: _Scratch, name: str) -> FloatArray:
    """The features [n, d] in working order, in one pass."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    stored = scratch.empty(features.shape, np.float32, name)
    for rows, values in features.batches():
        check_finite(values, rows.start)
        stored[place[rows]] = values
    return stored


def _minibatches(
    stored: FloatArray,
    order: Rows,
    task: PurifyTask,
    settings: DMLPConfig,
    loss: TargetLoss,
    scratch: _Scratch,
) -> list[Minibatch]:
    """Equal minibatches with one-hot labels and their maps."""
    check_finite(task.trusted, 0)
    count = max(round(len(order) / settings.batch_rows), 1)
    edges = np.linspace(0, len(order), count + 1).round().astype(int)
    depth = min(len(task.trusted), stored.shape[1])
    room = scratch.empty((depth * len(order),), settings.precision, "maps")
    batches = []
    with progress_bar("dmlp: maps to the trusted scores", count) as advance:
        for number, (start, stop) in enumerate(pairwise(edges)):
            rows = slice(int(start), int(stop))
            found = trusted_map(np.asarray(stored[rows]), task.trusted, settings, number)
            kept = room[depth * start : depth * stop].reshape(depth, -1)
            kept[:] = found.right
            found = TrustedMap(left=found.left, right=kept)
            labels = np.eye(task.classes, dtype=settings.precision)[:, task.observed[order[rows]]]
            step = LabelSteps(settings=settings, rate=step_size(settings, found, loss, len(task.trusted)))
            batches.append(Minibatch(rows=rows, labels=labels, map=found, step=step))
            advance()
    return batches
