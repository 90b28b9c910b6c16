"""Presets trained by this project on its own synthetic pictures."""

from __future__ import annotations

from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.heads.keypoint_smpl import KeypointSMPLConfig
from fasthmr.models.keypoint_hmr import KeypointHMRConfig
from fasthmr.zoo.registry import Preset, register_preset


def _fasthmr_s() -> KeypointHMRConfig:
    channels = (32, 64, 128)
    return KeypointHMRConfig(
        encoder=ConvViTConfig(widths=channels, blocks=(1, 2, 2), depth=4, heads=4),
        head=KeypointSMPLConfig(channels=channels, map_channels=32, dim=128, depth=3, heads=4),
    )


register_preset(
    Preset(
        name="fasthmr_s",
        config=_fasthmr_s,
        description="Default: 128x96 picture, convolution stem, 4 ViT blocks, keypoint-guided head",
    )
)
