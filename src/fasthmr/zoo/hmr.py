"""HMR 2.0 (arXiv 2305.20091) with the plain ViT in its four sizes, and the large decoder.

Parameters and multiply-accumulates were counted on the released modules: body and discriminator left out,
attention products included.
"""

from __future__ import annotations

from functools import partial
from typing import cast

from fasthmr.checkpoints.hmr2 import HMR2_TABLE
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.vit import ViTConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.zoo.registry import Preset, register_preset

_ROWS = (
    ("s", 55_705_757, 4.959e9),
    ("b", 122_196_125, 18.039e9),
    ("l", 341_270_685, 61.186e9),
    ("h", 670_459_037, 125.547e9),
)


def _hmr2(size: str) -> HMRConfig:
    encoder = cast(ViTConfig, encoder_config(f"vit_{size}"))
    return HMRConfig(encoder=encoder, head=SMPLHeadConfig(context_dim=encoder.dim))


register_preset(
    *(
        Preset(
            name=f"hmr2_vit_{size}",
            config=partial(_hmr2, size),
            description=f"HMR 2.0 with ViT-{size.upper()}",
            layout=HMR2_TABLE,
            trained_body="smpl",
            paper_params=params,
            paper_macs=macs,
        )
        for size, params, macs in _ROWS
    )
)
