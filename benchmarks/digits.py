"""The results table of README.md: digits at 60 % exclusive symmetric noise, several seeds, best and last epoch.

    python benchmarks/digits.py --seeds 5 --write README.md

A seed draws the trusted set, the noise, the initial weights and the batches. "true labels" trains the same method from
the same start on labels without noise: the ceiling. Test rows are the same for all seeds and choose nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lnl_core.config import load_preset
from lnl_core.files import read_json
from lnl_core.layout import Layout
from lnl_core.stages.chain import run_chain

METHODS = {"cross_entropy": "CE", "divide_mix": "DivideMix"}
CE = ["train.cross_entropy.epochs=20", "train.cross_entropy.batch_size=64", "train.cross_entropy.lr=0.05"]
START, END = "<!-- results -->", "<!-- /results -->"
Scores = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="replace the table between the markers in this file")
    arguments = parser.parse_args()
    scores: Scores = defaultdict(list)
    where = machine()  # before the hours in which somebody may commit
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for key, value in one_seed(seed, Layout(Path(folder))).items():
                scores[key].append(value)
        print(f"seed {seed}: {', '.join(f'{key} {values[-1]:.4g}' for key, values in scores.items())}", flush=True)
    text = table(scores, arguments.seeds, where)
    print(text)
    if arguments.write:
        before, rest = arguments.write.read_text(encoding="utf-8").split(START)
        after = rest.split(END)[1]
        arguments.write.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")


def one_seed(seed: int, paths: Layout) -> dict[str, float]:
    """Every score of one seed; the encoder is pretrained once, for it sees no labels."""
    found: dict[str, float] = {}
    for method in METHODS:
        base = [f"run.seed={seed}", f"train.method={method}", *CE]
        run_chain(load_preset("digits", base), paths, last="evaluate")
        evaluated = metrics(paths, "evaluate")
        found["labels/before"] = evaluated["labels"]["accuracy_before"]
        found["labels/after"] = evaluated["labels"]["accuracy_after"]
        found |= test_scores(evaluated, method, "model", "purified")
        found |= test_scores(evaluated, method, "yardstick", "observed")
        if method == "divide_mix":  # the demo's own setting
            stages = ("prepare", "inject", "pretrain", "features", "purify", "train", "evaluate")
            found["seconds"] = sum(metrics(paths, stage)["seconds"] for stage in stages)
        clean = [*base, "inject.type=none", "purify.method=none", "train.labels=observed"]
        run_chain(load_preset("digits", clean), paths, last="evaluate")
        found |= test_scores(metrics(paths, "evaluate"), method, "model", "true")
    return found


def test_scores(evaluated: dict[str, Any], method: str, arm: str, labels: str) -> dict[str, float]:
    return {f"{method}/{labels}/{which}": evaluated["test"][f"{arm}_{which}"]["accuracy"] for which in ("best", "last")}


def metrics(paths: Layout, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(paths.metrics(stage))[stage]
    return found


def table(scores: Scores, seeds: int, where: str) -> str:
    lines = [
        "Digits (1,438 train and 359 test rows), symmetric noise of 60 % (exclusive), 100 trusted rows, "
        f"{seeds} seeds; mean ± standard deviation in %.",
        "",
        f"Labels right: {mean_and_sd(scores['labels/before'])} before purification, "
        f"**{mean_and_sd(scores['labels/after'])}** after.",
        "",
        "| test accuracy, best (last) epoch | observed labels | purified labels | true labels |",
        "|---|---|---|---|",
    ]
    for method, name in METHODS.items():
        cells = [
            f"{mean_and_sd(scores[f'{method}/{labels}/best'])} ({mean_and_sd(scores[f'{method}/{labels}/last'])})"
            for labels in ("observed", "purified", "true")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "All from the SimCLR encoder; the best epoch is chosen on the trusted rows. "
        f"{np.mean(scores['seconds']):.0f} s a seed from images to scores (DivideMix, with yardstick). {where}",
    ]
    return "\n".join(lines)


def mean_and_sd(values: list[float]) -> str:
    return (
        f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else f"{values[0]:.1%}"
    )


def machine() -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return (
        f"{len(os.sched_getaffinity(0))} cores of a {platform.machine()} CPU, torch {torch.__version__}, "
        f"commit {commit.stdout.strip() or 'unknown'}."
    )


if __name__ == "__main__":
    main()
