"""`lnl purify`: a user's features and labels in any form, purified labels as in the contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, read_purified, read_quarantine
from lnl_core.purify.ipc_ensemble import IPCEnsembleConfig
from lnl_core.purify.none import NoneConfig
from lnl_core.stages.purify_table import Columns, purify_files

NAMES = ("zero", "one", "two", "three", "four")
CONFIG = IPCEnsembleConfig(eac_steps=50)


class Files:
    """400 digits of five classes, 40 % wrong labels, 50 trusted rows; each table in an order of its own."""

    def __init__(self, folder: Path) -> None:
        digits = load_digits(n_class=5)
        rng = np.random.default_rng(0)
        rows = rng.permutation(len(digits.target))[:400]
        self.true = digits.target[rows]
        self.values = digits.data[rows].astype(np.float32)
        self.observed = np.where(rng.random(400) < 0.4, (self.true + rng.integers(1, 5, 400)) % 5, self.true)
        self.folder, self.features = folder, folder / "f.parquet"
        self.labels, self.trusted, self.out = folder / "l.csv", folder / "t.csv", folder / "out" / "p.parquet"
        order = rng.permutation(400)
        pq.write_table(pa.table({"id": order, "feature": [self.values[row].tolist() for row in order]}), self.features)
        self.write(self.labels, {row: NAMES[self.observed[row]] for row in rng.permutation(400)})
        self.write(self.trusted, {row: NAMES[self.true[row]] for row in range(350, 400)})

    def write(self, path: Path, labels: dict[int, object]) -> None:
        path.write_text("id,label\n" + "".join(f"{name},{label}\n" for name, label in labels.items()))

    def purify(self, **changes: object) -> dict[str, object]:
        given = {
            "method": "ipc_ensemble",
            "config": CONFIG,
            "seed": 0,
            "columns": Columns(),
            "class_names": NAMES,
            **changes,
        }
        return purify_files(self.features, self.labels, self.trusted, self.out, **given)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_labels_join_on_id_and_get_better(files: Files) -> None:
    metrics = files.purify()
    found = read_purified(files.out)
    rows = found.ids.astype(int)
    assert sorted(rows) == list(range(350))
    assert found.class_names == NAMES
    assert np.array_equal(found.label, files.observed[rows])
    assert (found.label == files.true[rows]).mean() < 0.65
    assert (found.purified_label == files.true[rows]).mean() > 0.9
    assert metrics["rows"] == 350
    assert not list(files.out.parent.glob("*quarantine*"))
    assert [path.name for path in files.out.parent.iterdir()] == ["p.parquet"]


def test_same_seed_same_bytes_and_another_order_of_rows_the_same(files: Files) -> None:
    files.purify()
    first = files.out.read_bytes()
    files.purify()
    assert files.out.read_bytes() == first
    files.write(files.labels, {row: NAMES[files.observed[row]] for row in range(400)})
    files.purify()
    assert files.out.read_bytes() == first


def test_numbers_for_names_and_names_from_what_occurs(files: Files) -> None:
    files.write(files.labels, {row: int(files.observed[row]) for row in range(400)})
    files.write(files.trusted, {row: int(files.true[row]) for row in range(350, 400)})
    files.purify(class_names=())
    assert read_purified(files.out).class_names == ("0", "1", "2", "3", "4")


def test_rows_without_label_are_skipped_and_broken_features_set_aside(files: Files) -> None:
    files.values[7] = np.nan
    table = {"id": np.arange(400), "feature": [row.tolist() for row in files.values]}
    pq.write_table(pa.table(table), files.features)
    files.write(files.labels, {row: "" if row == 9 else NAMES[files.observed[row]] for row in range(400)})
    metrics = files.purify()
    assert metrics["rows"] == 348
    assert metrics["quarantined"] == 1
    (row,) = read_quarantine(files.out.with_suffix(".quarantine.parquet"))
    assert (row.id, row.reason) == ("7", "feature-not-finite")


def test_none_keeps_the_labels_without_a_trusted_set(files: Files) -> None:
    files.trusted = None
    files.purify(method="none", config=NoneConfig())
    assert not read_purified(files.out).changed.any()


@pytest.mark.parametrize(
    ("labels", "trusted", "message"),
    [
        ({0: "zero", 999: "one"}, None, "has no row for id '999'"),
        ({0: "zero", 1: "zeroo"}, None, r"l\.csv: row 1 \(id '1'\): label 'zeroo' is no class"),
        ({0: "zero", 1: "7"}, None, "label '7' is no class"),
        (None, {350: "zero", 351: ""}, "a trusted row needs one"),
        (None, {350: "zero", 351: "dog"}, r"t\.csv: row 1"),
    ],
)
def test_broken_tables_are_named(
    files: Files, labels: dict[int, object] | None, trusted: dict[int, object] | None, message: str
) -> None:
    if labels:
        files.write(files.labels, labels)
    if trusted:
        files.write(files.trusted, trusted)
    with pytest.raises(ContractError, match=message):
        files.purify()
    assert not files.out.exists()


def test_duplicate_ids_are_named(files: Files) -> None:
    files.labels.write_text("id,label\na,zero\nb,one\na,two\n")
    with pytest.raises(ContractError, match="id 'a' stands in rows 0 and 2"):
        files.purify()


def test_a_class_without_trusted_rows_is_named(files: Files) -> None:
    files.write(files.trusted, {row: NAMES[files.true[row]] for row in range(350, 400) if files.true[row] != 3})
    with pytest.raises(ConfigError, match="first: class 3"):
        files.purify()


def test_out_must_be_parquet(files: Files) -> None:
    files.out = files.folder / "p.csv"
    with pytest.raises(ConfigError, match=r"must end in \.parquet"):
        files.purify()
