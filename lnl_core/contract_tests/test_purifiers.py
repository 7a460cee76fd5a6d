"""Every registered purifier, on real digits with raw pixels as features: seconds, so a new file is tested at once."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lnl_core.contract_tests import under_test
from lnl_core.contracts import Purified, string_ids
from lnl_core.features.user_table import MappedRows
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.task import PurifyTask

NAMES = under_test.names(PURIFIERS)
SETTINGS = {
    "auto": {"candidates": ("trusted_only", "knn", "confident_learning", "none")},  # the quick ones
    "dmlp": {"mode": "paper", "ridge": 0.1, "epochs": 20},  # some pixels are always blank: without a ridge no inverse
    "emlc": {"epochs": 1, "min_steps": 100, "folds": 2},  # the default's steps change the share of right labels by 1 %
    "mlc": {"min_steps": 60},
    "mslc": {"min_steps": 60},
}
WITHOUT_OBSERVED = ("trusted_only",)  # held to the observed labels only where these are wrong


def digits(classes: int, noise: float) -> tuple[PurifyTask, np.ndarray]:
    data = load_digits(n_class=classes)
    rng = np.random.default_rng(1)
    rows = rng.permutation(len(data.target))[:300]
    true = data.target[rows].astype(np.int32)
    wrong = (true + rng.integers(1, classes, len(rows))) % classes
    observed = np.where(rng.random(len(rows)) < noise, wrong, true).astype(np.int32)
    features = data.data[rows].astype(np.float32)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(240)),
        observed=observed[:240],
        trusted=features[240:],
        trusted_label=true[240:],
        trusted_observed=observed[240:],
        classes=classes,
    )
    return task, true[:240]


def run(name: str, task: PurifyTask, seed: int = 0) -> Purified:
    names = tuple(map(str, range(task.classes)))
    ids = string_ids([str(row) for row in range(240)])
    return purify(name, under_test.settings_of(PURIFIERS.get(name), SETTINGS.get(name, {})), task, ids, names, seed)[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("classes", "noise"), [(2, 0.2), (6, 0.0), (6, 0.5)])
def test_never_worse_than_observed_and_finite(name: str, classes: int, noise: float) -> None:
    if name in WITHOUT_OBSERVED and noise == 0:
        pytest.skip("reads no observed label, so it cannot keep right ones")
    task, true = digits(classes, noise)
    found = run(name, task)
    assert np.isfinite(found.soft_label).all()
    np.testing.assert_allclose(found.soft_label.sum(axis=1), 1, atol=1e-4)
    right = (found.purified_label == true).mean()
    assert right >= (task.observed == true).mean() - 0.02  # 240 rows and raw pixels: a few right labels are lost


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_labels(name: str) -> None:
    task, _ = digits(4, 0.4)
    assert np.array_equal(run(name, task).soft_label, run(name, task).soft_label)


@pytest.mark.parametrize("name", NAMES)
def test_config_goes_round(name: str) -> None:
    config = PURIFIERS.get(name).config
    assert config(**config().model_dump(mode="json")) == config()
