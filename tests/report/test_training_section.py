"""The analysis plots of the page: with truth and without, one epoch, and nothing at all."""

from __future__ import annotations

from typing import Any

import pytest

from lnl_core.report.page import render
from lnl_core.report.run_files import Record
from lnl_core.report.training_section import (
    embedding_chart,
    estimate_lines,
    predicted_chart,
    prior_words,
    selection_chart,
    small_loss_charts,
    training,
)
from tests.report.sources import sources

SELECTION: list[Record] = [
    {"epoch": "2", "selected": "0.5", "precision": "0.9", "recall": "0.8", "auc": "0.95"},
    {"epoch": "4", "selected": "0.6", "precision": "0.95", "recall": "0.9", "auc": "0.97"},
]
BLIND: list[Record] = [{"epoch": "2", "selected": "0.5", "precision": "", "recall": "", "auc": ""}]
NOISE = {"rate": 0.2, "source": "neighbours", "type": "symmetric", "prior": [0.25, 0.75]}


def bins(epoch: int, **columns: list[float]) -> list[Record]:
    """Four bins with the given columns."""
    empty = ("right", "wrong", "density_small", "density_large")
    return [
        {"epoch": str(epoch), "low": str(bin_ / 4), "high": str((bin_ + 1) / 4), **dict.fromkeys(empty, "")}
        | {name: str(values[bin_]) for name, values in columns.items()}
        for bin_ in range(4)
    ]


def test_selection_has_a_line_a_score_and_without_truth_its_share() -> None:
    chart = selection_chart(SELECTION)
    assert chart is not None
    assert [series.name for series in chart.series] == ["precision", "recall", "AUROC", "share of the rows selected"]
    blind = selection_chart(BLIND)
    assert blind is not None
    assert (blind.y_title, blind.legend) == ("share of the rows selected", [])
    assert len(blind.series[0].dots) == 1  # one epoch is a point
    assert selection_chart([]) is None


def test_predicted_labels_are_drawn_beside_what_was_learned_from() -> None:
    rows = [{"epoch": "1", "accuracy": "0.8", "learned": "0.7", "observed": "0.6"}]
    observed, purified = predicted_chart(rows, "observed"), predicted_chart(rows, "purified_hard")
    assert observed is not None
    assert purified is not None
    assert [name for name, _ in observed.legend] == ["predicted labels", "observed labels"]
    assert [name for name, _ in purified.legend] == ["predicted labels", "observed labels", "labels learned from"]
    assert predicted_chart([{"epoch": "1", "accuracy": "", "learned": "", "observed": ""}], "observed") is None


def test_small_loss_with_truth_and_a_mixture() -> None:
    """A Gaussian that holds all 20 rows evenly expects 5 rows in each of four bins: as high as the bar of 5."""
    rows = bins(3, rows=[8, 5, 3, 4], right=[8, 5, 0, 0], wrong=[0, 0, 3, 4], density_small=[1.0] * 4)
    rows = [{**row, "density_large": "0"} for row in rows] + bins(9, rows=[1, 0, 0, 0])
    [(first, chart), (last, plain)] = small_loss_charts(rows)
    assert (first, last) == (3, 9)
    assert [name for name, _ in chart.legend] == [
        "right labels",
        "wrong labels",
        "Gaussian of small losses",
        "Gaussian of large losses",
    ]
    five = next(bar for bar in chart.bars if bar.title == "0.25 to 0.5: 5 right labels")
    assert {point.split(",")[1] for point in chart.series[0].path.removeprefix("M").split(" L")} == {f"{five.y:g}"}
    assert [bar.title for bar in plain.bars] == ["0 to 0.25: 1 rows"]  # without truth and mixture
    assert plain.series == ()
    assert small_loss_charts([]) == []


def test_estimated_beside_measured() -> None:
    found = dict(
        estimate_lines(
            sources(
                train={"noise": NOISE, "derived": {"lambda_u": 25.0, "p_threshold": 0.5}},
                evaluate={"training": {"noise_rate": 0.41}},
            )
        )
    )
    assert found["wrong labels, estimated"].replace("\u00a0", " ") == "20.0 %"
    assert found["wrong labels, measured"].replace("\u00a0", " ") == "41.0 %"
    assert found["source of the estimate"] == "agreement of neighbours"
    assert (found["lambda u"], found["p threshold"]) == ("25", "0.5")
    blind = dict(estimate_lines(sources(train={"noise": NOISE})))
    assert blind["wrong labels, measured"] == "—"
    assert estimate_lines(sources(train={"method": "ce"})) == []


def test_prior_in_words() -> None:
    assert prior_words([0.25, 0.75], ("cat", "dog")).replace("\u00a0", " ") == "25.0 % (cat) to 75.0 % (dog)"
    assert prior_words([0.5, 0.5], ("cat", "dog")).replace("\u00a0", " ") == "50.0 % each"
    assert prior_words(None, ("cat", "dog")) == "—"
    assert prior_words([1.0], ("cat", "dog")) == "—"


def test_embedding_reads_places_and_class_numbers() -> None:
    row = {"x": "1", "y": "2", "actual": "dog", "predicted": "cat", "actual_label": "1", "predicted_label": "0"}
    found = embedding_chart([row], ("cat", "dog"))
    assert found is not None
    assert found.groups[0].wrong[0][2] == "dog, predicted cat"
    assert embedding_chart([], ("cat", "dog")) is None


@pytest.mark.parametrize("metrics", [{}, {"train": {"method": "ce"}, "evaluate": {"missing": {"trace": "no trace"}}}])
def test_a_run_without_a_trace_says_so(metrics: dict[str, Any]) -> None:
    section = training(sources(**metrics))
    assert (section["selection"], section["predicted"], section["embedding"]) == (None, None, None)
    assert section["small_loss"] == []
    assert section["lacks"] == (["No trace."] if metrics else [])
    page = render(sources(**metrics))
    assert "This training reports no noise estimate." in page


def test_the_page_shows_what_there_is() -> None:
    plots = {"selection": SELECTION, "small_loss": bins(3, rows=[8, 5, 3, 4])}
    page = render(sources(plots, train={"labels": "observed", "noise": NOISE}, evaluate={"training": {}}))
    assert "Which rows were learned from as they are?" in page
    assert "Losses of the rows, epoch 3" in page
    assert "Map of the test images" not in page
