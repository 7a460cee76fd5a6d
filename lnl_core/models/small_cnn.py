"""A small convolutional network for images of 8 to 32 pixels a side, meant to be trained on a CPU.

Three 3x3 convolutions with batch normalisation, pooled by two after the first and the second. What is left of the
image is averaged to a grid of 2x2 cells and kept as such: at 8 px the place of a stroke distinguishes classes, which
one global average would lose.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

CELLS = 2


class SmallCNN(nn.Module):
    """Channels w, 2w, 4w; features [batch, 16 w]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = 4 * width * CELLS * CELLS
        self.layers = nn.Sequential(
            *_convolution(channels, width),
            nn.MaxPool2d(2),
            *_convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(CELLS),
            nn.Flatten(),
        )

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        features: Tensor = self.layers(images)
        return features


def _convolution(channels: int, width: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
