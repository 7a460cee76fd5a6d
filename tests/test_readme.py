"""What README.md has a newcomer type works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from lnl_core.contracts import NO_LABEL, read_purified
from lnl_core.features.user_table import MappedRows
from lnl_core.purify.ipc_ensemble import IPCEnsembleConfig, ipc_ensemble
from lnl_core.purify.task import PurifyTask

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
QUICK: list[str] = yaml.safe_load((REPOSITORY / "tests" / "quick_overrides.yaml").read_text(encoding="utf-8"))
TRUSTED = 150
PAGES = ["README.md", "CONTRIBUTING.md"]  # mkdocs checks the links of docs/


def commands(start: str) -> list[str]:
    """The indented command lines of README that begin with `start`, continued lines joined."""
    joined = README.replace("\\\n", " ")
    return [line.split(" #")[0].strip() for line in joined.splitlines() if line.startswith(f"    {start}")]


def run(command: str, folder: Path, *more: str) -> str:
    """The command in `folder`, with the `lnl` of this Python."""
    words = [*shlex.split(command), *more]
    assert words[0] == "lnl"
    done = subprocess.run(
        [sys.executable, "-m", "lnl_core.cli", *words[1:]],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def noisy_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scans as features [1797, 64], labels of which 40 % are wrong, true labels."""
    features, true_label = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    order = generator.permutation(len(true_label))
    features, true_label = features[order].astype(np.float32), true_label[order].astype(np.int32)
    wrong = generator.random(len(true_label)) < 0.4
    noisy = np.where(wrong, (true_label + generator.integers(1, 10, len(true_label))) % 10, true_label)
    return features, noisy.astype(np.int32), true_label


def test_purify_on_a_users_tables(noisy_digits: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    features, noisy, true_label = noisy_digits
    ids = [f"image {row}" for row in range(len(noisy))]
    pq.write_table(pa.table({"id": ids, "feature": list(features)}), tmp_path / "F.parquet")
    pa_csv.write_csv(pa.table({"id": ids, "label": noisy}), tmp_path / "L.csv")
    pa_csv.write_csv(pa.table({"id": ids[:TRUSTED], "label": true_label[:TRUSTED]}), tmp_path / "T.csv")
    [command] = commands("lnl purify")
    run(command, tmp_path)
    purified = read_purified(tmp_path / "purified.parquet")
    truth = dict(zip(ids, true_label, strict=True))
    right = np.mean([truth[name] == label for name, label in zip(purified.ids, purified.purified_label, strict=True)])
    assert len(purified) == len(ids) - TRUSTED
    assert right > 0.9  # 0.6 before


def test_library_use(noisy_digits: tuple[np.ndarray, ...]) -> None:
    features, noisy, true_label = noisy_digits
    [block] = [block for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "PurifyTask" in block]
    names = {"np": np, "MappedRows": MappedRows, "PurifyTask": PurifyTask, "NO_LABEL": NO_LABEL}
    names |= {"ipc_ensemble": ipc_ensemble, "IPCEnsembleConfig": IPCEnsembleConfig}
    names |= {"features": features[TRUSTED:], "observed": noisy[TRUSTED:]}
    names |= {"trusted_features": features[:TRUSTED], "trusted_label": true_label[:TRUSTED]}
    exec(compile(block, "README.md", "exec"), names)
    assert np.mean(names["posterior"].argmax(axis=1) == true_label[TRUSTED:]) > 0.9


@pytest.mark.slow
def test_run_on_a_folder_of_images(noisy_digits: tuple[np.ndarray, ...], tmp_path: Path) -> None:
    features, noisy, true_label = (part[:400] for part in noisy_digits)
    names = [f"{label}/{row:04d}.png" for row, label in enumerate(noisy)]
    for name, scan in zip(names, features, strict=True):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((scan.reshape(8, 8) * 15).astype(np.uint8)).save(tmp_path / "photos" / name)
    pa_csv.write_csv(pa.table({"id": names[:100], "label": true_label[:100]}), tmp_path / "trusted.csv")

    [command] = commands("lnl run")
    small = ["images.size=16", "model.arch=small_cnn", "model.width=8", "pretrain.simclr.batch_size=64"]
    quick = [word for setting in [*QUICK, *small] for word in ("-S", setting)]
    assert "report.html" in run(command, tmp_path, *quick)
    assert len(read_purified(tmp_path / "run" / "purify" / "purified.parquet")) == 300
    [command] = commands("lnl predict")
    run(command, tmp_path)
    assert len(pa_csv.read_csv(tmp_path / "predicted.csv")) == 400


@pytest.mark.parametrize("file", PAGES)
def test_links_and_targets_exist(file: str) -> None:
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (REPOSITORY / file).parent.joinpath(target).exists(), target
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^    |`)make ([a-z-]+)", text, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"no target {target} in the Makefile"
