"""DMLP against a slow twin: labels moved one gradient step at a time, an inverse per step, gradients by autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lnl_core.config import ConfigError
from lnl_core.contracts import NO_LABEL, ContractError
from lnl_core.purify.ipc_eac.eac import eac_heads
from lnl_core.purify.ipc_eac.ipc import (
    Choice,
    IPCPath,
    IPCRun,
    cross_validate,
    fold_assignments,
    ipc_steps,
    search,
    searched,
)
from lnl_core.purify.ipc_ensemble import IPCEnsembleConfig, ipc_ensemble
from lnl_core.purify.task import PurifyTask
from lnl_core.statistics.folds import stratified_folds
from lnl_core.statistics.moments import accumulate
from lnl_core.statistics.softmax_link import log_loss

CLASSES = 4
QUICK = IPCEnsembleConfig(eac_steps=100, folds=3, eac_network_steps=100)


class ArrayRows:
    """Features in memory, handed out in small batches."""

    def __init__(self, values: np.ndarray, batch: int = 64) -> None:
        self.values, self.batch = values, batch

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape

    def batches(self):
        for start in range(0, len(self.values), self.batch):
            stop = min(start + self.batch, len(self.values))
            yield slice(start, stop), self.values[start:stop]


def clustered(rows: int, width: int, noise: float, seed: int) -> tuple[PurifyTask, np.ndarray]:
    """Gaussian clusters with symmetric noise; returns the task and the true labels of the noisy rows."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, width)) * 1.5
    label = rng.integers(0, CLASSES, rows + 40)
    label[-CLASSES:] = np.arange(CLASSES)
    features = (centres[label] + rng.normal(size=(rows + 40, width)) + 3.0).astype(np.float32)
    observed = np.where(rng.random(rows + 40) < noise, rng.integers(0, CLASSES, rows + 40), label)
    label, observed = label.astype(np.int32), observed.astype(np.int32)
    task = PurifyTask(
        noisy=ArrayRows(features[:rows]),
        observed=observed[:rows],
        trusted=features[rows:],
        trusted_label=label[rows:],
        trusted_observed=observed[rows:],
        classes=CLASSES,
    )
    return task, label[:rows]


@pytest.mark.parametrize("squared_error", [0.0, 0.3])
@pytest.mark.parametrize("width", [6, 60])  # fewer and more features than trusted rows
@pytest.mark.parametrize("transform", ["centre", "standardise"])
def test_ipc_equals_labels_moved_step_by_step(transform: str, width: int, squared_error: float) -> None:
    task, _ = clustered(rows=150, width=width, noise=0.5, seed=1)
    path = _path(task, transform)
    penalty, steps = 0.1 * 150, 7
    scores, root = path.scores(penalty), path.root(penalty)
    run = IPCRun.of(scores, root, task.trusted_label, [np.arange(40)])
    link, step = run.links[0], float(run.steps[0])
    choice = Choice(transform=transform, ridge=0.1, steps=steps, loss=0.0, accuracy=0.0)
    (head,) = path.heads(task, choice, squared_error, [np.arange(40)])

    mean, scale = path.shift, path.scale
    noisy = torch.tensor((task.noisy.values - mean) * scale)
    trusted = torch.tensor((task.trusted - mean) * scale)
    onehot = torch.eye(CLASSES, dtype=torch.float64)
    y = onehot[torch.tensor(task.observed.astype(np.int64))]
    y = y - y.mean(dim=0)
    verified = onehot[torch.tensor(task.trusted_label.astype(np.int64))]
    for _ in range(steps):
        y.requires_grad_(True)
        w = torch.linalg.inv(noisy.T @ noisy + penalty * torch.eye(width, dtype=torch.float64)) @ noisy.T @ y
        predicted = trusted @ w
        logits = link.beta * predicted + torch.tensor(link.bias)
        # the closed form's step absorbs beta, so the cross-entropy counts 1 / beta here
        loss = (
            -(verified * logits.log_softmax(1)).sum() / link.beta
            + squared_error * (predicted - verified).square().sum()
        )
        (gradient,) = torch.autograd.grad(loss, y)
        y = (y - step * gradient).detach()
    w = torch.linalg.inv(noisy.T @ noisy + penalty * torch.eye(width, dtype=torch.float64)) @ noisy.T @ y
    slow = (link.beta * (noisy @ w) + torch.tensor(link.bias)).softmax(1).numpy()
    np.testing.assert_allclose(head(task.noisy.values), slow, atol=2e-5)
    pull, moved = list(ipc_steps(scores, task.trusted_label, run, (steps,), squared_error))[-1]
    np.testing.assert_allclose(scores - root @ (root.T @ pull[0]), (trusted @ w).numpy(), atol=2e-5)  # float32 products
    np.testing.assert_allclose(moved[0], (trusted @ w).numpy(), atol=2e-5)


