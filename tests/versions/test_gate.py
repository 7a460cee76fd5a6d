"""The gate's decisions: by hand, on tables whose predictions are chosen, and how often it is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from lnl_core.config import ConfigError, parse
from lnl_core.contracts import string_ids
from lnl_core.evaluate.held_out import HeldOutTable
from lnl_core.versions.decision_text import markdown, record
from lnl_core.versions.gate import GateDecision, GateSettings, gate
from tests.versions.conftest import held_out_table, mostly_right

ROWS = 300
LABEL = np.arange(ROWS) % 3


def table(wrong: int, seed: int = 0, **changes: object) -> HeldOutTable:
    right = mostly_right(ROWS, wrong, seed)
    return held_out_table({"probe": right, "model": right}, LABEL, **changes)


def decided(new: HeldOutTable, old: HeldOutTable | None, **settings: object) -> GateDecision:
    return gate(new, old, parse(GateSettings, settings, "gate"), version=7, against=6)


def test_the_first_version_is_promoted() -> None:
    decision = gate(table(30), None, GateSettings(), version=1)
    assert (decision.outcome, decision.passes) == ("first", True)


def test_the_same_predictions_lose_nothing() -> None:
    decision = decided(table(30), table(30))
    assert (decision.outcome, decision.passes, decision.rows) == ("promote", True, ROWS)
    assert len(decision.comparisons) == 2 * (1 + 3)
    assert all((one.gained, one.lost, one.difference) == (0, 0, 0) for one in decision.comparisons)


def test_a_loss_over_all_rows_is_refused_with_its_counts() -> None:
    decision = decided(table(60), table(30))
    assert (decision.outcome, decision.passes) == ("refuse", False)
    overall = decision.comparisons[0]
    assert (overall.classifier, overall.group, overall.rows) == ("probe", None, ROWS)
    assert (overall.lost, overall.gained) == (30, 0)
    assert (overall.old_accuracy, overall.new_accuracy) == (0.9, 0.8)
    assert overall.low < -0.1 < overall.high < 0
    assert decision.reason.startswith("it loses over all rows (probe)")


def test_a_gain_and_a_small_loss_pass() -> None:
    assert decided(table(10), table(40)).outcome == "promote"
    assert decided(table(32), table(30)).outcome == "promote"


def test_one_class_that_loses_is_enough_even_where_the_others_gain() -> None:
    old = held_out_table({"probe": mostly_right(ROWS, 60)}, LABEL)
    right = np.where(LABEL == 1, np.arange(ROWS) % 2 == 0, True)  # half of the dogs are lost, all others are right
    decision = decided(held_out_table({"probe": right}, LABEL), old)
    assert decision.comparisons[0].difference > 0
    assert [one.group for one in decision.comparisons if one.loses] == ["dog"]
    assert decision.reason == "it loses in class 'dog'"


def test_a_tolerance_lets_a_loss_pass() -> None:
    assert decided(table(60), table(30)).outcome == "refuse"
    assert decided(table(60), table(30), tolerance=0.15, class_tolerance=0.2).outcome == "promote"


def test_classes_with_few_rows_are_named_and_not_compared() -> None:
    label = np.where(np.arange(ROWS) < 280, np.arange(ROWS) % 2, 2)
    label[-1] = 0  # 19 eels, one fewer than are compared
    right = label != 2
    old = held_out_table({"probe": np.ones(ROWS, bool)}, label)
    decision = decided(held_out_table({"probe": right}, label), old, tolerance=0.5)
    assert decision.outcome == "promote"
    assert decision.not_compared == {"eel": 19}
    assert "Not compared, with fewer than 20 held-out rows: eel (19)." in markdown(decision)
    assert decided(held_out_table({"probe": right}, label), old, tolerance=0.5, class_rows=19).outcome == "refuse"


@pytest.mark.parametrize(
    ("new", "old", "words"),
    [
        (
            table(30),
            held_out_table({}, LABEL[:0], missing={"held_out": "set the share"}),
            "promoted version has no held",
        ),
        (
            held_out_table({}, LABEL[:0], missing={"held_out": "set the share"}),
            table(30),
            "it has no held-out rows: set",
        ),
        (table(30, ids=string_ids([f"other-{row}" for row in range(ROWS)])), table(30), "0 held-out rows in common"),
        (held_out_table({"probe": LABEL >= 0}, LABEL), held_out_table({"model": LABEL >= 0}, LABEL), "neither a probe"),
        (table(30, class_names=("cat", "dog", "eel", "fox")), table(30), "a person must decide"),
    ],
)
def test_what_cannot_be_compared_waits_for_a_person(new: HeldOutTable, old: HeldOutTable, words: str) -> None:
    decision = decided(new, old)
    assert (decision.outcome, decision.passes) == ("undecided", False)
    assert words in decision.reason
    assert "The promoted version stays" in markdown(decision)
    assert decided(new, old, undecided="promote").passes


def test_rows_are_matched_by_id_and_the_newest_verified_label_counts() -> None:
    old, new = table(0), table(0)
    order = np.random.default_rng(1).permutation(ROWS)
    shuffled = replace(
        new,
        ids=new.ids[order],
        label=new.label[order],
        predictions={name: replace(said, label=said.label[order]) for name, said in new.predictions.items()},
    )
    assert decided(shuffled, old).comparisons == decided(new, old).comparisons
    label = LABEL.copy()
    label[0] = 2  # was a cat: both said so, and now both are wrong
    corrected = decided(replace(new, label=label.astype(np.int32)), old)
    assert corrected.comparisons[0].old_accuracy == corrected.comparisons[0].new_accuracy == 299 / 300
    assert "1 rows have another verified label since" in corrected.notes[0]


def test_notes_say_what_was_not_compared() -> None:
    new = held_out_table({"probe": LABEL >= 0}, LABEL, about={"encoder": "two"})
    old_rows = np.arange(ROWS) < 200
    old = table(30)
    old = replace(
        old,
        ids=old.ids[old_rows],
        label=old.label[old_rows],
        predictions={name: replace(said, label=said.label[old_rows]) for name, said in old.predictions.items()},
    )
    decision = decided(new, old)
    assert decision.rows == 200
    notes = " ".join(decision.notes)
    assert "100 held-out rows are in the new version alone" in notes
    assert "the model was not compared: the new version has none" in notes
    assert "the encoder is another one" in notes


def test_the_text_is_for_people_and_the_record_for_machines() -> None:
    decision = replace(decided(table(60), table(30)), labels={"changed": 5, "changed_before": 4, "different": 3})
    text = markdown(decision)
    assert text.startswith("### Version 7 does not replace version 6\n")
    assert "| probe | 300 | 90.0% | 80.0% | -10.0 |" in text
    assert "| loses |" in text
    assert "3 rows have another label than in the promoted version" in text
    kept = json.loads(json.dumps(record(decision)))
    assert (kept["outcome"], kept["passes"], kept["against"]) == ("refuse", False, 6)
    assert kept["comparisons"][0]["lost"] == 30


def test_a_class_name_cannot_break_the_table() -> None:
    names = ("a|<b>", "dog", "eel")
    decision = decided(table(150, class_names=names), table(0, class_names=names))
    assert "a\\|\\<b\\> (probe)" in markdown(decision)


def test_a_version_that_is_as_good_is_rarely_refused() -> None:
    """At most `false_alarms` (5 %) of 300; the binomial gives 25 or more with a chance below 1 in 100 at 5 %."""
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        right = [generator.random(ROWS) < 0.9 for _ in range(4)]
        new = held_out_table({"probe": right[0], "model": right[1]}, LABEL)
        old = held_out_table({"probe": right[2], "model": right[3]}, LABEL)
        refused += decided(new, old).outcome == "refuse"
    assert refused < 25


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="false_alarms"):
        parse(GateSettings, {"false_alarms": 0}, "gate")
