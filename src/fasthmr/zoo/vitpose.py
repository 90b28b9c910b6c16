"""ViTPose (arXiv 2204.12484): plain ViT in four sizes, with the classic or the simple head, 17 COCO points.

Accuracy is the release's own, trained on COCO alone, with the boxes of a detector of 56 AP on persons and
with flip test.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, cast

from fasthmr.checkpoints.vitpose import VITPOSE_TABLE
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.vit import ViTConfig
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.zoo.registry import Preset, PublishedCount, register_preset

HeadKind = Literal["classic", "simple"]

_ROWS: tuple[tuple[str, HeadKind, float, float, float, float], ...] = (
    ("s", "classic", 24.29, 5.59, 73.8, 79.2),
    ("s", "simple", 21.72, 4.65, 73.5, 78.9),
    ("b", "classic", 89.99, 18.52, 75.8, 81.1),
    ("b", "simple", 85.91, 17.46, 75.5, 80.9),
    ("l", "classic", 308.54, 61.57, 78.3, 83.5),
    ("l", "simple", 303.45, 60.43, 78.2, 83.4),
    ("h", "classic", 637.21, 125.83, 79.1, 84.1),
    ("h", "simple", 631.11, 124.61, 78.9, 84.0),
)
"""ViT size, head; parameters (M) and multiply-accumulates (G) of the released modules; COCO val AP and AR."""


def _vitpose(size: str, kind: HeadKind) -> PoseConfig:
    encoder = cast(ViTConfig, encoder_config(f"vit_{size}"))
    return PoseConfig(encoder=encoder, head=HeatmapHeadConfig(context_dim=encoder.dim, kind=kind))


def _row(size: str, kind: HeadKind, params: float, gmacs: float, ap: float, ar: float) -> Preset:
    return Preset(
        name=f"vitpose_vit_{size}" if kind == "classic" else f"vitpose_vit_{size}_simple",
        config=partial(_vitpose, size, kind),
        description=f"ViTPose with ViT-{size.upper()}, {kind} head; COCO val AP {ap}, AR {ar}",
        task="pose",
        layout=VITPOSE_TABLE,
        published=(PublishedCount(source="released modules, counted", params=params, gmacs=gmacs),),
    )


register_preset(*(_row(*row) for row in _ROWS))