def test_cross_validation_equals_training_without_the_fold() -> None:
    task, _ = clustered(rows=150, width=10, noise=0.4, seed=2)
    path = _path(task, "centre")
    fold = stratified_folds(task.trusted_label, 5, np.random.default_rng(0).permutation(40))
    collected = list(cross_validate(path, 15.0, task, (0, 1, 4), [fold, fold], 0.0))
    choice = Choice(transform="centre", ridge=0.1, steps=4, loss=0.0, accuracy=0.0)
    for number in range(5):
        (head,) = path.heads(task, choice, 0.0, [np.flatnonzero(fold != number)])
        outside = fold == number
        np.testing.assert_allclose(collected[2][1][outside], head(task.trusted[outside]), atol=1e-5)


def test_a_large_trusted_set_is_searched_with_a_part_and_used_whole() -> None:
    task, truth = clustered(rows=800, width=8, noise=0.6, seed=3)
    rows = np.tile(np.arange(40), 5)
    many = replace(
        task,
        trusted=task.trusted[rows],
        trusted_label=task.trusted_label[rows],
        trusted_observed=task.trusted_observed[rows],
    )
    some = searched(many, IPCEnsembleConfig(search_rows=50), np.random.default_rng(0))
    assert len(some.trusted_label) == 50
    assert set(some.trusted_label) == set(task.trusted_label)
    found = ipc_ensemble(many, IPCEnsembleConfig(search_rows=50, eac_steps=50), np.random.default_rng(0))
    assert found.metrics["trusted_rows"] == 200
    assert found.trusted_posterior is not None
    assert found.trusted_posterior.shape == (200, CLASSES)
    assert (found.posterior.argmax(axis=1) == truth).mean() > 0.9


def test_the_better_half_goes_on_and_finds_what_the_whole_grid_finds() -> None:
    task, _ = clustered(rows=400, width=30, noise=0.7, seed=6)
    config = IPCEnsembleConfig(max_steps=256)
    paths = {transform: _path(task, transform) for transform in config.transforms}
    assignments = fold_assignments(task.trusted_label, config, np.random.default_rng(0))
    choices, curve = search(paths, task, config, assignments)
    stops = tuple(dict.fromkeys(choice.steps for choice in choices))
    whole = [
        (float(np.mean([log_loss(one, task.trusted_label) for one in held_out])), transform, ridge, stop)
        for transform, path in paths.items()
        for ridge in config.ridge
        for stop, held_out in zip(
            stops, cross_validate(path, ridge * 400, task, stops, assignments, config.squared_error), strict=True
        )
    ]
    best = min(choices, key=lambda choice: choice.loss)
    assert best.loss < min(whole)[0] + 0.01
    assert len(choices) < len(whole)
    assert [record["step"] for record in curve] == sorted(record["step"] for record in curve)


def test_eac_heads_are_independent_and_learn() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 5)).astype(np.float32)
    label = (features[:, 0] > 0).astype(int)
    targets = np.stack([np.eye(2, dtype=np.float32)[label], np.eye(2, dtype=np.float32)[1 - label]], axis=1)
    config = IPCEnsembleConfig(eac_steps=120, eac_batch=100, eac_lr=0.05, eac_weight_decay=0.0)
    every = np.ones((600, 2), dtype=np.float32)
    weights, bias = eac_heads(features, targets, every, config, np.random.default_rng(1))
    alone, _ = eac_heads(features, targets[:, :1], every[:, :1], config, np.random.default_rng(1))
    np.testing.assert_allclose(weights[:, :1], alone, atol=1e-5)
    right = ((features @ weights[:, 0] + bias[0]).argmax(axis=1) == label).mean()
    wrong = ((features @ weights[:, 1] + bias[1]).argmax(axis=1) == label).mean()
    assert right > 0.97
    assert wrong < 0.03


