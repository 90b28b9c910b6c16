"""ResNet (arXiv 1512.03385) with bottlenecks, version 1.5: the stride is on the 3x3 convolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.registry import register_encoder
from fasthmr.layers.residual import Bottleneck, conv_norm


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Sizes of a `ResNet`.

    Attributes:
        depths: Blocks of the stages at strides 4, 8, 16 and 32.
        width: Channels of the stem and inner channels of the first stage; each stage has twice as many.
        image_size: Usual height and width in pixels; any other is taken too.
    """

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    image_size: tuple[int, int] = (224, 224)

    def __post_init__(self) -> None:
        if min(*self.depths, self.width) < 1:
            raise ValueError("ResNetConfig: depths and width are at least 1")

    def build(self) -> ResNet:
        return ResNet(self)


class ResNet(nn.Module):
    """Pictures to four maps of strides 4, 8, 16 and 32."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        inner = tuple(config.width * 2**stage for stage in range(4))
        self.channels = tuple(Bottleneck.expansion * width for width in inner)
        self.strides = (4, 8, 16, 32)
        self.stem = nn.Sequential(*conv_norm(3, config.width, kernel=7, stride=2))
        sources = (config.width, *self.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                Bottleneck(sources[i], inner[i], 1 if i == 0 else 2),
                *(Bottleneck(self.channels[i], inner[i]) for _ in range(config.depths[i] - 1)),
            )
            for i in range(4)
        )

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _channels _rows _columns"]]:
        """Return the maps, finest first."""
        x = F.max_pool2d(torch.relu(self.stem(image)), 3, stride=2, padding=1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


@register_encoder
def resnet50() -> ResNetConfig:
    return ResNetConfig()
