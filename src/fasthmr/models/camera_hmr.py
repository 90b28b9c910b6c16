"""Mesh recovery that knows the camera: CameraHMR (arXiv 2411.08128), with SMPL or SMPL-X bodies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Shaped
from torch import Tensor

from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import CropModel, CropModelConfig
from fasthmr.models.human_fov import HumanFoVConfig
from fasthmr.types import HMROutput


@dataclass(frozen=True, kw_only=True)
class CameraHMRConfig(CropModelConfig):
    """Parts of a `CameraHMR`.

    Attributes:
        head: A head that takes the camera: `SMPLHeadConfig` or its kind for SMPL-X.
        intrinsics: Network that estimates the focal length of a picture, or None: then it has to be known.
    """

    head: SMPLHeadConfig
    intrinsics: HumanFoVConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.head.takes_camera:
            raise ValueError(
                f"CameraHMRConfig: a head with token_input={self.head.token_input!r} takes no camera; "
                "use HMRConfig"
            )

    def build(self) -> CameraHMR:
        return CameraHMR(self)


class CameraHMR(CropModel):
    """Square crops, and where each lies in its camera, to pose, shape and crop camera.

    `intrinsics` is not called by `forward`: it looks at the whole picture, once for all people in it.
    `geometry.cameras.crop_camera_to_full` with the same camera gives the place of the body.
    """

    crop_aspect: ClassVar[tuple[int, int]] = (1, 1)
    crop_antialias: ClassVar[bool] = False
    takes_camera: ClassVar[bool] = True

    def __init__(self, config: CameraHMRConfig) -> None:
        super().__init__(config, config.head)
        self.config = config
        self.head = config.head.build()
        self.intrinsics = None if config.intrinsics is None else config.intrinsics.build()

    def forward(
        self,
        pixels: Float[Tensor, "batch 3 height width"],
        bbox_info: Float[Tensor, "batch 3"],
        mask: Shaped[Tensor, "batch height width"] | None = None,
    ) -> HMROutput:
        """Estimate from normalised crops (`geometry.crops.crop_pictures`).

        Args:
            bbox_info: What `geometry.cameras.bbox_info` gives for the crops.
            mask: The person in the same crops, for models with `takes_mask`.
        """
        return self.head(self.features(pixels, mask), bbox_info)
