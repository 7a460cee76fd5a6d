"""The stage evaluate on a finished digits run: scores against recomputations, and what it says when things lack."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from lnl_core.contracts import ContractError, positions, read_labels, read_purified, read_truth
from lnl_core.files import read_json, write_json
from lnl_core.layout import Layout
from lnl_core.stages.stage import run_stage
from lnl_core.training.training_trace import TraceEpoch, write_trace
from tests.stages.conftest import EvaluatedRun

PARAMS = {"run": {"device": "cpu", "threads": 1}}
Make = Callable[..., Layout]


def records(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def evaluated(evaluated_run: EvaluatedRun) -> tuple[Layout, dict[str, Any]]:
    return evaluated_run()


def test_label_scores_are_those_of_a_join_by_dictionary(evaluated: tuple[Layout, dict[str, Any]]) -> None:
    paths, scores = evaluated
    truth = read_truth(paths.truth)
    true = dict(zip(truth.ids, truth.true_label, strict=True))
    purified = read_purified(paths.purified)
    before = [label == true[name] for name, label in zip(purified.ids, purified.label, strict=True)]
    after = [label == true[name] for name, label in zip(purified.ids, purified.purified_label, strict=True)]
    assert scores["labels"]["accuracy_before"] == pytest.approx(np.mean(before))
    assert scores["labels"]["accuracy_after"] == pytest.approx(np.mean(after))
    assert scores["labels"]["wrong_to_right"] == sum(b < a for b, a in zip(before, after, strict=True))
    assert scores["noise"]["rate_true"] == pytest.approx(1 - np.mean(before))
    assert set(scores["missing"]) == {"held_out"}


def test_confusion_tables_are_scikit_learns(evaluated: tuple[Layout, dict[str, Any]]) -> None:
    paths, _ = evaluated
    truth, purified = read_truth(paths.truth), read_purified(paths.purified)
    true = truth.true_label[positions(purified.ids, truth.ids, "truth")]
    known = confusion_matrix(true, purified.purified_label)
    cells = records(paths.plots / "confusion_purified.csv")
    assert sum(int(cell["count"]) for cell in cells) == len(purified)
    for cell in cells:
        assert int(cell["count"]) == known[int(cell["actual_label"]), int(cell["predicted_label"])]
        assert cell["actual"] == purified.class_names[int(cell["actual_label"])]


def test_suspicious_rows_come_in_order_with_their_truth(evaluated: tuple[Layout, dict[str, Any]]) -> None:
    paths, _ = evaluated
    purified, labels = read_purified(paths.purified), read_labels(paths.labels)
    doubt = 1 - purified.soft_label[np.arange(len(purified)), purified.label]
    rows = records(paths.plots / "suspicious.csv")
    assert len(rows) == 60
    assert [float(row["suspicion"]) for row in rows] == pytest.approx(np.sort(doubt)[::-1][:60], abs=1e-5)
    true = dict(zip(read_truth(paths.truth).ids, read_truth(paths.truth).true_label, strict=True))
    assert [row["true"] for row in rows] == [labels.class_names[true[row["id"]]] for row in rows]
    unsure = records(paths.plots / "uncertain.csv")
    assert [float(row["confidence"]) for row in unsure] == pytest.approx(np.sort(purified.confidence)[:60], abs=1e-5)


def test_test_accuracy_and_gain(evaluated: tuple[Layout, dict[str, Any]]) -> None:
    """The model learned from true labels, the yardstick from labels that are wrong to 60 %."""
    _, scores = evaluated
    test = scores["test"]
    assert (test["rows"], test["label_source"]) == (360, "truth")
    assert test["model_best"]["accuracy"] > 0.9 > test["yardstick_best"]["accuracy"]
    assert test["model_best"]["accuracy_low"] < test["model_best"]["accuracy"] < test["model_best"]["accuracy_high"]
    difference = test["model_best"]["accuracy"] - test["yardstick_best"]["accuracy"]
    assert test["gain"]["difference"] == pytest.approx(difference)
    assert test["gain"]["low"] > 0


def test_transition_error_against_the_purifiers_matrix(evaluated: tuple[Layout, dict[str, Any]]) -> None:
    paths, scores = evaluated
    cells = records(paths.plots / "transition.csv")
    gaps = [abs(float(cell["true_share"]) - float(cell["estimated_share"])) for cell in cells]
    assert len(gaps) == 100
    assert scores["noise"]["transition_error"] == pytest.approx(np.mean(gaps), abs=1e-5)
    assert scores["noise"]["rate_estimated"] == 0.62


def test_batch_size_changes_nothing(evaluated: tuple[Layout, dict[str, Any]]) -> None:
    paths, one = evaluated
    files = {file.name: file.read_bytes() for file in paths.plots.iterdir()}
    two = dict(run_stage("evaluate", PARAMS | {"evaluate": {"batch_size": 7}}, paths))
    assert {file.name: file.read_text() for file in paths.plots.iterdir()}.keys() == files.keys()
    same = ("suspicious.csv", "flow.csv", "confusion_test_model_best.csv", "per_class.csv")
    assert all((paths.plots / name).read_bytes() == files[name] for name in same)
    assert one["labels"] == two["labels"]
    assert one["test"]["model_best"]["accuracy"] == two["test"]["model_best"]["accuracy"]


def test_without_truth_trusted_rows_test_rows_and_yardstick(evaluated_run: EvaluatedRun) -> None:
    paths, scores = evaluated_run(truth=False, trusted=0, yardstick=False, test=False)
    assert set(scores["missing"]) == {"truth", "trusted", "yardstick", "test", "trace_truth", "held_out"}
    assert "accuracy_after" not in scores["labels"]
    assert "detection" not in scores
    assert scores["labels"]["changed"] > 0
    assert all(row["true"] == "" for row in records(paths.plots / "suspicious.csv"))
    assert not (paths.plots / "confusion_purified.csv").exists()
    assert (paths.plots / "flow.csv").exists()
    assert all(cell["true_share"] == "" for cell in records(paths.plots / "transition.csv"))


def test_selection_is_that_of_a_join_by_dictionary(evaluated: tuple[Layout, dict[str, Any]]) -> None:
    """The trace's last epoch selects the rows whose purified label is doubted by less than 0.3."""
    paths, scores = evaluated
    true = dict(zip(*(getattr(read_truth(paths.truth), name) for name in ("ids", "true_label")), strict=True))
    purified = read_purified(paths.purified)
    right = {row: label == true[row] for row, label in zip(purified.ids, purified.purified_label, strict=True)}
    chosen = {row for row, sure in zip(purified.ids, purified.confidence, strict=True) if 1 - sure < 0.1 * 3}
    rows = records(paths.plots / "selection.csv")
    assert [row["epoch"] for row in rows] == ["2", "3"]  # the first epoch selected nothing
    assert float(rows[1]["selected"]) == pytest.approx(len(chosen) / len(right), abs=1e-5)
    assert float(rows[1]["precision"]) == pytest.approx(np.mean([right[row] for row in chosen]), abs=1e-5)
    recall = sum(right[row] for row in chosen) / sum(right.values())
    assert float(rows[1]["recall"]) == pytest.approx(recall, abs=1e-5)
    assert scores["training"]["selection"]["recall"] == pytest.approx(recall)
    assert scores["training"]["noise_rate"] == pytest.approx(1 - np.mean(list(right.values())))
    assert 0.5 < float(rows[1]["auc"]) < 1
    predicted = records(paths.plots / "predicted.csv")
    assert [float(row["accuracy"]) for row in predicted] == [float(row["learned"]) for row in predicted]
    assert float(predicted[0]["observed"]) == pytest.approx(1 - scores["noise"]["rate_true"], abs=1e-5)


