"""What to do next, in words: rules over the scores, each with the number that made it speak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lnl_core.report.formats import count, percent
from lnl_core.report.run_files import Record, dig, number

WEAK_CLASS = 0.15  # a class this far below the mean accuracy is worth a line
LARGE_ECE = 0.05  # above it a threshold on the confidence does not mean what it says
FEW_TRUSTED = 10  # a class
LEAKY_SELECTION = 0.1  # share of wrong labels among the selected rows that a network begins to learn by heart
POOR_SELECTION = 0.5  # share of the right labels that is selected
ESTIMATE_GAP = 0.05  # between the estimated noise rate and the measured one


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One card."""

    kind: Literal["do", "good", "caution"]
    title: str
    text: str


def advise(
    metrics: Mapping[str, Mapping[str, Any]], per_class: Sequence[Record], transition_diagonal: Mapping[str, float]
) -> list[Advice]:
    """Most useful first: what to do, what to be careful about, what went well."""
    scores = metrics.get("evaluate", {})
    if not scores:
        text = "The stage evaluate has not run yet, so there are no scores: run `lnl stage evaluate`, then the report."
        return [Advice(kind="do", title="Evaluate the run", text=text)]
    rules = (
        _promise(metrics.get("purify", {})),
        _review(scores),
        _truth(scores),
        _trusted(scores, metrics.get("prepare", {})),
        _quarantine(metrics.get("prepare", {})),
        _weak_classes(scores, per_class),
        _lost_classes(per_class),
        _harm(scores),
        _estimate(scores),
        _calibration(scores),
        _transition(transition_diagonal),
        _test(scores, metrics.get("prepare", {})),
        _assumed(metrics.get("train", {})),
        _selection(scores, metrics.get("train", {})),
        _predicted(scores),
        _overfit(scores),
        _gain(scores),
    )
    found = [advice for rule in rules for advice in rule]
    order = {"do": 0, "caution": 1, "good": 2}
    return sorted(found, key=lambda advice: order[advice.kind])


def _promise(purify: Mapping[str, Any]) -> Iterator[Advice]:
    review = dig(purify, "routes", "review")
    refusal = purify.get("promise_refused")
    if refusal and review:
        text = f"{refusal[0].upper()}{refusal[1:]}. The {count(review)} proposed changes are left to review."
        yield Advice(kind="caution", title="No label was changed", text=text)
    elif review:
        text = (
            f"{count(review)} proposed changes are too uncertain for what was promised. `lnl labels review` writes "
            "them as a table to be filled in, `lnl labels apply` takes it back."
        )
        title = f"Review {count(review)} proposed {'change' if review == 1 else 'changes'}"
        yield Advice(kind="do", title=title, text=text)


def _review(scores: Mapping[str, Any]) -> Iterator[Advice]:
    unsure, rows = dig(scores, "labels", "below_half_confidence"), dig(scores, "labels", "rows")
    if unsure:
        yield Advice(
            kind="do",
            title=f"Look at {count(unsure)} unsure {'label' if unsure == 1 else 'labels'}",
            text=f"{count(unsure)} of {count(rows)} labels have less than {percent(0.5, 0)} confidence. A look "
            "at them helps most: the least certain are shown under Images, all are in purified.parquet (sort by "
            "confidence). Checked rows can join the trusted set of the next run.",
        )
    elif rows:
        text = f"All purified labels have a confidence of {percent(0.5, 0)} or more; Images shows the least certain."
        yield Advice(kind="good", title="No very unsure labels", text=text)


def _truth(scores: Mapping[str, Any]) -> Iterator[Advice]:
    if dig(scores, "labels", "rows") and not dig(scores, "labels", "rows_with_truth"):
        yield Advice(
            kind="do",
            title="Check a random sample",
            text="No true labels are known, so nothing here measures how many purified labels are right. Draw 100 "
            "purified rows at random and check them by hand: that gives the share to within ten points.",
        )


