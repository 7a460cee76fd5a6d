"""One estimator class for each registered purifier, with the method's settings as its parameters."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from lnl_core.catalogue import Listed, listed
from lnl_core.config import Settings, parse
from lnl_core.estimators.purifier import HEAD_ROWS, PurifierEstimator
from lnl_core.registry import PURIFIER

OWN = {"random_state": 0, "head_rows": HEAD_ROWS}  # parameters that every estimator has


class NamedEstimator(PurifierEstimator):
    """Base of the classes named after methods; parameters are the fields of the method's settings."""

    method: str
    _defaults: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, **settings: Any) -> None:
        unknown = sorted(settings.keys() - self._defaults.keys())
        if unknown:
            raise TypeError(f"{type(self).__name__}() has no parameter {unknown[0]!r}; it has {sorted(self._defaults)}")
        for name, default in self._defaults.items():
            setattr(self, name, settings.get(name, default))

    def _method(self) -> tuple[str, Settings]:
        from lnl_core.purify import PURIFIERS

        values = {name: getattr(self, name) for name in self._defaults if name not in OWN}
        given = {name: value for name, value in values.items() if value is not self._defaults[name]}
        return self.method, parse(PURIFIERS.get(self.method).config, given, self.method)


def estimator_names() -> dict[str, str]:
    """Class name -> purifier: the name of the settings class, which is written as the paper writes the method's."""
    return {class_name(one.name, one.config): one.name for one in listed(PURIFIER) if not one.problem}


def class_name(method: str, config: str) -> str:
    """`two_em` with TwoEMConfig -> TwoEM; `none` -> None_, for None is taken."""
    spelled = config.removesuffix("Config").removesuffix("Settings")
    if spelled.lower() != method.replace("_", ""):
        spelled = "".join(word.capitalize() for word in method.split("_"))
    return f"{spelled}_" if keyword.iskeyword(spelled) else spelled


@cache
def named_estimator(method: str) -> type[NamedEstimator]:
    """The class of a purifier."""
    [entry] = [one for one in listed(PURIFIER) if one.name == method]
    fields = {name: _default(entry, name) for name in entry.defaults}
    assert not fields.keys() & OWN.keys(), f"settings of {method} may not be called {sorted(OWN)}"
    defaults = {**fields, **OWN}

    def __init__(self: NamedEstimator, **settings: Any) -> None:
        NamedEstimator.__init__(self, **settings)

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, kind, default=default) for name, default in defaults.items()]
    myself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    __init__.__signature__ = inspect.Signature([myself, *parameters])  # type: ignore[attr-defined]
    name = class_name(method, entry.config)
    about = f"{entry.summary[:1].upper()}{entry.summary[1:]}. {entry.source}\n\nParameters: {', '.join(defaults)}."
    body = {
        "__init__": __init__,
        "__doc__": about,
        "__module__": __name__.rpartition(".")[0],
        "__qualname__": name,
        "method": method,
        "_defaults": defaults,
    }
    return type(name, (NamedEstimator,), body)


def _default(entry: Listed, name: str) -> Any:
    """The setting's own, where it is immutable; None leaves the field to the settings, which may fill it by mode."""
    value = None if name in entry.required else entry.defaults[name]
    value = tuple(value) if isinstance(value, list) else value
    return value if isinstance(value, str | int | float | tuple) else None
