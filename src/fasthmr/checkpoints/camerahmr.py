"""Checkpoints of CameraHMR: the model with SMPL or SMPL-X bodies, HumanFoV and the dense keypoints."""

from __future__ import annotations

from pathlib import Path

from fasthmr.checkpoints.decoder_keys import decoder_renames, decoder_sizes
from fasthmr.checkpoints.keymap import KeyTable
from fasthmr.checkpoints.layout import Layout, Shapes
from fasthmr.checkpoints.plain_vit import VIT_BY_WIDTH, vit_from_shapes
from fasthmr.checkpoints.trunks import first_axis, hrnet_from_shapes
from fasthmr.heads.dense_keypoints import DenseKeypointsHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.heads.smplx import SMPLXHeadConfig
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.dense_keypoints import DenseKeypointsConfig
from fasthmr.models.human_fov import HumanFoVConfig

_LICENCE = (
    "CameraHMR weights: licence of the Max Planck Society, non-commercial scientific research only; "
    "the body model that they were trained with has its own licence"
)
_READOUTS = ("decpose", "decshape", "deccam")
_BBOX_INFO = 3
_TRAINING = (
    (r"smplx?(_(?!head)\w+)?\.", "body model"),
    (r"initialized$", "training bookkeeping"),
)


def _table(layout: str, head: str) -> KeyTable:
    renames = (*decoder_renames(head), (r"head\.", f"{head}."), (r"encoder\.", "backbone."))
    return KeyTable(layout=layout, renames=renames, ignored=_TRAINING)


CAMERAHMR_TABLE = _table("CameraHMR", "smpl_head")
CAMERAHMR_SMPLX_TABLE = _table("CameraHMR, SMPL-X", "smplx_head")
DENSE_KEYPOINTS_TABLE = _table("CameraHMR, dense keypoints", "head")
HUMAN_FOV_TABLE = KeyTable(
    layout="HumanFoV",
    renames=tuple((rf"downsample\.{i}\.", f"backbone.downsample_stage_{i + 1}.") for i in range(3)),
    ignored=((r"fc2\.|backbone\.final_layer\.", "never called"),),
)


def _token_dim(shapes: Shapes, head: str) -> int:
    """Numbers that the query token of a published head is made from."""
    shape = shapes.get(f"{head}.transformer.to_token_embedding.weight", ())
    return shape[1] if len(shape) == 2 else 0


def _estimate(shapes: Shapes, head: str) -> int:
    """Numbers that a published head estimates."""
    return sum(first_axis(shapes, f"{head}.{name}.bias") for name in _READOUTS)


def _has_encoder(shapes: Shapes) -> bool:
    return "backbone.pos_embed" in shapes


def smpl_head_from_shapes(shapes: Shapes) -> SMPLHeadConfig:
    """The head of a CameraHMR file.

    Raises:
        CheckpointMismatch: The shapes are of no such head.
    """
    return SMPLHeadConfig(
        **decoder_sizes(shapes, "smpl_head"),
        joints=first_axis(shapes, "smpl_head.decpose.bias") // 6,
        num_betas=first_axis(shapes, "smpl_head.decshape.bias"),
        aux_keypoints=first_axis(shapes, "smpl_head.deckp.bias") // 2,
        token_input="camera",
    )


def smplx_head_from_shapes(shapes: Shapes) -> SMPLXHeadConfig:
    """The head of a CameraHMR file for SMPL-X.

    Raises:
        CheckpointMismatch: The shapes are of no such head.
    """
    return SMPLXHeadConfig(
        **decoder_sizes(shapes, "smplx_head"),
        joints=first_axis(shapes, "smplx_head.decpose.bias") // 6,
        num_betas=first_axis(shapes, "smplx_head.decshape.bias"),
        hand_joints=first_axis(shapes, "smplx_head.dechandpose.bias") // 12,
    )


