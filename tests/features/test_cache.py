"""The feature cache: what is written is read, streamed or at once, joined on id; broken shards are named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits

from lnl_core.contracts import ContractError, Ids, string_ids
from lnl_core.features import shards
from lnl_core.features.cache import FeatureCache
from lnl_core.features.shards import ShardKey, feature_schema, has_key, write_shard

ROWS = 300
KEY = ShardKey(fingerprint="f" * 64, dtype="float16", source="s" * 64)
IDS = string_ids([f"digit-{row:04d}" for row in range(ROWS)])
FEATURES = (load_digits().data[:ROWS] / 16).astype(np.float32)  # sixteenths: exact in float16


def in_batches(rows: range, size: int) -> Iterator[tuple[Ids, np.ndarray]]:
    for start in range(rows.start, rows.stop, size):
        chosen = slice(start, min(start + size, rows.stop))
        yield IDS[chosen], FEATURES[chosen]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three shards of 100 rows in row groups of 32, written from batches of 45."""
    monkeypatch.setattr(shards, "ROWS_A_GROUP", 32)
    for part in range(3):
        rows = range(part * 100, part * 100 + 100)
        assert write_shard(tmp_path / f"part-{part:05d}.parquet", in_batches(rows, 45), KEY) == 100
    return tmp_path


def rewrite(shard: Path, key: ShardKey, ids: Ids, features: np.ndarray) -> None:
    """Write any values past the writer's checks."""
    schema = feature_schema(features.shape[1], key)
    kind = {"float16": np.float16, "float32": np.float32}[key.dtype]
    values = pa.array(features.astype(kind).ravel())
    column = pa.FixedSizeListArray.from_arrays(values, type=schema.field("feature").type)
    pq.write_table(pa.Table.from_arrays([pa.array(ids, pa.string()), column], schema=schema), shard, row_group_size=32)


def test_what_is_written_is_read_at_once_and_in_batches(folder: Path) -> None:
    cache = FeatureCache(folder)
    assert cache.shape == (ROWS, 64)
    assert (cache.dtype, cache.fingerprint) == ("float16", KEY.fingerprint)
    assert (cache.ids == IDS).all()
    assert torch.equal(cache.tensor(), torch.from_numpy(FEATURES))
    assert cache.tensor(dtype=None).dtype == torch.float16
    for rows, most in ((None, 32), (10, 10)):
        batches = list(cache.batches(rows))
        assert max(len(ids) for ids, _ in batches) == most
        assert (np.concatenate([ids for ids, _ in batches]) == IDS).all()
        assert np.array_equal(np.concatenate([features for _, features in batches]), FEATURES)
        assert batches[0][1].dtype == np.float32


def test_tensor_follows_the_order_of_the_wanted_ids(folder: Path) -> None:
    rows = np.array([250, 3, 99, 100, 3, 0, 299])  # any order, one twice
    assert torch.equal(FeatureCache(folder).tensor(IDS[rows]), torch.from_numpy(FEATURES[rows]))
    assert FeatureCache(folder).tensor(IDS[:0]).shape == (0, 64)


def test_selection_streams_what_the_tensor_holds(folder: Path) -> None:
    rows = np.flatnonzero(np.random.default_rng(0).random(ROWS) < 0.3)
    rows = rows[(rows < 120) | (rows > 200)]  # some row groups have none
    selection = FeatureCache(folder).select(IDS[rows])
    assert selection.shape == (len(rows), 64)
    for _ in range(2):  # as often as needed
        found, end = np.full(selection.shape, np.nan, np.float32), 0
        for part, features in selection.batches():
            assert part.start == end
            assert features.dtype == np.float32
            found[part], end = features, part.stop
        assert end == len(rows)
        assert np.array_equal(found, FeatureCache(folder).tensor(IDS[rows]).numpy())


def test_only_needed_row_groups_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, read = FeatureCache(folder), []
    assert len(cache.ids) == ROWS
    original = cache._checked
    monkeypatch.setattr(cache, "_checked", lambda column, group: read.append(group) or original(column, group))
    cache.tensor(IDS[[5, 210]])
    list(cache.select(IDS[[5, 210]]).batches())
    assert [(group.start, group.stop) for group in read] == 2 * [(0, 32), (200, 232)]


def test_a_single_file_without_metadata_is_a_cache_too(tmp_path: Path) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(FEATURES.ravel()), 64)  # nullable, as pyarrow writes by default
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"id": pa.array(IDS, pa.string()), "feature": column}), path)
    cache = FeatureCache(path)
    assert cache.fingerprint == ""
    assert torch.equal(cache.tensor(), torch.from_numpy(FEATURES))


def test_unknown_ids_and_unsorted_rows_are_named(folder: Path) -> None:
    cache = FeatureCache(folder)
    with pytest.raises(ContractError, match="no row for id 'nobody'"):
        cache.tensor(string_ids(["digit-0001", "nobody"]))
    with pytest.raises(ContractError, match="'digit-0003' does not stand after 'digit-0007'"):
        cache.select(IDS[[7, 3]])


