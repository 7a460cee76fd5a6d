"""Bad input to every registered purifier and to `lnl purify`: a clear error, or labels that are known to be sound."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from lnl_core.config import ConfigError, Settings
from lnl_core.contract_tests import under_test
from lnl_core.contracts import NO_LABEL, ContractError, Purified, string_ids
from lnl_core.features.user_table import MappedRows
from lnl_core.purify import PURIFIERS
from lnl_core.purify.decide.check import CheckedFeatures, checked
from lnl_core.purify.decide.decide import purify
from lnl_core.purify.task import PurifyTask
from lnl_core.stages.purify_table import Columns, purify_files

NAMES = under_test.names(PURIFIERS)
NEEDY = [entry.name for entry in under_test.entries(PURIFIERS) if entry.needs_trusted]
ALL_CLASSES = ["dmlp", "ipc_ensemble"]  # methods that need trusted rows of each class
READERS = [name for name in NAMES if name != "none"]  # `none` never looks at the features
QUICK = {  # of any method that has the setting
    "eac_steps": 50,
    "max_steps": 32,
    "held_out_rows": 80,
    "epochs": 2,
    "min_steps": 60,
    "folds": 2,
    "cross_fits": 2,
    "candidates": ("ipc_ensemble", "two_em", "none"),
    "options": {"ipc_ensemble": {"eac_steps": 50, "max_steps": 32, "folds": 2}},
}
ROWS, TRUSTED, CLASSES = 120, 40, 4


def digits(rows: int = ROWS, trusted: int = TRUSTED, classes: int = CLASSES) -> tuple[PurifyTask, np.ndarray]:
    """A task of raw pixels with 30 % wrong labels, and the true labels of its noisy rows."""
    data = load_digits(n_class=classes)
    rng = np.random.default_rng(3)
    picked = rng.permutation(len(data.target))[: rows + trusted]
    true = data.target[picked].astype(np.int32)
    wrong = (true + rng.integers(1, classes, len(true))) % classes
    observed = np.where(rng.random(len(true)) < 0.3, wrong, true).astype(np.int32)
    features = data.data[picked].astype(np.float32)
    task = PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(rows)),
        observed=observed[:rows],
        trusted=features[rows:],
        trusted_label=true[rows:],
        trusted_observed=observed[rows:],
        classes=classes,
    )
    return task, true[:rows]


def quick_config(name: str) -> Settings:
    """Defaults, with fewer steps where a method has them: what happens to bad input does not depend on their number."""
    entry = PURIFIERS.get(name)
    quick = {field: value for field, value in QUICK.items() if field in entry.config.model_fields}
    return under_test.settings_of(entry, quick)


def purified(name: str, task: PurifyTask, ids: list[str] | None = None, **settings: object) -> Purified:
    rows = task.noisy.shape[0]
    names = string_ids(ids if ids is not None else [f"row {row}" for row in range(rows)])
    classes = tuple(map(str, range(task.classes)))
    config = type(quick_config(name))(**{**quick_config(name).model_dump(), **settings})
    return purify(name, config, task, names, classes, 0)[0]


def mended(name: str, task: PurifyTask) -> Purified:
    """Labels from dependent features: the paper's normal equation has no solution, so `dmlp` names the mend first."""
    if name != "dmlp":
        return purified(name, task)
    with pytest.raises(ConfigError, match=r"purify\.dmlp\.ridge = 0 adds too little"):
        purified(name, task)
    return purified(name, task, ridge=1.0)


def with_features(task: PurifyTask, features: np.ndarray) -> PurifyTask:
    return dataclasses.replace(task, noisy=MappedRows(values=features, rows=np.arange(len(features))))


def values_of(task: PurifyTask) -> np.ndarray:
    assert isinstance(task.noisy, MappedRows)
    return task.noisy.values[task.noisy.rows].copy()


