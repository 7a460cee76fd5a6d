"""How often the promotion gate is wrong: versions that are just as good and refused, and losses that it sees.

    python benchmarks/gate_errors.py [--trials 2000]

Simulated: ten classes of equal size; probe and model each differ from the promoted ones on 6 % of the rows (the other
on the wrong side half of the time) or on 20 %, independently of each other, which is the worst case for false alarms.
A loss is put on top, on all rows or in one class, for probe and model. Prints the table of docs/versions.md.
"""

from __future__ import annotations

import argparse
import functools

import numpy as np

from lnl_core.versions.gate import GateSettings, interval
from lnl_core.versions.paired_bootstrap import Steps

CLASSES = 10
SETTINGS = GateSettings()
TAIL = SETTINGS.false_alarms / 2 / 2  # half for the comparisons over all rows, of which there are two


@functools.lru_cache(maxsize=200_000)
def loses(lost: int, gained: int, rows: int, tail: float) -> bool:
    """As the gate decides; the same counts come again often."""
    return interval(Steps(lost=lost, gained=gained, rows=rows), tail)[1] < 0


def refused(rows: int, differ: float, loss: float, classes_hit: int, generator: np.random.Generator) -> bool:
    """One trial: is the version refused?"""
    size = rows // CLASSES
    for _classifier in range(2):
        lost = gained = 0
        for number in range(CLASSES):
            more = loss if number < classes_hit else 0.0
            counts = generator.multinomial(size, [differ / 2 + more, differ / 2, 1 - differ - more])
            if size >= SETTINGS.class_rows and loses(int(counts[0]), int(counts[1]), size, TAIL / CLASSES):
                return True
            lost, gained = lost + int(counts[0]), gained + int(counts[1])
        if loses(lost, gained, size * CLASSES, TAIL):
            return True
    return False


def share_refused(trials: int, rows: int, differ: float, loss: float, classes_hit: int) -> float:
    """Of `trials` versions."""
    generator = np.random.default_rng([rows, round(1000 * differ), round(1000 * loss), classes_hit])
    return sum(refused(rows, differ, loss, classes_hit, generator) for _ in range(trials)) / trials


def main() -> None:
    """Print the table as markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    sizes = (200, 1000, 5000)
    cases = [("just as good", 0.0, CLASSES)]
    cases += [
        (f"{100 * loss:g} point{'s' * (loss > 0.01)} worse on all rows", loss, CLASSES)
        for loss in (0.01, 0.02, 0.05, 0.1)
    ]
    cases += [(f"{100 * loss:g} points worse in one class", loss, 1) for loss in (0.1, 0.2, 0.4)]
    print("| the new version is | rows that differ | " + " | ".join(f"{size:,} rows" for size in sizes) + " |")
    print("|---|---:|" + "---:|" * len(sizes))
    for name, loss, classes_hit in cases:
        for differ in (0.06, 0.2):
            found = [share_refused(trials, size, differ, loss, classes_hit) for size in sizes]
            print(f"| {name} | {differ:.0%} | " + " | ".join(f"{share:.1%}" for share in found) + " |", flush=True)


if __name__ == "__main__":
    main()
