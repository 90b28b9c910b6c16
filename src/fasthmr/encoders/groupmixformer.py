"""GroupMixFormer (arXiv 2311.15157): attention over single tokens and over groups of them at once.

Queries, keys and values are cut into five segments of channels. Four are gathered over neighbourhoods of 1,
3, 5 and 7 tokens and attend; attention is factorised, with a softmax of the keys over tokens, so that its
cost grows linearly with them. The fifth goes around the attention. Maps are kept channels last. Key names are
the published ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.truncated import register_hierarchical
from fasthmr.layers.group_mix import (
    SEGMENTS,
    GroupMixBlock,
    Map,
    PositionConv,
    SeparableConv,
    channels_first,
    channels_last,
)


@dataclass(frozen=True, kw_only=True)
class GroupMixFormerConfig:
    """Sizes of a `GroupMixFormer`.

    Attributes:
        widths: Channels of each stage that is built, multiples of 10.
        depths: Blocks of each.
        mlp_ratios: Hidden width of the feed-forward networks of each over that of the stage.
        image_size: Usual height and width in pixels, multiples of `unit`; any others are taken too.
        out_stages: Numbers (1 is the finest) of the stages whose maps are returned; empty for the last alone.
        classes: Outputs of the ImageNet classifier behind the last stage; 0 for none.
        drop_path: Stochastic depth of the last block; it rises linearly from zero at the first.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    mlp_ratios: tuple[float | int, ...] = (4, 4, 4, 4)
    image_size: tuple[int, int] = (256, 192)
    out_stages: tuple[int, ...] = ()
    classes: int = 0
    qkv_bias: bool = True
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        counts = {len(self.widths), len(self.depths), len(self.mlp_ratios)}
        if len(counts) > 1 or 0 in counts:
            raise ValueError(
                f"GroupMixFormerConfig: {len(self.widths)} widths, {len(self.depths)} depths, "
                f"{len(self.mlp_ratios)} mlp_ratios"
            )
        for width in self.widths:
            if width % (2 * SEGMENTS):
                raise ValueError(f"GroupMixFormerConfig: {width} channels are not a multiple of 10")
        unknown = set(self.out_stages) - set(range(1, len(self.depths) + 1))
        if unknown or list(self.out_stages) != sorted(set(self.out_stages)):
            raise ValueError(
                f"GroupMixFormerConfig: out_stages={self.out_stages} of {len(self.depths)} stages"
            )
        self.check_size(self.image_size)

    @property
    def unit(self) -> int:
        """Number that both sides of a picture are multiples of."""
        return 4 * 2 ** (len(self.depths) - 1)

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse a (height, width) that is not halved evenly down to the last stage.

        Raises:
            ValueError: It is none; names the nearest that fits.
        """
        if min(size) < 1 or size[0] % self.unit or size[1] % self.unit:
            nearest = tuple(max(round(side / self.unit), 1) * self.unit for side in size)
            raise ValueError(
                f"a GroupMixFormer of {len(self.depths)} stages takes pictures whose sides are multiples of "
                f"{self.unit}, got {size} (height, width); {nearest} fits"
            )

    def truncated(self, stages: int) -> GroupMixFormerConfig:
        """The same encoder with its first stages alone, which return the last map."""
        return replace(
            self,
            widths=self.widths[:stages],
            depths=self.depths[:stages],
            mlp_ratios=self.mlp_ratios[:stages],
            out_stages=(),
            classes=0,
        )

    def build(self) -> GroupMixFormer:
        return GroupMixFormer(self)


class ConvStem(nn.Module):
    """Pictures to maps of stride 4."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(3, dim // 2, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(dim // 2)
        self.proj2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(dim)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch dim rows columns"]:
        x = F.hardswish(self.norm1(self.proj1(image)))
        return F.hardswish(self.norm2(self.proj2(x)))


class StageEmbedding(nn.Module):
    """A separable convolution into the width of a stage, halving the map except in front of the first."""

    batch_norm_pairs = (("proj.pointwise_conv", "norm"),)

    def __init__(self, in_channels: int, dim: int, stride: int) -> None:
        super().__init__()
        self.proj = SeparableConv(in_channels, dim, 3, stride)
        self.norm = nn.BatchNorm2d(dim)

    def forward(
        self, x: Float[Tensor, "batch in_channels rows columns"]
    ) -> Float[Tensor, "batch dim new_rows new_columns"]:
        return F.hardswish(self.norm(self.proj(x)))


