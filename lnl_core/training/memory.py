"""Named tensors, numbers and lists of a training run that an interruption must not lose."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Stateful(Protocol):
    """What can be saved and continued: networks, optimisers, `Memory`."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


class Memory(SimpleNamespace):
    """`Memory(prior=..., epoch_losses=[])`: attributes that are saved and loaded as they are.

    A loaded tensor goes to the device of the one that it replaces.
    """

    def state_dict(self) -> dict[str, Any]:
        """All attributes."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Go on from a saved state."""
        for name, value in state.items():
            held = getattr(self, name, None)
            moves = isinstance(held, Tensor) and isinstance(value, Tensor)
            setattr(self, name, value.to(held.device) if moves and held is not None else value)


def numbered(**kinds: Sequence[Stateful]) -> dict[str, Stateful]:
    """Parts of a checkpoint, each kind counted from 0: `network 0`, `network 1`, `updates 0`, ..."""
    return {f"{kind} {number}": part for kind, parts in kinds.items() for number, part in enumerate(parts)}
