"""2D pose from one crop: encoder and heat-map head, as in ViTPose (arXiv 2204.12484)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.encoders.registry import EncoderConfig
from fasthmr.geometry.heatmaps import (
    COCO_FLIP_PAIRS,
    Decoding,
    cells_to_picture,
    decode_heatmaps,
    flip_back,
)
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.types import PoseCrop


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """Encoder and head of a `PoseModel`, and how its heat maps are read.

    Attributes:
        flip_pairs: Key points that change places in a mirrored picture; empty where nobody knows them.
        decoding: How points are read; "dark_udp" also maps them to the picture as UDP crops demand.
        blur_kernel: Width of the blur of the two "dark" readings, cells.
        shift_flipped: Move the maps of the mirrored picture by one column (for crops that are not UDP).
    """

    encoder: EncoderConfig
    head: HeatmapHeadConfig
    flip_pairs: tuple[tuple[int, int], ...] = COCO_FLIP_PAIRS
    decoding: Decoding = "dark_udp"
    blur_kernel: int = 11
    shift_flipped: bool = False

    def __post_init__(self) -> None:
        highest = max((max(pair) for pair in self.flip_pairs), default=-1)
        if highest >= self.head.keypoints:
            raise ValueError(
                f"PoseConfig: flip_pairs name key point {highest}, the head gives {self.head.keypoints}"
            )

    def build(self) -> PoseModel:
        return PoseModel(self)


class PoseModel(nn.Module):
    """Upright crops to one heat map per key point.

    Attributes:
        image_size: Height and width in pixels of the crops to feed.
    """

    def __init__(self, config: PoseConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build()
        self.head = config.head.build()
        if self.encoder.channels[-1] != config.head.context_dim:
            raise ValueError(
                f"PoseModel: the encoder gives {self.encoder.channels[-1]} channels, "
                f"the head reads {config.head.context_dim}"
            )
        self.image_size = config.encoder.image_size

    def forward(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch keypoints rows columns"]:
        """Heat maps of normalised crops (`geometry.pose_crops.crop_pose`)."""
        return self.head(self.encoder(pixels)[-1])

    @torch.no_grad()
    def averaged_heatmaps(
        self, pixels: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch keypoints rows columns"]:
        """Mean of the maps of the crops and of the mirrored crops, mirrored back.

        Raises:
            ValueError: The configuration names no `flip_pairs`.
        """
        if not self.config.flip_pairs:
            raise ValueError("this model names no flip_pairs; use estimate(crop, flip_test=False)")
        plain, mirrored = self(torch.cat([pixels, pixels.flip(-1)])).chunk(2)
        return (plain + flip_back(mirrored, self.config.flip_pairs, self.config.shift_flipped)) / 2

    @torch.no_grad()
    def estimate(self, crop: PoseCrop, flip_test: bool = True) -> Float[Tensor, "batch keypoints 3"]:
        """Key points as x and y in pixels of the full picture, and score.

        Args:
            flip_test: Average with the mirrored crop; twice the work.
        """
        heatmaps = self.averaged_heatmaps(crop.pixels) if flip_test else self(crop.pixels)
        return self.read(heatmaps, crop)

    def read(
        self, heatmaps: Float[Tensor, "batch keypoints rows columns"], crop: PoseCrop
    ) -> Float[Tensor, "batch keypoints 3"]:
        """Key points of heat maps, as `estimate` returns them."""
        config = self.config
        cells, scores = decode_heatmaps(heatmaps, config.decoding, config.blur_kernel)
        size = (heatmaps.shape[-2], heatmaps.shape[-1])
        points = cells_to_picture(cells, crop.center, crop.size, size, udp=config.decoding == "dark_udp")
        return torch.cat([points, scores[..., None]], dim=-1)
