"""What there is to choose from, without importing it: lists, help texts, completion and the classes of `estimators`.

`catalogue.json` says of every registered method what its file says; `make catalogue` writes it from the registries and
a test holds it to them, so that `lnl methods` needs no torch. A file that it does not know (a method that was just
added) is imported, and so are the entry points of other packages.
"""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lnl_core.config import ConfigError
from lnl_core.plugins import entry_points_of
from lnl_core.registry import KINDS, Entry, Kind, Registry

FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One registered method, as its file describes it."""

    name: str
    summary: str = ""
    source: str = ""
    needs_trusted: bool = False
    config: str = ""  # name of its settings class
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of all settings, as JSON has them
    required: Sequence[str] = ()  # settings without a default of their own: a mode fills them
    problem: str = ""  # why it cannot be imported; of entry points alone


def listed(kind: Kind) -> list[Listed]:
    """All of a kind, sorted by name; those of other packages last."""
    kept, files = _kept().get(kind.name, {"files": [], "entries": []}), _files(kind)
    found = [Listed(**values) for values in kept["entries"] if values["name"] in files]
    if new := files - set(kept["files"]):
        found += [described(entry) for entry in registry(kind) if entry.name in new]
    theirs = [_of_entry_point(kind, name) for name in sorted(entry_points_of(kind.group))]
    return sorted(found, key=lambda one: one.name) + theirs


def registry(kind: Kind) -> Registry[Any]:
    """The registry itself; imports its package."""
    held = vars(importlib.import_module(kind.package)).values()
    [found] = [value for value in held if isinstance(value, Registry) and value.kind is kind]
    return found


def described(entry: Entry[Any]) -> Listed:
    """What the catalogue says of an entry."""
    return Listed(
        name=entry.name,
        summary=entry.summary,
        source=entry.source,
        needs_trusted=entry.needs_trusted,
        config=entry.config.__name__,
        defaults=entry.config().model_dump(mode="json"),
        required=[name for name, info in entry.config.model_fields.items() if info.is_required()],
    )


def text() -> str:
    """The content of `catalogue.json`, from the registries."""
    kinds = {
        kind.name: {"files": sorted(_files(kind)), "entries": [asdict(described(entry)) for entry in registry(kind)]}
        for kind in KINDS
    }
    return json.dumps(kinds, indent=1, ensure_ascii=False) + "\n"


@functools.cache
def _kept() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return found


def _files(kind: Kind) -> set[str]:
    folder = Path(__file__).parents[1].joinpath(*kind.package.split("."))
    return {module.name for module in pkgutil.iter_modules([str(folder)])}


def _of_entry_point(kind: Kind, name: str) -> Listed:
    """Imports it; what cannot be imported is listed with the reason."""
    try:
        return described(registry(kind).get(name))
    except ConfigError as error:
        return Listed(name=name, problem=str(error))


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
