"""The top of the page: the lead, the headline cards, what happened to the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lnl_core.report import formats
from lnl_core.report.run_files import dig
from lnl_core.report.sources import Sources
from lnl_core.report.summary import arms_of, reason


@dataclass(frozen=True, kw_only=True)
class Card:
    """A headline number."""

    title: str
    value: str
    note: str
    before: str = ""
    tone: str = ""  # good | bad | empty


def lead(sources: Sources) -> str:
    labels, noise = dig(sources.scores, "labels"), dig(sources.scores, "noise")
    if not labels:
        return "The run has not been evaluated yet; what is there is shown below."
    rows = formats.count(labels["rows"])
    if labels.get("accuracy_before") is not None:
        wrong, after = formats.percent(1 - labels["accuracy_before"]), formats.percent(labels["accuracy_after"])
        return f"{wrong} of {rows} observed labels were wrong. After purification {after} are right."
    doubted = formats.percent(noise["rate_by_suspicion"])
    changed = formats.count(labels["changed"])
    return (
        f"Purification changed {changed} of {rows} labels and holds {doubted} of the observed ones to be wrong. "
        "True labels are not known, so nobody has measured how many are right."
    )


def cards(sources: Sources) -> list[Card]:
    return [
        _label_card(sources.scores),
        _test_card(sources),
        _changed_card(sources.scores),
        _noise_card(sources.scores),
        _quarantine_card(sources),
    ]


def _label_card(scores: Mapping[str, Any]) -> Card:
    before, after = dig(scores, "labels", "accuracy_before"), dig(scores, "labels", "accuracy_after")
    if after is None:
        return Card(title="Labels right", value=formats.NONE, note=reason(scores, "truth"))
    note = f"{formats.count(dig(scores, 'labels', 'rows_with_truth'))} rows with known truth, trusted rows not counted"
    tone = "good" if after > before else "bad"
    return Card(
        title="Labels right", before=formats.percent(before), value=formats.percent(after), note=note, tone=tone
    )


def _test_card(sources: Sources) -> Card:
    scores, arms = sources.scores, arms_of(sources.metrics)
    with_, without = dig(scores, "test", f"{arms['with']}_best"), dig(scores, "test", f"{arms['without']}_best")
    shown = with_ or without
    if shown is None:
        return Card(title="Test accuracy", value=formats.NONE, note=reason(scores, "test", "model"))
    low, high = formats.percent(shown["accuracy_low"]), formats.percent(shown["accuracy_high"])
    note = f"{formats.count(dig(scores, 'test', 'rows'))} test rows, 95 % interval {low} to {high}"
    value = formats.percent(shown["accuracy"])
    if with_ is None or without is None:
        lacking = "with" if with_ is None else "without"
        title = "Test accuracy without purification" if with_ is None else "Test accuracy with purification"
        return Card(title=title, value=value, note=f"{note}; no comparison: {reason(scores, arms[lacking])}")
    return Card(
        title="Test accuracy, without → with",
        before=formats.percent(without["accuracy"]),
        value=value,
        note=note,
        tone="good" if with_["accuracy"] > without["accuracy"] else "bad",
    )


def _changed_card(scores: Mapping[str, Any]) -> Card:
    labels = dig(scores, "labels")
    if not labels:
        return Card(title="Labels changed", value=formats.NONE, note=reason(scores))
    note = f"{formats.percent(labels['changed_share'])} of {formats.count(labels['rows'])} rows"
    precision = dig(scores, "detection", "precision")
    note += f"; {formats.percent(precision)} of the changes hit a wrong label" if precision is not None else ""
    return Card(title="Labels changed", value=formats.count(labels["changed"]), note=note)


def _noise_card(scores: Mapping[str, Any]) -> Card:
    noise, trusted = dig(scores, "noise") or {}, dig(scores, "trusted") or {}
    estimated = noise.get("rate_estimated", noise.get("rate_by_suspicion"))
    measured = noise.get("rate_true")
    notes = ["not measured" if measured is None else f"measured {formats.percent(measured)}"]
    if trusted.get("noise_rate") is not None:
        interval = f"{formats.percent(trusted['noise_low'])} to {formats.percent(trusted['noise_high'])}"
        notes.append(f"{formats.count(trusted['with_observed'])} trusted rows say {interval}")
    return Card(
        title="Noise, estimated",
        value=formats.percent(estimated),
        note="; ".join(notes),
    )


def _quarantine_card(sources: Sources) -> Card:
    rows = len(sources.quarantine)
    note = "set aside with a reason, the run went on" if rows else "every row could be used"
    return Card(title="Quarantined", value=formats.count(rows), note=note)


def fates(labels: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The five fates of a label as shares of all rows with truth, in drawing order."""
    kinds = (
        ("right_kept", "right, kept", "kept"),
        ("wrong_to_right", "wrong → right", "gained"),
        ("right_to_wrong", "right → wrong", "broken"),
        ("wrong_to_wrong", "wrong → another wrong", "moved"),
        ("wrong_kept", "wrong, kept", "left"),
    )
    if labels.get("right_kept") is None:
        return []
    total = sum(labels[key] for key, _, _ in kinds)
    return [
        {"name": name, "style": style, "rows": labels[key], "share": labels[key] / total} for key, name, style in kinds
    ]


def routes(purify: Mapping[str, Any]) -> dict[str, Any] | None:
    """What happens to each row under a promise about wrong changes; None where nothing was promised."""
    routes, wanted = purify.get("routes"), purify.get("max_wrong_changes")
    if not routes or wanted is None:
        return None
    sure = formats.percent(purify["promise_confidence"], 0)
    promise = f"At most {formats.percent(wanted)} of the applied changes are wrong, with {sure} confidence"
    if purify.get("promise_refused"):
        text = f"Requested: {promise[0].lower()}{promise[1:]}. It cannot be promised: {purify['promise_refused']}."
    else:
        rows = formats.count(purify.get("calibration_rows"))
        text = (
            f"{promise}; tested on {rows} trusted rows. A change is applied from {purify['promise_kept_from']:.3f} on."
        )
    kinds = (("keep", "keep", "kept"), ("relabel", "relabel", "gained"), ("review", "left to review", "moved"))
    total = max(sum(routes.values()), 1)
    return {
        "text": text,
        "shares": [
            {"name": name, "style": style, "rows": routes[key], "share": routes[key] / total}
            for key, name, style in kinds
        ],
    }
