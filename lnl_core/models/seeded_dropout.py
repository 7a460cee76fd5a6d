"""Dropout that draws from a generator of its own, so that a resumed run equals one that was never stopped.

Srivastava et al., Dropout, JMLR 2014. torch's dropout draws from the global generator, which nothing here does. This
one holds a seed, drawn with the weights, and counts its masks; both travel in the state dict, hence in checkpoints.
Mask t is the first draw of a generator seeded with (seed, t).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lnl_core.runtime import seed_for
from lnl_core.world import rows_of_batch


class SeededDropout(nn.Module):
    """Each number is zero with probability `rate` and else divided by 1 - rate; the identity in evaluation mode.

    Processes that share a batch draw the whole batch's mask, and each takes its rows of it.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        assert 0 <= rate < 1, "a share of the numbers, not all of them"
        self.rate = rate
        self.seed = int(torch.randint(2**62, ()))  # build_encoder has seeded a fork of the global generator
        self.masks = 0  # drawn so far

    def forward(self, maps: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if not self.training or not self.rate:
            return maps
        mask: Tensor = self._mask(maps)
        return maps * mask / (1 - self.rate)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # a generator cannot be traced
    def _mask(self, maps: Tensor) -> Tensor:
        generator = torch.Generator(maps.device).manual_seed(seed_for(self.seed, self.masks))
        self.masks += 1
        batch, mine = rows_of_batch(len(maps))
        kept = torch.rand((batch, *maps.shape[1:]), generator=generator, device=maps.device)[mine] >= self.rate
        return kept.to(maps.dtype)

    def get_extra_state(self) -> Tensor:
        """A tensor, because model files hold nothing else."""
        return torch.tensor([self.seed, self.masks])

    def set_extra_state(self, state: Tensor) -> None:
        self.seed, self.masks = (int(number) for number in state)
