"""Sums kept over the parts of a growing collection: against a loop, against a run from the beginning, and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lnl_core.contracts import ContractError
from lnl_core.statistics.kept_sums import KeptSums, Part, extended, nothing_kept, read_sums, write_sums
from lnl_core.statistics.moments import Moments, accumulate

WIDTH, CLASSES = 5, 3
ARRAYS = ("total", "gram", "cross", "counts")


def rows_of(seed: int, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, WIDTH)).astype(np.float16).astype(np.float32)
    return features, generator.integers(CLASSES, size=rows).astype(np.int32)


def part(seed: int, key: str = "") -> Part:
    features, labels = rows_of(seed)
    batches = [(slice(start, start + 8), features[start : start + 8]) for start in range(0, len(features), 8)]
    return Part(key=key or f"part {seed}", moments=lambda: accumulate(batches, labels, WIDTH, CLASSES, np.float64))


def never() -> Moments:
    raise AssertionError("a part that is kept was summed again")


def same_bits(first: Moments, second: Moments) -> bool:
    return first.rows == second.rows and all(
        getattr(first, name).tobytes() == getattr(second, name).tobytes() for name in ARRAYS
    )


def test_sums_are_those_of_a_loop_over_rows() -> None:
    found, _ = extended(None, [part(0), part(1)], WIDTH, CLASSES)
    gram, cross = np.zeros((WIDTH, WIDTH)), np.zeros((WIDTH, CLASSES))
    for seed in (0, 1):
        for feature, label in zip(*rows_of(seed), strict=True):
            gram += np.outer(feature.astype(np.float64), feature)
            cross[:, label] += feature
    assert np.allclose(found.moments.gram, gram, rtol=1e-13)
    assert np.allclose(found.moments.cross, cross, rtol=1e-13)
    assert found.moments.counts.tolist() == np.bincount(np.concatenate([rows_of(0)[1], rows_of(1)[1]])).tolist()


@pytest.mark.parametrize("known", [1, 2, 3, 4])
def test_from_a_prefix_and_from_the_beginning_are_the_same_bits(known: int, tmp_path: Path) -> None:
    parts = [part(seed) for seed in range(4)]
    whole, reused = extended(None, parts, WIDTH, CLASSES)
    assert reused == 0
    first, _ = extended(None, parts[:known], WIDTH, CLASSES)
    write_sums(tmp_path / "sums", first)
    again = [Part(key=one.key, moments=never) for one in parts[:known]] + parts[known:]
    found, reused = extended(read_sums(tmp_path / "sums"), again, WIDTH, CLASSES)
    assert reused == known
    assert found.keys == whole.keys
    assert same_bits(found.moments, whole.moments)


@pytest.mark.parametrize(
    "chain",
    [["other", "part 1", "part 2"], ["part 0", "other", "part 2"], ["part 0"], ["part 1", "part 0"]],
    ids=["first", "last kept", "shorter", "order"],
)
def test_another_chain_is_summed_from_the_beginning(chain: list[str]) -> None:
    kept, _ = extended(None, [part(0), part(1)], WIDTH, CLASSES)
    present = [part(seed, key) for seed, key in enumerate(chain, start=5)]
    found, reused = extended(kept, present, WIDTH, CLASSES)
    assert reused == 0
    assert same_bits(found.moments, extended(None, present, WIDTH, CLASSES)[0].moments)


def test_subtracted_rows_leave_what_the_others_sum_to() -> None:
    both, rest = extended(None, [part(0), part(1)], WIDTH, CLASSES)[0], part(1).moments()
    left = both.moments.minus(part(0).moments())
    assert left.rows == rest.rows
    for name in ARRAYS:
        assert np.allclose(getattr(left, name), getattr(rest, name), rtol=0, atol=1e-12)


def test_the_same_sums_are_the_same_bytes(tmp_path: Path) -> None:
    sums, _ = extended(None, [part(0), part(1)], WIDTH, CLASSES)
    for name in ("first", "second"):
        write_sums(tmp_path / name, sums)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_no_sums_are_a_file_without_parts(tmp_path: Path) -> None:
    write_sums(tmp_path / "sums", nothing_kept())
    found = read_sums(tmp_path / "sums")
    assert found is not None
    assert found.keys == ()
    assert extended(found, [part(0)], WIDTH, CLASSES)[1] == 0
    assert read_sums(tmp_path / "missing") is None


def test_sums_of_another_format_are_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sums(tmp_path / "sums", extended(None, [part(0)], WIDTH, CLASSES)[0])
    monkeypatch.setattr("lnl_core.statistics.kept_sums.FORMAT", 2)
    assert read_sums(tmp_path / "sums") is None


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "sums").write_bytes(content)
    with pytest.raises(ContractError, match=r"not a file of kept sums.*delete it"):
        read_sums(tmp_path / "sums")


def test_keys_that_begin_a_chain() -> None:
    sums = KeptSums(keys=("part 0", "part 1"), moments=part(0).moments())
    assert sums.begins([part(0), part(1), part(2)])
    assert not sums.begins([part(0)])
