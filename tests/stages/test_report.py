"""The report of a finished digits run: whole, self-contained, escaped, and honest about what is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lnl_core import contracts
from lnl_core.files import read_json, write_json
from lnl_core.layout import STAGE_NAMES, Layout
from lnl_core.renamed import METRICS
from lnl_core.report.run_files import STAGES
from lnl_core.report.summary import summary_table
from lnl_core.stages.stage import run_stage
from tests.stages.conftest import EvaluatedRun

PARAMS = {"run": {"device": "cpu", "threads": 1}}
Make = Callable[..., Layout]
VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = '<script>alert("{}")</script>'


class Page(HTMLParser):
    """Tags, attributes and texts of a page; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def made(paths: Layout) -> tuple[str, Page]:
    run_stage("report", PARAMS, paths)
    text = paths.report.read_text(encoding="utf-8")
    return text, Page(text)


def test_whole_run(evaluated_run: EvaluatedRun) -> None:
    paths, scores = evaluated_run()
    metrics = run_stage("report", PARAMS, paths)
    text = paths.report.read_text(encoding="utf-8")
    page = Page(text)
    assert metrics["bytes"] == paths.report.stat().st_size < 2_000_000
    assert metrics["images"] == len({value for name, value in page.attributes if name == "src"}) > 50
    assert page.tags.count("img") == 96  # two galleries of 48; a row may stand in both
    for key in ("accuracy_before", "accuracy_after"):
        assert f"{100 * scores['labels'][key]:.1f} %" in page.text
    sections = {value for name, value in page.attributes if name == "id"}
    links = {value.removeprefix("#") for name, value in page.attributes if name == "href" and value.startswith("#")}
    assert links == sections
    assert "truncated-image" in page.text
    assert "exclusive" in page.text


def test_what_the_training_saw(evaluated_run: EvaluatedRun) -> None:
    paths, scores = evaluated_run()
    _, page = made(paths)
    estimate = " ".join(page.text.split("Noise estimate given to the method")[1].split()[:12])
    assert "wrong labels, estimated 15.0 %" in estimate
    assert f"wrong labels, measured {100 * scores['training']['noise_rate']:.1f} %" in estimate
    for words in (
        "The method learned from the purified labels",
        "Which rows were learned from as they are?",
        "How right is the method about its training rows?",
        "Losses of the rows, epoch 2",
        "Losses of the rows, epoch 3",
        "Map of the test images",
        "As the training method estimates it",
    ):
        assert words in page.text
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert "precision, recall, AUROC, share of the rows selected against epoch" in labels
    assert sum(label.startswith("Map of 360 test images of 10 classes") for label in labels) == 1


def test_a_training_without_truth_or_without_a_trace(evaluated_run: EvaluatedRun) -> None:
    blind, _ = evaluated_run(truth=False)
    _, page = made(blind)
    assert "share of the rows selected" in page.text
    assert "right labels" not in page.text
    assert "No true labels are known for the training rows." in page.text
    old, _ = evaluated_run(trace=False, root="old")
    _, page = made(old)
    assert "The training left no trace of its epochs." in page.text
    assert "This training reports no noise estimate." in page.text


def test_scores_and_plots_are_read_under_their_names_of_version_0_1_0(evaluated_run: EvaluatedRun) -> None:
    paths, _ = evaluated_run()
    _, page = made(paths)
    before = {now: name for name, now in METRICS.items()}
    (paths.plots / "predicted.csv").rename(paths.plots / f"{before['predicted']}.csv")
    scores = read_json(paths.metrics("evaluate"))
    training = scores["evaluate"]["training"]
    for name in ("predicted", "noise_estimate_error"):
        training[before[name]] = training.pop(name)
    write_json(paths.metrics("evaluate"), scores)
    _, old = made(paths)
    assert "How right is the method about its training rows?" in old.text
    assert training_section(old) == training_section(page)


def training_section(page: Page) -> str:
    return page.text.split("What the method saw")[1].split("Self-supervised pretraining")[0]


