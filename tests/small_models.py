"""Models of the real kinds that run in milliseconds."""

from __future__ import annotations

import torch

from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.heads.keypoint_smpl import KeypointSMPLConfig
from fasthmr.models.keypoint_hmr import KeypointHMR, KeypointHMRConfig


def small_keypoint_hmr(depth: int) -> KeypointHMR:
    """48 tokens of a picture of 64x48, from crops of 128."""
    torch.manual_seed(0)
    channels = (8, 12, 16)
    encoder = ConvViTConfig(
        widths=channels, blocks=(1, 1, 1), token_stride=8, depth=depth, heads=2, image_size=(64, 48)
    )
    head = KeypointSMPLConfig(channels=channels, token_stride=8, map_channels=8, dim=16, depth=1, heads=2)
    return KeypointHMRConfig(encoder=encoder, head=head).build().eval()
