"""Swin Transformer (arXiv 2103.14030): attention in shifted windows, four stages of strides 4, 8, 16 and 32.

Two published conventions differ where windows do not fit the map; a switch of the configuration chooses:

- "dense", of the detection and segmentation backbones: windows of full size, maps padded with zeros; every
  returned map goes through a LayerNorm of its own. Takes pictures of any size.
- "classification", of the ImageNet models: no padding; where a map is no larger than a window, the window
  shrinks to it and nothing is shifted; maps are returned as they are. Takes pictures of one size.

Key names are the published ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.truncated import register_hierarchical
from fasthmr.layers.window import NORM_EPS, WindowBlock, WindowLayout, window_layout

Map = Float[Tensor, "batch rows columns dim"]


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Sizes of a `Swin`.

    Attributes:
        dim: Channels of stage 1; each stage has twice as many.
        depths: Blocks of each stage that is built.
        heads: Attention heads of each.
        window: Side of a window in tokens.
        image_size: Height and width in pixels; in the "dense" convention the usual one.
        convention: What happens where windows do not fit; see the module.
        out_stages: Numbers (1 is the finest) of the stages whose maps are returned; empty for the last alone.
        classes: Outputs of the ImageNet classifier behind the last stage; 0 for none.
        mlp_ratio: Hidden width of the feed-forward networks over that of the stage.
        drop_path: Stochastic depth of the last block; it rises linearly from zero at the first.
    """

    dim: int
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    image_size: tuple[int, int] = (256, 192)
    convention: Literal["dense", "classification"] = "dense"
    out_stages: tuple[int, ...] = ()
    classes: int = 0
    patch_size: int = 4
    patch_norm: bool = True
    mlp_ratio: float | int = 4
    qkv_bias: bool = True
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if not self.depths or len(self.depths) != len(self.heads):
            raise ValueError(f"SwinConfig: {len(self.depths)} depths but {len(self.heads)} heads")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads:
                raise ValueError(f"SwinConfig: {width} channels are not a multiple of {heads} heads")
        unknown = set(self.out_stages) - set(range(1, len(self.depths) + 1))
        if unknown or list(self.out_stages) != sorted(set(self.out_stages)):
            raise ValueError(f"SwinConfig: out_stages={self.out_stages} of {len(self.depths)} stages")
        if self.window < 1 or min(self.image_size) < 1:
            raise ValueError("SwinConfig: window and image_size are at least 1")
        if self.convention == "classification" and not self._fits:
            unit = self.patch_size * self.window * 2 ** (len(self.depths) - 1)
            fitting = tuple(max(round(side / unit), 1) * unit for side in self.image_size)
            raise ValueError(
                f"SwinConfig: pictures of {self.image_size} (height, width) are not cut evenly into patches "
                f"of {self.patch_size} and windows of {self.window} at all {len(self.depths)} stages; in the "
                f"'classification' convention {fitting} fits, the 'dense' one takes every size"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.dim * 2**stage for stage in range(len(self.depths)))

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each stage for pictures of `image_size`."""
        grids = [_halves(self.image_size, self.patch_size)]
        for _ in self.depths[1:]:
            grids.append(_halves(grids[-1]))
        return tuple(grids)

    def stage_window(self, stage: int) -> int:
        """Side of the windows of a stage (0 is the finest)."""
        smallest = min(self.grids[stage])
        return min(self.window, smallest) if self.convention == "classification" else self.window

    def stage_shift(self, stage: int) -> int:
        """Shift of every second block of a stage."""
        shrunk = self.convention == "classification" and min(self.grids[stage]) <= self.window
        return 0 if shrunk else self.window // 2

    @property
    def _fits(self) -> bool:
        height, width = self.image_size
        unit = self.patch_size * 2 ** (len(self.depths) - 1)
        windows = [self.stage_window(stage) for stage in range(len(self.depths))]
        return not (height % unit or width % unit) and not any(
            side % window for grid, window in zip(self.grids, windows, strict=True) for side in grid
        )

    def truncated(self, stages: int) -> SwinConfig:
        """The same encoder with its first stages alone, which return the last map."""
        return replace(self, depths=self.depths[:stages], heads=self.heads[:stages], out_stages=(), classes=0)

    def build(self) -> Swin:
        return Swin(self)


def _halves(size: tuple[int, int], step: int = 2) -> tuple[int, int]:
    """Rows and columns after cells of `step` x `step` have become one; incomplete ones are padded."""
    return -(-size[0] // step), -(-size[1] // step)


def _padded(x: Map, step: int) -> Float[Tensor, "batch padded_rows padded_columns dim"]:
    """Zeros at the bottom and right up to a multiple of `step`."""
    rows, columns = x.shape[1:3]
    if rows % step == 0 and columns % step == 0:
        return x
    return F.pad(x, (0, 0, 0, -columns % step, 0, -rows % step))


class SwinPatches(nn.Module):
    """Patches to tokens."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.proj = nn.Conv2d(3, config.dim, config.patch_size, stride=config.patch_size)
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS) if config.patch_norm else nn.Identity()

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Map:
        """Tokens of a picture, which is padded to whole patches."""
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            image = F.pad(image, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Every 2 x 2 tokens become one of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=NORM_EPS)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(
        self, x: Float[Tensor, "batch rows columns dim"]
    ) -> Float[Tensor, "batch half_rows half_columns double_dim"]:
        """Merge; the order inside a cell is down before right."""
        cells = _padded(x, 2).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        return self.reduction(self.norm(cells.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class SwinStage(nn.Module):
    """Blocks on maps of one resolution, every second one shifted, and the merging into the next.

    Args:
        window: Side of the windows.
        shift: Of every second block.
        rates: Stochastic depth of each block.
    """

    def __init__(
        self,
        config: SwinConfig,
        *,
        dim: int,
        heads: int,
        window: int,
        shift: int,
        rates: list[float],
        merges: bool,
    ) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.blocks = nn.ModuleList(
            WindowBlock(
                dim=dim,
                heads=heads,
                window=window,
                mlp_ratio=config.mlp_ratio,
                qkv_bias=config.qkv_bias,
                drop_path=rate,
            )
            for rate in rates
        )
        self.downsample = PatchMerging(dim) if merges else nn.Identity()
        self._kept: dict[tuple[tuple[int, int], torch.device], tuple[WindowLayout, WindowLayout]] = {}

    def forward(self, x: Map) -> Map:
        size = (x.shape[1], x.shape[2])
        layouts = self._layouts(size, x.device)
        tokens = x.flatten(1, 2)
        for number, block in enumerate(self.blocks):
            tokens = block(tokens, layouts[number % 2])
        return tokens.unflatten(1, size)

    def _layouts(self, size: tuple[int, int], device: torch.device) -> tuple[WindowLayout, WindowLayout]:
        """Windows as they are and shifted; they depend on the size of the map alone, the last are kept."""
        kept = self._kept.get((size, device))
        if kept is None:
            with nullcontext() if torch.compiler.is_compiling() else torch.inference_mode(False):
                plain = window_layout(size, self.window, 0, device)
                shifted = window_layout(size, self.window, self.shift, device) if self.shift else plain
            kept = (plain, shifted)
            if not torch.compiler.is_compiling():
                self._kept = {(size, device): kept}
        return kept


class Swin(nn.Module):
    """Pictures to maps of strides 4, 8, 16 and 32, those of `config.out_stages`."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        stages = len(config.depths)
        self._out = config.out_stages or (stages,)
        self.channels = tuple(config.widths[number - 1] for number in self._out)
        self.strides = tuple(config.patch_size * 2 ** (number - 1) for number in self._out)
        self.patch_embed = SwinPatches(config)
        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist()
        starts = [sum(config.depths[:stage]) for stage in range(stages)]
        self.layers = nn.ModuleList(
            SwinStage(
                config,
                dim=config.widths[stage],
                heads=config.heads[stage],
                window=config.stage_window(stage),
                shift=config.stage_shift(stage),
                rates=rates[starts[stage] : starts[stage] + config.depths[stage]],
                merges=stage < stages - 1,
            )
            for stage in range(stages)
        )
        if config.convention == "dense":
            for number in self._out:
                norm = nn.LayerNorm(config.widths[number - 1], eps=NORM_EPS)
                self.add_module(f"norm{number - 1}", norm)
        if config.classes:
            self.norm = nn.LayerNorm(config.widths[-1], eps=NORM_EPS)
            self.head = nn.Linear(config.widths[-1], config.classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch _dim _rows _columns"]]:
        """Return the maps, finest first.

        Raises:
            ValueError: The picture is not of `config.image_size` ("classification").
        """
        maps = self.stage_maps(image)
        if self.config.convention == "dense":
            maps = [self.get_submodule(f"norm{number - 1}")(maps[number - 1]) for number in self._out]
        else:
            maps = [maps[number - 1] for number in self._out]
        return [x.permute(0, 3, 1, 2) for x in maps]

    def stage_maps(self, image: Float[Tensor, "batch 3 height width"]) -> list[Map]:
        """Maps of all stages, without the norms of outputs, channels last.

        Raises:
            ValueError: The picture is not of `config.image_size` ("classification").
        """
        size = (image.shape[-2], image.shape[-1])
        if self.config.convention == "classification" and size != self.config.image_size:
            raise ValueError(
                f"this Swin takes pictures of {self.config.image_size} (height, width), got {size}; "
                "the 'dense' convention takes every size"
            )
        maps: list[Tensor] = []
        x = self.patch_embed(image)
        for stage in cast("Iterable[SwinStage]", self.layers):
            maps.append(stage(x))
            x = stage.downsample(maps[-1])
        return maps

    def classify(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Scores of the ImageNet classes.

        Raises:
            ValueError: The configuration has no `classes`.
        """
        if not self.config.classes:
            raise ValueError("this Swin has no classifier; SwinConfig.classes says how many classes")
        return self.head(self.norm(self.stage_maps(image)[-1]).mean((1, 2)))


@register_hierarchical
def swin_t() -> SwinConfig:
    return SwinConfig(dim=96, drop_path=0.2)


@register_hierarchical
def swin_s() -> SwinConfig:
    return SwinConfig(dim=96, depths=(2, 2, 18, 2), drop_path=0.3)


@register_hierarchical
def swin_b() -> SwinConfig:
    return SwinConfig(dim=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), drop_path=0.5)
