"""The section Training: test accuracy, curves, and the analysis plots of the training's trace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lnl_core.report import formats
from lnl_core.report.charts import Heatmap, Line, LineChart, heatmap
from lnl_core.report.curves import epoch_chart, epoch_lines, points
from lnl_core.report.histogram import Histogram, histogram
from lnl_core.report.matrices import transition
from lnl_core.report.run_files import Record, dig, number
from lnl_core.report.scatter import Scatter, scatter
from lnl_core.report.sources import Sources
from lnl_core.report.summary import held_out_lines

SELECTION = {
    "precision": ("precision", "s-after"),
    "recall": ("recall", "s-accent"),
    "auc": ("AUROC", "s-warm dashed"),
    "selected": ("share of the rows selected", "s-before"),
}
LEARNED_FROM = {
    "observed": "the observed labels",
    "purified_hard": "the purified labels",
    "purified_soft": "the purified labels",
    "confidence_weighted": "the purified labels, weighted by their confidence",
}
ESTIMATED_FROM = {  # source of the noise estimate, in words
    "trusted": "counted on trusted rows",
    "purifier": "the purifier's posteriors",
    "residual": "what the purifier's posteriors leave",
    "neighbours": "agreement of neighbours",
    "set": "set by hand",
    "assumed": "assumed, nothing was known",
}
LACKS = ("trace", "trace_truth", "selection", "predicted", "small_loss", "trainer_transition", "embedding")


def training(sources: Sources) -> dict[str, Any]:
    """All that the section shows; None or empty where the run has nothing of the kind."""
    missing = dig(sources.scores, "missing") or {}
    return {
        "test_table": _test_table(sources),
        "gate": held_out_lines(sources.scores),
        "loss": epoch_chart(_arms(sources, "loss"), "training loss"),
        "held_out": epoch_chart(_arms(sources, "held_out_accuracy"), "held-out accuracy", percents=True),
        "noise_estimate": estimate_lines(sources),
        "selection": selection_chart(sources.plot("selection")),
        "predicted": predicted_chart(sources.plot("predicted"), dig(sources.scores, "training", "labels")),
        "small_loss": small_loss_charts(sources.plot("small_loss")),
        "learned_from": LEARNED_FROM.get(dig(sources.scores, "training", "labels") or "", ""),
        "transitions": _transitions(sources),
        "transition_error": dig(sources.scores, "training", "transition_error"),
        "embedding": embedding_chart(sources.plot("embedding"), sources.names),
        "lacks": [formats.sentence(missing[topic]) for topic in LACKS if topic in missing],
        **_pretraining(sources.pretrain_curve),
    }


def _arms(sources: Sources, column: str) -> dict[str, Line]:
    styles = {"model": "s-after", "yardstick": "s-before"}
    rows = {arm: [row for row in sources.train_curves if row.get("arm") == arm] for arm in styles}
    return {
        words: (styles[arm], points(rows[arm], "epoch", column)) for arm, words in sources.arms.items() if arm in styles
    }


def _pretraining(curve: Sequence[Record]) -> dict[str, LineChart | None]:
    loss: dict[str, Line] = {"SimCLR loss": ("s-accent", points(curve, "epoch", "loss"))}
    scores: dict[str, Line] = {
        "linear probe": ("s-after", points(curve, "epoch", "probe_accuracy")),
        "nearest neighbours": ("s-accent", points(curve, "epoch", "knn_accuracy")),
    }
    return {
        "simclr": epoch_chart(loss, "contrastive loss"),
        "probe": epoch_chart(scores, "accuracy on trusted rows", percents=True),
    }


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


def selection_chart(records: Sequence[Record]) -> LineChart | None:
    """Precision, recall, AUROC and size of the selection; without truth its size alone."""
    lines = {name: line for name, line in epoch_lines(records, SELECTION).items() if line[1]}
    alone = next(iter(lines)) if len(lines) == 1 else ""
    return epoch_chart(lines, alone or "share", percents=True)


def predicted_chart(records: Sequence[Record], labels: str | None) -> LineChart | None:
    """Label accuracy over epochs; the labels learned from are a line of their own where they are not the observed."""
    columns = {"accuracy": ("predicted labels", "s-after"), "observed": ("observed labels", "s-before")}
    if labels != "observed":
        columns["learned"] = ("labels learned from", "s-accent")
    return epoch_chart(epoch_lines(records, columns), "labels right", percents=True)


def small_loss_charts(records: Sequence[Record]) -> list[tuple[int, Histogram]]:
    """(epoch, histogram) of each epoch that evaluate wrote."""
    epochs = list(dict.fromkeys(record["epoch"] for record in records))
    made = [(int(epoch), _small_loss([row for row in records if row["epoch"] == epoch])) for epoch in epochs]
    return [(epoch, chart) for epoch, chart in made if chart is not None]


def _small_loss(bins: Sequence[Record]) -> Histogram | None:
    """Right and wrong labels, or all rows without truth; a Gaussian's height is the rows that it expects in a bin."""
    known = number(bins[0], "right") is not None
    columns = {"right": ("right labels", "b-good"), "wrong": ("wrong labels", "b-bad")}
    if not known:
        columns = {"rows": ("rows", "b-all")}
    heaps = {
        name: (style, [int(number(row, column) or 0) for row in bins]) for column, (name, style) in columns.items()
    }
    edges = [float(bins[0]["low"]), *(float(row["high"]) for row in bins)]
    share = sum(sum(counts) for _, counts in heaps.values()) * (edges[1] - edges[0])
    gaussians = {
        "density_small": ("Gaussian of small losses", "s-ink"),
        "density_large": ("Gaussian of large losses", "s-ink dashed"),
    }
    curves = {
        name: (style, [share * (number(row, column) or 0.0) for row in bins])
        for column, (name, style) in gaussians.items()
        if number(bins[0], column) is not None
    }
    words = "right and of wrong labels" if known else "all rows"
    return histogram(edges, heaps, curves, x_title="loss, scaled to 0..1", describe=f"Losses of {words}")


