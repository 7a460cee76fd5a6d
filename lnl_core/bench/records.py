"""results.jsonl: one line a cell that has ended, well or not. The last line of a cell is the one that counts."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import lnl_core
from lnl_core.bench.grid import Cell
from lnl_core.files import read_json
from lnl_core.layout import STAGE_NAMES, Layout
from lnl_core.report.versions import versions

log = logging.getLogger("lnl")
Record = dict[str, Any]


def read_records(path: Path) -> dict[str, Record]:
    """Settings hash -> the last record of that cell; none where there is no file.

    A line that is half written, as a kill leaves it, is passed over with a warning.
    """
    found: dict[str, Record] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else (), start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            log.warning("%s: line %d is not JSON and is passed over", path, number)
            continue
        found[record["settings"]] = record
    return found


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line; a half line before it is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0, 2)
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(record, sort_keys=True, allow_nan=False).encode() + b"\n")


def new_record(cell: Cell) -> Record:
    """What is known of a cell before it runs."""
    return {
        "cell": {"preset": cell.preset, "noise": cell.noise, "method": cell.method, "seed": cell.seed},
        "overrides": list(cell.overrides),
        "settings": cell.settings,
        "group": cell.group,
        "inject": _noise_settings(cell),
    }


def finished(cell: Cell, paths: Layout) -> Record:
    """The record of a run that ended well, from the metrics of its stages. Accuracies are shares, times seconds."""
    found = {stage: read_json(paths.metrics(stage))[stage] for stage in STAGE_NAMES if paths.metrics(stage).exists()}
    train, evaluated = found["train"], found["evaluate"]
    test, labels = evaluated["test"], evaluated["labels"]
    return {
        **new_record(cell),
        "test": {which: test.get(f"model_{which}", {}).get("accuracy") for which in ("best", "last")},
        "test_rows": test["rows"],
        "labels": {"before": labels.get("accuracy_before"), "after": labels.get("accuracy_after")},
        "noise_rate": {"true": found["inject"]["rate_realised"], "estimated": train.get("noise", {}).get("rate")},
        "held_out": train["held_out"],
        "best_epoch": train["best_epoch"],
        "epochs": train["epochs"],
        "rows": train["rows"],
        "model": {**train["model"], "parameters": train["parameters"]},
        "init": train["init"],
        "seconds": {stage: found[stage]["seconds"] for stage in found if "seconds" in found[stage]},
        "made_with": _made_with(train["device"]),
    }


def failed(cell: Cell, error: BaseException, trace: str) -> Record:
    """The record of a run that an error ended."""
    message = f"{type(error).__name__}: {error}"
    return {**new_record(cell), "error": message, "trace": trace, "made_with": _made_with("cpu")}


def _noise_settings(cell: Cell) -> dict[str, Any]:
    """The noise type and its settings alone: the protocol that a published number must share."""
    return noise_settings(cell.params.get("inject") or {})


def noise_settings(inject: Mapping[str, Any]) -> dict[str, Any]:
    """Type and settings of the selected noise, out of a section `inject`; where a file lies does not matter."""
    kind = inject.get("type", "none")
    settings = inject.get(kind) or {}
    return {"type": kind, **{key: value for key, value in settings.items() if key != "file"}}


def _made_with(device: str) -> dict[str, str]:
    found = dict(versions(torch.device(device), Path(lnl_core.__path__[0])))
    return {key: found[key] for key in ("lnl", "Python", "torch", "torchvision", "numpy", "device", "commit")}
