"""The command line as a user meets it: in a process of its own, with exit codes and messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lnl_core.config import load_preset

COMMANDS = ("demo", "run", "stage", "purify", "predict", "report", "methods", "datasets", "presets", "bench")


def lnl(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lnl_core.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    found = lnl(command, "--help")
    assert found.returncode == 0
    assert f"lnl {command}" in found.stdout.split("Usage:")[1].split("\n", 1)[1]


def test_lists() -> None:
    assert "ipc_ensemble" in lnl("methods").stdout
    assert "divide_mix" in lnl("methods").stdout
    assert "image_folder" in lnl("datasets").stdout
    assert "digits" in lnl("presets").stdout


def test_a_preset_prints_as_a_params_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(lnl("presets", "digits").stdout)
    found = lnl("stage", "prepare", "--root", "data", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "data" / "prepare" / "labels.parquet").exists()
    assert found.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["stage", "purfy", "--params", "{params}"], 2, "did you mean 'purify'"),
        (["stage", "purify", "--params", "{params}", "--root", "nowhere"], 3, "no such file"),
        (["stage", "purify", "--params", "missing.yaml"], 2, "cannot read the params file"),
        (["run"], 2, "--preset NAME or --params FILE"),
        (["run", "--preset", "digits", "-S", "purify.ipc_ensemble.fold=3"], 2, "did you mean 'folds'"),
        (["report", "--root", "nowhere"], 2, "no such folder"),
        (["purify", "--features", "f", "--labels", "l", "--out", "o.parquet"], 2, "no such file"),
        (["purify", "--features", "f"], 2, "Missing option"),
        (["nonsense"], 2, "No such command"),
        (["bench"], 2, "give --preset and --methods"),
        (["bench", "--preset", "digits", "--methods", "cross_entropi"], 2, "did you mean 'cross_entropy'"),
        (["bench", "--preset", "digits", "--methods", "cross_entropy", "--seeds", "x"], 2, "--seeds 'x'"),
    ],
)
def test_mistakes_get_one_message_and_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("run: {seed: 0}\n")
    found = lnl(*(argument.format(params=params) for argument in arguments), cwd=tmp_path)
    assert found.returncode == code, found.stderr
    assert message in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr


def test_presets_with_overlays() -> None:
    listed = lnl("presets").stdout
    for name in ("digits", "clothing1m", "sym80", "divide_mix", "from_simclr"):
        assert f"\n{name} " in listed
    assert "\nnoise " not in listed
    merged = lnl("presets", "cifar10+sym80+divide_mix").stdout
    assert yaml.safe_load(merged) == load_preset("cifar10+sym80+divide_mix")
    wrong = lnl("presets", "cifar10+sym81")
    assert wrong.returncode == 2
    assert "did you mean 'sym80'" in wrong.stderr


def test_bench_runs_what_is_open_and_prints_the_table(tmp_path: Path) -> None:
    quick = ["run.threads=1", "model.width=4", "pretrain.simclr.epochs=1", "pretrain.simclr.warmup_epochs=0"]
    overrides = [word for item in [*quick, "train.cross_entropy.epochs=1"] for word in ("-S", item)]
    grid = ["bench", "--preset", "digits", "--noise", "sym20", "--methods", "cross_entropy", "--out", tmp_path / "b"]
    listed = lnl(*grid, "--list", *overrides)
    assert "open    digits+sym20+cross_entropy seed 2" in listed.stdout
    assert "0 of 3 cells are done" in listed.stdout
    done = lnl(*grid, "--seeds", "1", *overrides)
    assert done.returncode == 0, done.stderr
    assert "[1/1] digits+sym20+cross_entropy seed 0: best" in done.stderr
    assert done.stdout.startswith("| noise | method |")
    assert (tmp_path / "b" / "table.md").read_text() == done.stdout
    assert "1 of 3 cells are done" in lnl(*grid, "--list", *overrides).stdout
    table = lnl("bench", "--table", "--format", "csv", "--out", tmp_path / "b").stdout
    assert table.splitlines()[1].startswith("digits,sym20,cross_entropy")
    failed = lnl(*grid, "--seeds", "7,", *overrides, "-S", "run.device=cpu", "-S", "run.precision=float16")
    assert failed.returncode == 1
    assert "FAILED ConfigError: run.precision = 'float16'" in failed.stderr
