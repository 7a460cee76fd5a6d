"""The promotion gate: may a version take the place of the promoted one?

Both versions have predicted the held-out trusted rows, by a probe and by their model (`evaluate/held_out.parquet`). On
the rows that both have predicted, with the verified labels that the new version knows, the accuracies are compared by
the paired bootstrap, over all rows and within each class of at least `class_rows` of them.

**The rule.** The new version loses where, for the probe or the model, over all rows or in a class, the interval of the
difference lies wholly below `-tolerance` (in a class `-class_tolerance`). It is promoted if it loses nowhere.

**Why so.** The gate must stop harm and must not stop a crawl that is cleaned every week. A rule that asks for proof
of a gain, or that a loss is excluded, would never promote with the few hundred held-out rows that most people have.
The price of this one is power: a loss that the rows cannot show passes (docs/versions.md has the table of what is
seen with how many rows), and losses too small to be seen can add up over many versions. Therefore `lnl versions`
shows the accuracies of all versions side by side, and `lnl versions show N --against M` holds a version against an
older one.

**The intervals** are as wide as it takes for a version that is just as good to be refused with a probability of at
most `false_alarms`, whatever the number of classes. Half of it is for the comparisons over all rows, half for the
classes, and each half is divided by its number of comparisons (Bonferroni). Holm's step-down procedure refuses in
exactly the same cases: it differs only after the first rejection, and one loss is enough to be refused. The probe
moves with the labels, the model also with its seed and its training: how far trainings differ is not in the interval,
and belongs into `tolerance` where it matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lnl_core.config import Settings
from lnl_core.evaluate.held_out import CLASSIFIERS, Classifier, HeldOutTable
from lnl_core.versions.paired_bootstrap import Steps, bootstrap, steps

Outcome = Literal["first", "promote", "refuse", "undecided"]
Rows = npt.NDArray[np.intp]


class GateSettings(Settings):
    """What counts as a loss."""

    tolerance: float = Field(default=0.0, ge=0, lt=1)  # accuracy that may be lost over all rows
    class_tolerance: float = Field(default=0.0, ge=0, lt=1)  # the same within a class
    false_alarms: float = Field(default=0.05, gt=0, lt=1)  # probability of refusing a version that is just as good
    least_rows: int = Field(default=100, ge=1)  # in common; 100 show a loss of 10 points every other time
    class_rows: int = Field(default=20, ge=1)  # of a class; of 20, in ten classes, 9 must be lost and none gained
    undecided: Literal["refuse", "promote"] = "refuse"  # what to do where nothing can be compared


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One classifier, new against old, over one group of rows."""

    classifier: Classifier
    group: str | None  # a class; None: all rows
    rows: int
    gained: int  # right now, wrong before
    lost: int  # wrong now, right before
    old_accuracy: float
    new_accuracy: float
    low: float  # interval of the difference
    high: float
    loses: bool

    @property
    def difference(self) -> float:
        return (self.gained - self.lost) / self.rows


@dataclass(frozen=True, kw_only=True)
class GateDecision:
    """May the version be promoted, and why."""

    outcome: Outcome
    reason: str  # a sentence
    version: int
    against: int | None  # the version that it was held against
    rows: int = 0  # held-out rows in common
    comparisons: tuple[Comparison, ...] = ()
    not_compared: Mapping[str, int] = field(default_factory=dict)  # class -> its rows, where these are too few
    notes: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)  # how the labels differ; shown, does not count
    settings: GateSettings = field(default_factory=GateSettings)

    @property
    def passes(self) -> bool:
        """May it be promoted without a person's word?"""
        if self.outcome == "undecided":
            return self.settings.undecided == "promote"
        return self.outcome != "refuse"


def gate(
    new: HeldOutTable,
    promoted: HeldOutTable | None,
    settings: GateSettings,
    *,
    version: int,
    against: int | None = None,
    labels: Mapping[str, Any] | None = None,
) -> GateDecision:
    """Hold version number `version` against the promoted one, number `against`; see the top of this file.

    Args:
        promoted: None where no version has been promoted yet: then the first one is.
        labels: how the two versions' labels differ, for the text alone.
    """
    decision = GateDecision(
        outcome="first",
        reason="no version has been promoted before it",
        version=version,
        against=against,
        labels=labels or {},
        settings=settings,
    )
    if promoted is None:
        return decision
    mine, theirs = _common(new, promoted)
    if why := _not_comparable(new, promoted, len(mine), settings):
        return replace(decision, outcome="undecided", reason=why, rows=len(mine))
    comparisons, not_compared = _compare(new, promoted, mine, theirs, settings)
    losses = [found for found in comparisons if found.loses]
    return replace(
        decision,
        outcome="refuse" if losses else "promote",
        reason=f"it loses {_where(losses)}" if losses else f"on {len(mine):,} held-out rows it loses nowhere",
        rows=len(mine),
        comparisons=comparisons,
        not_compared=not_compared,
        notes=tuple(_notes(new, promoted, mine, theirs)),
    )


