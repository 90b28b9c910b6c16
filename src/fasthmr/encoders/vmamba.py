"""VMamba (arXiv 2401.10166): selective scans of maps in four directions, stages of strides 4, 8, 16 and 32.

The second released form, without gates and with one number of state per channel. Takes pictures of any size.
Key names are the published ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.truncated import register_hierarchical
from fasthmr.layers.block import DropPath
from fasthmr.layers.feedforward import FeedForward
from fasthmr.layers.ss2d import SS2D, Map

_STEM_STRIDE = 4


@dataclass(frozen=True, kw_only=True)
class VMambaConfig:
    """Sizes of a `VMamba`.

    Attributes:
        widths: Channels of each stage that is built.
        depths: Blocks of each.
        ssm_ratio: Channels that are scanned over those of the stage.
        image_size: Usual height and width in pixels; any other is taken too.
        out_stages: Numbers (1 is the finest) of the stages whose maps are returned; empty for the last alone.
        out_norm: Whether every returned map goes through a LayerNorm of its own, as in the backbones for
            dense tasks; the ImageNet models have none.
        classes: Outputs of the ImageNet classifier behind the last stage; 0 for none.
        state: Numbers of state for each scanned channel.
        mlp_ratio: Hidden width of the feed-forward networks over that of the stage.
        drop_path: Stochastic depth of the last block; it rises linearly from zero at the first.
    """

    widths: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 8, 2)
    ssm_ratio: float | int = 1
    image_size: tuple[int, int] = (256, 192)
    out_stages: tuple[int, ...] = ()
    out_norm: bool = True
    classes: int = 0
    state: int = 1
    mlp_ratio: float | int = 4
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if not self.depths or len(self.depths) != len(self.widths):
            raise ValueError(f"VMambaConfig: {len(self.depths)} depths but {len(self.widths)} widths")
        if self.widths[0] < 2 or min(*self.widths, *self.depths, self.state, *self.image_size) < 1:
            raise ValueError(
                "VMambaConfig: widths, depths, state and image_size are at least 1, the first width 2"
            )
        if min(int(self.ssm_ratio * width) for width in self.widths) < 1:
            raise ValueError(f"VMambaConfig: ssm_ratio={self.ssm_ratio} leaves no channels to scan")
        unknown = set(self.out_stages) - set(range(1, len(self.depths) + 1))
        if unknown or list(self.out_stages) != sorted(set(self.out_stages)):
            raise ValueError(f"VMambaConfig: out_stages={self.out_stages} of {len(self.depths)} stages")

    def truncated(self, stages: int) -> VMambaConfig:
        """The same encoder with its first stages alone, which return the last map."""
        return replace(
            self, widths=self.widths[:stages], depths=self.depths[:stages], out_stages=(), classes=0
        )

    def build(self) -> VMamba:
        return VMamba(self)


class ChannelsLast(nn.Module):
    """(channels, rows, columns) to (rows, columns, channels)."""

    def forward(self, x: Float[Tensor, "batch dim rows columns"]) -> Map:
        return x.permute(0, 2, 3, 1)


class ChannelsFirst(nn.Module):
    """(rows, columns, channels) to (channels, rows, columns)."""

    def forward(self, x: Map) -> Float[Tensor, "batch dim rows columns"]:
        return x.permute(0, 3, 1, 2)


def _half(in_dim: int, dim: int) -> tuple[nn.Module, ...]:
    """Half the resolution; odd sides are rounded up."""
    return nn.Conv2d(in_dim, dim, 3, stride=2, padding=1), ChannelsLast(), nn.LayerNorm(dim)


class VMambaBlock(nn.Module):
    """x += op(norm(x)); x += mlp(norm2(x)), with a scan of the map."""

    def __init__(self, config: VMambaConfig, *, dim: int, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SS2D(dim, ratio=config.ssm_ratio, state=config.state)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim=dim, hidden=int(dim * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Map) -> Map:
        x = x + self.drop_path(self.op(self.norm(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VMambaStage(nn.Module):
    """Blocks on maps of one resolution, and the way into the next.

    Args:
        rates: Stochastic depth of each block.
        next_dim: Channels of the next stage; None where there is none.
    """

    def __init__(
        self, config: VMambaConfig, *, dim: int, rates: Iterable[float], next_dim: int | None
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(VMambaBlock(config, dim=dim, drop_path=rate) for rate in rates))
        self.downsample = nn.Sequential(ChannelsFirst(), *_half(dim, next_dim)) if next_dim else nn.Identity()

    def forward(self, x: Map) -> Map:
        return self.blocks(x)


class VMamba(nn.Module):
    """Pictures to maps of strides 4, 8, 16 and 32, those of `config.out_stages`."""

    def __init__(self, config: VMambaConfig) -> None:
        super().__init__()
        self.config = config
        stages, widths = len(config.depths), config.widths
        self._out = config.out_stages or (stages,)
        self.channels = tuple(widths[number - 1] for number in self._out)
        self.strides = tuple(_STEM_STRIDE * 2 ** (number - 1) for number in self._out)
        stem = widths[0] // 2
        self.patch_embed = nn.Sequential(*_half(3, stem), ChannelsFirst(), nn.GELU(), *_half(stem, widths[0]))
        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist()
        starts = [sum(config.depths[:stage]) for stage in range(stages)]
        self.layers = nn.ModuleList(
            VMambaStage(
                config,
                dim=widths[stage],
                rates=rates[starts[stage] : starts[stage] + config.depths[stage]],
                next_dim=widths[stage + 1] if stage + 1 < stages else None,
            )
            for stage in range(stages)
        )
        if config.out_norm:
            for number in self._out:
                self.add_module(f"outnorm{number - 1}", nn.LayerNorm(widths[number - 1]))
        if config.classes:
            norm, head = nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], config.classes)
            self.classifier = nn.ModuleDict({"norm": norm, "head": head})
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _dim _rows _columns"]]:
        """Return the maps, finest first."""
        stages = self.stage_maps(image)
        maps = [stages[number - 1] for number in self._out]
        if self.config.out_norm:
            norms = (self.get_submodule(f"outnorm{number - 1}") for number in self._out)
            maps = [norm(x) for norm, x in zip(norms, maps, strict=True)]
        return [x.permute(0, 3, 1, 2) for x in maps]

    def stage_maps(self, image: Float[Tensor, "batch 3 height width"]) -> list[Map]:
        """Maps of all stages, without the norms of outputs, channels last."""
        maps: list[Tensor] = []
        x = self.patch_embed(image)
        for stage in cast("Iterable[VMambaStage]", self.layers):
            maps.append(stage(x))
            x = stage.downsample(maps[-1])
        return maps

    def classify(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Scores of the ImageNet classes.

        Raises:
            ValueError: The configuration has no `classes`.
        """
        if not self.config.classes:
            raise ValueError("this VMamba has no classifier; VMambaConfig.classes says how many classes")
        last = self.classifier["norm"](self.stage_maps(image)[-1])
        return self.classifier["head"](last.mean((1, 2)))


@register_hierarchical
def vmamba_t() -> VMambaConfig:
    """The release `s1l8`."""
    return VMambaConfig(drop_path=0.2)


@register_hierarchical
def vmamba_t_s2l5() -> VMambaConfig:
    return VMambaConfig(depths=(2, 2, 5, 2), ssm_ratio=2, drop_path=0.2)


@register_hierarchical
def vmamba_s() -> VMambaConfig:
    """The release `s2l15`."""
    return VMambaConfig(depths=(2, 2, 15, 2), ssm_ratio=2, drop_path=0.3)


@register_hierarchical
def vmamba_s_s1l20() -> VMambaConfig:
    return VMambaConfig(depths=(2, 2, 20, 2), drop_path=0.3)


@register_hierarchical
def vmamba_b() -> VMambaConfig:
    """The release `s2l15`."""
    return VMambaConfig(widths=(128, 256, 512, 1024), depths=(2, 2, 15, 2), ssm_ratio=2, drop_path=0.6)


@register_hierarchical
def vmamba_b_s1l20() -> VMambaConfig:
    return VMambaConfig(widths=(128, 256, 512, 1024), depths=(2, 2, 20, 2), drop_path=0.5)
