"""A decision for people (markdown) and for machines (JSON)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lnl_core.versions.gate import Comparison, GateDecision

WORST = 5  # classes shown for each classifier besides those that lose
SHOWN = 20  # names in a list
TITLES = {
    "first": "Version {version} is the first to be promoted",
    "promote": "Version {version} may replace version {against}",
    "refuse": "Version {version} does not replace version {against}",
    "undecided": "Version {version} cannot be held against version {against}",
}


def markdown(decision: GateDecision) -> str:
    """Why a version was promoted or not: counts, intervals, the classes that lose."""
    title = TITLES[decision.outcome].format(version=decision.version, against=decision.against)
    reason = _cell(decision.reason)
    blocks = [f"### {title}", f"{reason[0].upper()}{reason[1:]}."]
    if decision.comparisons:
        overall = [one for one in decision.comparisons if one.group is None]
        blocks.append(_table(f"All {decision.rows:,} held-out rows", overall))
        blocks += _classes(decision)
    elif decision.outcome == "undecided":
        kept = "It is promoted all the same" if decision.passes else "The promoted version stays"
        blocks.append(f"{kept}, as the setting `undecided: {decision.settings.undecided}` says.")
    blocks += [f"- {note}" for note in decision.notes]
    blocks += _labels(decision.labels)
    return "\n\n".join(blocks) + "\n"


def record(decision: GateDecision) -> dict[str, Any]:
    """JSON for manifests and histories: everything but the classes in which nothing happened."""
    return {
        "outcome": decision.outcome,
        "passes": decision.passes,
        "reason": decision.reason,
        "version": decision.version,
        "against": decision.against,
        "rows": decision.rows,
        "comparisons": [_plain(one) for one in decision.comparisons if one.group is None or one in _shown(decision)],
        "classes_not_compared": len(decision.not_compared),
        "notes": list(decision.notes),
        "labels": dict(decision.labels),
        "settings": decision.settings.model_dump(mode="json"),
    }


def _classes(decision: GateDecision) -> list[str]:
    losing = [one for one in decision.comparisons if one.group is not None and one.loses]
    others = [one for one in _shown(decision) if one.group is not None and not one.loses]
    blocks = [_table("Classes that lose", losing)] if losing else []
    blocks += [_table("Classes with the largest differences downward", others)] if others else []
    if decision.not_compared:
        names = [f"{_cell(name)} ({rows})" for name, rows in list(decision.not_compared.items())[:SHOWN]]
        more = len(decision.not_compared) - len(names)
        listed = ", ".join(names) + (f" and {more} more" if more else "")
        blocks.append(f"Not compared, with fewer than {decision.settings.class_rows} held-out rows: {listed}.")
    return blocks


def _shown(decision: GateDecision) -> list[Comparison]:
    """The classes that lose, and for each classifier those that come nearest to it."""
    found = []
    for name in dict.fromkeys(one.classifier for one in decision.comparisons):
        classes = [one for one in decision.comparisons if one.classifier == name and one.group is not None]
        classes.sort(key=lambda one: one.difference)
        down = [one for one in classes if not one.loses and one.difference < 0]
        found += [one for one in classes if one.loses] + down[:WORST]
    return found


def _table(title: str, rows: Sequence[Comparison]) -> str:
    head = [
        f"| {title} | rows | before | now | difference | interval | gained | lost | |",
        "|---|---:|---:|---:|---:|---|---:|---:|---|",
    ]
    return "\n".join(head + [_line(one) for one in rows])


def _line(one: Comparison) -> str:
    name = one.classifier if one.group is None else f"{_cell(one.group)} ({one.classifier})"
    numbers = f"{one.old_accuracy:.1%} | {one.new_accuracy:.1%} | {_points(one.difference)}"
    interval = f"{_points(one.low)} to {_points(one.high)}"
    return f"| {name} | {one.rows:,} | {numbers} | {interval} | {one.gained} | {one.lost} | {'loses' * one.loses} |"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _cell(text: str) -> str:
    """A class name as text: it may neither end a cell nor bring a link or HTML."""
    return "".join(f"\\{letter}" if letter in "\\`<>[]|" else letter for letter in text.replace("\n", " "))


def _labels(labels: Mapping[str, Any]) -> list[str]:
    if not labels:
        return []
    return [
        f"Labels: {labels['changed']:,} differ from the observed ones (before: {labels['changed_before']:,}); "
        f"{labels['different']:,} rows have another label than in the promoted version."
    ]


def _plain(one: Comparison) -> dict[str, Any]:
    return {
        "classifier": one.classifier,
        "class": one.group,
        "rows": one.rows,
        "gained": one.gained,
        "lost": one.lost,
        "before": round(one.old_accuracy, 6),
        "now": round(one.new_accuracy, 6),
        "low": round(one.low, 6),
        "high": round(one.high, 6),
        "loses": one.loses,
    }
