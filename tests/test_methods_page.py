"""docs/methods.md knows every registered method, and DivideMix's modes as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from lnl_core.noise import NOISE_TYPES
from lnl_core.purify import PURIFIERS
from lnl_core.registry import Registry
from lnl_core.train import TRAINERS
from lnl_core.train.divide_mix import MODES

PAGE = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("registry", "form"),
    [(PURIFIERS, "`purify.method: {}`"), (TRAINERS, "`train.method: {}`"), (NOISE_TYPES, "| `{}` |")],
)
def test_every_method_has_its_place(registry: Registry[object], form: str) -> None:
    for name in registry.names():
        assert form.format(name) in PAGE, f"docs/methods.md: describe {name}"


def test_modes_of_divide_mix() -> None:
    rows = {line.split("|")[1].strip(" `"): line for line in PAGE.splitlines() if line.startswith("| `")}
    for mode, column in (("paper", 2), ("released", 3), ("fixed", 4)):
        for field, value in MODES[mode].items():
            cell = rows[field].split("|")[column].strip()
            assert cell.startswith(str(value).lower()), f"{field} in mode {mode} is {value!r}, not {cell!r}"
