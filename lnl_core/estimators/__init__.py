"""scikit-learn-style estimators: `Purifier(method=...)`, and a class for each registered purifier (`DMLP`, ...).

The classes are made from the registry, so a new file in `lnl_core/purify` has one at once. Settings of the method are
parameters of its class.
"""

from __future__ import annotations

from lnl_core.config import nearest
from lnl_core.estimators.named import estimator_names, named_estimator
from lnl_core.estimators.purifier import Purifier, PurifierEstimator


def __getattr__(name: str) -> type[PurifierEstimator]:
    """The class of that name; made once, so that instances can be pickled."""
    names = estimator_names()
    if name.startswith("__") or name not in names:
        hint = "" if name.startswith("__") else nearest(name, sorted(names))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    return named_estimator(names[name])


def __dir__() -> list[str]:
    return sorted([*globals(), *estimator_names()])


__all__ = ["Purifier", "PurifierEstimator"]