def _trusted(scores: Mapping[str, Any], prepare: Mapping[str, Any]) -> Iterator[Advice]:
    rows, by_class = dig(scores, "trusted", "rows"), dig(prepare, "trusted_per_class") or {}
    if rows == 0:
        text = (
            "Without verified rows the noise cannot be calibrated and methods that learn from a trusted set cannot "
            "be used. Ten verified rows a class are a good start."
        )
        yield Advice(kind="do", title="Verify some rows", text=text)
        return
    few = sorted((held, name) for name, held in by_class.items() if held < FEW_TRUSTED)
    if few:
        named = ", ".join(f"{name} ({held})" for held, name in few[:5]) + (" and others" if len(few) > 5 else "")
        text = f"{len(few)} of {len(by_class)} classes have fewer than {FEW_TRUSTED} trusted rows: {named}."
        yield Advice(kind="do", title="Verify more rows of some classes", text=text)


def _quarantine(prepare: Mapping[str, Any]) -> Iterator[Advice]:
    if rows := dig(prepare, "quarantined"):
        reasons = ", ".join(
            f"{reason} ({held})" for reason, held in (dig(prepare, "quarantined_by_reason") or {}).items()
        )
        text = (
            f"They are not part of anything above. Reasons: {reasons}. Each is listed under Quarantine with its mend."
        )
        yield Advice(kind="do", title=f"Mend {count(rows)} quarantined {'row' if rows == 1 else 'rows'}", text=text)


def _weak_classes(scores: Mapping[str, Any], per_class: Sequence[Record]) -> Iterator[Advice]:
    mean = dig(scores, "labels", "balanced_accuracy_after")
    known = [(after, record["class"]) for record in per_class if (after := number(record, "after")) is not None]
    weak = sorted((after, name) for after, name in known if mean is not None and after < mean - WEAK_CLASS)
    if weak and mean is not None:
        named = ", ".join(f"{name} ({percent(after)})" for after, name in weak[:5])
        text = f"Far below the mean of {percent(mean)} after purification: {named}. More trusted rows help there first."
        yield Advice(kind="do", title="Strengthen the weakest classes", text=text)


def _lost_classes(per_class: Sequence[Record]) -> Iterator[Advice]:
    lost = [
        record["class"]
        for record in per_class
        if number(record, "purified_rows") == 0 and number(record, "observed_rows")
    ]
    if lost:
        text = f"No row has this label any more: {', '.join(lost[:5])}{' and others' if len(lost) > 5 else ''}."
        yield Advice(kind="caution", title="Purification emptied a class", text=text)


def _harm(scores: Mapping[str, Any]) -> Iterator[Advice]:
    before, after = dig(scores, "labels", "accuracy_before"), dig(scores, "labels", "accuracy_after")
    if before is not None and after is not None and after <= before:
        text = f"{percent(before)} of the labels were right before and {percent(after)} after: do not use these labels."
        yield Advice(kind="caution", title="Purification did not help the labels", text=text)


def _estimate(scores: Mapping[str, Any]) -> Iterator[Advice]:
    estimated, trusted = dig(scores, "noise", "rate_estimated"), dig(scores, "trusted") or {}
    if estimated is None or "noise_rate" not in trusted:
        return
    low, high = trusted["noise_low"], trusted["noise_high"]
    if not low <= estimated <= high:
        text = (
            f"The purifier estimates {percent(estimated)} wrong labels, {count(trusted['with_observed'])} trusted rows "
            f"say {percent(trusted['noise_rate'])} (95 % interval {percent(low)} to {percent(high)}). Are the "
            "trusted rows a fair sample?"
        )
        yield Advice(kind="caution", title="Two noise rates that disagree", text=text)


def _calibration(scores: Mapping[str, Any]) -> Iterator[Advice]:
    error, over = dig(scores, "calibration", "ece"), dig(scores, "calibration", "overconfidence")
    if error is None or over is None or error <= LARGE_ECE:
        return
    side = "too high" if over > 0 else "too low"
    harm = "lets more wrong labels through than it promises" if over > 0 else "drops more labels than it needs to"
    text = (
        f"Confidences differ from the share that is right by {100 * error:.1f} points in the mean and are {side} "
        f"overall: a threshold on them {harm}."
    )
    yield Advice(kind="caution", title="Rank by confidence, do not trust its value", text=text)


def _transition(diagonal: Mapping[str, float]) -> Iterator[Advice]:
    drowned = sorted((share, name) for name, share in diagonal.items() if share < 0.5)
    if drowned and len(drowned) < len(diagonal):
        named = ", ".join(f"{name} ({percent(share)})" for share, name in drowned[:5])
        text = f"By the purifier's estimate less than half of these classes kept their label: {named}."
        yield Advice(kind="caution", title="Classes with more wrong labels than right ones", text=text)


