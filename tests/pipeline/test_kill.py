"""A run killed with SIGKILL in any stage and started again ends with the same bytes as one left in peace."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lnl_core.config import Params, load_preset
from lnl_core.layout import Layout
from lnl_core.stages.stage import run_stage

pytestmark = pytest.mark.slow

STAGES = ("prepare", "inject", "pretrain", "features", "purify", "train")
SETTINGS = [
    "run.threads=1",
    "prepare.rows_per_shard=100",
    "pretrain.simclr.epochs=3",
    "pretrain.simclr.warmup_epochs=1",
    "pretrain.simclr.checkpoint_every=1",
    "pretrain.simclr.probe_every=0",
    "model.width=8",
    "features.batch_size=50",
    "purify.ipc_ensemble.folds=2",
    "purify.ipc_ensemble.ridge=[0.01, 1.0]",
    "purify.ipc_ensemble.max_steps=16",
    "purify.ipc_ensemble.eac_steps=100",
    "train.divide_mix.epochs=3",
    "train.divide_mix.warmup_epochs=1",
]
# For each line with a stage and seconds: a process that runs the stage and is killed after so much time of its own on
# the CPU (others' work moves no kill), and how it ended. It is forked after the imports, which take longer than the
# stages, so the kill falls into the stage itself.
DRIVER = """
import os, signal, sys, threading
from pathlib import Path
from lnl_core.config import load_params
from lnl_core.layout import Layout
from lnl_core.stages.stage import run_stage, stage_named
params, root, *stages = sys.argv[1:]
for stage in stages:
    stage_named(stage)
assert threading.active_count() == 1, "a process of several threads must not be forked"
for line in sys.stdin:
    name, seconds = line.split()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGPROF, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        signal.setitimer(signal.ITIMER_PROF, float(seconds))
        run_stage(name, load_params(Path(params)), Layout(Path(root)))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def artefacts(paths: Layout) -> dict[str, str]:
    """SHA-256 of every file that must not depend on when it was made."""
    folders = [paths.images, paths.features, paths.model, paths.yardstick, paths.encoder]
    files = [paths.source_labels, paths.truth, paths.quarantine, paths.labels, paths.purified, paths.train_curves]
    found = [*files, *(file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file())]
    return {str(file.relative_to(paths.root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


@pytest.fixture(scope="module")
def params() -> Params:
    return load_preset("digits", SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Layout:
    paths = Layout(tmp_path_factory.mktemp("undisturbed"))
    for stage in STAGES:
        run_stage(stage, params, paths)
    return paths


@pytest.fixture(scope="module")
def again(
    tmp_path_factory: pytest.TempPathFactory, params: Params, undisturbed: Layout
) -> tuple[Layout, dict[str, float]]:
    """The same once more, and how long each stage is on the CPU now that everything is imported."""
    del undisturbed
    paths, seconds = Layout(tmp_path_factory.mktemp("again")), {}
    for stage in STAGES:
        begin = time.process_time()
        run_stage(stage, params, paths)
        seconds[stage] = time.process_time() - begin
    return paths, seconds


def test_same_seed_same_bytes(undisturbed: Layout, again: tuple[Layout, dict[str, float]]) -> None:
    assert artefacts(again[0]) == artefacts(undisturbed)


def test_another_seed_other_labels(tmp_path: Path, undisturbed: Layout) -> None:
    other = Layout(tmp_path)
    for stage in STAGES[:2]:
        run_stage(stage, load_preset("digits", [*SETTINGS, "run.seed=1"]), other)
    assert other.labels.read_bytes() != undisturbed.labels.read_bytes()


def test_killed_in_every_stage_and_started_again(
    tmp_path: Path, params: Params, undisturbed: Layout, again: tuple[Layout, dict[str, float]]
) -> None:
    paths, file = Layout(tmp_path / "run"), tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    killed = 0
    command = [sys.executable, "-c", DRIVER, str(file), str(paths.root), *STAGES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdin
        assert driver.stdout
        for stage in STAGES:
            print(stage, 0.5 * again[1][stage], file=driver.stdin, flush=True)
            killed += driver.stdout.readline() == "-9\n"
            run_stage(stage, params, paths)
            leftovers = [path.name for path in (paths.root / stage).rglob("*") if path.name.endswith(".tmp")]
            assert not leftovers, f"{stage}: {leftovers}"
    assert killed >= 3  # the shortest stages may be through before the timer
    assert artefacts(paths) == artefacts(undisturbed)
