"""Model configurations as JSON, so that a weight file can say what it belongs to."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

from fasthmr.encoders.registry import encoder_config, list_encoders
from fasthmr.errors import UnsafeFileError
from fasthmr.heads.dense_keypoints import DenseKeypointsHeadConfig
from fasthmr.heads.fastmetro import FastMetroHeadConfig
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.heads.keypoint_smpl import KeypointSMPLConfig
from fasthmr.heads.mesh_parameters import MeshParametersConfig
from fasthmr.heads.metro import MetroHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.heads.smplx import SMPLXHeadConfig
from fasthmr.layers.mesh_levels import MeshLevelsConfig
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.dense_keypoints import DenseKeypointsConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.human_fov import HumanFoVConfig
from fasthmr.models.keypoint_hmr import KeypointHMRConfig
from fasthmr.models.mesh import MeshModelConfig
from fasthmr.models.motion_decoder import MotionDecoderConfig
from fasthmr.models.motion_prior import MotionPriorConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.models.reduced import ReducedEncoderConfig
from fasthmr.reduction.adaptive import TokenBudget
from fasthmr.reduction.eclm import LayerMergePlan, MergeRule
from fasthmr.reduction.gtr import GCNRegressorConfig, MLPRegressorConfig, NSRConfig
from fasthmr.reduction.itp import ITPConfig
from fasthmr.reduction.mask_tome import MaskToMe
from fasthmr.reduction.self_mask import SelfMaskConfig
from fasthmr.reduction.token_learner import TokenLearnerConfig
from fasthmr.reduction.tome_schedule import TokenMergePlan
from fasthmr.temporal.diffusion import DiffusionSchedule
from fasthmr.temporal.diffusion_decoder import DiffusionDecoderConfig
from fasthmr.temporal.latent_denoiser import LatentDenoiserConfig
from fasthmr.temporal.motion_vae import MotionVAEConfig
from fasthmr.temporal.patch_denoiser import PatchDenoiserConfig
from fasthmr.temporal.patch_vae import PatchVAEConfig
from fasthmr.temporal.smoothing import SavitzkyGolay

_MAX_NUMBER = 2**20
"""No size of a model is larger; a stranger's file must not make us count any further."""


def config_to_json(config: Any) -> str:
    """A nested configuration; each carries the name of its class under `type`."""
    return json.dumps(_to_plain(config), sort_keys=True)


def config_from_json(text: str) -> Any:
    """The configuration that `config_to_json` wrote.

    Raises:
        UnsafeFileError: The text is no known configuration.
    """
    parts = (
        CameraHMRConfig,
        DenseKeypointsConfig,
        DenseKeypointsHeadConfig,
        DiffusionDecoderConfig,
        DiffusionSchedule,
        FastMetroHeadConfig,
        GCNRegressorConfig,
        HMRConfig,
        HeatmapHeadConfig,
        HumanFoVConfig,
        ITPConfig,
        KeypointHMRConfig,
        KeypointSMPLConfig,
        LatentDenoiserConfig,
        LayerMergePlan,
        MLPRegressorConfig,
        MaskToMe,
        MergeRule,
        MeshLevelsConfig,
        MeshModelConfig,
        MeshParametersConfig,
        MetroHeadConfig,
        MotionDecoderConfig,
        MotionPriorConfig,
        MotionVAEConfig,
        NSRConfig,
        PatchDenoiserConfig,
        PatchVAEConfig,
        PoseConfig,
        ReducedEncoderConfig,
        SMPLHeadConfig,
        SMPLXHeadConfig,
        SavitzkyGolay,
        SelfMaskConfig,
        TokenBudget,
        TokenLearnerConfig,
        TokenMergePlan,
    )
    types: dict[str, type] = {cls.__name__: cls for cls in parts}
    types.update((type(config).__name__, type(config)) for config in map(encoder_config, list_encoders()))
    try:
        return _from_plain(json.loads(text), types)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UnsafeFileError(f"not a model configuration: {error}") from error


def _to_plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: _to_plain(getattr(value, field.name)) for field in fields(value)}
        return {"type": type(value).__name__, **plain}
    return [_to_plain(item) for item in value] if isinstance(value, tuple) else value


def _from_plain(value: Any, types: dict[str, type]) -> Any:
    if isinstance(value, list):
        return tuple(_from_plain(item, types) for item in value)
    if isinstance(value, dict):
        return types[value["type"]](**{k: _from_plain(v, types) for k, v in value.items() if k != "type"})
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        raise ValueError(f"a size of over {_MAX_NUMBER}")
    return value