def _test(scores: Mapping[str, Any], prepare: Mapping[str, Any]) -> Iterator[Advice]:
    source = dig(scores, "test", "label_source")
    if source in ("observed", "mixed"):
        text = "Some or all test labels are the source's own and may be wrong too: test accuracy is a rough guide."
        yield Advice(kind="caution", title="Test labels are not verified", text=text)
    if leaks := dig(prepare, "test_images_also_in_train_or_val"):
        text = f"{count(leaks)} test images stand byte for byte among the training images; test accuracy flatters."
        yield Advice(kind="caution", title="Test images in the training data", text=text)


def _assumed(train: Mapping[str, Any]) -> Iterator[Advice]:
    if dig(train, "noise", "source") == "assumed":
        text = (
            f"Nothing was known of the noise, so the training assumed {percent(dig(train, 'noise', 'rate'))} wrong "
            "labels. Verified rows make it an estimate; `train.noise_rate` sets it by hand."
        )
        yield Advice(kind="do", title="Give the training a noise rate", text=text)


def _selection(scores: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[Advice]:
    found = dig(scores, "training", "selection") or {}
    estimated, measured = dig(train, "noise", "rate"), dig(scores, "training", "noise_rate")
    precision, recall = found.get("precision"), found.get("recall")
    known = estimated is not None and measured is not None
    rates = (
        f" It was given an estimate of {percent(estimated)} wrong labels, {percent(measured)} are wrong: "
        "the estimate is too "
    )
    mend = "; `train.noise_rate` sets another one."
    if precision is not None and 1 - precision > LEAKY_SELECTION:
        text = (
            f"Of the rows that the method selected in the last traced epoch {percent(1 - precision)} have a wrong "
            f"label (precision {percent(precision)}), and it learned from them as if they were right."
        )
        text += f"{rates}low{mend}" if known and estimated < measured - ESTIMATE_GAP else ""
        yield Advice(kind="caution", title="Wrong labels are learned as right ones", text=text)
    if recall is not None and recall < POOR_SELECTION:
        text = f"The method selected {percent(recall)} of the rows whose label is right in the last traced epoch."
        text += f"{rates}high{mend}" if known and estimated > measured + ESTIMATE_GAP else ""
        yield Advice(kind="caution", title="Right labels are left unused", text=text)


def _predicted(scores: Mapping[str, Any]) -> Iterator[Advice]:
    found = dig(scores, "training", "predicted") or {}
    predicted, learned = found.get("accuracy"), found.get("learned")
    if predicted is not None and learned is not None and predicted < learned:
        text = (
            f"In the last traced epoch {percent(predicted)} of the labels that the method predicted were right, "
            f"of the labels that it had learned from {percent(learned)}: this training makes the labels worse."
        )
        yield Advice(kind="caution", title="The method knows less than its labels", text=text)


def _overfit(scores: Mapping[str, Any]) -> Iterator[Advice]:
    best, last = dig(scores, "test", "model_best"), dig(scores, "test", "model_last", "accuracy")
    if best is not None and last is not None and last < best["accuracy_low"]:
        text = f"Test accuracy falls from {percent(best['accuracy'])} at the best epoch to {percent(last)} at the last."
        yield Advice(kind="caution", title="The model forgets towards the end", text=text)


def _gain(scores: Mapping[str, Any]) -> Iterator[Advice]:
    gain = dig(scores, "test", "gain")
    if not gain:
        return
    difference, low, high = (100 * gain[key] for key in ("difference", "low", "high"))
    interval = f"95 % interval {low:+.1f} to {high:+.1f}, {count(dig(scores, 'test', 'rows'))} test rows"
    if low > 0:
        text = f"On purified labels the same training is {difference:.1f} points better on test ({interval})."
        yield Advice(kind="good", title="Purification made the model better", text=text)
    elif high < 0:
        text = f"On purified labels the same training is {-difference:.1f} points worse on test ({interval})."
        yield Advice(kind="caution", title="Purification made the model worse", text=text)
    else:
        text = f"The test difference of {difference:+.1f} points is within chance ({interval})."
        yield Advice(kind="caution", title="No clear difference on test", text=text)