def test_nothing_is_loaded_from_elsewhere(evaluated_run: EvaluatedRun) -> None:
    paths, _ = evaluated_run()
    text, page = made(paths)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.findall(r"https?://|url\(|@import", text)
    loading = [value for name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith(("#", "data:image/")) for value in loading)


def test_names_ids_and_reasons_are_escaped_everywhere(digits_run: Make) -> None:
    paths = digits_run(class_names=tuple(EVIL.format(i) for i in range(10)), id_prefix="<img src=x onerror=alert(1)>")
    contracts.write_quarantine(
        paths.quarantine,
        [
            contracts.QuarantineRow(
                stage="prepare", reason="</td><script>", detail="<b>bold</b>", path='"><script>x.png'
            )
        ],
    )
    run_stage("evaluate", PARAMS, paths)
    title = "</title><script>alert(1)</script>"
    run_stage("report", PARAMS | {"report": {"title": title}}, paths)
    text = paths.report.read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert {value.split(":")[0] for name, value in page.attributes if name == "src"} == {"data"}
    assert EVIL.format(3) in page.text
    assert "<b>bold</b>" in page.text
    assert title in page.text


def test_what_is_missing_is_said(evaluated_run: EvaluatedRun) -> None:
    paths, _ = evaluated_run(truth=False, trusted=0, yardstick=False, test=False)
    _, page = made(paths)
    for sentence in (
        "nobody has measured how many are right",
        "no true labels are known for the purified rows",
        "no test rows, so no test accuracy",
        "No trusted rows",
        "Check a random sample",
        "Verify some rows",
    ):
        assert sentence in page.text
    assert "✓ true" not in page.text


def test_before_any_stage_has_run(tmp_path: Path) -> None:
    paths = Layout(tmp_path)
    _, page = made(paths)
    assert "has not been evaluated yet" in page.text
    assert dict(summary_table(paths))["labels right after"] == "— (the stage evaluate has not run)"


def test_the_report_does_not_need_the_truth(evaluated_run: EvaluatedRun) -> None:
    paths, _ = evaluated_run()
    paths.truth.unlink()
    _, page = made(paths)
    assert "✓ true" in page.text


def test_images_shown_are_limited(evaluated_run: EvaluatedRun) -> None:
    paths, _ = evaluated_run()
    metrics = run_stage("report", PARAMS | {"report": {"suspicious": 3}}, paths)
    assert 3 <= metrics["images"] <= 6


def test_summary_table(evaluated_run: EvaluatedRun) -> None:
    paths, scores = evaluated_run()
    table = dict(summary_table(paths))
    assert table["labels right after"] == f"{100 * scores['labels']['accuracy_after']:.1f} %"
    assert table["test accuracy with purification"].startswith(
        f"{100 * scores['test']['model_best']['accuracy']:.1f} %"
    )
    assert table["time of train"] == "20.0 s"


def test_summary_table_says_why(evaluated_run: EvaluatedRun) -> None:
    paths, _ = evaluated_run(truth=False, yardstick=False)
    table = dict(summary_table(paths))
    assert table["labels right before"] == "— (no true labels are known for the purified rows)"
    assert table["test accuracy without"] == "— (no yardstick was trained)"


def test_stages_are_the_pipelines() -> None:
    assert STAGES == STAGE_NAMES


def test_metrics_of_a_broken_file_are_named(digits_run: Make) -> None:
    paths = digits_run()
    write_json(paths.metrics("train"), {"train": {}})
    paths.metrics("train").write_text("{")
    with pytest.raises(ValueError, match=r"train/metrics.json: not valid JSON"):
        run_stage("report", PARAMS, paths)


def test_a_model_of_observed_labels_is_not_called_purified(digits_run: Make) -> None:
    paths = digits_run(yardstick=False)
    write_json(paths.metrics("train"), {"train": {"labels": "observed", "seconds": 20.0}})
    run_stage("evaluate", PARAMS, paths)
    _, page = made(paths)
    table = dict(summary_table(paths))
    assert table["test accuracy with purification"] == "— (the model was trained on the observed labels)"
    assert "%" in table["test accuracy without"]
    assert "Test accuracy without purification" in page.text
    assert "with purification" not in page.text
