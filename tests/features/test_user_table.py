"""Features as people bring them: formats, orders, widths and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError, string_ids
from lnl_core.features.user_table import read_user_features

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3) / 4
NAMES = ["10", "2", "33", "4"]  # sorted as text: 10, 2, 33, 4


def lists(kind: pa.DataType) -> pa.Array:
    return pa.array([row.tolist() for row in VALUES], kind)


@pytest.mark.parametrize(
    "column",
    [
        pa.FixedSizeListArray.from_arrays(pa.array(VALUES.astype(np.float16).ravel()), 3),
        lists(pa.list_(pa.float64())),
        lists(pa.large_list(pa.float32())),
        lists(pa.list_(pa.float32(), 3)),
    ],
    ids=["fixed half", "list double", "large list", "fixed float"],
)
def test_parquet_lists(tmp_path: Path, column: pa.Array) -> None:
    order = [2, 0, 3, 1]
    table = pa.table({"key": pa.array([int(NAMES[i]) for i in order]), "vec": column.take(pa.array(order))})
    pq.write_table(table, tmp_path / "f.parquet")
    check(tmp_path / "f.parquet", tmp_path, "key", "vec")


@pytest.mark.parametrize("pattern", ["{} {} {}", "[{}, {}, {}]", '"{},{},{}"', "{};{};{}"])
def test_csv_texts(tmp_path: Path, pattern: str) -> None:
    quoted = f'"{pattern}"' if "," in pattern and '"' not in pattern else pattern
    lines = ["id,feature", *(f"{name},{quoted.format(*row)}" for name, row in zip(NAMES, VALUES, strict=True))]
    (tmp_path / "f.csv").write_text("\n".join(lines) + "\n")
    check(tmp_path / "f.csv", tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_a_number_in_the_order_of_their_index(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"feature_10": VALUES[:, 2], "id": NAMES, "feature_9": VALUES[:, 1], "feature_1": VALUES[:, 0]})
    if suffix == "csv":
        pa_csv.write_csv(table, tmp_path / "f.csv")
    else:
        pq.write_table(table, tmp_path / "f.parquet")
    check(tmp_path / f"f.{suffix}", tmp_path)


def test_folder_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    for number, rows in enumerate(([3, 1], [0, 2])):
        table = pa.table({"id": [NAMES[i] for i in rows], "feature": [VALUES[i].tolist() for i in rows]})
        pq.write_table(table, folder / f"{number}.parquet")
    check(folder, tmp_path)


def test_rows_that_are_not_finite_are_set_aside(tmp_path: Path) -> None:
    rows = [[1.0, 2.0], [None, 1.0], None, [float("inf"), 0.0]]
    pq.write_table(pa.table({"id": NAMES, "feature": rows}), tmp_path / "f.parquet")
    found = read_user_features(tmp_path / "f.parquet", "id", "feature", tmp_path / "s")
    assert [row.id for row in found.quarantined] == ["2", "33", "4"]
    assert all("f.parquet" in row.detail for row in found.quarantined)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": ["a", "a"], "feature": [[1.0], [2.0]]}, "id 'a' stands in rows 0 and 1"),
        ({"id": ["a", None], "feature": [[1.0], [2.0]]}, "1 rows have no id"),
        ({"id": ["a", "b"], "feature": [[1.0], [2.0, 3.0]]}, "all must be as long"),
        ({"id": ["a", "b"], "other": [[1.0], [2.0]]}, "has no column 'feature'"),
        ({"key": ["a", "b"], "feature": [[1.0], [2.0]]}, "has no column 'id'"),
        ({"id": ["a", "b"], "feature": [1.0, 2.0]}, "must hold lists"),
    ],
)
def test_broken_tables_are_named(tmp_path: Path, table: dict[str, list[object]], message: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    with pytest.raises(ContractError, match=message):
        read_user_features(tmp_path / "f.parquet", "id", "feature", tmp_path / "s")


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_user_features(tmp_path / "f.parquet", "id", "feature", tmp_path)
    with pytest.raises(ConfigError, match="folder of such files"):
        read_user_features(tmp_path, "id", "feature", tmp_path)
    (tmp_path / "f.parquet").write_text("no parquet")
    with pytest.raises(ContractError, match="cannot be read as parquet"):
        read_user_features(tmp_path / "f.parquet", "id", "feature", tmp_path / "s")


def check(path: Path, tmp_path: Path, key: str = "id", feature: str = "feature") -> None:
    found = read_user_features(path, key, feature, tmp_path / "scratch")
    assert list(found.ids) == NAMES
    np.testing.assert_allclose(found.values, VALUES, atol=1e-3)
    wanted = string_ids(["2", "4"])
    streamed = np.vstack([batch for _, batch in found.select(wanted, "f").batches()])
    np.testing.assert_allclose(streamed, VALUES[[1, 3]], atol=1e-3)
    np.testing.assert_allclose(found.tensor(wanted, "f").numpy(), VALUES[[1, 3]], atol=1e-3)