def assert_sound(found: Purified, rows: int) -> None:
    assert len(found) == rows
    assert np.isfinite(found.soft_label).all()
    np.testing.assert_allclose(found.soft_label.sum(axis=1), 1, atol=1e-4)
    assert ((found.confidence >= 0) & (found.confidence <= 1)).all()


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_is_named(name: str, value: float) -> None:
    task, _ = digits()
    features = values_of(task)
    features[77, 5] = value
    with pytest.raises(ContractError, match="noisy row with id 'row 77' holds NaN or infinity"):
        purified(name, with_features(task, features))


@pytest.mark.parametrize("name", NAMES)
def test_a_trusted_feature_that_is_not_finite_is_named(name: str) -> None:
    task, _ = digits()
    trusted = task.trusted.copy()
    trusted[3, 0] = np.nan
    with pytest.raises(ContractError, match="trusted row with id 'trusted row 3' holds NaN"):
        purified(name, dataclasses.replace(task, trusted=trusted))


@pytest.mark.parametrize("name", READERS)
def test_features_that_are_all_the_same_are_an_error(name: str) -> None:
    task, _ = digits()
    with pytest.raises(ContractError, match="all 120 noisy rows have the same feature"):
        purified(name, with_features(task, np.full((ROWS, 64), 3.0, dtype=np.float32)))


@pytest.mark.parametrize("name", NAMES)
def test_some_constant_features_do_no_harm(name: str) -> None:
    """A dead unit of the encoder carries nothing: the labels stay as good as without it."""
    task, true = digits()
    constant = np.full((ROWS, 8), 1e3, dtype=np.float32)
    trusted = np.concatenate([task.trusted, constant[:TRUSTED]], axis=1)
    wide = dataclasses.replace(
        with_features(task, np.concatenate([values_of(task), constant], axis=1)), trusted=trusted
    )
    found = mended(name, wide)
    assert_sound(found, ROWS)
    assert (found.purified_label == true).mean() >= (task.observed == true).mean() - 0.05


@pytest.mark.parametrize("name", NAMES)
def test_more_features_than_rows(name: str) -> None:
    task, true = digits()
    rng = np.random.default_rng(0)
    extra = rng.normal(size=(ROWS + TRUSTED, 300)).astype(np.float32)
    features = np.concatenate([values_of(task), extra[:ROWS]], axis=1)
    trusted = np.concatenate([task.trusted, extra[ROWS:]], axis=1)
    found = mended(name, dataclasses.replace(with_features(task, features), trusted=trusted))
    assert features.shape[1] > ROWS + TRUSTED
    assert_sound(found, ROWS)
    assert (found.purified_label == true).mean() >= (task.observed == true).mean() - 0.05


