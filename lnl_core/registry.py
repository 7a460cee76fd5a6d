"""Registries: one new file in a package is one new dataset, noise type, purifier or training method.

A registry names the package whose modules fill it; there is no list to forget. A file registers itself with a name (its
own), a frozen config class and one line that says what it is. What stands outside the package registers itself in the
same way and is named as `module:function`, or by the entry point of an installed package (`lnl_core.plugins`).
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from lnl_core.config import ConfigError, Settings, nearest
from lnl_core.plugins import entry_points_of, load_object

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


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Something of which there are many, a file each."""

    name: str  # in messages
    package: str  # whose files they are
    setting: str  # that names one of them
    group: str  # of the entry points of other packages


PURIFIER = Kind(name="purifier", package="lnl_core.purify", setting="purify.method", group="lnl.purifiers")
TRAINER = Kind(name="training method", package="lnl_core.train", setting="train.method", group="lnl.trainers")
NOISE_TYPE = Kind(name="noise type", package="lnl_core.noise", setting="inject.type", group="lnl.noise_types")
DATASET = Kind(name="dataset", package="lnl_core.datasets", setting="prepare.dataset", group="lnl.datasets")
KINDS = (PURIFIER, TRAINER, NOISE_TYPE, DATASET)


class Registry(Generic[T]):
    """Name -> Entry, filled by the modules of a package; one is imported when its name is looked up."""

    def __init__(self, kind: Kind, settings: type[Settings] = Settings) -> None:
        """`settings`: what the settings classes of all entries derive from."""
        self.kind = kind
        self.settings = settings
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
        """Decorator: `@PURIFIERS.register("dmlp", config=DMLPConfig, summary="...")`.

        Raises:
            ConfigError: `config` is no class of the settings that are wanted here, or the name is taken.
        """
        if not issubclass(config, self.settings):
            raise ConfigError(f"{self.kind.name} {name!r}: {config.__name__} must be a {self.settings.__name__}")

        def add(make: T) -> T:
            self._refuse_taken(name, _module_of(make))
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
        """The entries of the package, sorted by name; imports all of its modules."""
        self._load_all()
        files = self._files()
        return iter(sorted((entry for name, entry in self._entries.items() if name in files), key=lambda one: one.name))

    def names(self) -> list[str]:
        """Of the package's entries, sorted."""
        return [entry.name for entry in self]

    def get(self, name: str) -> Entry[T]:
        """The entry called `name`: of the package, of an entry point, or at `module:function`.

        Raises:
            ConfigError: no such name; the message has the nearest one.
        """
        if ":" in name:
            return self._at(name, name)
        if name not in self._entries:
            self._load(name)
        if name in self._entries:
            return self._entries[name]
        if name in (points := entry_points_of(self.kind.group)):
            return self._at(points[name].value, name)
        raise ConfigError(unknown_name(self.kind.name, name, [*self.names(), *points]))

    def _refuse_taken(self, name: str, module: str) -> None:
        """A module may register its own again, as a notebook's cell does; a name of the package is never replaced."""
        there = self._entries.get(name)
        again = there is not None and _module_of(there.make) == module and not module.startswith(self.kind.package)
        taken = there is not None and not again
        if not module.startswith(self.kind.package) and f"{self.kind.package}.{name}" not in sys.modules:
            taken = taken or name in self._files()
        if taken:
            raise ConfigError(f"{self.kind.name} {name!r} is there already; register {module}'s under another name")

    def _files(self) -> set[str]:
        """Names of the modules of the package."""
        package = importlib.import_module(self.kind.package)
        return {module.name for module in pkgutil.iter_modules(package.__path__)}

    def _load(self, name: str) -> None:
        """Import the package's file of that name, where there is one."""
        importlib.import_module(self.kind.package)
        if name.isidentifier() and importlib.util.find_spec(f"{self.kind.package}.{name}"):
            importlib.import_module(f"{self.kind.package}.{name}")

    def _load_all(self) -> None:
        if self._loaded:
            return
        for name in sorted(self._files()):
            importlib.import_module(f"{self.kind.package}.{name}")
        self._loaded = True

    def _at(self, reference: str, name: str) -> Entry[T]:
        """The entry at `module:function`, under the name that the user has written."""
        made = load_object(reference, f"{self.kind.setting} = {name!r}")
        for entry in self._entries.values():
            if entry.make is made:
                return entry if entry.name == name else replace(entry, name=name)
        raise ConfigError(
            f"{self.kind.setting} = {name!r}: {reference} is no registered {self.kind.name}; decorate it with "
            f"`register(...)` of the registry in {self.kind.package}, see docs/add-a-method.md"
        )


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown purifier 'dmpl'; did you mean 'dmlp'? (known: dmlp, ...)`."""
    return f"unknown {kind} {name!r}{nearest(name, sorted(known))}"


def _module_of(made: Any) -> str:
    return str(getattr(made, "__module__", ""))
