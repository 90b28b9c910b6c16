"""Heat-map heads of ViTPose (arXiv 2204.12484, sec. 3.1): one map per key point from the last features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_DECONV_PADDING = {2: (0, 0), 3: (1, 1), 4: (1, 0)}
"""Padding and output padding with which a transposed convolution of this kernel doubles the map."""

_FINAL_KERNEL = {"classic": 1, "simple": 3}


@dataclass(frozen=True, kw_only=True)
class HeatmapHeadConfig:
    """Sizes of a `HeatmapHead`.

    Attributes:
        context_dim: Channels of the encoder's map.
        kind: "classic" doubles the map by transposed convolutions; "simple" enlarges it after a ReLU.
        deconv_filters: Channels after each transposed convolution ("classic").
        deconv_kernels: Kernel of each: 2, 3 or 4.
        upsample: Enlargement ("simple").
        final_kernel: Kernel of the last convolution; None for 1 (classic) or 3 (simple).
    """

    context_dim: int
    keypoints: int = 17
    kind: Literal["classic", "simple"] = "classic"
    deconv_filters: tuple[int, ...] = (256, 256)
    deconv_kernels: tuple[int, ...] = (4, 4)
    upsample: int = 4
    final_kernel: int | None = None

    def __post_init__(self) -> None:
        if len(self.deconv_filters) != len(self.deconv_kernels):
            raise ValueError(
                f"HeatmapHeadConfig: {len(self.deconv_filters)} deconv_filters but "
                f"{len(self.deconv_kernels)} deconv_kernels"
            )
        unknown = set(self.deconv_kernels) - set(_DECONV_PADDING)
        if unknown:
            raise ValueError(f"HeatmapHeadConfig: deconv_kernels must be 2, 3 or 4, got {min(unknown)}")
        if self.kernel % 2 == 0:
            raise ValueError(f"HeatmapHeadConfig: final_kernel must be odd, got {self.kernel}")

    @property
    def kernel(self) -> int:
        """Kernel of the last convolution."""
        return _FINAL_KERNEL[self.kind] if self.final_kernel is None else self.final_kernel

    @property
    def enlargement(self) -> int:
        """Rows of the heat maps over rows of the encoder's map."""
        return self.upsample if self.kind == "simple" else 2 ** len(self.deconv_filters)

    def build(self) -> HeatmapHead:
        return HeatmapHead(self)


class HeatmapHead(nn.Module):
    """Transposed convolutions with batch norm and ReLU, or ReLU and bilinear enlargement; then a convolution.

    Convolutions start from N(0, 0.001²) with zero bias, as released.
    """

    def __init__(self, config: HeatmapHeadConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = config.context_dim
        if config.kind == "classic":
            for filters, kernel in zip(config.deconv_filters, config.deconv_kernels, strict=True):
                padding, output_padding = _DECONV_PADDING[kernel]
                deconv = nn.ConvTranspose2d(channels, filters, kernel, 2, padding, output_padding, bias=False)
                layers += [deconv, nn.BatchNorm2d(filters), nn.ReLU()]
                channels = filters
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(channels, config.keypoints, config.kernel, padding=config.kernel // 2)
        for module in (*layers, self.final_layer):
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.001)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def enlarge(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch filters heatmap_rows heatmap_columns"]:
        """Features of the size of the heat maps."""
        if self.config.kind == "classic":
            return self.deconv_layers(features)
        return F.interpolate(
            torch.relu(features),
            scale_factor=float(self.config.upsample),
            mode="bilinear",
            align_corners=False,
        )

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch keypoints heatmap_rows heatmap_columns"]:
        return self.final_layer(self.enlarge(features))