class GroupMixStage(nn.Module):
    """Blocks on maps of one resolution."""

    def __init__(self, blocks: Iterable[GroupMixBlock]) -> None:
        super().__init__()
        self.gma_stage = nn.Sequential(*blocks)

    def forward(self, x: Map) -> Map:
        return self.gma_stage(x)


class GroupMixFormer(nn.Module):
    """Pictures to maps of strides 4, 8, 16 and 32, those of `config.out_stages`."""

    def __init__(self, config: GroupMixFormerConfig) -> None:
        super().__init__()
        self.config = config
        stages = len(config.depths)
        self._out = config.out_stages or (stages,)
        self.channels = tuple(config.widths[number - 1] for number in self._out)
        self.strides = tuple(4 * 2 ** (number - 1) for number in self._out)
        rates = iter(torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist())
        self.conv_stem = ConvStem(config.widths[0])
        sources = (config.widths[0], *config.widths[:-1])
        self.patch_embed_layers = nn.ModuleList(
            StageEmbedding(sources[stage], config.widths[stage], 1 if stage == 0 else 2)
            for stage in range(stages)
        )
        self.groupmixformer_backbone = nn.ModuleList(
            GroupMixStage(
                GroupMixBlock(
                    config.widths[stage],
                    mlp_ratio=config.mlp_ratios[stage],
                    qkv_bias=config.qkv_bias,
                    drop_path=next(rates),
                )
                for _ in range(config.depths[stage])
            )
            for stage in range(stages)
        )
        if config.classes:
            self.norm4 = nn.BatchNorm2d(config.widths[-1])
            self.head = nn.Linear(config.widths[-1], config.classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.Conv2d):
                fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
            if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, PositionConv):
                # Published: as any other convolution, by which maps grow 1.7 times in every block.
                nn.init.normal_(module.proj.weight, std=0.02)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _dim _rows _columns"]]:
        """Return the maps, finest first.

        Raises:
            ValueError: A side of the picture is not a multiple of `config.unit`.
        """
        self.config.check_size((image.shape[-2], image.shape[-1]))
        x, maps = self.conv_stem(image), []
        for embed, stage in zip(
            cast("Iterable[StageEmbedding]", self.patch_embed_layers),
            cast("Iterable[GroupMixStage]", self.groupmixformer_backbone),
            strict=True,
        ):
            x = channels_first(stage(channels_last(embed(x))))
            maps.append(x)
        return [maps[number - 1] for number in self._out]

    def classify(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Scores of the ImageNet classes.

        Raises:
            ValueError: The configuration has no `classes`, or returns no last map.
        """
        if not self.config.classes or self._out[-1] != len(self.config.depths):
            raise ValueError(
                "this GroupMixFormer has no classifier behind the last stage; "
                "GroupMixFormerConfig.classes says how many classes"
            )
        return self.head(self.norm4(self(image)[-1]).mean((2, 3)))


@register_hierarchical
def gmf_t() -> GroupMixFormerConfig:
    return GroupMixFormerConfig(widths=(80, 160, 200, 240), depths=(4, 4, 12, 4), drop_path=0.1)


@register_hierarchical
def gmf_s() -> GroupMixFormerConfig:
    return GroupMixFormerConfig(widths=(80, 160, 320, 320), depths=(2, 4, 12, 4), drop_path=0.2)


@register_hierarchical
def gmf_b() -> GroupMixFormerConfig:
    return GroupMixFormerConfig(
        widths=(200, 240, 320, 480), depths=(8, 8, 12, 8), mlp_ratios=(2, 2, 4, 4), drop_path=0.5
    )


@register_hierarchical
def gmf_m() -> GroupMixFormerConfig:
    return GroupMixFormerConfig(widths=(40, 80, 160, 160), depths=(3, 3, 12, 4), drop_path=0.1)


@register_hierarchical
def gmf_l() -> GroupMixFormerConfig:
    return GroupMixFormerConfig(widths=(240, 320, 360, 480), depths=(8, 10, 30, 10), mlp_ratios=(4, 4, 2, 2))
