"""`lnl check-plugin`: the contract tests on a method outside the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_plugins import MODULE

BROKEN = MODULE.replace("(source.true_label + 1) % len(source.class_names)", "source.true_label + 1")


def check(folder: Path, *arguments: str, module: str = MODULE) -> subprocess.CompletedProcess[str]:
    (folder / "own_methods.py").write_text(module, encoding="utf-8")
    lnl = str(Path(sys.executable).with_name("lnl"))
    return subprocess.run([lnl, "check-plugin", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_a_noise_type_that_keeps_the_contract(tmp_path: Path) -> None:
    done = check(tmp_path, "own_methods:shift")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "noise type, every label is the next one" in done.stdout
    assert "2 passed" in done.stdout


def test_one_that_breaks_it_is_shown(tmp_path: Path) -> None:
    done = check(tmp_path, "own_methods:shift", module=BROKEN)
    assert done.returncode == 1
    assert "test_every_type_is_deterministic_pure_and_in_range[own_methods:shift]" in done.stdout


def test_the_tests_of_a_purifier_are_listed(tmp_path: Path) -> None:
    done = check(tmp_path, "own_methods:believe", "--list", "-S", "sharp=0.7")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("[own_methods:believe]") > 10
    assert "knn" not in done.stdout


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("own_methods:stranger", "no registered purifier, training method, noise type or dataset; decorate it"),
        ("beliver", "'beliver': no such method; write module:function"),
    ],
)
def test_what_is_no_method_is_refused(tmp_path: Path, reference: str, message: str) -> None:
    done = check(tmp_path, reference)
    assert done.returncode == 2
    assert message in done.stderr
