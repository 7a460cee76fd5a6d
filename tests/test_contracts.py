"""The tables: what is written is read back, the same rows give the same bytes, and what breaks a contract is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lnl_core.contracts import (
    NO_LABEL,
    ContractError,
    Labels,
    Purified,
    QuarantineRow,
    Truth,
    positions,
    read_labels,
    read_purified,
    read_quarantine,
    read_truth,
    string_ids,
    write_labels,
    write_purified,
    write_quarantine,
    write_truth,
)


def some_labels(**changes: object) -> Labels:
    columns = {
        "ids": string_ids(["b", "a", "c"]),
        "label": np.array([1, 0, 2], dtype=np.int32),
        "observed_label": np.array([1, 0, NO_LABEL], dtype=np.int32),
        "trusted": np.array([False, False, True]),
        "split": string_ids(["train", "test", "train"]),
        "class_names": ("x", "y", "<z>"),
        "protocol": {"type": "none"},
    }
    return Labels(**{**columns, **changes})


def some_purified(**changes: object) -> Purified:
    columns = {
        "ids": string_ids(["b", "a"]),
        "label": np.array([1, 0], dtype=np.int32),
        "purified_label": np.array([0, 0], dtype=np.int32),
        "confidence": np.array([0.75, 1.0], dtype=np.float32),
        "soft_label": np.array([[0.75, 0.25], [1, 0]], dtype=np.float32),
        "class_names": ("x", "y"),
        "about": {"method": "m"},
    }
    return Purified(**{**columns, **changes})


def test_labels_come_back_sorted_by_id(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    write_labels(path, some_labels())
    found = read_labels(path)
    assert list(found.ids) == ["a", "b", "c"]
    assert found.label.tolist() == [0, 1, 2]
    assert found.observed_label.tolist() == [0, 1, NO_LABEL]
    assert found.trusted.tolist() == [False, False, True]
    assert found.class_names == ("x", "y", "<z>")
    assert found.protocol == {"type": "none"}
    assert found.where(split="train", trusted=False).tolist() == [1]


def test_same_rows_same_bytes_whatever_their_order(tmp_path: Path) -> None:
    labels = some_labels()
    write_labels(tmp_path / "one", labels)
    write_labels(tmp_path / "two", labels.take(np.array([2, 0, 1])))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    purified = some_purified()
    write_purified(tmp_path / "three", purified)
    columns = ("ids", "label", "purified_label", "confidence", "soft_label")
    write_purified(tmp_path / "four", some_purified(**{name: getattr(purified, name)[::-1] for name in columns}))
    assert (tmp_path / "three").read_bytes() == (tmp_path / "four").read_bytes()


def test_purified_comes_back(tmp_path: Path) -> None:
    write_purified(tmp_path / "p.parquet", some_purified())
    found = read_purified(tmp_path / "p.parquet")
    assert list(found.ids) == ["a", "b"]
    assert found.changed.tolist() == [False, True]
    np.testing.assert_allclose(found.soft_label, [[1, 0], [0.75, 0.25]])
    assert found.about == {"method": "m"}
    schema = pq.read_schema(tmp_path / "p.parquet")
    assert schema.names == ["id", "label", "purified_label", "confidence", "soft_label", "changed", "route"]


def test_rows_for_review_keep_their_label(tmp_path: Path) -> None:
    write_purified(tmp_path / "p.parquet", some_purified())
    assert list(read_purified(tmp_path / "p.parquet").route) == ["keep", "relabel"]
    write_purified(tmp_path / "r.parquet", some_purified(review=np.array([True, False])))
    found = read_purified(tmp_path / "r.parquet")
    assert list(found.route) == ["keep", "review"]
    assert found.changed.tolist() == [False, False]
    assert found.purified_label.tolist() == [0, 0]
    assert found.applied_label.tolist() == [0, 1]
    with pytest.raises(ContractError, match=r"row 1 \(id 'a'\): route = 'review', but no other label"):
        write_purified(tmp_path / "bad.parquet", some_purified(review=np.array([True, True])))


def test_a_route_that_contradicts_the_labels_is_refused(tmp_path: Path) -> None:
    write_purified(tmp_path / "p.parquet", some_purified())
    table = pq.read_table(tmp_path / "p.parquet")
    table = table.set_column(table.schema.get_field_index("route"), "route", pa.array(["relabel", "relabel"]))
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(ContractError, match=r"row 0 \(id 'a'\): route = 'relabel', must be 'keep'"):
        read_purified(tmp_path / "p.parquet")


def test_truth_and_quarantine_come_back(tmp_path: Path) -> None:
    write_truth(tmp_path / "t", Truth(ids=string_ids(["b", "a"]), true_label=np.array([1, 0], dtype=np.int32)))
    assert read_truth(tmp_path / "t").true_label.tolist() == [0, 1]
    rows = [
        QuarantineRow(stage="prepare", reason="not-an-image", detail="d", path="p"),
        QuarantineRow(stage="prepare", reason="empty-file", detail="d", id="i"),
    ]
    write_quarantine(tmp_path / "q", rows)
    assert sorted(row.reason for row in read_quarantine(tmp_path / "q")) == ["empty-file", "not-an-image"]
    write_quarantine(tmp_path / "none", [])
    assert read_quarantine(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": string_ids(["a", "b", "a"])}, r"id 'a' stands in rows 0 and 2"),
        ({"label": np.array([1, 0, 3], dtype=np.int32)}, r"row 2 \(id 'c'\): label = 3, allowed are 0 to 2"),
        ({"split": string_ids(["train", "tset", "train"])}, r"row 1 \(id 'a'\): split = 'tset'"),
        ({"label": np.array([2, 0, 2], dtype=np.int32)}, r"row 0 \(id 'b'\): an untrusted row"),
        ({"class_names": ()}, r"no class names"),
    ],
)
def test_broken_labels_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        write_labels(tmp_path / "labels.parquet", some_labels(**changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"soft_label": np.array([[0.75, 0.75], [1, 0]], dtype=np.float32)},
        {"soft_label": np.array([[np.nan, 0.25], [1, 0]], dtype=np.float32)},
        {"confidence": np.array([1.5, 1.0], dtype=np.float32)},
    ],
)
def test_broken_purified_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ContractError, match=r"row 0 \(id 'b'\)"):
        write_purified(tmp_path / "p.parquet", some_purified(**changes))


def test_foreign_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    with pytest.raises(ContractError, match="no such file"):
        read_labels(path)
    path.write_text("not parquet")
    with pytest.raises(ContractError, match="not a readable Parquet file"):
        read_labels(path)
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(ContractError, match="no column 'label'"):
        read_labels(path)
    pq.write_table(pa.table({"id": ["a", None], "true_label": pa.array([0, 1], pa.int32())}), path)
    with pytest.raises(ContractError, match="row 1: id is null"):
        read_truth(path)
    pq.write_table(pa.table({"id": ["a"], "true_label": pa.array([0], pa.int64())}), path)
    with pytest.raises(ContractError, match="int64, must be int32"):
        read_truth(path)


def test_positions_join_on_id() -> None:
    have = string_ids(["c", "a", "b"])
    assert positions(string_ids(["b", "c"]), have, "x").tolist() == [2, 0]
    with pytest.raises(ContractError, match="x: has no row for id 'd'"):
        positions(string_ids(["a", "d"]), have, "x")
    with pytest.raises(ContractError):
        positions(string_ids(["a"]), string_ids([]), "x")
    assert positions(string_ids([]), string_ids([]), "x").tolist() == []
