"""The catalogue says what the registries say, and what is listed from it needs nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lnl_core import catalogue
from lnl_core.registry import KINDS, NOISE_TYPE, PURIFIER, Kind

HEAVY = ("torch", "torchvision", "sklearn", "scipy", "pandas", "prefect", "lightly", "kornia", "numpy", "pyarrow")
COMPLETE = {"_LNL_COMPLETE": "complete_bash", "COMP_WORDS": "lnl purify --method kn", "COMP_CWORD": "3"}


def test_the_file_is_what_the_registries_say() -> None:
    assert catalogue.FILE.read_text(encoding="utf-8") == catalogue.text(), "run `make catalogue`"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_listed_is_what_is_registered(kind: Kind) -> None:
    here = [one for one in catalogue.listed(kind) if not one.problem]
    assert [one.name for one in here] == [entry.name for entry in catalogue.registry(kind)]
    assert here[0] == catalogue.described(next(iter(catalogue.registry(kind))))


def test_a_file_that_the_catalogue_does_not_know_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = json.loads(catalogue.FILE.read_text(encoding="utf-8"))
    for values in kept.values():
        values["files"] = [name for name in values["files"] if name not in ("pair", "knn")]
        values["entries"] = [entry for entry in values["entries"] if entry["name"] not in ("pair", "knn")]
    monkeypatch.setattr(catalogue, "_kept", lambda: kept)
    assert "pair" in [one.name for one in catalogue.listed(NOISE_TYPE)]
    assert "knn" in [one.name for one in catalogue.listed(PURIFIER)]


def test_a_file_that_is_gone_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = catalogue._files(PURIFIER)
    monkeypatch.setattr(catalogue, "_files", lambda _: there - {"knn"})
    assert "knn" not in [one.name for one in catalogue.listed(PURIFIER)]


def imported(code: str, folder: Path, **environment: str) -> set[str]:
    """The heavy packages that a process has imported after `code`."""
    text = f"{code}\nimport json, sys\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=folder, env=environment or None, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "command",
    ["--help", "methods", "datasets", "presets", "presets digits", "purify --help", "run --help", "labels --help"],
)
def test_a_light_command_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    code = f"""
import sys
sys.argv = ["lnl", *{command.split()!r}]
from lnl_core.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""
    assert imported(code, tmp_path) == set()


def test_completion_imports_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import os, sys
os.environ.update({COMPLETE!r})
sys.argv = ["lnl"]
from lnl_core.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""
    assert imported(code, tmp_path) == set()


def test_completion_offers_names(tmp_path: Path) -> None:
    lnl = Path(sys.executable).with_name("lnl")
    for words, offered in {
        "lnl purify --method kn": ["knn"],
        "lnl run --preset digits+sym2": ["digits+sym20"],
        "lnl stage pre": ["prepare", "pretrain"],
    }.items():
        environment = {**COMPLETE, "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1), "PATH": ""}
        done = subprocess.run([str(lnl)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.split() == offered, done.stderr


def test_an_estimators_class_needs_no_torch(tmp_path: Path) -> None:
    found = imported("from lnl_core.estimators import DMLP, IPCEnsemble\nDMLP(), IPCEnsemble()", tmp_path)
    assert found <= {"sklearn", "scipy", "numpy", "pandas", "pyarrow"}  # the last two come with scikit-learn
    assert "sklearn" in found
