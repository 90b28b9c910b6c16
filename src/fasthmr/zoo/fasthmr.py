"""Presets trained by this project on its own synthetic pictures."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.heads.keypoint_smpl import KeypointSMPLConfig
from fasthmr.models.keypoint_hmr import KeypointHMRConfig
from fasthmr.models.reduced import ReducedEncoderConfig
from fasthmr.reduction.eclm import LayerMergePlan
from fasthmr.reduction.self_mask import SelfMaskConfig
from fasthmr.reduction.tome_schedule import TokenMergePlan
from fasthmr.zoo.registry import Preset, register_preset


def _fasthmr(blocks: tuple[int, int, int], token_stride: Literal[8, 16], depth: int) -> KeypointHMRConfig:
    channels = (32, 64, 128)
    return KeypointHMRConfig(
        encoder=ConvViTConfig(
            widths=channels, blocks=blocks, token_stride=token_stride, depth=depth, heads=4
        ),
        head=KeypointSMPLConfig(
            channels=channels, token_stride=token_stride, map_channels=32, dim=128, depth=3, heads=4
        ),
    )


def _fast() -> KeypointHMRConfig:
    """As `fasthmr report acceleration` chose it (docs/reports/acceleration.md)."""
    whole = _fasthmr((1, 2, 1), 8, 12)
    assert isinstance(whole.encoder, ConvViTConfig)
    encoder = ReducedEncoderConfig(
        source=whole.encoder,
        layers=LayerMergePlan(groups=((0,), (1,), (2,), (3,), (4,), (5, 6, 7), (8, 9, 10, 11))),
        tokens=TokenMergePlan(counts=(40, 40, 40)),
        self_mask=SelfMaskConfig(dim=128),
    )
    return replace(whole, encoder=encoder)


register_preset(
    Preset(
        name="fasthmr_s",
        config=partial(_fasthmr, (1, 2, 2), 16, 4),
        description="Light: 128x96 picture, convolution stem, 4 ViT blocks, keypoint-guided head",
    ),
    Preset(
        name="fasthmr_m",
        config=partial(_fasthmr, (1, 2, 1), 8, 12),
        description="128x96 picture, convolution stem, 12 ViT blocks, 192 tokens, keypoint-guided head",
    ),
    Preset(
        name="fasthmr_m_fast",
        config=_fast,
        description="Default: fasthmr_m with 7 of 12 blocks, 72 tokens left around the person",
        made_from="fasthmr_m",
    ),
)
