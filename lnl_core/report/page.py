"""The page: what each section shows, gathered into plain values for the template.

Everything that came from outside (class names, ids, reasons, settings) goes to the template as plain text; the
template's autoescaping is the only way into the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lnl_core.report import formats
from lnl_core.report.advice import Advice, advise
from lnl_core.report.charts import (
    CELL_BAD,
    CELL_MOVED,
    Heatmap,
    LineChart,
    heatmap,
    line_chart,
    reliability_chart,
)
from lnl_core.report.curves import points
from lnl_core.report.matrices import Confusion, confusion, transition
from lnl_core.report.purifier_section import purifier, purify_curve
from lnl_core.report.run_files import Record, dig, number
from lnl_core.report.sections import sections
from lnl_core.report.sources import Sources
from lnl_core.report.summary_section import cards, fates, lead, routes
from lnl_core.report.thumbnails import Thumbnail
from lnl_core.report.training_section import training

OWN_SECTIONS = {  # anchor -> title, in the page's order
    "summary": "Summary",
    "next": "What next",
    "labels": "Labels",
    "noise": "Noise",
    "purifier": "Purifier",
    "confidence": "Confidence",
    "training": "Training",
    "images": "Images",
    "quarantine": "Quarantine",
    "run": "Run",
}
CLASS_ROWS = 30  # classes listed; above, the weakest
QUARANTINE_ROWS = 200
CONFUSIONS = 12
CARD_SHARES = ("nominal_rate", "rate_realised", "rate_realised_overall")
CARD_KEYS = ("type", "protocol", "counting", *CARD_SHARES, "rows", "truth", "seed", "sha256")


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
    mark: str  # right | wrong | unknown


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
    page = environment.get_template("page.html.j2")
    return page.render(**_content(sources), own_sections=OWN_SECTIONS, sections=_more(sources, environment))


def _more(sources: Sources, environment: Environment) -> list[dict[str, str]]:
    """The sections of files of their own that have something to show."""
    found = []
    for section in sections():
        assert section.before in OWN_SECTIONS, f"section {section.anchor!r}: the page has no {section.before!r}"
        content = section.content(sources)
        if content is not None:
            html = environment.from_string(section.template).render(content=content)  # escapes what it shows
            found.append({"anchor": section.anchor, "title": section.title, "before": section.before, "html": html})
    return found


def _content(sources: Sources) -> dict[str, Any]:
    observed, purified, flow = (_matrix(sources, name) for name in ("confusion_observed", "confusion_purified", "flow"))
    return {
        "title": sources.title,
        "made": sources.made,
        "lead": lead(sources),
        "cards": cards(sources),
        "routes": routes(sources.metrics.get("purify", {})),
        "fates": fates(dig(sources.scores, "labels") or {}),
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
        "purifier": purifier(sources),
        "charts": _charts(sources),
        "training": training(sources),
        "arms": sources.arms,
        "best_is": dig(sources.metrics, "train", "best_is") or "best on held-out rows",
        "galleries": _galleries(sources),
        "quarantine": sources.quarantine[:QUARANTINE_ROWS],
        "quarantined": len(sources.quarantine),
        "timings": _timings(sources),
        "versions": sources.versions,
        "settings": sources.settings,
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


def _charts(sources: Sources) -> dict[str, LineChart | None]:
    return {
        **_rankings(sources),
        "purify": purify_curve(sources.metrics.get("purify", {}).get("curve")),
        **{f"reliability_{what}": _reliability(sources, what) for what in ("labels", "model_best")},
    }


def _rankings(sources: Sources) -> dict[str, LineChart | None]:
    review = points(sources.plot("review"), "reviewed", "found")
    coverage = points(sources.plot("coverage"), "kept", "accuracy")
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


def _reliability(sources: Sources, what: str) -> LineChart | None:
    bins = [record for record in sources.plot("reliability") if record["what"] == what]
    return reliability_chart(
        [
            (float(b["low"]), float(b["high"]), int(b["count"]), number(b, "confidence"), number(b, "accuracy"))
            for b in bins
        ]
    )


def _galleries(sources: Sources) -> dict[str, list[ImageCard]]:
    return {name: [_image_card(row, sources) for row in sources.plot(name)] for name in ("suspicious", "uncertain")}


def _image_card(record: Record, sources: Sources) -> ImageCard:
    mark = "unknown"
    if record["true"]:
        mark = "right" if record["true"] == record["purified"] else "wrong"
    return ImageCard(
        id=record["id"],
        image=sources.thumbnails.get(record["id"]),
        observed=record["observed"],
        purified=record["purified"],
        confidence=float(record["confidence"]),
        suspicion=float(record["suspicion"]),
        true=record["true"],
        mark=mark,
    )


def _timings(sources: Sources) -> list[dict[str, Any]]:
    times = [(stage, dig(found, "seconds") or 0.0) for stage, found in sources.metrics.items() if stage != "report"]
    longest = max((seconds for _, seconds in times), default=0.0) or 1.0
    return [{"stage": stage, "seconds": seconds, "share": seconds / longest} for stage, seconds in times]
