"""The nine-layer CNN of Co-teaching: Han et al., NeurIPS 2018, Table 2.

    3 x conv 3x3, 128   max-pool 2x2   dropout 0.25
    3 x conv 3x3, 256   max-pool 2x2   dropout 0.25
    conv 3x3 512, 256, 128, without padding   global average pool   dense

Batch normalisation and LeakyReLU 0.01 follow each convolution. The dense layer is the classifier's head.
Deviations: the convolutions have no bias, which the batch normalisation after them would take away; the last three are
padded where they would leave nothing of the image (below 28 pixels a side); dropout draws from its own generator.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.models.resnet import initialise_convolutions
from lnl_core.models.seeded_dropout import SeededDropout

DROPOUT = 0.25
SLOPE = 0.01  # of LeakyReLU below zero
KERNEL = 3


class CNN9(nn.Module):
    """First channels 2 w (the paper's 128 at width 64); features [batch, 2 w]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        w = 2 * width
        self.width = w
        self.first = _block(channels, w)
        self.second = _block(w, 2 * w)
        self.last = nn.ModuleList([_Convolution(2 * w, 4 * w), _Convolution(4 * w, 2 * w), _Convolution(2 * w, w)])
        initialise_convolutions(self)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        maps: Tensor = self.second(self.first(images))
        needed = 1 + len(self.last) * (KERNEL - 1)  # pixels a side that three unpadded convolutions use up
        padding = 0 if min(maps.shape[2:]) >= needed else KERNEL // 2
        for convolution in self.last:
            maps = convolution(maps, padding)
        return maps.mean(dim=(2, 3))


class _Convolution(nn.Module):
    """conv-bn-LeakyReLU; the caller chooses the padding."""

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(entering, leaving, KERNEL, bias=False)
        self.bn = nn.BatchNorm2d(leaving)

    def forward(
        self, maps: Float[Tensor, "batch entering height width"], padding: int = KERNEL // 2
    ) -> Float[Tensor, "batch leaving h w"]:
        convolved = functional.conv2d(maps, self.conv.weight, padding=padding)
        return functional.leaky_relu(self.bn(convolved), SLOPE)


def _block(entering: int, leaving: int) -> nn.Sequential:
    convolutions = [_Convolution(entering if number == 0 else leaving, leaving) for number in range(3)]
    return nn.Sequential(*convolutions, nn.MaxPool2d(2), SeededDropout(DROPOUT))
