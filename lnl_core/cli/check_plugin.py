"""The command `lnl check-plugin`: the tests that every method of the package passes, on yours."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import lnl_core
from lnl_core.catalogue import registry
from lnl_core.config import ConfigError
from lnl_core.plugins import load_object
from lnl_core.registry import KINDS, Kind

if TYPE_CHECKING:
    from lnl_core.registry import Entry

FAILED = 1  # exit code where a test failed
TESTS = {  # kind -> modules of lnl_core/contract_tests
    "purifier": ("test_purifiers", "test_purifier_bad_input", "test_modes"),
    "training method": ("test_trainers", "test_modes"),
    "noise type": ("test_noise_types",),
    "dataset": ("test_datasets",),
}


def check_plugin(
    reference: Annotated[str, typer.Argument(help="module:function, or the name of an entry point.")],
    override: Annotated[
        list[str] | None, typer.Option("-S", "--set", metavar="KEY=VALUE", help="A setting of the method; repeatable.")
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Say what would be tested, run nothing.")] = False,
) -> None:
    """Run the tests that every method passes on a purifier, training method, noise type or dataset of your own.

    They take seconds to minutes; `-S epochs=3` where a training method has long defaults, `-S path=...` for a dataset.

    [dim]lnl check-plugin my_module:class_mean[/dim]
    """
    kind, entry = _found(reference)
    typer.echo(f"{reference}: {kind.name}, {entry.summary}")
    ended = _pytest(kind, reference, override or [], list_only=list_only)
    if ended:
        raise typer.Exit(FAILED)


def _found(reference: str) -> tuple[Kind, Entry[object]]:
    """Of which kind it is.

    Raises:
        ConfigError: of none.
    """
    for kind in KINDS:
        with contextlib.suppress(ConfigError):
            return kind, registry(kind).get(reference)
    if ":" not in reference:
        raise ConfigError(f"{reference!r}: no such method; write module:function, or a name that `lnl methods` lists")
    load_object(reference, reference)
    kinds = ", ".join(kind.name for kind in KINDS[:-1])
    raise ConfigError(
        f"{reference}: no registered {kinds} or {KINDS[-1].name}; decorate it with `register(...)` of its registry "
        "(docs/add-a-method.md)"
    )


def _pytest(kind: Kind, reference: str, overrides: list[str], *, list_only: bool) -> int:
    """In a process of its own, so that nothing of this one is in the way; no settings file of the caller's is read."""
    from lnl_core.contract_tests.under_test import REFERENCE, SETTINGS

    if importlib.util.find_spec("pytest") is None:
        raise ConfigError("check-plugin runs pytest; install it: pip install 'pytest>=9'")
    folder = Path(lnl_core.__path__[0]) / "contract_tests"
    files = [str(folder / f"{name}.py") for name in TESTS[kind.name]]
    options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    options += ["--import-mode=importlib", "--disable-warnings", *(["--collect-only"] if list_only else [])]
    environment = {**os.environ, REFERENCE: reference, SETTINGS: json.dumps(overrides)}
    return subprocess.run([sys.executable, "-m", "pytest", *options, *files], env=environment, check=False).returncode
