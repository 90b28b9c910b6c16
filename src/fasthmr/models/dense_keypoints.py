"""Dense keypoints from one crop: what CameraHMR (arXiv 2411.08128) refits labels with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from fasthmr.heads.dense_keypoints import DenseKeypointsHeadConfig
from fasthmr.models.hmr import CropModel, CropModelConfig
from fasthmr.types import DenseKeypoints


@dataclass(frozen=True, kw_only=True)
class DenseKeypointsConfig(CropModelConfig):
    """Encoder and head of a `DenseKeypointsModel`."""

    head: DenseKeypointsHeadConfig

    def build(self) -> DenseKeypointsModel:
        return DenseKeypointsModel(self)


class DenseKeypointsModel(CropModel):
    """Square crops to points of the body's surface."""

    crop_aspect: ClassVar[tuple[int, int]] = (1, 1)
    crop_antialias: ClassVar[bool] = False

    def __init__(self, config: DenseKeypointsConfig) -> None:
        super().__init__(config, config.head)
        self.config = config
        self.head = config.head.build()

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> DenseKeypoints:
        """Estimate from normalised crops (`geometry.crops.crop_pictures`)."""
        return self.head(self.features(pixels))
