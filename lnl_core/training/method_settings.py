"""Settings of methods that follow from the data unless they are set: `auto`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import ValidationError, WrapValidator

from lnl_core.training.sgd_settings import SGDSettings

Auto = Literal["auto"]


def _within(low: float, high: float = math.inf, *, open_end: bool = False) -> WrapValidator:
    text = f"at least {low:g}" if high == math.inf else f"in {low:g}..{high:g}" + (", its end left out" * open_end)

    def check(value: Any, parse: Callable[[Any], Any]) -> Any:
        try:
            found = parse(value)
        except ValidationError as error:  # one of the union's: a line each of which none names the other
            raise ValueError(f"must be 'auto' or a number {text}") from error
        if found != "auto" and not (low <= found <= high and not (open_end and found == high)):
            raise ValueError(f"must be 'auto' or {text}")
        return found

    return WrapValidator(check)


AutoShare = Annotated[float | Auto, _within(0.0, 1.0)]
AutoRate = Annotated[float | Auto, _within(0.0, 1.0, open_end=True)]  # 1 would leave nothing
AutoWeight = Annotated[float | Auto, _within(0.0)]
AutoEpochs = Annotated[int | Auto, _within(0.0)]  # whole
AutoCount = Annotated[int | Auto, _within(1.0)]  # whole


def replace_auto(settings: SGDSettings, automatic: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `settings` that `automatic` names; one that is "auto" has the value that stands there."""
    chosen = {name: getattr(settings, name) for name in automatic}
    return {name: automatic[name] if value == "auto" else value for name, value in chosen.items()}
