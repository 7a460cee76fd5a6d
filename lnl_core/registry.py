"""Registries: one new file in a package is one new dataset, noise type, purifier or training method.

A registry names the package whose modules fill it and imports them all on first use, so there is no list to
forget. Each file registers itself with a name, a frozen config class and one line that says what it is.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from lnl_core.config import ConfigError, Settings, nearest

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[T]):
    """One registered thing: `make` is what was decorated, `config` its frozen settings class."""

    name: str
    make: T
    config: type[Settings]
    summary: str
    source: str  # paper or data set reference, one line; empty where there is none
    needs_trusted: bool = False  # a purifier that cannot work without a trusted set
    draws_as: str = ""  # the name that its generators are derived from, where it was called otherwise before


class Registry(Generic[T]):
    """Name -> Entry, filled by the modules of `package` (imported on first look-up)."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, Entry[T]] = {}
        self._loaded = False

    def register(
        self,
        name: str,
        *,
        config: type[Settings],
        summary: str,
        source: str = "",
        needs_trusted: bool = False,
        draws_as: str = "",
    ) -> Callable[[T], T]:
        """Decorator: `@PURIFIERS.register("dmlp", config=DMLPConfig, summary="...")`."""

        def add(make: T) -> T:
            assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
            self._entries[name] = Entry(
                name=name,
                make=make,
                config=config,
                summary=summary,
                source=source,
                needs_trusted=needs_trusted,
                draws_as=draws_as or name,
            )
            return make

        return add

    def __iter__(self) -> Iterator[Entry[T]]:
        self._load()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def names(self) -> list[str]:
        return [entry.name for entry in self]

    def get(self, name: str) -> Entry[T]:
        """The entry called `name`.

        Raises:
            ConfigError: no such name; the message has the nearest one.
        """
        self._load()
        if name not in self._entries:
            raise ConfigError(unknown_name(self.kind, name, self._entries))
        return self._entries[name]

    def known(self, name: str) -> str:
        """`name` itself, for a setting that names an entry.

        Raises:
            ConfigError: as `get`.
        """
        return self.get(name).name

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._loaded = True


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown purifier 'dmpl'; did you mean 'dmlp'? (known: dmlp, ...)`."""
    return f"unknown {kind} {name!r}{nearest(name, sorted(known))}"
