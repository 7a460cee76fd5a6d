"""The table of a grid: ours by method and noise, best and last epoch over seeds, published numbers beside them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lnl_core.bench.published import Published, published_for, source_text
from lnl_core.bench.records import Record

COMMIT = re.compile(r"^[0-9a-f]{40}")  # shortened; the mark for changed files stays
LETTERS = "abcdefghijklmnopqrstuvwxyz"
COLUMNS = ("noise", "method", "best", "last", "seeds", "published best", "published last", "labels right")

CSV_COLUMNS = (
    *("preset", "noise", "method", "overrides", "seeds", "best", "best_sd", "last", "last_sd"),
    *("labels_before", "labels_after", "published", "published_which", "published_by", "published_source"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The finished cells that differ in the seed alone."""

    records: Sequence[Record]
    published: Sequence[Published]

    @property
    def cell(self) -> dict[str, Any]:
        found: dict[str, Any] = self.records[0]["cell"]
        return found

    def values(self, *path: str) -> list[float]:
        """One number a seed, where it is known."""
        found = []
        for record in self.records:
            value: Any = record
            for key in path:
                value = value[key]
            if value is not None:
                found.append(float(value))
        return found


def table_rows(records: Iterable[Record], published: str = "") -> list[Row]:
    """Finished records, grouped over seeds, noises and methods in order of appearance.

    Args:
        published: the preset whose published numbers stand beside ours; empty: the records' own.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if "error" not in record:
            groups.setdefault((record["cell"]["preset"], record["cell"]["noise"], record["group"]), []).append(record)
    noises = list(dict.fromkeys(key[:2] for key in groups))
    return [
        Row(records=found, published=published_for(found[0], published))
        for key, found in sorted(groups.items(), key=lambda item: noises.index(item[0][:2]))
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The table with a legend: what ours is, and where each published number is from."""
    sources = list(dict.fromkeys(number.source for row in rows for number in row.published))
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(_cells(row, sources, rows))} |" for row in rows]
    return "\n".join([*lines, "", *legend(rows), *_source_lines(sources)])


def comma_separated(rows: Sequence[Row]) -> str:
    """One line a row and published number; shares in %."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        numbers = [_number(row.values("test", which), what) for which in ("best", "last") for what in (np.mean, _sd)]
        labels = [_number(row.values("labels", when), np.mean) for when in ("before", "after")]
        about = [row.cell["preset"], row.cell["noise"], row.cell["method"], " ".join(row.records[0]["overrides"])]
        beside = [[number.accuracy, number.which, number.by, source_text(number.source)] for number in row.published]
        for published in beside or [[""] * 4]:
            writer.writerow([*about, len(row.records), *numbers, *labels, *published])
    return file.getvalue().rstrip("\n")


def legend(rows: Sequence[Row]) -> list[str]:
    """What the numbers are, the network, rows and epochs of ours, and what they were made with."""
    if not rows:
        return ["No cell is finished."]
    records = [record for row in rows for record in row.records]
    made = [record["made_with"] for record in records]
    nets = _each(f"{r['model']['arch']}, width {r['model'].get('width', 64)}" for r in records)
    epochs = _each(f"{r['epochs']} ({r['cell']['method']})" for r in records)
    overrides = _each(" ".join(r["overrides"]) for r in records if r["overrides"])
    held_out = _each("none" if r["held_out"]["kind"] == "none" else f"{r['held_out']['kind']} rows" for r in records)
    counts = [_each(f"{r[key]:,}" for r in records) for key in ("rows", "test_rows")]
    lines = [
        "Test accuracy in %, mean ± standard deviation over seeds. Best: the epoch chosen on held-out rows (without "
        "them the last), never on test rows; published best epochs are mostly chosen on test rows. "
        "Labels right: the training rows' labels before and after purification.",
        f"Ours: {nets}; {counts[0]} train and {counts[1]} test rows; held out: {held_out}; epochs: {epochs}"
        + (f"; with {overrides}." if overrides else "."),
        f"Made on {_each(m['device'] for m in made)}; torch {_each(m['torch'] for m in made)}; "
        f"commit {_each(COMMIT.sub(lambda found: found[0][:12], m['commit']) for m in made)}.",
    ]
    return [part for line in lines for part in (line, "")]


def _cells(row: Row, sources: Sequence[str], rows: Sequence[Row]) -> list[str]:
    same = [other for other in rows if other.cell | {"seed": 0} == row.cell | {"seed": 0}]
    note = f" ({' '.join(row.records[0]['overrides']) or 'no overrides'})" if len(same) > 1 else ""
    before, after = (row.values("labels", when) for when in ("before", "after"))
    return [
        row.cell["noise"] or "as given",
        row.cell["method"] + note,
        *(mean_and_sd(row.values("test", which)) for which in ("best", "last")),
        str(len(row.records)),
        *(_beside(row.published, which, sources) for which in ("best", "last")),
        f"{mean_and_sd(before)} → {mean_and_sd(after)}" if before and before != after else mean_and_sd(before),
    ]


def _beside(published: Sequence[Published], which: str, sources: Sequence[str]) -> str:
    found = [number for number in published if number.which == which]
    return ", ".join(f"{number.accuracy:.1f} [{LETTERS[sources.index(number.source)]}]" for number in found) or "–"


def mean_and_sd(values: Sequence[float]) -> str:
    """`94.1 ± 0.2` of shares, in %; no deviation for one value, a dash for none."""
    if not values:
        return "–"
    mean = f"{100 * np.mean(values):.1f}"
    return f"{mean} ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def _source_lines(sources: Sequence[str]) -> list[str]:
    return [f"[{LETTERS[number]}] {source_text(source)}  " for number, source in enumerate(sources)]


def _number(values: Sequence[float], of: Any) -> str:
    return f"{100 * float(of(values)):.3f}" if values else ""


def _sd(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _each(values: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(values))