def dense_keypoints_head_from_shapes(shapes: Shapes) -> DenseKeypointsHeadConfig:
    """The head of a file of dense keypoints.

    Raises:
        CheckpointMismatch: The shapes are of no such head.
    """
    points = first_axis(shapes, "head.dec_kp.bias") // 3
    return DenseKeypointsHeadConfig(**decoder_sizes(shapes, "head"), points=points)


def human_fov_config(shapes: Shapes) -> HumanFoVConfig:
    """The network of a HumanFoV file.

    Raises:
        CheckpointMismatch: A part of it is missing.
    """
    return HumanFoVConfig(
        backbone=hrnet_from_shapes(shapes, "backbone."), hidden=first_axis(shapes, "fc1.bias")
    )


def _smpl_config(shapes: Shapes, path: Path) -> CameraHMRConfig:
    return CameraHMRConfig(encoder=vit_from_shapes(shapes, "backbone."), head=smpl_head_from_shapes(shapes))


def _smplx_config(shapes: Shapes, path: Path) -> CameraHMRConfig:
    return CameraHMRConfig(encoder=vit_from_shapes(shapes, "backbone."), head=smplx_head_from_shapes(shapes))


def _dense_keypoints_config(shapes: Shapes, path: Path) -> DenseKeypointsConfig:
    return DenseKeypointsConfig(
        encoder=vit_from_shapes(shapes, "backbone."), head=dense_keypoints_head_from_shapes(shapes)
    )


def _vit_h_only(name: str, shapes: Shapes) -> str | None:
    return name if VIT_BY_WIDTH.get(shapes["backbone.pos_embed"][-1]) == "vit_h" else None


CAMERAHMR_LAYOUT = Layout(
    name="CameraHMR",
    table=CAMERAHMR_TABLE,
    matches=lambda shapes: (
        _has_encoder(shapes)
        and 0 < _token_dim(shapes, "smpl_head") == _estimate(shapes, "smpl_head") + _BBOX_INFO
    ),
    config=_smpl_config,
    preset=lambda shapes: _vit_h_only("camerahmr_vit_h", shapes),
    licence=_LICENCE,
)
"""`camerahmr_checkpoint_cleaned.ckpt`; the network for the intrinsics is in a file of its own."""

CAMERAHMR_SMPLX_LAYOUT = Layout(
    name="CameraHMR for SMPL-X",
    table=CAMERAHMR_SMPLX_TABLE,
    matches=lambda shapes: (
        _has_encoder(shapes)
        and _token_dim(shapes, "smplx_head") == _BBOX_INFO
        and "smplx_head.dechandpose.bias" in shapes
    ),
    config=_smplx_config,
    preset=lambda shapes: _vit_h_only("camerahmr_smplx_vit_h", shapes),
    licence=_LICENCE,
)
"""`bedlam_v1_v2.ckpt`."""

DENSE_KEYPOINTS_LAYOUT = Layout(
    name="CameraHMR, dense keypoints",
    table=DENSE_KEYPOINTS_TABLE,
    matches=lambda shapes: _has_encoder(shapes) and "head.dec_kp.bias" in shapes,
    config=_dense_keypoints_config,
    preset=lambda shapes: _vit_h_only("camerahmr_densekp_vit_h", shapes),
    licence=_LICENCE,
)
"""`densekp.ckpt`."""

HUMAN_FOV_LAYOUT = Layout(
    name="HumanFoV (CameraHMR)",
    table=HUMAN_FOV_TABLE,
    matches=lambda shapes: {"fc1.bias", "fc3.bias", "backbone.downsample_stage_1.0.weight"} <= shapes.keys(),
    config=lambda shapes, path: human_fov_config(shapes),
    preset=lambda shapes: "humanfov_hrnet_w48" if human_fov_config(shapes) == HumanFoVConfig() else None,
    licence=_LICENCE,
)
"""`cam_model_cleaned.ckpt`."""
