"""What a version changes against the one before, counted by hand."""

from __future__ import annotations

import dataclasses

import numpy as np

from lnl_core.contracts import NO_LABEL, Purified, string_ids
from lnl_core.purify.decide.churn import MOST, Origin, churn

NAMES = ("cat", "dog", "emu")


def table(rows: dict[str, tuple[int, int, int]], names: tuple[str, ...] = NAMES) -> Purified:
    """id -> (observed, decided, mode of the posterior)."""
    soft = np.full((len(rows), len(names)), 0.2, dtype=np.float32)
    for row, (_, _, mode) in enumerate(rows.values()):
        soft[row, mode] = 0.6
    return Purified(
        ids=string_ids(list(rows)),
        label=np.array([row[0] for row in rows.values()], dtype=np.int32),
        purified_label=np.array([row[1] for row in rows.values()], dtype=np.int32),
        confidence=np.full(len(rows), 0.5, dtype=np.float32),
        soft_label=soft,
        class_names=names,
    )


BEFORE = table(dict.fromkeys("abcdefgh", (0, 0, 0)) | {"x": (0, 1, 1), "y": (1, 1, 1)})
NOW = table(
    {
        "a": (0, 0, 0),  # stands
        "b": (0, 1, 1),  # flips to dog
        "c": (0, 1, 1),  # flips to dog
        "d": (0, 2, 2),  # flips to emu
        "e": (0, 0, 2),  # held back
        "f": (1, 1, 1),  # its observed label is another now
        "x": (0, 1, 0),  # held back
        "n": (2, 2, 2),  # new
        "m": (2, 1, 1),  # new
    }
)
PAST = np.array([0, 0, 0, 0, 0, NO_LABEL, 1, NO_LABEL, NO_LABEL], dtype=np.int32)
ORIGIN = Origin(
    ids=string_ids(list("mnxfedcba")),
    shard=string_ids(["s2", "s2", "s1", "s1", "s1", "s1", "s1", "s1", "s1"]),
    source=np.array(["q.org", None, "q.org", "p.org", "p.org", "p.org", "p.org", "q.org", None], dtype=object),
)
TRUSTED = string_ids(["g", "other"])


def test_counts_by_hand() -> None:
    found = churn(NOW, BEFORE, PAST, TRUSTED, ORIGIN)
    tables = {name: found.pop(name) for name in ("by_class", "from_to", "by_source", "by_shard")}
    assert found == {
        "rows_before": 10,
        "rows_new": 2,
        "rows_now_trusted": 1,  # g
        "rows_gone": 2,  # h, y
        "rows_with_another_observed_label": 1,  # f
        "compared": 6,
        "flips": 3,
        "flip_share": 0.5,
        "held_back": 2,
        "labels_in_use_changed": 3,
    }
    assert tables["by_class"] == [
        {"class": "cat", "rows": 5, "flips": 3, "held_back": 1, "flip_share": 0.6},
        {"class": "dog", "rows": 1, "flips": 0, "held_back": 1, "flip_share": 0.0},
        {"class": "emu", "rows": 0, "flips": 0, "held_back": 0, "flip_share": 0.0},
    ]
    assert tables["from_to"] == [
        {"from": "cat", "to": "dog", "flips": 2},
        {"from": "cat", "to": "emu", "flips": 1},
    ]
    assert tables["by_source"] == [
        {"source": "p.org", "rows": 3, "new": 0, "flips": 2, "flip_share": 0.666667},  # c, d, e; f is not compared
        {"source": "q.org", "rows": 2, "new": 1, "flips": 1, "flip_share": 0.5},  # b, x; m is new
    ]
    assert tables["by_shard"] == [
        {"shard": "s1", "rows": 6, "new": 0, "flips": 3, "flip_share": 0.5},
        {"shard": "s2", "rows": 0, "new": 2, "flips": 0, "flip_share": 0.0},
    ]


def test_labels_in_use_may_change_without_a_flip() -> None:
    """A proposal that went to review is applied now."""
    before = dataclasses.replace(BEFORE, review=BEFORE.ids == "x")
    found = churn(NOW, before, PAST, TRUSTED, ORIGIN)
    assert (found["flips"], found["labels_in_use_changed"]) == (3, 4)


def test_without_an_origin_there_are_no_tables_of_it() -> None:
    none = string_ids([])
    found = churn(NOW, BEFORE, PAST, TRUSTED, Origin(ids=none, shard=none, source=none))
    assert found["by_source"] == found["by_shard"] == []


def test_tables_are_cut_to_those_with_the_most_flips() -> None:
    many = MOST + 10
    ids = [f"{row:03d}" for row in range(2 * many)]
    before = table(dict.fromkeys(ids, (0, 0, 0)))
    now = table({name: (0, int(row >= many), int(row >= many)) for row, name in enumerate(ids)})
    origin = Origin(ids=string_ids(ids), shard=string_ids(ids), source=string_ids(ids))
    found = churn(now, before, np.zeros(len(ids), dtype=np.int32), string_ids([]), origin)
    assert len(found["by_source"]) == len(found["by_shard"]) == MOST
    assert all(record["flips"] for record in found["by_source"] + found["by_shard"])
    assert found["flips"] == many
