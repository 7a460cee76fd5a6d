"""PreAct ResNet-18: batch normalisation and ReLU before each convolution, which leaves the shortcut clean.

He et al., Identity Mappings in Deep Residual Networks, ECCV 2016: the usual network of the noisy-label literature
on CIFAR. As in the paper a last normalisation with ReLU follows the last block; where the shape changes, the
shortcut is a 1x1 convolution of the activated input.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lnl_core.models.resnet import initialise_convolutions


class PreActBlock(nn.Module):
    """bn-relu-conv twice, added to the input."""

    def __init__(self, entering: int, leaving: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(entering)
        self.conv1 = nn.Conv2d(entering, leaving, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(leaving)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, padding=1, bias=False)
        changes = stride != 1 or entering != leaving
        self.shortcut = nn.Conv2d(entering, leaving, 1, stride=stride, bias=False) if changes else None

    def forward(self, maps: Float[Tensor, "batch entering height width"]) -> Float[Tensor, "batch leaving h w"]:
        active = functional.relu(self.bn1(maps))
        carried: Tensor = maps if self.shortcut is None else self.shortcut(active)
        changed: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return carried + changed


class PreActResNet18(nn.Module):
    """Four stages of two blocks with w, 2w, 4w and 8w channels; features [batch, 8 w]."""

    def __init__(self, stem: Literal["cifar", "imagenet"], channels: int, width: int) -> None:
        super().__init__()
        self.width = 8 * width
        self.stem = _stem(stem, channels, width)
        blocks = []
        entering = width
        for stage in range(4):
            leaving = width * 2**stage
            blocks += [PreActBlock(entering, leaving, 1 if stage == 0 else 2), PreActBlock(leaving, leaving, 1)]
            entering = leaving
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(entering)
        initialise_convolutions(self)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        maps = functional.relu(self.bn(self.blocks(self.stem(images))))
        return functional.adaptive_avg_pool2d(maps, 1).flatten(1)


def _stem(stem: Literal["cifar", "imagenet"], channels: int, width: int) -> nn.Sequential:
    if stem == "cifar":
        return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False))
    return nn.Sequential(
        nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False), nn.MaxPool2d(3, stride=2, padding=1)
    )