def embedding_chart(records: Sequence[Record], names: Sequence[str]) -> Scatter | None:
    """The t-SNE map of test images."""
    return scatter(
        [(float(row["x"]), float(row["y"])) for row in records],
        [int(row["actual_label"]) for row in records],
        [int(row["predicted_label"]) for row in records],
        names,
    )


def estimate_lines(sources: Sources) -> list[tuple[str, str]]:
    """The noise estimate that the method was given, what was measured afterwards, and the settings that followed."""
    noise = dig(sources.metrics, "train", "noise") or {}
    derived = dig(sources.metrics, "train", "derived") or {}
    if not noise and not derived:
        return []
    measured = dig(sources.scores, "training") or {}
    lines = [
        ("wrong labels, estimated", formats.percent(noise.get("rate"))),
        ("wrong labels, measured", formats.percent(measured.get("noise_rate"))),
        ("type of the noise", formats.plain(noise.get("type"))),
        ("source of the estimate", ESTIMATED_FROM.get(str(noise.get("source")), formats.plain(noise.get("source")))),
        ("class prior, estimated", prior_words(noise.get("prior"), sources.names)),
        ("class prior, measured", prior_words(measured.get("prior"), sources.names)),
        ("mean error of the estimated matrix", formats.percent(measured.get("noise_estimate_error"), 2)),
    ]
    return lines + [(key.replace("_", " "), formats.plain(value)) for key, value in derived.items()]


def prior_words(prior: Sequence[float] | None, names: Sequence[str]) -> str:
    """The rarest and the most frequent class, in words."""
    if not prior or len(prior) != len(names):
        return formats.NONE
    low, high = int(np.argmin(prior)), int(np.argmax(prior))
    if prior[high] - prior[low] < 1e-6:
        return f"{formats.percent(prior[low])} each"
    ends = [f"{formats.percent(prior[end])} ({names[end]})" for end in (low, high)]
    return " to ".join(ends)


def _transitions(sources: Sources) -> dict[str, Heatmap | None]:
    """The training method's matrix beside the realised one of the labels that it learned from."""
    records = sources.plot("trainer_transition")
    if not records:
        return {"true": None, "estimated": None}
    found = {kind: transition(records, f"{kind}_share", len(sources.names)) for kind in ("true", "estimated")}
    return {
        kind: None
        if matrix is None
        else heatmap(
            matrix,
            sources.names,
            rows_are="true",
            columns_are="learned from",
            describe=f"Transition matrix of the training labels, {kind}",
        )
        for kind, matrix in found.items()
    }