def test_eac_learns_nothing_from_a_row_that_takes_no_part() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 5)).astype(np.float32)
    targets = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 200)][:, None]
    part = np.ones((200, 1), dtype=np.float32)
    part[7] = 0
    changed = targets.copy()
    changed[7] = 1 - changed[7]
    config = IPCEnsembleConfig(eac_steps=30, eac_batch=50)
    one, other = (eac_heads(features, y, part, config, np.random.default_rng(1))[0] for y in (targets, changed))
    assert np.array_equal(one, other)


def test_a_noisy_row_is_predicted_without_its_own_label() -> None:
    task, _ = clustered(rows=60, width=8, noise=0.5, seed=8)
    path = _path(task, "standardise")
    choice = Choice(transform="standardise", ridge=0.05, steps=3, loss=0.0, accuracy=0.0)
    (head,) = path.heads(task, choice, 0.0, [np.arange(40)])
    leverage = path.leverage(choice, np.random.default_rng(0))(task.noisy.values)
    x = (task.noisy.values - path.shift) * path.scale
    y = np.eye(CLASSES)[task.observed] - path.label_mean - x @ head.moved
    found = head.without_own_label(task.noisy.values, task.observed, leverage)
    for row in range(0, 60, 7):
        others = np.arange(60) != row
        gram = x[others].T @ x[others] + 0.05 * 60 * np.eye(8)
        slow = head.link((x[row] @ np.linalg.solve(gram, x[others].T @ y[others]))[None])
        np.testing.assert_allclose(found[row], slow[0], atol=1e-4)


def test_noise_is_not_underestimated_where_features_are_many() -> None:
    task, truth = clustered(rows=600, width=200, noise=0.8, seed=9)  # 60 % wrong; in-sample scores repeat the noise
    found = ipc_ensemble(task, IPCEnsembleConfig(), np.random.default_rng(0))
    wrong = (task.observed != truth).mean()
    assert abs(found.metrics["noise_rate"] - wrong) < 0.08


def test_more_labels_are_right_than_observed_and_the_transition_matrix_is_found() -> None:
    task, truth = clustered(rows=2000, width=16, noise=0.6, seed=3)  # 45 % wrong
    found = ipc_ensemble(task, QUICK, np.random.default_rng(0))
    before, after = (task.observed == truth).mean(), (found.posterior.argmax(axis=1) == truth).mean()
    assert before < 0.57
    assert after > 0.95
    expected = 0.4 * np.eye(CLASSES) + 0.6 / CLASSES
    assert np.abs(np.array(found.metrics["transition"]) - expected).max() < 0.08
    np.testing.assert_allclose(found.posterior.sum(axis=1), 1, atol=1e-5)


def test_batches_and_order_of_passes_do_not_matter() -> None:
    task, _ = clustered(rows=500, width=8, noise=0.5, seed=4)
    small = ipc_ensemble(task, QUICK, np.random.default_rng(0))
    whole = PurifyTask(**{**task.__dict__, "noisy": ArrayRows(task.noisy.values, batch=10_000)})
    large = ipc_ensemble(whole, QUICK, np.random.default_rng(0))
    np.testing.assert_allclose(small.posterior, large.posterior, atol=1e-4)
    again = ipc_ensemble(task, QUICK, np.random.default_rng(0))
    assert np.array_equal(small.posterior, again.posterior)


