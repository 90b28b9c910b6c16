"""Convolutional trunk followed by ViT blocks: the light encoder of the project's own presets.

A plain patch stem learns slowly from scratch on small data; early convolutions fix that
(Xiao et al., "Early Convolutions Help Transformers See Better", arXiv 2106.14881). The trunk is
ResNet basic blocks (arXiv 1512.03385) down to stride 16 or 8; its last map becomes tokens for ViT blocks,
so that token merging applies to them as to any ViT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.registry import register_encoder
from fasthmr.layers.block import TransformerBlock
from fasthmr.layers.tokens import TokenState


@dataclass(frozen=True, kw_only=True)
class ConvViTConfig:
    """Sizes of a `ConvViT`.

    Attributes:
        widths: Channels of the maps at strides 4, 8 and `token_stride`.
        blocks: Basic blocks that make each of these maps.
        token_stride: Pixels from one token to the next.
        depth: ViT blocks on the tokens.
        heads: Attention heads of each ViT block.
        image_size: Height and width in pixels, multiples of 16.
    """

    widths: tuple[int, int, int] = (64, 128, 256)
    blocks: tuple[int, int, int] = (2, 2, 2)
    token_stride: Literal[8, 16] = 16
    depth: int = 4
    heads: int = 8
    mlp_ratio: int = 4
    image_size: tuple[int, int] = (128, 96)

    def __post_init__(self) -> None:
        if any(side % 16 for side in self.image_size):
            raise ValueError(f"ConvViTConfig: image_size={self.image_size} is not a multiple of 16")
        if self.widths[-1] % self.heads:
            raise ValueError(
                f"ConvViTConfig: width {self.widths[-1]} is not a multiple of heads={self.heads}"
            )

    def build(self) -> ConvViT:
        return ConvViT(self)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a residual path (arXiv 1512.03385, fig. 5 left)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        nn.init.zeros_(self.bn2.weight)  # each block starts as its shortcut

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ConvViT(nn.Module):
    """Maps of strides 4 and 8 from the trunk and of `token_stride` from the ViT blocks, finest first."""

    def __init__(self, config: ConvViTConfig) -> None:
        super().__init__()
        self.config = config
        w4, w8, dim = config.widths
        self.channels = config.widths
        self.strides = (4, 8, config.token_stride)
        self.patch_padding = 0
        self.stem = nn.Sequential(
            nn.Conv2d(3, w4 // 2, 3, 2, 1, bias=False),
            nn.BatchNorm2d(w4 // 2),
            nn.ReLU(),
            nn.Conv2d(w4 // 2, w4, 3, 2, 1, bias=False),
            nn.BatchNorm2d(w4),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(BasicBlock(w_in if i == 0 else w_out, w_out, stride if i == 0 else 1) for i in range(count))
            )
            for w_in, w_out, stride, count in zip(
                (w4, w4, w8), config.widths, (1, 2, config.token_stride // 8), config.blocks, strict=True
            )
        )
        height, width = (side // config.token_stride for side in config.image_size)
        self.grid = (height, width)
        self.pos_embed = nn.Parameter(torch.empty(1, height * width, dim).normal_(std=0.02))
        self.blocks = nn.ModuleList(
            TransformerBlock(dim=dim, heads=config.heads, mlp_ratio=config.mlp_ratio)
            for _ in range(config.depth)
        )
        self.last_norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        """Return feature maps of strides 4, 8 and `token_stride`.

        Pictures may be smaller or larger than `config.image_size` in the same proportions; the position code
        is then resampled.

        Raises:
            ValueError: The picture has other proportions, or sides that are no multiples of 16.
        """
        maps, state = self.before_blocks(image)
        tokens = state.tokens
        for block in self.blocks:
            tokens = block(tokens)
        return [*maps, self.last_norm(tokens).mT.unflatten(-1, self._grid_of(image))]

    def before_blocks(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[list[Tensor], TokenState]:
        """Maps of strides 4 and 8, and what enters the first block.

        Raises:
            ValueError: As for `forward`.
        """
        height, width = image.shape[-2:]
        full_height, full_width = self.config.image_size
        if height * full_width != width * full_height or height % 16 or width % 16:
            raise ValueError(
                f"ConvViT takes pictures of {self.config.image_size} (height, width) or in the same "
                f"proportions with sides that are multiples of 16, got {(height, width)}"
            )
        x = self.stem(image)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        grid = self._grid_of(image)
        tokens = x.flatten(2).transpose(1, 2) + self._positions(grid)
        return maps[:-1], TokenState.from_grid(tokens, grid)

    def _grid_of(self, image: Float[Tensor, "batch 3 height width"]) -> tuple[int, int]:
        height, width = image.shape[-2:]
        return height // self.config.token_stride, width // self.config.token_stride

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 tokens dim"]:
        if grid == self.grid:
            return self.pos_embed
        code = self.pos_embed.transpose(1, 2).unflatten(2, self.grid)
        code = F.interpolate(code, grid, mode="bilinear", antialias=True, align_corners=False)
        return code.flatten(2).transpose(1, 2)


@register_encoder
def convvit_s() -> ConvViTConfig:
    return ConvViTConfig()
