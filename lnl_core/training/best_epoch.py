"""The checkpoint to keep: the epoch with the best held-out accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class HeldOutScore:
    """How the ensemble does on the held-out rows."""

    accuracy: float  # 0..1
    loss: float  # mean negative log-likelihood, nats


class BestEpoch:
    """Keeps the weights of the best epoch so far.

    Held-out sets are small, so equal accuracies are common: then the smaller held-out loss wins, and where that is
    equal too, the later epoch. Without held-out rows (`score` None) every later epoch wins: best is last.
    """

    def __init__(self) -> None:
        self.epoch = 0  # 1 is the first
        self.score: HeldOutScore | None = None
        self.weights: tuple[Weights, ...] = ()

    def offer(self, epoch: int, score: HeldOutScore | None, networks: Sequence[nn.Module]) -> None:
        """Copy the networks' weights to the CPU if this epoch is better."""
        if score is not None and self.score is not None and _rank(score) < _rank(self.score):
            return
        self.epoch, self.score, self.weights = epoch, score, copy_weights(networks)

    def state(self) -> dict[str, Any]:
        """What `load` needs."""
        score = None if self.score is None else (self.score.accuracy, self.score.loss)
        return {"epoch": self.epoch, "score": score, "weights": [dict(weights) for weights in self.weights]}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        score = state["score"]
        self.epoch = state["epoch"]
        self.score = None if score is None else HeldOutScore(accuracy=score[0], loss=score[1])
        self.weights = tuple(state["weights"])


def copy_weights(networks: Sequence[nn.Module]) -> tuple[Weights, ...]:
    """State dicts on the CPU that later training cannot change."""
    return tuple(
        {name: value.detach().cpu().clone() for name, value in network.state_dict().items()} for network in networks
    )


def _rank(score: HeldOutScore) -> tuple[float, float]:
    return score.accuracy, -score.loss
