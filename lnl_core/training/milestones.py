"""When a method's learning rate falls unless the user says it: a published schedule, as shares of the epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def with_milestones(values: Any, *, epochs: int, parts: Sequence[int], of: int) -> Any:
    """The values of a settings section, with `milestones` after `parts` / `of` of its epochs where none are set.

    Args:
        epochs: how many there are where the section has no `epochs`.
    """
    if not isinstance(values, dict) or values.get("milestones") is not None:
        return values
    count = values.get("epochs", epochs)
    found = [math.ceil(count * part / of) for part in parts] if isinstance(count, int) else None
    return {**values, "milestones": found}
