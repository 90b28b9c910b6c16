"""Hierarchical encoders cut after two, three or four stages, brought to one map of stride 16.

As in the light HMR 2.0 and ViTPose families (arXiv 2510.12660): only the last kept stage is used, and later
stages are not built. What matches the resolutions is this project's reading: nothing after stage 3, a
convolution of stride 2 after stage 2, a transposed convolution after stage 4, all to the width of stage 3 of
the whole encoder, so that heads do not depend on the cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.registry import EncoderConfig, register_encoder

_MATCHED_STRIDE = 16
CUTS = (2, 3, 4)
"""Stages that an encoder can be cut after."""


@runtime_checkable
class HierarchicalConfig(EncoderConfig, Protocol):
    """What configurations of encoders with stages of strides 4, 8, 16 and 32 offer; frozen dataclasses.

    They build exactly `len(depths)` stages and, unless told otherwise, return the map of the last alone.
    """

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        ...

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        ...

    @property
    def drop_path(self) -> float:
        """Stochastic depth of the last block; it rises linearly from zero at the first."""
        ...

    def truncated(self, stages: int) -> HierarchicalConfig:
        """The same encoder with its first stages alone, which return the last map."""
        ...


Config = TypeVar("Config", bound=HierarchicalConfig)


def truncate(config: Config, stages: int, *, continuing: bool = False) -> Config:
    """The first stages of an encoder.

    Args:
        continuing: The weights come from training with all stages: every kept block keeps its rate of
            stochastic depth. Otherwise the rates rise to `drop_path` over the kept blocks.

    Raises:
        ValueError: The encoder has not so many stages.
    """
    if not 1 <= stages <= len(config.depths):
        raise ValueError(f"{type(config).__name__} has {len(config.depths)} stages, cannot keep {stages}")
    kept: Any = config.truncated(stages)
    if continuing and sum(config.depths) > 1:
        share = (sum(kept.depths) - 1) / (sum(config.depths) - 1)
        kept = replace(kept, drop_path=config.drop_path * share)
    return kept


@dataclass(frozen=True, kw_only=True)
class TruncatedConfig:
    """A cut encoder and the layer behind it.

    Attributes:
        encoder: The stages that are kept.
        context_dim: Channels of the matched map; the width of stage 3 of the whole encoder.
        match_kernel: Kernel of the convolution after stage 2: 2 or 3.
        match_norm: Batch norm behind the matching layer.
        match_relu: ReLU behind it.
    """

    encoder: HierarchicalConfig
    context_dim: int
    match_kernel: int = 3
    match_norm: bool = False
    match_relu: bool = False

    def __post_init__(self) -> None:
        if self.stages not in CUTS:
            raise ValueError(f"TruncatedConfig: an encoder of 2, 3 or 4 stages is needed, not {self.stages}")
        if self.match_kernel not in (2, 3):
            raise ValueError(f"TruncatedConfig: match_kernel is 2 or 3, not {self.match_kernel}")
        if self.stages == 3 and self.context_dim != self.encoder.widths[-1]:
            raise ValueError(
                f"TruncatedConfig: stage 3 is used as it is, with {self.encoder.widths[-1]} channels; "
                f"context_dim={self.context_dim} does not fit"
            )
        if self.stages == 3 and (self.match_norm or self.match_relu):
            raise ValueError("TruncatedConfig: there is no matching layer after stage 3 to add anything to")

    @property
    def stages(self) -> int:
        """Stages that are kept."""
        return len(self.encoder.depths)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.encoder.image_size

    def build(self) -> TruncatedEncoder:
        return TruncatedEncoder(self)


class TruncatedEncoder(nn.Module):
    """Pictures to one map of stride 16."""

    def __init__(self, config: TruncatedConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = (config.context_dim,)
        self.strides = (_MATCHED_STRIDE,)
        self.encoder = config.encoder.build()
        width = self.encoder.channels[-1]
        self.match: nn.Module = nn.Identity()
        if config.stages == 2:
            kernel = config.match_kernel
            self.match = nn.Conv2d(width, config.context_dim, kernel, stride=2, padding=(kernel - 1) // 2)
        elif config.stages == 4:
            self.match = nn.ConvTranspose2d(width, config.context_dim, 2, stride=2)
        self.match_norm = nn.BatchNorm2d(config.context_dim) if config.match_norm else nn.Identity()

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> list[Float[Tensor, "batch context_dim rows columns"]]:
        """Return the one map.

        Raises:
            ValueError: The encoder cannot take pictures of this size.
        """
        matched = self.match_norm(self.match(self.encoder(image)[-1]))
        return [torch.relu(matched) if self.config.match_relu else matched]


def cut_and_matched(config: HierarchicalConfig, stages: int) -> TruncatedConfig:
    """A whole encoder cut after some of its stages, with the matching layer."""
    return TruncatedConfig(encoder=truncate(config, stages), context_dim=config.widths[2])


Factory = TypeVar("Factory", bound=Callable[[], HierarchicalConfig])


def register_hierarchical(factory: Factory) -> Factory:
    """Decorator: registers an encoder of four stages under the function's name, and what is cut from it.

    `swin_t` gives `swin_t` itself (all stages, the map of the last), and `swin_t_s2`, `swin_t_s3` and
    `swin_t_s4` with their matching layers.
    """
    register_encoder(factory)
    for stages in CUTS:
        register_encoder(partial(_cut, factory, stages), f"{factory.__name__}_s{stages}")
    return factory


def _cut(factory: Callable[[], HierarchicalConfig], stages: int) -> TruncatedConfig:
    return cut_and_matched(factory(), stages)