def test_histogram_counts_every_row_at_the_first_and_the_last_split(evaluated: tuple[Layout, dict[str, Any]]) -> None:
    paths, scores = evaluated
    rows = records(paths.plots / "small_loss.csv")
    for epoch in ("2", "3"):
        bins = [row for row in rows if row["epoch"] == epoch]
        assert len(bins) == 50
        assert sum(int(row["rows"]) for row in bins) == scores["training"]["rows"]
        assert all(int(row["rows"]) == int(row["right"]) + int(row["wrong"]) for row in bins)
        assert sum(float(row["density_small"]) for row in bins) / 50 == pytest.approx(0.8, abs=0.11)  # 13 % lie below 0


def test_the_trainers_matrix_is_held_against_the_labels_that_it_learned_from(
    evaluated: tuple[Layout, dict[str, Any]],
) -> None:
    paths, scores = evaluated
    purified, truth = read_purified(paths.purified), read_truth(paths.truth)
    true = truth.true_label[positions(purified.ids, truth.ids, "truth")]
    shares = confusion_matrix(true, purified.purified_label, normalize="true")
    estimated = np.full((10, 10), 0.02) + 0.8 * np.eye(10)
    assert scores["training"]["transition_error"] == pytest.approx(np.abs(shares - estimated).mean())
    assert scores["training"]["noise_estimate_error"] == pytest.approx(np.abs(shares - estimated).mean())
    cells = records(paths.plots / "trainer_transition.csv")
    assert len(cells) == 100
    assert float(cells[11]["true_share"]) == pytest.approx(shares[1, 1], abs=1e-5)


def test_the_map_has_every_test_row_with_its_label(evaluated: tuple[Layout, dict[str, Any]]) -> None:
    paths, scores = evaluated
    rows = records(paths.plots / "embedding.csv")
    assert len(rows) == scores["test"]["rows"]
    hits = np.mean([row["actual"] == row["predicted"] for row in rows])
    assert hits == pytest.approx(scores["test"]["model_best"]["accuracy"])
    few = run_stage("evaluate", PARAMS | {"evaluate": {"embedding_rows": 40}}, paths)
    assert len(records(paths.plots / "embedding.csv")) == 40
    assert "embedding" not in few["missing"]


