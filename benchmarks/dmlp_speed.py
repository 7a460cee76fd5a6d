"""ipc_ensemble and DMLP against the slow twin of the published procedure: seconds, and labels right.

    LNL_TEST_DATA=folder python benchmarks/dmlp_speed.py

Seconds: clustered synthetic features of 49,000 rows, 1,000 trusted, 10 classes, 100 epochs, EAC trained in all of them.
The slow twin (an inverse in every step, autograd, Adam on the labels; `published_dmlp_twin.py`) runs a few epochs in
float32, which all cost the same, and is extrapolated; modes `released` (float64, and float32 as the twin) and
`ipc_ensemble` run whole. All of a width run one after another in one process, so that ratios compare like with like.

Labels: the features and noises of `benchmarks/purify.py`. The twin's labels are those of mode `released`, which equals
it (tests/purify/test_dmlp.py).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cells import machine, machine_line
from published_dmlp_twin import TwinTask, twin_labels
from purify import HUMAN, NOISES, draw_task, load

from lnl_core.features.user_table import MappedRows
from lnl_core.purify.dmlp import DMLPConfig, dmlp
from lnl_core.purify.ipc_ensemble import IPCEnsembleConfig, ipc_ensemble
from lnl_core.purify.task import PurifyTask

HERE = Path(__file__).parent
METHODS = {
    "paper": lambda task, draw: dmlp(task, DMLPConfig(mode="paper"), draw),
    "released": lambda task, draw: dmlp(task, DMLPConfig(mode="released"), draw),
    "ipc_ensemble": lambda task, draw: ipc_ensemble(task, IPCEnsembleConfig(), draw),
}
Record = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LNL_TEST_DATA", "../shared/data")))
    parser.add_argument("--rows", type=int, default=49_000)
    parser.add_argument("--widths", type=int, nargs="*", default=[512, 1280, 2048])
    parser.add_argument("--noises", nargs="*", default=[*NOISES, *HUMAN], choices=[*NOISES, *HUMAN])
    parser.add_argument("--seeds", type=int, default=1, help="of noise and trusted rows, for the labels")
    parser.add_argument("--twin-epochs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--write", type=Path, default=HERE / "results" / "dmlp_speed.md")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = machine(arguments.threads)
    lines = ["# DMLP against its published procedure", "", machine_line([{"machine": about}])]
    lines += speed_table(arguments) if arguments.widths else []
    lines += labels_table(arguments) if arguments.noises else []
    arguments.write.write_text("\n".join([*lines, ""]), encoding="utf-8")
    print(f"wrote {arguments.write}")


# --- seconds -----------------------------------------------------------------------------------------------------


def speed_table(arguments: argparse.Namespace) -> list[str]:
    lines = [
        "",
        f"## Seconds for 100 epochs over {arguments.rows:,} rows, 1,000 trusted, 10 classes",
        "",
        f"The twin ran {arguments.twin_epochs} epochs and is extrapolated to 100. In brackets: times faster.",
        "",
        "| features | twin | `released` | `released`, float32 | `fixed` |",
        "|---|---|---|---|---|",
    ]
    for width in arguments.widths:
        found = speeds(arguments.rows, width, arguments.twin_epochs)
        cells = [f"{found[name]:.1f} ({found['twin'] / found[name]:.0f})" for name in list(found)[1:]]
        lines.append(f"| {width} | {found['twin']:.0f} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def speeds(rows: int, width: int, twin_epochs: int) -> Record:
    task = clustered(rows, width, np.random.default_rng(width))
    settings = DMLPConfig.of("released")
    single = DMLPConfig(mode="released", precision="float32")
    return {
        "twin": settings.epochs * twin_epoch_seconds(task, twin_epochs),
        "released": timed(lambda: dmlp(task, DMLPConfig(mode="released"), np.random.default_rng(0))),
        "released, float32": timed(lambda: dmlp(task, single, np.random.default_rng(0))),
        "ipc_ensemble": timed(lambda: ipc_ensemble(task, IPCEnsembleConfig(), np.random.default_rng(0))),
    }


def twin_epoch_seconds(task: PurifyTask, measured: int) -> float:
    """Mean seconds of an epoch after one that is not counted; nor is reading the features."""
    features = np.concatenate([batch for _, batch in task.noisy.batches()])
    twin = TwinTask(
        noisy=torch.from_numpy(features),
        observed=torch.from_numpy(task.observed).long(),
        trusted=torch.from_numpy(task.trusted),
        trusted_label=torch.from_numpy(task.trusted_label).long(),
        prior=torch.full((task.classes,), 1 / task.classes),
    )
    passes = twin_labels(twin, DMLPConfig.of("released", epochs=measured + 1), np.random.default_rng(0))
    next(passes)
    return timed(lambda: list(passes)) / measured


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def clustered(rows: int, width: int, generator: np.random.Generator) -> PurifyTask:
    """Overlapping clusters in float16, as a feature cache holds them, with half of the labels drawn anew."""
    label = generator.integers(0, 10, rows + 1000).astype(np.int32)
    centres = generator.normal(size=(10, width)).astype(np.float32)
    features = np.empty((rows + 1000, width), dtype=np.float16)
    for start in range(0, len(label), 8192):
        part = label[start : start + 8192]
        features[start : start + 8192] = centres[part] + 5 * generator.standard_normal((len(part), width), np.float32)
    anew = generator.random(len(label)) < 0.5
    observed = np.where(anew, generator.integers(0, 10, len(label)), label).astype(np.int32)
    return PurifyTask(
        noisy=MappedRows(values=features, rows=np.arange(rows)),
        observed=observed[:rows],
        trusted=features[rows:].astype(np.float32),
        trusted_label=label[rows:],
        trusted_observed=observed[rows:],
        classes=10,
    )


# --- labels ------------------------------------------------------------------------------------------------------


def labels_table(arguments: argparse.Namespace) -> list[str]:
    features, tables = load(arguments.data)
    lines = [
        "",
        "## Labels right, % of 49,000 rows with 512 features",
        "",
        f"Mean over {arguments.seeds} seed(s) of noise and trusted rows; 1,000 trusted rows; after 100 epochs.",
        "",
        f"| noise | observed | {' | '.join(f'`{mode}`' for mode in METHODS)} | EAC of `released` on trusted rows |",
        "|---" * 6 + "|",
    ]
    for noise in arguments.noises:
        found = [labels_right(features, tables, noise, seed) for seed in range(arguments.seeds)]
        cells = [f"{100 * np.mean([one[name] for one in found]):.1f}" for name in found[0]]
        lines.append(f"| {noise} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def labels_right(features: Any, tables: dict[str, Any], noise: str, seed: int) -> Record:
    task, noisy, _ = draw_task(features, tables, noise, seed)
    true = tables["label"][noisy]
    record = {"observed": float((task.observed == true).mean())}
    for mode, method in METHODS.items():
        found = method(task, np.random.default_rng(seed))
        record[mode] = float((found.posterior.argmax(axis=1) == true).mean())
        if mode == "released":
            eac = float(found.metrics["eac_trusted_accuracy"])
    return {**record, "eac": eac}


if __name__ == "__main__":
    main()