def _common(new: HeldOutTable, promoted: HeldOutTable) -> tuple[Rows, Rows]:
    """Row numbers, in both tables, of the ids that both have."""
    _, mine, theirs = np.intersect1d(new.ids.astype(str), promoted.ids.astype(str), return_indices=True)
    return mine, theirs


def _not_comparable(new: HeldOutTable, promoted: HeldOutTable, rows: int, settings: GateSettings) -> str:
    if new.class_names != promoted.class_names:
        return (
            f"its classes are others than those of the promoted version ({len(new.class_names)} and "
            f"{len(promoted.class_names)}), so a person must decide"
        )
    for which, table in (("it", new), ("the promoted version", promoted)):
        if not len(table):
            return f"{which} has no held-out rows: {table.missing.get('held_out', 'none were held out')}"
    if rows < settings.least_rows:
        return (
            f"the two versions have {rows} held-out rows in common; with fewer than {settings.least_rows} hardly any "
            "loss could be seen: verify more rows, or set least_rows"
        )
    if not set(new.predictions) & set(promoted.predictions):
        return "there is neither a probe nor a model that both versions have"
    return ""


def _compare(
    new: HeldOutTable, promoted: HeldOutTable, mine: Rows, theirs: Rows, settings: GateSettings
) -> tuple[tuple[Comparison, ...], dict[str, int]]:
    label, names = new.label[mine], new.class_names
    both = [name for name in CLASSIFIERS if name in new.predictions and name in promoted.predictions]
    counts = np.bincount(label, minlength=len(names))
    tested = [number for number in range(len(names)) if counts[number] >= settings.class_rows]
    found = []
    for name in both:
        now = new.predictions[name].label[mine] == label
        before = promoted.predictions[name].label[theirs] == label
        tail = settings.false_alarms / 2 / len(both)
        found.append(_comparison(name, None, now, before, tail, settings.tolerance))
        for number in tested:
            rows = label == number
            share = tail / len(tested)
            found.append(_comparison(name, names[number], now[rows], before[rows], share, settings.class_tolerance))
    few = {names[number]: int(counts[number]) for number in range(len(names)) if number not in set(tested)}
    return tuple(found), few


def _comparison(
    classifier: Classifier,
    group: str | None,
    now: npt.NDArray[np.bool_],
    before: npt.NDArray[np.bool_],
    tail: float,
    tolerance: float,
) -> Comparison:
    """`tail`: how much of the bootstrap distribution lies outside the interval on each side."""
    counts = steps(now, before)
    low, high = interval(counts, tail)
    return Comparison(
        classifier=classifier,
        group=group,
        rows=counts.rows,
        gained=counts.gained,
        lost=counts.lost,
        old_accuracy=float(before.mean()),
        new_accuracy=float(now.mean()),
        low=low,
        high=high,
        loses=high < -tolerance,
    )


def interval(counts: Steps, tail: float) -> tuple[float, float]:
    """Percentile interval of the difference in accuracy with `tail` outside on each side."""
    distribution = bootstrap(counts)
    return distribution.quantile(tail), distribution.quantile(1 - tail)


def _notes(new: HeldOutTable, promoted: HeldOutTable, mine: Rows, theirs: Rows) -> Iterator[str]:
    relabelled = int((new.label[mine] != promoted.label[theirs]).sum())
    if relabelled:
        yield f"{relabelled:,} rows have another verified label since; both versions are held against the new one"
    for what, table in (("new", new), ("promoted", promoted)):
        if len(table) > len(mine):
            yield f"{len(table) - len(mine):,} held-out rows are in the {what} version alone and were not compared"
    for name in CLASSIFIERS:
        lacking = [what for what, table in (("new", new), ("promoted", promoted)) if name not in table.predictions]
        if lacking:
            yield f"the {name} was not compared: the {' and the '.join(lacking)} version has none"
    if new.about.get("encoder") != promoted.about.get("encoder"):
        yield "the encoder is another one, so the probe compares encoder and labels together"


def _where(losses: list[Comparison]) -> str:
    """Over all rows first, then the classes, the worst first."""
    overall = [f"over all rows ({one.classifier})" for one in losses if one.group is None]
    worst: dict[str, float] = {}
    for one in losses:
        if one.group is not None:
            worst[one.group] = min(one.difference, worst.get(one.group, 0.0))
    classes = [f"{name!r}" for name in sorted(worst, key=lambda name: worst[name])]
    if classes:
        shown = ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")
        overall.append(f"in {'class' if len(classes) == 1 else 'classes'} {shown}")
    return " and ".join(overall)