@pytest.mark.parametrize(("rows", "why"), [(0, "asks for no map"), (29, "29 test rows are too few")])
def test_why_there_is_no_map(digits_run: Make, rows: int, why: str) -> None:
    paths = digits_run()
    scores = run_stage("evaluate", PARAMS | {"evaluate": {"embedding_rows": rows}}, paths)
    assert why in scores["missing"]["embedding"]
    assert not (paths.plots / "embedding.csv").exists()


def test_a_trace_without_truth_still_shows_how_much_was_selected(evaluated_run: EvaluatedRun) -> None:
    paths, scores = evaluated_run(truth=False)
    rows = records(paths.plots / "selection.csv")
    assert all(row["selected"] and not row["precision"] + row["recall"] + row["auc"] for row in rows)
    assert all(row["rows"] and not row["right"] + row["wrong"] for row in records(paths.plots / "small_loss.csv"))
    assert all(not row["accuracy"] for row in records(paths.plots / "predicted.csv"))
    assert scores["missing"]["trace_truth"] == "no true labels are known for the training rows"
    assert "noise_rate" not in scores["training"]
    assert all(not row["true_share"] for row in records(paths.plots / "trainer_transition.csv"))


def test_a_run_of_an_old_version_has_no_trace(evaluated_run: EvaluatedRun) -> None:
    paths, scores = evaluated_run(trace=False)
    assert {topic: why for topic, why in scores["missing"].items() if topic != "held_out"} == {
        "trace": "the training left no trace of its epochs",
        "trainer_transition": "the training method estimates no transition matrix",
    }
    assert not {"selection.csv", "predicted.csv", "small_loss.csv"} & {file.name for file in paths.plots.iterdir()}
    shutil.rmtree(paths.root / "train")
    assert "trace" in run_stage("evaluate", PARAMS, paths)["missing"]


def test_a_trace_of_fewer_columns_says_what_it_lacks(digits_run: Make) -> None:
    paths = digits_run(trace=False)
    paths.train_trace.mkdir()
    write_trace(paths.train_trace, TraceEpoch(epoch=1, ids=read_purified(paths.purified).ids))
    scores = run_stage("evaluate", PARAMS, paths)
    assert {"selection", "predicted", "small_loss"} <= set(scores["missing"])
    assert scores["training"]["epochs_traced"] == 1


def test_a_trainers_matrix_of_another_size_is_named(digits_run: Make) -> None:
    paths = digits_run()
    metrics = read_json(paths.metrics("train"))
    metrics["train"]["noise"]["transition"] = [[1.0]]
    write_json(paths.metrics("train"), metrics)
    with pytest.raises(ContractError, match=r"train/metrics.json: transition has shape \(1, 1\), must be \(10, 10\)"):
        run_stage("evaluate", PARAMS, paths)


def test_test_labels_without_truth_are_called_what_they_are(evaluated_run: EvaluatedRun) -> None:
    _, scores = evaluated_run(truth=False)
    assert scores["test"]["label_source"] == "observed"


def test_no_model_and_no_file_of_truth(digits_run: Make) -> None:
    paths = digits_run()
    paths.truth.unlink()
    shutil.rmtree(paths.model)
    paths.metrics("purify").unlink()
    scores = run_stage("evaluate", PARAMS, paths)
    assert {"model", "truth", "transition"} <= set(scores["missing"])
    assert "gain" not in scores["test"]


def test_stale_plots_do_not_outlive_a_run(evaluated: tuple[Layout, dict[str, Any]]) -> None:
    paths, _ = evaluated
    assert list(paths.plots.glob("*yardstick*"))
    shutil.rmtree(paths.yardstick)
    run_stage("evaluate", PARAMS, paths)
    assert not list(paths.plots.glob("*yardstick*"))


def test_a_matrix_of_another_size_is_named(digits_run: Make) -> None:
    paths = digits_run()
    metrics = read_json(paths.metrics("purify"))
    metrics["purify"]["transition"] = [[1.0, 0.0], [0.0, 1.0]]
    write_json(paths.metrics("purify"), metrics)
    with pytest.raises(ContractError, match=r"purify/metrics.json: transition has shape \(2, 2\), must be \(10, 10\)"):
        run_stage("evaluate", PARAMS, paths)


def test_a_model_of_other_classes_is_named(digits_run: Make) -> None:
    paths = digits_run()
    other = digits_run(class_names=tuple("abcdefghij"), root="other")
    shutil.rmtree(paths.model)
    shutil.copytree(other.model, paths.model)
    with pytest.raises(ContractError, match="model_best: was trained for the classes"):
        run_stage("evaluate", PARAMS, paths)
