"""ResNet-18/34/50 from torchvision's blocks, with a choice of stem and of width.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016. Parameter names are torchvision's, so with
`stem: imagenet`, `width: 64` and three channels its published weights load. The CIFAR stem is one 3x3 convolution
with stride 1 and no max-pool, as all results on 32 px images use it.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

Block = type[BasicBlock] | type[Bottleneck]
DEPTHS: dict[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """Stages of w, 2w, 4w and 8w channels; features [batch, 8 w] (four times that for bottleneck blocks)."""

    def __init__(self, arch: str, stem: Literal["cifar", "imagenet"], channels: int, width: int) -> None:
        super().__init__()
        block, depths = DEPTHS[arch]
        self.width = 8 * width * block.expansion
        if stem == "cifar":
            self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self._entering = width
        self.layer1 = self._stage(block, width, depths[0], stride=1)
        self.layer2 = self._stage(block, 2 * width, depths[1], stride=2)
        self.layer3 = self._stage(block, 4 * width, depths[2], stride=2)
        self.layer4 = self._stage(block, 8 * width, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        initialise_convolutions(self)

    def _stage(self, block: Block, planes: int, depth: int, stride: int) -> nn.Sequential:
        leaving = planes * block.expansion
        shortcut = None
        if stride != 1 or self._entering != leaving:
            convolution = nn.Conv2d(self._entering, leaving, 1, stride=stride, bias=False)
            shortcut = nn.Sequential(convolution, nn.BatchNorm2d(leaving))
        blocks = [block(self._entering, planes, stride, shortcut)]
        blocks += [block(leaving, planes) for _ in range(depth - 1)]
        self._entering = leaving
        return nn.Sequential(*blocks)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = self.layer4(self.layer3(self.layer2(self.layer1(maps))))
        features: Tensor = self.avgpool(maps).flatten(1)
        return features


def initialise_convolutions(network: nn.Module) -> None:
    """Normal weights with the variance that keeps activations' scale through ReLU (He et al., ICCV 2015), fan-out."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
