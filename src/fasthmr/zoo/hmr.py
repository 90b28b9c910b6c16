"""HMR 2.0 (arXiv 2305.20091) with the plain ViT in its four sizes, each with the large or the small decoder.

The published HMR 2.0 is ViT-H with the large decoder. The light family (arXiv 2510.12660) has the small one,
which its released ViT-S file shows; that it also belongs to L and B is this project's reading.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, cast

from fasthmr.checkpoints.hmr2 import HMR2_TABLE
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.vit import ViTConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.zoo.registry import Preset, PublishedCount, register_preset

Decoder = Literal["large", "small"]

_ROWS: tuple[tuple[str, Decoder, float, float], ...] = (
    ("s", "small", 23.97, 4.50),
    ("s", "large", 55.71, 4.96),
    ("b", "small", 88.25, 17.16),
    ("b", "large", 122.20, 18.04),
    ("l", "small", 305.85, 60.02),
    ("l", "large", 341.27, 61.19),
    ("h", "large", 670.46, 125.55),
    ("h", "small", 633.56, 124.10),
)
"""ViT size, decoder, and parameters (M) and multiply-accumulates (G), counted on the released modules."""

_IN_TABLES = {
    ("h", "large"): PublishedCount(source="FastHMR, Table 12", params=670.2, gmacs=122.6, convention="tables")
}


def smpl_head(context_dim: int, decoder: Decoder) -> SMPLHeadConfig:
    """The head of HMR 2.0, or that of its light family (`d3-a4x16-m128`)."""
    if decoder == "large":
        return SMPLHeadConfig(context_dim=context_dim)
    return SMPLHeadConfig(context_dim=context_dim, depth=3, heads=4, head_dim=16, mlp_dim=128)


def _hmr2(size: str, decoder: Decoder) -> HMRConfig:
    encoder = cast(ViTConfig, encoder_config(f"vit_{size}"))
    return HMRConfig(encoder=encoder, head=smpl_head(encoder.dim, decoder))


def _row(size: str, decoder: Decoder, params: float, gmacs: float) -> Preset:
    usual = decoder == ("large" if size == "h" else "small")
    counted = PublishedCount(source="released modules, counted", params=params, gmacs=gmacs)
    return Preset(
        name=f"hmr2_vit_{size}" if usual else f"hmr2_vit_{size}_{decoder}",
        config=partial(_hmr2, size, decoder),
        description=f"HMR 2.0 with ViT-{size.upper()}, {decoder} decoder",
        layout=HMR2_TABLE,
        trained_body="smpl",
        published=tuple(filter(None, (counted, _IN_TABLES.get((size, decoder))))),
    )


register_preset(*(_row(*row) for row in _ROWS))
