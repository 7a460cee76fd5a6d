"""The page: what each section shows, gathered into plain values for the template.

Everything that came from outside (class names, ids, reasons, settings) goes to the template as plain text; the
template's autoescaping is the only way into the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from lnl_core.contracts import Labels, QuarantineRow
from lnl_core.report import formats
from lnl_core.report.advice import Advice, advise
from lnl_core.report.charts import (
    CELL_BAD,
    CELL_MOVED,
    Heatmap,
    Line,
    LineChart,
    heatmap,
    line_chart,
    reliability_chart,
)
from lnl_core.report.matrices import Confusion, confusion, transition
from lnl_core.report.run_files import Record, dig, number
from lnl_core.report.summary import arms_of, reason
from lnl_core.report.thumbnails import Thumbnail

CLASS_ROWS = 30  # classes listed; above, the weakest
QUARANTINE_ROWS = 200
CANDIDATE_ROWS = 60
CONFUSIONS = 12
TABLES = ("candidates",)  # first; the others by name
CARD_SHARES = ("rate_asked", "rate_realised", "rate_realised_overall")
CARD_KEYS = ("type", "protocol", "counting", *CARD_SHARES, "rows", "truth", "seed", "sha256")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """All that the page is made of; empty or None where a stage has not run."""

    title: str
    made: str  # when, as text
    labels: Labels | None
    metrics: Mapping[str, Mapping[str, Any]]
    plots: Mapping[str, list[Record]]  # by file name without .csv
    train_curves: Sequence[Record]
    pretrain_curve: Sequence[Record]
    quarantine: Sequence[QuarantineRow]
    thumbnails: Mapping[str, Thumbnail]
    purifier: Mapping[str, Any]  # `about` of purified.parquet
    versions: Sequence[tuple[str, str]]
    settings: Mapping[str, Mapping[str, Any]]  # section -> setting -> value

    @property
    def scores(self) -> Mapping[str, Any]:
        return self.metrics.get("evaluate", {})

    @property
    def arms(self) -> dict[str, str]:
        """Arm of training -> how the page calls it."""
        found = arms_of(self.metrics)
        return {found["with"]: "with purification", found["without"]: "without"}

    @property
    def names(self) -> tuple[str, ...]:
        return self.labels.class_names if self.labels else ()

    def plot(self, name: str) -> list[Record]:
        return self.plots.get(name, [])


@dataclass(frozen=True, kw_only=True)
class Card:
    """A headline number."""

    title: str
    value: str
    note: str
    before: str = ""
    tone: str = ""  # good | bad | empty


@dataclass(frozen=True, kw_only=True)
class ImageCard:
    """One row of a gallery."""

    id: str
    image: Thumbnail | None
    observed: str
    purified: str
    confidence: float
    suspicion: float
    true: str
    verdict: str  # right | wrong | unknown


@dataclass(frozen=True, kw_only=True)
class ClassBar:
    """One class: two shares of full length, and their texts."""

    name: str
    before: float
    after: float
    before_text: str
    after_text: str


def render(sources: Sources) -> str:
    """The HTML of the whole page."""
    environment = Environment(
        loader=PackageLoader("lnl_core", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": formats.percent,
        "score": formats.score,
        "count": formats.count,
        "duration": formats.duration,
        "plain": formats.plain,
    }
    return environment.get_template("page.html.j2").render(**_content(sources))


def _content(sources: Sources) -> dict[str, Any]:
    observed, purified, flow = (_matrix(sources, name) for name in ("confusion_observed", "confusion_purified", "flow"))
    return {
        "title": sources.title,
        "made": sources.made,
        "lead": _lead(sources),
        "cards": _cards(sources),
        "routes": _routes(sources.metrics.get("purify", {})),
        "fates": _fates(dig(sources.scores, "labels") or {}),
        "advice": _advice(sources),
        "truth": bool(dig(sources.scores, "labels", "rows_with_truth")),
        "scores": sources.scores,
        "missing": dig(sources.scores, "missing") or {},
        "maps": _maps(sources, observed, purified, flow),
        "moved": flow.largest(sources.names, CONFUSIONS) if flow else [],
        "left_wrong": purified.largest(sources.names, CONFUSIONS) if purified else [],
        "classes": _class_bars(sources),
        "class_total": len(sources.names),
        "protocol": _protocol(sources),
        "noise_lines": _noise_lines(sources),
        "transitions": _transitions(sources),
        "purifier": _purifier(sources),
        "charts": _charts(sources),
        "arms": sources.arms,
        "best_is": dig(sources.metrics, "train", "best_is") or "best on held-out rows",
        "test_table": _test_table(sources),
        "galleries": _galleries(sources),
        "quarantine": sources.quarantine[:QUARANTINE_ROWS],
        "quarantined": len(sources.quarantine),
        "timings": _timings(sources),
        "versions": sources.versions,
        "settings": sources.settings,
    }


def _lead(sources: Sources) -> str:
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


def _cards(sources: Sources) -> list[Card]:
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


def _fates(labels: Mapping[str, Any]) -> list[dict[str, Any]]:
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


def _routes(purify: Mapping[str, Any]) -> dict[str, Any] | None:
    """What happens to each row under a promise about wrong changes; None where nothing was promised."""
    routes, wanted = purify.get("routes"), purify.get("max_wrong_changes")
    if not routes or wanted is None:
        return None
    sure = formats.percent(purify["promise_confidence"], 0)
    asked = f"At most {formats.percent(wanted)} of the applied changes are wrong, with {sure} confidence"
    if purify.get("promise_refused"):
        text = f"Asked: {asked[0].lower()}{asked[1:]}. It cannot be promised: {purify['promise_refused']}."
    else:
        rows = formats.count(purify.get("calibration_rows"))
        text = f"{asked}; tested on {rows} trusted rows. A change is applied from {purify['promise_kept_from']:.3f} on."
    kinds = (("keep", "keep", "kept"), ("relabel", "relabel", "gained"), ("review", "left to review", "moved"))
    total = max(sum(routes.values()), 1)
    return {
        "text": text,
        "shares": [
            {"name": name, "style": style, "rows": routes[key], "share": routes[key] / total}
            for key, name, style in kinds
        ],
    }


def _noise_lines(sources: Sources) -> list[tuple[str, str]]:
    """How many labels are wrong, by each who says something about it."""
    noise, trusted = dig(sources.scores, "noise") or {}, dig(sources.scores, "trusted") or {}
    neighbours = sources.metrics.get("purify", {}).get("noise_estimate") or {}
    lines = [
        ("purifier's estimate", formats.percent(noise.get("rate_estimated"))),
        ("mean suspicion of the rows", formats.percent(noise.get("rate_by_suspicion"))),
        (
            "trusted rows say",
            _with_interval(*(trusted.get(f"noise_{part}") for part in ("rate", "low", "high"))),
        ),
        ("measured", formats.percent(noise.get("rate_true"))),
        ("mean error of the transition matrix", formats.percent(noise.get("transition_error"), 2)),
    ]
    if neighbours.get("source") == "hoc":
        rates = (neighbours[key] for key in ("rate", "rate_low", "rate_high"))
        lines.insert(2, ("agreement of neighbours says", _with_interval(*rates)))
    return lines


def _with_interval(rate: float | None, low: float | None, high: float | None) -> str:
    if rate is None:
        return formats.NONE
    return f"{formats.percent(rate)} (95 % interval {formats.percent(low)} to {formats.percent(high)})"


def _advice(sources: Sources) -> list[Advice]:
    diagonal = {
        record["actual"]: share
        for record in sources.plot("transition")
        if record["actual_label"] == record["predicted_label"]
        and (share := number(record, "estimated_share")) is not None
    }
    return advise(sources.metrics, sources.plot("per_class"), diagonal)


def _matrix(sources: Sources, name: str) -> Confusion | None:
    return confusion(sources.plot(name), len(sources.names))


def _maps(
    sources: Sources, observed: Confusion | None, purified: Confusion | None, flow: Confusion | None
) -> dict[str, Heatmap | None]:
    kinds = {
        "before": (observed, "true", "observed", "Confusion of observed labels"),
        "after": (purified, "true", "purified", "Confusion of purified labels"),
        "flow": (flow, "observed", "purified", "Flow of labels"),
        "test_model": (_matrix(sources, "confusion_test_model_best"), "test label", "predicted", "Test confusion with"),
        "test_yardstick": (
            _matrix(sources, "confusion_test_yardstick_best"),
            "test label",
            "predicted",
            "Test confusion without",
        ),
    }
    return {
        name: heatmap(
            matrix.shares,
            sources.names,
            rows_are=rows,
            columns_are=columns,
            counts=matrix.counts,
            describe=describe,
            off=CELL_MOVED if name == "flow" else CELL_BAD,
        )
        if matrix
        else None
        for name, (matrix, rows, columns, describe) in kinds.items()
    }


def _transitions(sources: Sources) -> dict[str, Heatmap | None]:
    records, names = sources.plot("transition"), sources.names
    found = {
        "true": transition(records, "true_share", len(names)),
        "estimated": transition(records, "estimated_share", len(names)),
    }
    return {
        kind: None
        if matrix is None
        else heatmap(matrix, names, rows_are="true", columns_are="observed", describe=f"Transition matrix, {kind}")
        for kind, matrix in found.items()
    }


def _class_bars(sources: Sources) -> list[ClassBar]:
    """With truth: accuracy before and after, weakest first. Without: rows before and after, largest change first."""
    records = sources.plot("per_class")
    known = [record for record in records if number(record, "after") is not None]
    if known:
        bars = [_share_bar(record) for record in known]
        bars.sort(key=lambda bar: bar.after)
    else:
        most = max((max(_rows_of(record)) for record in records), default=0) or 1
        bars = [_rows_bar(record, most) for record in records]
        bars.sort(key=lambda bar: -abs(bar.after - bar.before))
    if len(bars) > CLASS_ROWS:
        return bars[:CLASS_ROWS]
    order = {record["class"]: place for place, record in enumerate(records)}
    return sorted(bars, key=lambda bar: order[bar.name])


def _share_bar(record: Record) -> ClassBar:
    before, after = number(record, "before") or 0.0, number(record, "after") or 0.0
    texts = (formats.percent(before), formats.percent(after))
    return ClassBar(name=record["class"], before=before, after=after, before_text=texts[0], after_text=texts[1])


def _rows_of(record: Record) -> tuple[int, int]:
    return int(record["observed_rows"]), int(record["purified_rows"])


def _rows_bar(record: Record, most: int) -> ClassBar:
    before, after = _rows_of(record)
    return ClassBar(
        name=record["class"],
        before=before / most,
        after=after / most,
        before_text=formats.count(before),
        after_text=formats.count(after),
    )


def _protocol(sources: Sources) -> list[tuple[str, str]]:
    """The protocol card without its matrix, which the transition section draws; known keys first, then the others."""
    card = dict(sources.labels.protocol) if sources.labels else {}
    keys = [*(key for key in CARD_KEYS if key in card), *(key for key in card if key not in CARD_KEYS)]
    return [
        (key.replace("_", " "), formats.percent(card[key], 2) if key in CARD_SHARES else formats.plain(card[key]))
        for key in keys
        if card[key] is not None and key not in ("matrix", "settings")
    ]


def _purifier(sources: Sources) -> dict[str, Any]:
    metrics = sources.metrics.get("purify", {})
    chosen = metrics.get("chosen") or {}
    settings = metrics.get("settings") or sources.purifier.get("settings") or {}
    figures = {key: value for key, value in metrics.items() if _is_number(value) and key != "seconds"}
    return {
        "method": metrics.get("method") or sources.purifier.get("method"),
        "settings": [(_words(key), formats.plain(value)) for key, value in settings.items()],
        "chosen": [(_words(key), formats.plain(value)) for key, value in chosen.items()],
        "figures": [(_words(key), formats.plain(value)) for key, value in figures.items()],
        "tables": [
            _comparison(key, metrics[key], chosen)
            for key in sorted(metrics, key=lambda key: (key not in TABLES, key))
            if _is_table(metrics[key]) and key != "curve"
        ],
    }


def _comparison(key: str, records: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A table of candidates, the chosen one marked; cut where it is long, but never without the chosen one.

    What names a record stands first, then figures; seconds last.
    """
    found = dict.fromkeys(column for record in records for column in record)
    names = {column for column in found if any(isinstance(record.get(column), str) for record in records)}
    columns = sorted(found, key=lambda column: (column not in names, column == "seconds"))
    rows = [
        {
            "chosen": _is_chosen(record, chosen),
            "cells": [(formats.plain(record.get(column)), column in names) for column in columns],
        }
        for record in records
    ]
    shown = [row for place, row in enumerate(rows) if row["chosen"] or place < CANDIDATE_ROWS]
    heads = [(_words(column), column in names) for column in columns]
    return {"title": _words(key), "columns": heads, "rows": shown, "all": len(rows)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(record, Mapping) for record in value)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _is_chosen(row: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    shared = [key for key in chosen if key in row]
    return bool(shared) and all(row[key] == chosen[key] for key in shared)


def _charts(sources: Sources) -> dict[str, LineChart | None]:
    return {
        "loss": _epochs(_arms(sources, "loss"), "training loss"),
        "held_out": _epochs(_arms(sources, "held_out_accuracy"), "held-out accuracy", percents=True),
        **_pretraining(sources.pretrain_curve),
        **_rankings(sources),
        "purify": _purify_curve(sources.metrics.get("purify", {}).get("curve")),
        **{f"reliability_{what}": _reliability(sources, what) for what in ("labels", "model_best")},
    }


def _epochs(lines: dict[str, Line], y_title: str, percents: bool = False) -> LineChart | None:
    return line_chart(lines, x_title="epoch", y_title=y_title, percents=percents, whole_x=True)


def _arms(sources: Sources, column: str) -> dict[str, Line]:
    styles = {"model": "s-after", "yardstick": "s-before"}
    rows = {arm: [row for row in sources.train_curves if row.get("arm") == arm] for arm in styles}
    return {
        words: (styles[arm], _points(rows[arm], "epoch", column))
        for arm, words in sources.arms.items()
        if arm in styles
    }


def _pretraining(curve: Sequence[Record]) -> dict[str, LineChart | None]:
    loss: dict[str, Line] = {"SimCLR loss": ("s-accent", _points(curve, "epoch", "loss"))}
    scores: dict[str, Line] = {
        "linear probe": ("s-after", _points(curve, "epoch", "probe_accuracy")),
        "nearest neighbours": ("s-accent", _points(curve, "epoch", "knn_accuracy")),
    }
    return {
        "simclr": _epochs(loss, "contrastive loss"),
        "probe": _epochs(scores, "accuracy on trusted rows", percents=True),
    }


def _purify_curve(curve: Any) -> LineChart | None:
    """The held-out loss over a purifier's steps, where it records one."""
    if not _is_table(curve):
        return None
    points = [
        (float(record["step"]), float(record["held_out_loss"]))
        for record in curve
        if _is_number(record.get("step")) and _is_number(record.get("held_out_loss"))
    ]
    lines: dict[str, Line] = {"held-out loss": ("s-after", points)}
    return line_chart(lines, x_title="step", y_title="loss on held-out trusted rows", whole_x=True)


def _rankings(sources: Sources) -> dict[str, LineChart | None]:
    review = _points(sources.plot("review"), "reviewed", "found")
    coverage = _points(sources.plot("coverage"), "kept", "accuracy")
    chance = [(0.0, 0.0), (1.0, 1.0)] if review else []
    return {
        "review": line_chart(
            {"by suspicion": ("s-after", review), "in random order": ("s-chance", chance)},
            x_title="share of the rows reviewed",
            y_title="wrong labels found",
            percents=True,
            x_percents=True,
            y_range=(0.0, 1.0),
        ),
        "coverage": line_chart(
            {"purified labels": ("s-after", coverage)},
            x_title="share of the rows kept, most confident first",
            y_title="labels right",
            percents=True,
            x_percents=True,
        ),
    }


def _points(records: Sequence[Record], x: str, y: str) -> list[tuple[float, float]]:
    pairs = [(number(record, x), number(record, y)) for record in records]
    return [(a, b) for a, b in pairs if a is not None and b is not None and np.isfinite(b)]


def _reliability(sources: Sources, what: str) -> LineChart | None:
    bins = [record for record in sources.plot("reliability") if record["what"] == what]
    return reliability_chart(
        [
            (float(b["low"]), float(b["high"]), int(b["count"]), number(b, "confidence"), number(b, "accuracy"))
            for b in bins
        ]
    )


def _test_table(sources: Sources) -> list[dict[str, Any]]:
    """Best and last of both arms, those that are there."""
    rows = []
    for arm, words in sources.arms.items():
        for checkpoint in ("best", "last"):
            found = dig(sources.scores, "test", f"{arm}_{checkpoint}")
            if found:
                words_of = "best held-out epoch" if checkpoint == "best" else "last epoch"
                rows.append({"arm": words, "checkpoint": words_of, **found})
    return rows


def _galleries(sources: Sources) -> dict[str, list[ImageCard]]:
    return {name: [_image_card(row, sources) for row in sources.plot(name)] for name in ("suspicious", "uncertain")}


def _image_card(record: Record, sources: Sources) -> ImageCard:
    verdict = "unknown"
    if record["true"]:
        verdict = "right" if record["true"] == record["purified"] else "wrong"
    return ImageCard(
        id=record["id"],
        image=sources.thumbnails.get(record["id"]),
        observed=record["observed"],
        purified=record["purified"],
        confidence=float(record["confidence"]),
        suspicion=float(record["suspicion"]),
        true=record["true"],
        verdict=verdict,
    )


def _timings(sources: Sources) -> list[dict[str, Any]]:
    times = [(stage, dig(found, "seconds") or 0.0) for stage, found in sources.metrics.items() if stage != "report"]
    longest = max((seconds for _, seconds in times), default=0.0) or 1.0
    return [{"stage": stage, "seconds": seconds, "share": seconds / longest} for stage, seconds in times]
