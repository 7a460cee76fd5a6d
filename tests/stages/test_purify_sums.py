"""Sums of the noisy rows out of a cache in the order of ingest: against one pass, and from version to version."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lnl_core.contracts import NO_LABEL, ContractError, Labels, string_ids
from lnl_core.features.cache import FeatureCache
from lnl_core.features.shards import ShardKey, write_shard
from lnl_core.stages.purify_sums import LabelledRows, NoisyRowSums
from lnl_core.statistics.moments import Moments, accumulate

WIDTH, ROWS = 6, 30
SHARDS = ("b", "c", "a")  # in order of ingest; ids are sorted within a shard alone


def write_part(folder: Path, number: int, *, encoder: str = "encoder", constant: bool = False) -> None:
    shard = SHARDS[number]
    features = np.random.default_rng(number).normal(size=(ROWS, WIDTH)).astype(np.float32)
    if constant:
        features[:] = 3.0
    key = ShardKey(fingerprint=encoder, dtype="float16", source=f"content of {shard}")
    ids = string_ids([f"{shard}{row:03d}" for row in range(ROWS)])
    write_shard(folder / f"part-{number:05d}.parquet", iter([(ids, features)]), key)


def cache_of(folder: Path, shards: int, encoder: str = "encoder") -> FeatureCache:
    for number in range(shards):
        write_part(folder, number, encoder=encoder)
    return FeatureCache(folder)


def labels_of(shards: int) -> Labels:
    """Every fourth row is trusted, some of them without an observed label; a few rows are test rows."""
    ids = string_ids(sorted(f"{shard}{row:03d}" for shard in SHARDS[:shards] for row in range(ROWS)))
    number = np.array([sum(map(ord, name)) for name in ids])
    label = (number * 7 % 3).astype(np.int32)
    trusted = number % 4 == 0
    observed = np.where(trusted & (number % 8 == 0), NO_LABEL, (number * 5 % 3)).astype(np.int32)
    split = np.where(number % 11 == 0, "test", "train").astype(object)
    return Labels(
        ids=ids,
        label=np.where(trusted, label, observed).astype(np.int32),
        observed_label=observed,
        trusted=trusted & (split == "train"),
        split=split,
        class_names=("x", "y", "z"),
    )


def sums_of(folder: Path, labels: Labels, previous: Path) -> NoisyRowSums:
    return NoisyRowSums(LabelledRows.of(FeatureCache(folder), labels), previous)


def same_bits(first: Moments, second: Moments) -> bool:
    arrays = ("total", "gram", "cross", "counts")
    return all(getattr(first, name).tobytes() == getattr(second, name).tobytes() for name in arrays)


def test_rows_stream_in_the_order_of_ingest_with_their_own_labels(tmp_path: Path) -> None:
    labels = labels_of(3)
    found = LabelledRows.of(cache_of(tmp_path, 3), labels)
    noisy, features = found.where(trusted=False)
    wanted = labels.take(labels.where(split="train", trusted=False))
    assert sorted(noisy.ids) == sorted(wanted.ids)
    assert [name[0] for name in noisy.ids] == sorted((name[0] for name in noisy.ids), key="bca".index)
    assert dict(zip(noisy.ids, noisy.label, strict=True)) == dict(zip(wanted.ids, wanted.label, strict=True))
    streamed = np.concatenate([batch for _, batch in features.batches()])
    assert np.array_equal(streamed, found.cache.tensor(noisy.ids).numpy())


def test_kept_sums_without_the_trusted_rows_are_one_pass_over_the_noisy_ones(tmp_path: Path) -> None:
    labels = labels_of(3)
    found = LabelledRows.of(cache_of(tmp_path / "cache", 3), labels)
    noisy, features = found.where(trusted=False)
    direct = accumulate(features.batches(), noisy.label, WIDTH, 3)
    kept = NoisyRowSums(found, tmp_path / "none").moments
    assert kept.rows == direct.rows == len(noisy)
    for name in ("total", "gram", "cross", "counts"):
        assert np.allclose(getattr(kept, name), getattr(direct, name), rtol=1e-5, atol=1e-5), name


def test_a_version_continues_the_sums_of_the_one_before(tmp_path: Path) -> None:
    """Two shards, then three: the same bits as three at once, also where old rows were verified in between."""
    cache_of(tmp_path / "cache", 2)
    before = sums_of(tmp_path / "cache", labels_of(2), tmp_path / "none")
    assert before.moments.rows
    before.write(tmp_path / "sums")
    write_part(tmp_path / "cache", 2)
    labels = labels_of(3)
    verified = np.isin(labels.ids, ["b001", "c002"]) & (labels.split == "train") & ~labels.trusted
    assert verified.sum() == 2
    split = np.where(labels.ids == "b001", "val", labels.split)  # held out, as the promotion gate wants some
    labels = dataclasses.replace(labels, trusted=labels.trusted | verified, split=split)
    continued = sums_of(tmp_path / "cache", labels, tmp_path / "sums")
    anew = sums_of(tmp_path / "cache", labels, tmp_path / "none")
    assert same_bits(continued.moments, anew.moments)
    assert (continued.parts, continued.parts_kept, anew.parts_kept) == (3, 2, 0)
    for name, sums in (("continued", continued), ("anew", anew)):
        sums.write(tmp_path / name)
    assert (tmp_path / "continued").read_bytes() == (tmp_path / "anew").read_bytes()


def test_another_observed_label_or_encoder_begins_anew(tmp_path: Path) -> None:
    cache_of(tmp_path / "cache", 3)
    labels = labels_of(3)
    before = sums_of(tmp_path / "cache", labels, tmp_path / "none")
    assert before.moments.rows
    before.write(tmp_path / "sums")

    row = int(labels.where(split="train", trusted=False)[0])
    observed = labels.observed_label.copy()
    observed[row] = (observed[row] + 1) % 3
    other = dataclasses.replace(labels, observed_label=observed, label=np.where(labels.trusted, labels.label, observed))
    found = sums_of(tmp_path / "cache", other, tmp_path / "sums")
    assert found.moments.counts.tolist() != before.moments.counts.tolist()
    assert found.parts_kept == 0

    named = dataclasses.replace(labels, class_names=("x", "y", "w"))
    renamed = sums_of(tmp_path / "cache", named, tmp_path / "sums")
    assert renamed.moments.rows
    assert renamed.parts_kept == 0

    cache_of(tmp_path / "other", 3, encoder="another")
    encoded = sums_of(tmp_path / "other", labels, tmp_path / "sums")
    assert encoded.moments.rows
    assert encoded.parts_kept == 0


def test_nothing_is_summed_unless_a_purifier_asks(tmp_path: Path) -> None:
    cache_of(tmp_path / "cache", 1)
    sums = sums_of(tmp_path / "cache", labels_of(1), tmp_path / "none")
    sums.write(tmp_path / "sums")
    assert (sums.parts, sums.parts_kept) == (0, 0)
    assert (tmp_path / "sums").stat().st_size < 1000


def test_rows_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    write_part(tmp_path, 0, constant=True)
    with pytest.raises(ContractError, match="have the same feature"):
        _ = sums_of(tmp_path, labels_of(1), tmp_path / "none").moments


def test_a_row_without_a_feature_is_named(tmp_path: Path) -> None:
    cache_of(tmp_path, 1)
    with pytest.raises(ContractError, match="has no row for id"):
        LabelledRows.of(FeatureCache(tmp_path), labels_of(2))
