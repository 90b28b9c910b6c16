"""EfficientNet (arXiv 1905.11946): inverted bottlenecks with squeeze-and-excitation.

Padding is that of the networks trained in TensorFlow: at stride 2 there is one row and column more at the
bottom and right than at the top and left. It is worked out once for the picture size of the configuration,
as the published PyTorch port does, and not again for pictures of other sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.registry import register_encoder
from fasthmr.layers.block import DropPath

_CLASSES = 1000
_NORM_EPS, _NORM_MOMENTUM = 1e-3, 0.01


MBStage = tuple[int, int, int, int, int]
"""A row of blocks of equal width: repeats, kernel, stride (of the first block), expansion, channels."""

_B0: tuple[MBStage, ...] = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Table 1 of the paper."""


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """Sizes of an `EfficientNet`; the defaults are b0.

    Attributes:
        stages: Rows of blocks, finest first.
        stem: Channels at stride 2.
        features: Channels of the last map.
        squeeze: Inner width of squeeze-and-excitation as a share of the block's input channels.
        drop_connect: Chance in training that the last block is left out of a sample; in proportion earlier.
        image_size: Height and width in pixels that the padding is made for.
    """

    stages: tuple[MBStage, ...] = _B0
    stem: int = 32
    features: int = 1280
    squeeze: float = 0.25
    drop_connect: float = 0.2
    image_size: tuple[int, int] = (224, 224)

    def __post_init__(self) -> None:
        if not self.stages or not 0 <= self.drop_connect < 1:
            raise ValueError("EfficientNetConfig: needs stages and a drop_connect in [0, 1)")

    def build(self) -> EfficientNet:
        return EfficientNet(self)


class SameConv2d(nn.Conv2d):
    """A convolution whose output has ceil(size / stride) pixels on each side.

    Args:
        size: Height and width of its usual input.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        size: tuple[int, int],
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        top, bottom = _same(size[0], kernel, stride)
        left, right = _same(size[1], kernel, stride)
        even = top == bottom and left == right
        super().__init__(
            in_channels,
            channels,
            kernel,
            stride,
            padding=(top, left) if even else 0,
            groups=groups,
            bias=False,
        )
        self.sides = None if even else (left, right, top, bottom)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input if self.sides is None else F.pad(input, self.sides))


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a row of pixels; the odd one comes after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _after(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width after a convolution with that stride."""
    return -(-size[0] // stride), -(-size[1] // stride)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_NORM_EPS, momentum=_NORM_MOMENTUM)


class MBConv(nn.Module):
    """Inverted bottleneck: widen, filter each channel, weigh channels by their means, narrow.

    Args:
        size: Height and width of its usual input.
        drop_connect: Chance in training that a sample skips the block, where it can be skipped.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        size: tuple[int, int],
        *,
        stride: int,
        expansion: int,
        squeeze: float,
        drop_connect: float,
    ) -> None:
        super().__init__()
        wide = in_channels * expansion
        squeezed = max(1, int(in_channels * squeeze))
        self.skippable = stride == 1 and in_channels == channels
        self.expands = expansion != 1
        self.drop_path = DropPath(drop_connect)
        if self.expands:
            self.expand_conv, self.bn0 = nn.Conv2d(in_channels, wide, 1, bias=False), _norm(wide)
        self.depthwise_conv = SameConv2d(wide, wide, kernel, size, stride=stride, groups=wide)
        self.bn1 = _norm(wide)
        self.se_reduce, self.se_expand = nn.Conv2d(wide, squeezed, 1), nn.Conv2d(squeezed, wide, 1)
        self.project_conv, self.bn2 = nn.Conv2d(wide, channels, 1, bias=False), _norm(channels)

    def forward(
        self, x: Float[Tensor, "batch in_channels rows columns"]
    ) -> Float[Tensor, "batch channels new_rows new_columns"]:
        y = F.silu(self.bn0(self.expand_conv(x))) if self.expands else x
        y = F.silu(self.bn1(self.depthwise_conv(y)))
        gate = self.se_expand(F.silu(self.se_reduce(y.mean((2, 3), keepdim=True))))
        y = self.bn2(self.project_conv(y * gate.sigmoid()))
        return x + self.drop_path(y) if self.skippable else y


class EfficientNet(nn.Module):
    """Pictures to maps of strides 2, 4, 8, 16 and 32; the last is that of the 1x1 convolution in front of the
    classifier.

    Attributes:
        unused_published_params: Parameters of the ImageNet classifier, which is not built.
    """

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        self.unused_published_params = (config.features + 1) * _CLASSES
        size, channels = config.image_size, config.stem
        self.conv_stem = SameConv2d(3, channels, 3, size, stride=2)
        self.norm_stem = _norm(channels)
        size = _after(size, 2)
        total = sum(repeats for repeats, *_ in config.stages)
        finished: list[tuple[int, int, int]] = []
        self.blocks = nn.ModuleList()
        stride = 2
        for repeats, kernel, first_stride, expansion, width in config.stages:
            for i in range(repeats):
                number, step = len(self.blocks), first_stride if i == 0 else 1
                if step > 1:
                    finished.append((number - 1, channels, stride))
                block = MBConv(
                    channels,
                    width,
                    kernel,
                    size,
                    stride=step,
                    expansion=expansion,
                    squeeze=config.squeeze,
                    drop_connect=config.drop_connect * number / total,
                )
                self.blocks.append(block)
                channels, stride, size = width, stride * step, _after(size, step)
        self.conv_head = nn.Conv2d(channels, config.features, 1, bias=False)
        self.norm_head = _norm(config.features)
        self._last_of_size = frozenset(number for number, _, _ in finished)
        self.channels = (*(width for _, width, _ in finished), config.features)
        self.strides = (*(stride for _, _, stride in finished), stride)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _channels _rows _columns"]]:
        """Return the maps, finest first."""
        x = F.silu(self.norm_stem(self.conv_stem(image)))
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self._last_of_size:
                maps.append(x)
        return [*maps, F.silu(self.norm_head(self.conv_head(x)))]


@register_encoder
def efficientnet_b0() -> EfficientNetConfig:
    return EfficientNetConfig()