def test_prior_of_the_noisy_rows_is_used() -> None:
    task, _ = clustered(rows=500, width=8, noise=0.5, seed=4)
    skewed = PurifyTask(
        **{**task.__dict__, "observed": np.where(task.observed == 1, 0, task.observed).astype(np.int32)}
    )
    plain = ipc_ensemble(skewed, QUICK, np.random.default_rng(0)).posterior.mean(axis=0)
    moved = ipc_ensemble(
        skewed, IPCEnsembleConfig(eac_steps=100, prior="observed"), np.random.default_rng(0)
    ).posterior.mean(axis=0)
    assert moved[1] < plain[1]


@pytest.mark.parametrize("eac_steps", [0, 50])
def test_more_features_than_rows_and_trusted_rows_without_observed_labels(eac_steps: int) -> None:
    task, truth = clustered(rows=60, width=120, noise=0.3, seed=5)
    task = PurifyTask(**{**task.__dict__, "trusted_observed": np.full(40, NO_LABEL, dtype=np.int32)})
    found = ipc_ensemble(task, IPCEnsembleConfig(eac_steps=eac_steps), np.random.default_rng(0))
    assert np.isfinite(found.posterior).all()
    assert (found.posterior.argmax(axis=1) == truth).mean() >= (task.observed == truth).mean()


def test_trusted_rows_are_predicted_without_their_own_verified_label() -> None:
    """Verified labels drawn at random cannot be predicted by a fit that did not see them."""
    task, _ = clustered(rows=400, width=8, noise=0.4, seed=10)
    unknown = np.full(40, NO_LABEL, dtype=np.int32)
    drawn = np.random.default_rng(0).permutation(np.arange(40) % CLASSES).astype(np.int32)
    blind = PurifyTask(**{**task.__dict__, "trusted_observed": unknown, "trusted_label": drawn})
    found = ipc_ensemble(blind, QUICK, np.random.default_rng(0)).trusted_posterior
    assert found is not None
    assert found.shape == (40, CLASSES)
    assert (found.argmax(axis=1) == drawn).mean() < 0.55
    seen = ipc_ensemble(task, QUICK, np.random.default_rng(0)).trusted_posterior
    assert seen is not None
    assert (seen.argmax(axis=1) == task.trusted_label).mean() > 0.85


def test_constant_features_carry_nothing() -> None:
    task, _ = clustered(rows=300, width=8, noise=0.4, seed=6)
    linear = IPCEnsembleConfig(
        eac_steps=100, eac_hidden=0
    )  # training a network amplifies the rounding of wider products
    padded = np.hstack([task.noisy.values, np.full((300, 2), 7.0, dtype=np.float32)])
    trusted = np.hstack([task.trusted, np.full((40, 2), 7.0, dtype=np.float32)])
    wider = PurifyTask(**{**task.__dict__, "noisy": ArrayRows(padded), "trusted": trusted})
    plain, with_constants = (ipc_ensemble(one, linear, np.random.default_rng(0)).posterior for one in (task, wider))
    np.testing.assert_allclose(plain, with_constants, atol=1e-3)


def test_what_cannot_be_purified_says_so() -> None:
    task, _ = clustered(rows=60, width=5, noise=0.3, seed=7)
    without = task.trusted_label != 2
    gap = {"trusted": task.trusted[without], "trusted_label": task.trusted_label[without]}
    gap["trusted_observed"] = task.trusted_observed[without]
    with pytest.raises(ConfigError, match="first: class 2"):
        ipc_ensemble(PurifyTask(**{**task.__dict__, **gap}), QUICK, np.random.default_rng(0))
    broken = task.noisy.values.copy()
    broken[17, 3] = np.nan
    with pytest.raises(ContractError, match="row 17 "):
        ipc_ensemble(PurifyTask(**{**task.__dict__, "noisy": ArrayRows(broken)}), QUICK, np.random.default_rng(0))
    flat = np.ones_like(broken)
    with pytest.raises(ContractError, match="constant"):
        ipc_ensemble(PurifyTask(**{**task.__dict__, "noisy": ArrayRows(flat)}), QUICK, np.random.default_rng(0))


def _path(task: PurifyTask, transform: str) -> IPCPath:
    moments = accumulate(task.noisy.batches(), task.observed, task.noisy.shape[1], task.classes)
    return IPCPath.of(moments, task, transform)
