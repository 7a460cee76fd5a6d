"""The run in a few lines: plain data for whoever prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lnl_core.report.formats import NONE, UNBROKEN, count, duration, percent
from lnl_core.report.run_files import RunFiles, dig, read_metrics


def summary_table(paths: RunFiles) -> list[tuple[str, str]]:
    """(label, value) lines: labels right before and after, test accuracy with and without purification, seconds.

    A value that is not known is a dash with its reason.
    """
    metrics = read_metrics(paths)
    scores, arms = metrics.get("evaluate", {}), arms_of(metrics)
    lines = [
        ("labels right before", _right(scores, "accuracy_before")),
        ("labels right after", _right(scores, "accuracy_after")),
        ("labels changed", _changed(scores)),
        ("test accuracy with purification", _test(scores, arms["with"])),
        ("test accuracy without", _test(scores, arms["without"])),
        *held_out_lines(scores),
    ]
    times = [(stage, dig(found, "seconds")) for stage, found in metrics.items()]
    lines += [(f"time of {stage}", duration(seconds)) for stage, seconds in times]
    lines.append(("time in all", duration(sum(seconds or 0.0 for _, seconds in times))))
    return [(label, value.replace(UNBROKEN, " ")) for label, value in lines]


def arms_of(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Which arm learned with purification and which without; a model that learned from observed labels is "without"."""
    if dig(metrics, "train", "labels") == "observed":
        return {"with": "none", "without": "model"}
    return {"with": "model", "without": "yardstick"}


def held_out_lines(scores: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the promotion gate will look at; no line where no trusted rows are held out."""
    held = dig(scores, "held_out") or {}
    said = [f"{name} {percent(held[name]['accuracy'])}" for name in ("probe", "model") if name in held]
    return [("right on held-out trusted rows", f"{', '.join(said)} of {count(held['rows'])}")] if said else []


def reason(scores: Mapping[str, Any], *topics: str) -> str:
    """Why something is missing, in evaluate's words."""
    if not scores:
        return "the stage evaluate has not run"
    if "none" in topics:
        return "the model was trained on the observed labels"
    reasons = [dig(scores, "missing", topic) for topic in topics]
    return next((text for text in reasons if text), "not measured")


def _right(scores: Mapping[str, Any], key: str) -> str:
    value = dig(scores, "labels", key)
    return f"{NONE} ({reason(scores, 'truth')})" if value is None else percent(value)


def _changed(scores: Mapping[str, Any]) -> str:
    labels = dig(scores, "labels")
    if labels is None:
        return f"{NONE} ({reason(scores)})"
    return f"{count(labels['changed'])} of {count(labels['rows'])} ({percent(labels['changed_share'])})"


def _test(scores: Mapping[str, Any], arm: str) -> str:
    best, last = dig(scores, "test", f"{arm}_best"), dig(scores, "test", f"{arm}_last")
    if best is None:
        return f"{NONE} ({reason(scores, 'test', arm)})"
    interval = f"95 % interval {percent(best['accuracy_low'])} to {percent(best['accuracy_high'])}"
    notes = [interval, f"last epoch {percent(last['accuracy'])}"] if last else [interval]
    return f"{percent(best['accuracy'])} ({'; '.join(notes)})"
