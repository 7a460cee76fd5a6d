"""The members together: what a linear head cannot say, networks and neighbours do, and the pool finds it out."""

from __future__ import annotations

import numpy as np
import pytest

from lnl_core.features.user_table import MappedRows
from lnl_core.purify.ipc_ensemble import IPCEnsembleConfig, ipc_ensemble
from lnl_core.purify.task import Purification, PurifyTask

NETWORKS = ("EAC network, 6 epochs", "EAC network, 15 epochs")
QUICK = {"eac_steps": 100, "max_steps": 32}


def crossed(rows: int, noise: float) -> tuple[PurifyTask, np.ndarray]:
    """Two classes of two opposite clusters each, which no line separates; 80 more rows are trusted."""
    rng = np.random.default_rng(5)
    corner = rng.integers(0, 4, rows + 80)
    centre = np.array([[2, 2], [-2, 2], [-2, -2], [2, -2]])[corner]
    features = np.hstack([centre, np.zeros((rows + 80, 4))]) + 0.7 * rng.normal(size=(rows + 80, 6))
    label = (corner % 2).astype(np.int32)
    observed = np.where(rng.random(rows + 80) < noise, 1 - label, label).astype(np.int32)
    features = features.astype(np.float32)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(rows)),
        observed=observed[:rows],
        trusted=features[rows:],
        trusted_label=label[rows:],
        trusted_observed=observed[rows:],
        classes=2,
    )
    return task, label[:rows]


def right(found: Purification, true: np.ndarray) -> float:
    return float((found.posterior.argmax(axis=1) == true).mean())


@pytest.fixture(scope="module")
def linear() -> Purification:
    """IPC and EAC alone on `crossed(1500, 0.2)`."""
    return ipc_ensemble(crossed(1500, 0.2)[0], IPCEnsembleConfig(**QUICK), np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "names", "least"),
    [
        ({"eac_hidden": 64}, NETWORKS, 0.87),
        ({"vote_work": 1e12}, ("neighbours",), 0.87),
        ({"eac_hidden": 64, "vote_work": 1e12}, (*NETWORKS, "neighbours"), 0.93),
    ],
)
def test_members_say_what_a_line_cannot(
    members: dict[str, float], names: tuple[str, ...], least: float, linear: Purification
) -> None:
    task, true = crossed(1500, 0.2)
    found = ipc_ensemble(task, IPCEnsembleConfig(**QUICK, **members), np.random.default_rng(0))
    assert right(linear, true) < 0.83
    assert right(found, true) > least
    table = {str(record["member"]): float(record["weight"]) for record in found.metrics["members"]}
    assert set(table) == {"IPC", "EAC", *names, "pool"}
    assert sum(table[name] for name in names) > table["IPC"] + table["EAC"]
    assert found.trusted_posterior is not None
    held_out = (found.trusted_posterior.argmax(axis=1) == task.trusted_label).mean()
    assert abs(held_out - right(found, true)) < 0.1  # 80 rows: three standard errors


@pytest.mark.slow
def test_rows_outside_the_sample_are_predicted_by_the_members_that_need_no_sample(linear: Purification) -> None:
    task, true = crossed(1500, 0.2)
    config = IPCEnsembleConfig(**QUICK, eac_hidden=64, vote_work=1e12, eac_rows=1000)
    found = ipc_ensemble(task, config, np.random.default_rng(0))
    assert right(found, true) > right(linear, true) + 0.03
    assert "neighbours" not in {record["member"] for record in found.metrics["members"]}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_labels() -> None:
    task, _ = crossed(300, 0.3)
    config = IPCEnsembleConfig(**QUICK, eac_hidden=16, vote_work=1e12)
    one, other = (ipc_ensemble(task, config, np.random.default_rng(3)).posterior for _ in "ab")
    assert np.array_equal(one, other)
