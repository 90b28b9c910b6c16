"""HRNet (arXiv 1908.07919): branches of four resolutions side by side, exchanging what they see.

Key names are those of the published networks, so that HRNet files need no table of their own. With
`features` the network ends like the ImageNet classifiers, in one map made of all four branches; what else
comes after stage 4 (heads, aggregation) belongs to the model that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.registry import register_encoder
from fasthmr.layers.residual import BasicBlock, Bottleneck, conv_norm

BRANCHES = 4
_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class HRNetConfig:
    """Sizes of an `HRNet`.

    Attributes:
        width: Channels at stride 4; strides 8, 16 and 32 have 2, 4 and 8 times as many.
        modules: Exchanges in stages 2, 3 and 4.
        blocks: Basic blocks of a branch between two exchanges.
        bottlenecks: Blocks of stage 1.
        stem: Channels of the stem and inner channels of stage 1.
        features: Channels of the one map that the network returns, made by the ImageNet classifier's layers
            in front of its pooling; 0 for the four maps of the branches instead.
        image_size: Usual height and width in pixels; any other is taken too.
    """

    width: int
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    bottlenecks: int = 4
    stem: int = 64
    features: int = 0
    image_size: tuple[int, int] = (256, 256)

    def __post_init__(self) -> None:
        if min(*self.modules, self.blocks, self.bottlenecks) < 1:
            raise ValueError("HRNetConfig: modules, blocks and bottlenecks are at least 1")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the maps, finest first."""
        return tuple(self.width * 2**branch for branch in range(BRANCHES))

    def build(self) -> HRNet:
        return HRNet(self)


def halving(in_channels: int, channels: int) -> nn.Sequential:
    """A 3x3 convolution of stride 2 with batch norm and ReLU."""
    return nn.Sequential(*conv_norm(in_channels, channels, stride=2), nn.ReLU())


def _step(in_channels: int, channels: int, kernel: int) -> nn.Sequential:
    """A convolution with bias, halving where it is 3x3, with batch norm and ReLU."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride=1 + kernel // 2, padding=kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


class HRModule(nn.Module):
    """Blocks on every branch, then every branch receives the sum over all, brought to its resolution."""

    def __init__(self, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(BasicBlock(width, width) for _ in range(blocks))) for width in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    @staticmethod
    def _path(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:  # enlarged after the projection
            return nn.Sequential(*conv_norm(widths[source], widths[target], kernel=1))
        kept = (halving(widths[source], widths[source]) for _ in range(target - source - 1))
        return nn.Sequential(*kept, nn.Sequential(*conv_norm(widths[source], widths[target], stride=2)))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        seen = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [self._exchange(target, seen) for target in range(len(seen))]

    def _exchange(self, target: int, seen: list[Tensor]) -> Tensor:
        paths = cast("nn.ModuleList", self.fuse_layers[target])
        arrived = [path(x) for path, x in zip(paths, seen, strict=True)]
        size = seen[target].shape[-2:]
        fitted = [F.interpolate(x, size=size) if i > target else x for i, x in enumerate(arrived)]
        return torch.relu(reduce(torch.add, fitted))


class HRNet(nn.Module):
    """Pictures to four maps of strides 4, 8, 16 and 32, or to the one map of the classifier.

    Attributes:
        unused_published_params: Parameters of the ImageNet classifier, which is not built.
    """

    def __init__(self, config: HRNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.channels = (config.features,) if config.features else widths
        self.strides = (32,) if config.features else (4, 8, 16, 32)
        self.conv1, self.bn1 = conv_norm(3, config.stem, stride=2)
        self.conv2, self.bn2 = conv_norm(config.stem, config.stem, stride=2)
        wide = Bottleneck.expansion * config.stem
        self.layer1 = nn.Sequential(
            *(Bottleneck(wide if i else config.stem, config.stem) for i in range(config.bottlenecks))
        )
        first = nn.Identity() if wide == widths[0] else nn.Sequential(*conv_norm(wide, widths[0]), nn.ReLU())
        self.transition1 = nn.ModuleList([first, nn.Sequential(halving(wide, widths[1]))])
        self.stage2 = self._stage(2)
        self.transition2 = self._transition(3)
        self.stage3 = self._stage(3)
        self.transition3 = self._transition(4)
        self.stage4 = self._stage(4)
        self.unused_published_params = 0
        if config.features:
            inner = [config.stem // 2 * 2**branch for branch in range(BRANCHES)]
            outer = [Bottleneck.expansion * width for width in inner]
            self.incre_modules = nn.ModuleList(
                nn.Sequential(Bottleneck(width, narrow)) for width, narrow in zip(widths, inner, strict=True)
            )
            self.downsamp_modules = nn.ModuleList(
                _step(outer[i], outer[i + 1], 3) for i in range(BRANCHES - 1)
            )
            self.final_layer = _step(outer[-1], config.features, 1)
            self.unused_published_params = (config.features + 1) * _CLASSES

    def _transition(self, branches: int) -> nn.ModuleList:
        """One branch more, from the coarsest so far."""
        coarser = halving(*self.config.widths[branches - 2 : branches])
        return nn.ModuleList([*(nn.Identity() for _ in range(branches - 1)), nn.Sequential(coarser)])

    def _stage(self, number: int) -> nn.Sequential:
        modules = self.config.modules[number - 2]
        return nn.Sequential(
            *(HRModule(self.config.widths[:number], self.config.blocks) for _ in range(modules))
        )

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _channels _rows _columns"]]:
        """Return the maps, finest first."""
        maps = self.branches(image)
        return [self._gather(maps)] if self.config.features else maps

    def branches(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _channels _rows _columns"]]:
        """Maps of the four branches, finest first."""
        x = torch.relu(self.bn1(self.conv1(image)))
        x = self.layer1(torch.relu(self.bn2(self.conv2(x))))
        maps = [x]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            kept = [*maps, maps[-1]]
            maps = stage([move(x) for move, x in zip(transition, kept, strict=True)])
        return maps

    def _gather(self, maps: list[Tensor]) -> Tensor:
        """The classifier's map: each branch widened, and joined to the next coarser one."""
        widened = [widen(x) for widen, x in zip(self.incre_modules, maps, strict=True)]
        x = widened[0]
        for shrink, coarser in zip(self.downsamp_modules, widened[1:], strict=True):
            x = coarser + shrink(x)
        return self.final_layer(x)


@register_encoder
def hrnet_w40() -> HRNetConfig:
    return HRNetConfig(width=40, features=2048, image_size=(224, 224))


@register_encoder
def hrnet_w48() -> HRNetConfig:
    return HRNetConfig(width=48)


@register_encoder
def hrnet_w64() -> HRNetConfig:
    return HRNetConfig(width=64, features=2048, image_size=(224, 224))
