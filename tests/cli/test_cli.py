"""The command line as a user meets it, with exit codes and messages.

In a process of its own where the process is the point; else `main()` is called in this one: a process takes seconds to
import torch.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from lnl_core.cli.app import main
from lnl_core.config import load_preset

COMMANDS = ("demo", "run", "stage", "purify", "predict", "report", "methods", "datasets", "presets", "bench")


MISTAKES = [
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
]


@dataclass(frozen=True)
class Ended:
    """What a call of `lnl` left, with the names of `subprocess`."""

    returncode: int | str | None
    stdout: str
    stderr: str


Lnl = Callable[..., Ended]


def in_a_process(*arguments: object, cwd: Path | None = None) -> Ended:
    command = [sys.executable, "-m", "lnl_core.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def lnl(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Lnl:
    """`lnl(*arguments, cwd=FOLDER)` in this process, from the entry point to the exit code."""

    def run(*arguments: object, cwd: Path | None = None) -> Ended:
        capfd.readouterr()
        with monkeypatch.context() as call:
            call.setattr(sys, "argv", ["lnl", *map(str, arguments)])
            if cwd:
                call.chdir(cwd)
            with pytest.raises(SystemExit) as ended:
                main()
        return Ended(ended.value.code, *capfd.readouterr())

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, lnl: Lnl) -> None:
    found = lnl(command, "--help")
    assert found.returncode == 0
    assert f"lnl {command}" in found.stdout.split("Usage:")[1].split("\n", 1)[1]


def test_lists(lnl: Lnl) -> None:
    assert "ipc_ensemble" in lnl("methods").stdout
    assert "divide_mix" in lnl("methods").stdout
    assert "image_folder" in lnl("datasets").stdout
    assert "digits" in lnl("presets").stdout


@pytest.mark.slow
def test_a_preset_prints_as_a_params_file(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(in_a_process("presets", "digits").stdout)
    found = in_a_process("stage", "prepare", "--root", "data", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "data" / "prepare" / "labels.parquet").exists()
    assert found.stdout == ""


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES)
def test_mistakes_get_one_message_and_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, message: str, lnl: Lnl
) -> None:
    check_mistake(lnl, tmp_path, arguments, code, message)


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES[:2])
def test_a_process_ends_with_that_code(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    check_mistake(in_a_process, tmp_path, arguments, code, message)


def check_mistake(lnl: Lnl, folder: Path, arguments: list[str], code: int, message: str) -> None:
    params = folder / "params.yaml"
    params.write_text("run: {seed: 0}\n")
    found = lnl(*(argument.format(params=params) for argument in arguments), cwd=folder)
    assert found.returncode == code, found.stderr
    assert message in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr


def test_presets_with_overlays(lnl: Lnl) -> None:
    listed = lnl("presets").stdout
    for name in ("digits", "clothing1m", "sym80", "divide_mix", "from_simclr"):
        assert f"\n{name} " in listed
    assert "\nnoise " not in listed
    merged = lnl("presets", "cifar10+sym80+divide_mix").stdout
    assert yaml.safe_load(merged) == load_preset("cifar10+sym80+divide_mix")
    wrong = lnl("presets", "cifar10+sym81")
    assert wrong.returncode == 2
    assert "did you mean 'sym80'" in wrong.stderr


@pytest.mark.slow
def test_bench_runs_what_is_open_and_prints_the_table(tmp_path: Path, lnl: Lnl) -> None:
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