@pytest.mark.parametrize("name", NAMES)
def test_no_trusted_rows(name: str) -> None:
    """An error that says what to add, or sound labels."""
    task, _ = digits()
    none = np.empty(0, dtype=np.int32)
    bare = dataclasses.replace(task, trusted=task.trusted[:0], trusted_label=none, trusted_observed=none)
    if name in NEEDY:
        with pytest.raises(ConfigError, match=f"{name}: needs trusted rows and there are none"):
            purified(name, bare)
    else:
        assert_sound(purified(name, bare), ROWS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lacking", ["fewer trusted rows than classes", "a class without trusted rows"])
def test_a_class_that_no_trusted_row_has(name: str, lacking: str) -> None:
    """An error that names the class, or labels that are no worse than the labels were."""
    task, true = digits()
    firsts = [int(np.flatnonzero(task.trusted_label == label)[0]) for label in (0, 1, 2)]
    keep = np.array(firsts) if lacking.startswith("fewer") else np.flatnonzero(task.trusted_label != 3)
    few = dataclasses.replace(
        task,
        trusted=task.trusted[keep],
        trusted_label=task.trusted_label[keep],
        trusted_observed=task.trusted_observed[keep],
    )
    if name in ALL_CLASSES:
        with pytest.raises(ConfigError, match=rf"{name}: \d of 4 classes have no trusted row \(first: class 3\)"):
            purified(name, few)
        return
    found = purified(name, few)
    assert_sound(found, ROWS)
    if name == "trusted_only":  # it learns from trusted rows alone, so it cannot know the class
        assert not (found.purified_label == 3).any()
        return
    assert np.bincount(found.purified_label, minlength=CLASSES)[3] > 0, "the class must not vanish"
    assert (found.purified_label == true).mean() >= (task.observed == true).mean() - 0.1


@pytest.mark.parametrize("name", NAMES)
def test_one_class_is_an_error(name: str) -> None:
    task, _ = digits()
    zeros = dataclasses.replace(
        task,
        classes=1,
        observed=np.zeros(ROWS, dtype=np.int32),
        trusted_label=np.zeros(TRUSTED, dtype=np.int32),
        trusted_observed=np.zeros(TRUSTED, dtype=np.int32),
    )
    with pytest.raises(ConfigError, match=f"{name}: there is 1 class"):
        purified(name, zeros)


@pytest.mark.parametrize("name", NAMES)
def test_one_observed_class_of_several(name: str) -> None:
    """All rows came with the same label: the observed labels say nothing, and nothing may break."""
    task, _ = digits()
    same = dataclasses.replace(
        task, observed=np.ones(ROWS, dtype=np.int32), trusted_observed=np.ones(TRUSTED, dtype=np.int32)
    )
    assert_sound(mended(name, same), ROWS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [CLASSES, NO_LABEL])
def test_a_label_out_of_range_is_named(name: str, value: int) -> None:
    task, _ = digits()
    observed = task.observed.copy()
    observed[11] = value
    message = rf"row 11 \(id 'row 11'\): observed label = {value}, allowed are 0 to 3"
    with pytest.raises(ContractError, match=message):
        purified(name, dataclasses.replace(task, observed=observed))
    verified = task.trusted_label.copy()
    verified[2] = value
    with pytest.raises(ContractError, match=rf"trusted set: row 2 .*verified label = {value}"):
        purified(name, dataclasses.replace(task, trusted_label=verified))


@pytest.mark.parametrize("name", NAMES)
def test_duplicate_ids_are_named(name: str) -> None:
    task, _ = digits()
    ids = [f"row {row}" for row in range(ROWS)]
    ids[9] = "row 4"
    with pytest.raises(ContractError, match="id 'row 4' stands in rows 4 and 9"):
        purified(name, task, ids)


@pytest.mark.parametrize("name", NAMES)
def test_features_and_labels_of_different_rows(name: str) -> None:
    task, _ = digits()
    with pytest.raises(ContractError, match="120 features, 119 observed labels"):
        purified(name, dataclasses.replace(task, observed=task.observed[1:]))
    with pytest.raises(ContractError, match="trusted set: features are 63 wide, those of the noisy rows 64"):
        purified(name, dataclasses.replace(task, trusted=task.trusted[:, 1:]))
    with pytest.raises(ContractError, match="trusted set: 40 features, 39 verified labels"):
        purified(name, dataclasses.replace(task, trusted_label=task.trusted_label[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_no_noisy_rows(name: str) -> None:
    task, _ = digits()
    empty = dataclasses.replace(with_features(task, values_of(task)[:0]), observed=task.observed[:0])
    with pytest.raises(ConfigError, match=f"{name}: there are no noisy rows"):
        purified(name, empty)


def test_finite_features_whose_sum_overflows_are_let_through() -> None:
    features = np.full((ROWS, 64), 3e38, dtype=np.float32)
    features[0] = 0
    ids = string_ids([f"row {row}" for row in range(ROWS)])
    rows = CheckedFeatures(MappedRows(values=features, rows=np.arange(ROWS)), ids)
    for _ in range(2):  # checked, then as it is
        np.testing.assert_array_equal(np.concatenate([batch for _, batch in rows.batches()]), features)


def test_rows_that_are_all_alike_are_found_in_whatever_batch_they_end() -> None:
    features = np.ones((20_000, 2), dtype=np.float32)
    ids = string_ids([str(row) for row in range(len(features))])
    same = CheckedFeatures(MappedRows(values=features, rows=np.arange(len(features))), ids)
    with pytest.raises(ContractError, match="all 20000 noisy rows have the same feature"):
        list(same.batches())
    features[-1] = 2
    assert len(list(same.batches())) == 3


def test_the_task_comes_back_as_it_was() -> None:
    task, _ = digits()
    ids = string_ids([f"row {row}" for row in range(ROWS)])
    found = checked("dmlp", task, ids, needs_trusted=True)
    np.testing.assert_array_equal(np.concatenate([batch for _, batch in found.noisy.batches()]), values_of(task))
    assert found.noisy.shape == task.noisy.shape


class Tables:
    """Files of a user: 160 digits, 40 of them trusted."""

    def __init__(self, folder: Path) -> None:
        self.task, self.true = digits()
        self.folder = folder
        self.values = np.concatenate([values_of(self.task), self.task.trusted])
        self.observed = np.concatenate([self.task.observed, self.task.trusted_observed])
        self.ids = [f"img-{row:03d}" for row in range(len(self.values))]
        self.write_features(self.ids, self.values)
        self.write_labels("l.csv", self.ids, self.observed)
        self.write_labels("t.csv", self.ids[ROWS:], self.task.trusted_label)

    def write_features(self, ids: list[str], values: np.ndarray) -> None:
        pq.write_table(pa.table({"id": ids, "feature": list(values)}), self.folder / "f.parquet")

    def write_labels(self, name: str, ids: list[str], labels: object) -> None:
        lines = [f"{one},{label}" for one, label in zip(ids, labels, strict=True)]  # type: ignore[call-overload]
        (self.folder / name).write_text("\n".join(["id,label", *lines]) + "\n", encoding="utf-8")

    def purify(self, name: str, classes: tuple[str, ...] = ("0", "1", "2", "3"), trusted: bool = True) -> None:
        purify_files(
            self.folder / "f.parquet",
            self.folder / "l.csv",
            self.folder / "t.csv" if trusted else None,
            self.folder / "out.parquet",
            method=name,
            config=quick_config(name),
            seed=0,
            columns=Columns(),
            class_names=classes,
        )


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_tables_with_different_ids(name: str, tables: Tables) -> None:
    tables.write_features([f"other-{one}" for one in tables.ids], tables.values)
    with pytest.raises(ContractError, match=r"f\.parquet: has no row for id 'img-000' \(160 of 160 ids are missing\)"):
        tables.purify(name)
    assert not (tables.folder / "out.parquet").exists()


@pytest.mark.parametrize("name", NAMES)
def test_tables_with_an_id_twice(name: str, tables: Tables) -> None:
    tables.write_features([tables.ids[1], *tables.ids[1:]], tables.values)
    with pytest.raises(ContractError, match="id 'img-001' stands in rows 0 and 1"):
        tables.purify(name)


def test_tables_with_a_trusted_id_twice(tables: Tables) -> None:
    tables.write_labels("t.csv", [tables.ids[0]] * 2, [0, 1])
    with pytest.raises(ContractError, match=r"t\.csv: id 'img-000' stands in rows 0 and 1"):
        tables.purify("none")


@pytest.mark.parametrize("name", NAMES)
def test_tables_with_a_label_out_of_range(name: str, tables: Tables) -> None:
    tables.write_labels("l.csv", tables.ids, [7, *tables.observed[1:]])
    with pytest.raises(ContractError, match=r"l\.csv: row 0 \(id 'img-000'\): label '7' is no class"):
        tables.purify(name)


def test_tables_with_one_class_and_tables_with_trusted_rows_alone(tables: Tables) -> None:
    tables.write_labels("l.csv", tables.ids, ["cat"] * len(tables.ids))
    with pytest.raises(ConfigError, match="none: there is 1 class"):
        tables.purify("none", (), trusted=False)
    tables.write_labels("l.csv", tables.ids[ROWS:], tables.observed[ROWS:])
    with pytest.raises(ConfigError, match="none: there are no noisy rows"):
        tables.purify("none")