def test_a_cache_whose_parts_were_ingested_one_after_the_other_streams_in_its_own_order(folder: Path) -> None:
    """As a crawl leaves it: sorted by id within a part, not across parts."""
    (folder / "part-00000.parquet").rename(folder / "part-00009.parquet")
    cache, wanted = FeatureCache(folder), IDS[5:250:7]
    order = cache.in_cache_order(wanted)
    assert sorted(order) == list(range(len(wanted)))
    streamed = np.concatenate([features for _, features in cache.select(wanted[order]).batches()])
    assert np.array_equal(streamed, FEATURES[5:250:7][order])
    with pytest.raises(ContractError, match="does not stand after"):
        cache.select(wanted)


def test_shards_of_different_encoders_or_widths_are_refused(folder: Path) -> None:
    shard = folder / "part-00001.parquet"
    rewrite(shard, ShardKey(fingerprint="0" * 64, dtype="float16", source=""), IDS[100:200], FEATURES[100:200])
    with pytest.raises(ContractError, match=r"part-00001\.parquet: fingerprint is '000"):
        FeatureCache(folder)
    rewrite(shard, KEY, IDS[100:200], FEATURES[100:200, :63])
    with pytest.raises(ContractError, match=r"part-00001\.parquet: width is 63, but 64"):
        FeatureCache(folder)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(folder: Path, bad: float) -> None:
    features = FEATURES[100:200].copy()
    features[41, 7] = bad
    rewrite(folder / "part-00001.parquet", KEY, IDS[100:200], features)
    cache = FeatureCache(folder)
    with pytest.raises(ContractError, match=r"part-00001\.parquet: row 41 \(id 'digit-0141'\): feature is not finite"):
        cache.tensor()
    with pytest.raises(ContractError, match="row 41"):
        list(cache.batches())


def test_a_null_feature_a_twice_given_id_and_wrong_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    kind = pa.list_(pa.float32(), 2)
    pq.write_table(pa.table({"id": ["a", "b"], "feature": pa.array([[1.0, 2.0], None], kind)}), path)
    with pytest.raises(ContractError, match="row 1: feature is null"):
        FeatureCache(path).tensor()
    pq.write_table(pa.table({"id": ["a", "a"], "feature": pa.array([[1.0, 2.0], [3.0, 4.0]], kind)}), path)
    with pytest.raises(ContractError, match="id 'a' stands in rows 0 and 1"):
        FeatureCache(path).tensor()
    pq.write_table(pa.table({"id": ["a"], "embedding": pa.array([[1.0, 2.0]], kind)}), path)
    with pytest.raises(ContractError, match=r"no column 'feature' \(it has: id, embedding\)"):
        FeatureCache(path)
    pq.write_table(pa.table({"id": ["a"], "feature": [1.0]}), path)
    with pytest.raises(ContractError, match="must be fixed_size_list"):
        FeatureCache(path)
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(ContractError, match="not a readable Parquet file"):
        FeatureCache(path)


def test_the_writer_refuses_what_its_type_cannot_hold_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    features = FEATURES[:10].copy()
    features[4, 0] = 70_000
    with pytest.raises(ContractError, match=r"'digit-0004' reaches 7e\+04.*features\.dtype: float32"):
        write_shard(path, iter([(IDS[:10], features)]), KEY)
    features[4, 0] = np.nan
    with pytest.raises(ContractError, match="'digit-0004' is not finite"):
        write_shard(path, iter([(IDS[:10], features)]), KEY)
    with pytest.raises(ContractError, match="has no rows"):
        write_shard(path, iter([]), KEY)
    assert list(tmp_path.iterdir()) == []


def test_the_key_decides_whether_a_shard_is_fresh(folder: Path, tmp_path: Path) -> None:
    shard = folder / "part-00000.parquet"
    about = json.loads(pq.read_schema(shard).metadata[b"lnl"])
    assert about == {"fingerprint": KEY.fingerprint, "dtype": "float16", "source": KEY.source, "width": 64}
    assert has_key(shard, KEY)
    assert not has_key(shard, ShardKey(fingerprint=KEY.fingerprint, dtype="float32", source=KEY.source))
    assert not has_key(shard, ShardKey(fingerprint=KEY.fingerprint, dtype="float16", source="other"))
    assert not has_key(tmp_path / "nothing.parquet", KEY)
    shard.write_bytes(shard.read_bytes()[:-40])
    assert not has_key(shard, KEY)


def test_the_same_rows_give_the_same_bytes_however_they_were_batched(tmp_path: Path) -> None:
    for name, size in (("a.parquet", 7), ("b.parquet", 300)):
        write_shard(tmp_path / name, in_batches(range(300), size), KEY)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
