"""CameraHMR (arXiv 2411.08128): SMPL and SMPL-X models, its network for the field of view, surface points."""

from __future__ import annotations

from typing import cast

from fasthmr.checkpoints.camerahmr import (
    CAMERAHMR_SMPLX_TABLE,
    CAMERAHMR_TABLE,
    DENSE_KEYPOINTS_TABLE,
    HUMAN_FOV_TABLE,
)
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.vit import ViTConfig
from fasthmr.heads.dense_keypoints import DenseKeypointsHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.heads.smplx import SMPLXHeadConfig
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.dense_keypoints import DenseKeypointsConfig
from fasthmr.models.human_fov import HumanFoVConfig
from fasthmr.zoo.registry import Preset, PublishedCount, register_preset

_COUNTED = "released modules, counted"


def _vit_h() -> ViTConfig:
    return cast(ViTConfig, encoder_config("vit_h"))


def _camerahmr() -> CameraHMRConfig:
    encoder = _vit_h()
    head = SMPLHeadConfig(context_dim=encoder.dim, token_input="camera", aux_keypoints=44)
    return CameraHMRConfig(encoder=encoder, head=head, intrinsics=HumanFoVConfig())


def _smplx() -> CameraHMRConfig:
    encoder = _vit_h()
    head = SMPLXHeadConfig(context_dim=encoder.dim)
    return CameraHMRConfig(encoder=encoder, head=head, intrinsics=HumanFoVConfig())


def _dense_keypoints() -> DenseKeypointsConfig:
    encoder = _vit_h()
    return DenseKeypointsConfig(encoder=encoder, head=DenseKeypointsHeadConfig(context_dim=encoder.dim))


register_preset(
    Preset(
        name="camerahmr_vit_h",
        config=_camerahmr,
        description="CameraHMR with ViT-H, and HumanFoV for cameras that are not known",
        layout=CAMERAHMR_TABLE,
        trained_body="smpl",
        published=(
            PublishedCount(source=_COUNTED, params=738.389),
            PublishedCount(source="FastHMR, Table 12", params=737.1, gmacs=144.0, convention="tables"),
        ),
    ),
    Preset(
        name="camerahmr_smplx_vit_h",
        config=_smplx,
        description="CameraHMR with ViT-H for SMPL-X bodies with hands, and HumanFoV",
        layout=CAMERAHMR_SMPLX_TABLE,
        trained_body="smplx",
    ),
    Preset(
        name="camerahmr_densekp_vit_h",
        config=_dense_keypoints,
        description="Dense keypoints of CameraHMR with ViT-H: 138 surface points in 2D with uncertainty",
        task="dense",
        layout=DENSE_KEYPOINTS_TABLE,
    ),
    Preset(
        name="humanfov_hrnet_w48",
        config=HumanFoVConfig,
        description="HumanFoV of CameraHMR with HRNet-W48: field of view of a whole picture",
        task="intrinsics",
        layout=HUMAN_FOV_TABLE,
        published=(PublishedCount(source=_COUNTED, params=67.677, gmacs=21.26),),
    ),
)
