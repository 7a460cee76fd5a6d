"""Batches of rows: each row once, no lone tail."""

import pytest
import torch

from lnl_core.training.row_batches import EndlessRows, shuffled_batches


@pytest.mark.parametrize("count", [2, 3, 31, 32, 33, 64, 65, 100])
def test_every_row_once_in_even_batches(count):
    rows = torch.arange(count) * 7
    batches = shuffled_batches(rows, 32, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(batches).tolist()) == rows.tolist()
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == -(-count // 32)
    assert max(sizes) <= 32
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1


def test_a_lone_row_comes_twice():
    [batch] = shuffled_batches(torch.tensor([5]), 32, torch.Generator().manual_seed(0))
    assert batch.tolist() == [5, 5]


def test_order_is_the_generators():
    rows = torch.arange(50)
    same = [torch.cat(shuffled_batches(rows, 8, torch.Generator().manual_seed(1))).tolist() for _ in range(2)]
    assert same[0] == same[1] != rows.tolist()


def test_endless_rows_passes_through_all_before_it_repeats():
    endless = EndlessRows(torch.tensor([3, 5, 8]), torch.Generator().manual_seed(0))
    drawn = torch.cat([endless.take(count) for count in (2, 7, 1, 20)]).tolist()
    for start in range(0, 30, 3):
        assert sorted(drawn[start : start + 3]) == [3, 5, 8]
    assert len({tuple(drawn[start : start + 3]) for start in range(0, 30, 3)}) > 1


def test_endless_rows_of_none_are_none():
    assert EndlessRows(torch.empty(0, dtype=torch.int64), torch.Generator()).take(4).tolist() == []
