"""Checkpoints of ViTPose and ViTPose++ as mmpose writes them."""

from __future__ import annotations

from pathlib import Path

from fasthmr.checkpoints.keymap import KeyTable
from fasthmr.checkpoints.layout import Layout, Shapes
from fasthmr.checkpoints.plain_vit import EXPERTS_IGNORED, VIT_BY_WIDTH, join_experts, vit_from_shapes
from fasthmr.encoders.registry import encoder_config
from fasthmr.errors import CheckpointMismatch
from fasthmr.geometry.heatmaps import COCO_FLIP_PAIRS
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.models.pose import PoseConfig

HEATMAP_MARK = "keypoint_head.final_layer.weight"
"""A key that every file with a heat-map head has."""

VITPOSE_TABLE = KeyTable(
    layout="ViTPose",
    renames=((r"head\.", "keypoint_head."), (r"encoder\.", "backbone.")),
    ignored=(
        *EXPERTS_IGNORED,
        (r"associate_keypoint_heads\.", "head of another data set"),
    ),
    prepare=join_experts,
)

_MPII_FLIP_PAIRS = ((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13))
_AIC_FLIP_PAIRS = ((0, 3), (1, 4), (2, 5), (6, 9), (7, 10), (8, 11))


def _whole_body_pairs() -> tuple[tuple[int, int], ...]:
    """Body and feet, then the face of 300-W from 23 on, and the two hands (COCO-WholeBody)."""
    feet = ((17, 20), (18, 21), (19, 22))
    sides = ((0, 16, 8), (17, 26, 5), (31, 35, 2), (36, 45, 4), (48, 54, 3), (60, 64, 2))
    mirrored = [(left + i, right - i) for left, right, count in sides for i in range(count)]
    face = (*mirrored, (40, 47), (41, 46), (55, 59), (56, 58), (65, 67))
    hands = tuple((91 + i, 112 + i) for i in range(21))
    return (*COCO_FLIP_PAIRS, *feet, *((23 + a, 23 + b) for a, b in face), *hands)


FLIP_PAIRS = {14: _AIC_FLIP_PAIRS, 16: _MPII_FLIP_PAIRS, 17: COCO_FLIP_PAIRS, 133: _whole_body_pairs()}
"""Left and right by number of key points: AI Challenger, MPII, COCO, COCO-WholeBody."""


def heatmap_head(shapes: Shapes, context_dim: int) -> HeatmapHeadConfig:
    """The head whose transposed convolutions, if any, and last convolution the file holds.

    Raises:
        CheckpointMismatch: Its parts do not fit each other.
    """
    if len(shapes[HEATMAP_MARK]) != 4:
        raise CheckpointMismatch(
            f"{HEATMAP_MARK} is {shapes[HEATMAP_MARK]}, expected the kernel of a convolution"
        )
    keypoints, channels, kernel, _ = shapes[HEATMAP_MARK]
    deconvs = [shapes[key] for key in _deconv_keys(shapes)]
    if deconvs:
        head = HeatmapHeadConfig(
            context_dim=context_dim,
            keypoints=keypoints,
            deconv_filters=tuple(shape[1] for shape in deconvs),
            deconv_kernels=tuple(shape[-1] for shape in deconvs),
            final_kernel=None if kernel == 1 else kernel,
        )
    else:
        head = HeatmapHeadConfig(
            context_dim=context_dim,
            keypoints=keypoints,
            kind="simple",
            final_kernel=None if kernel == 3 else kernel,
        )
    expected = deconvs[-1][1] if deconvs else context_dim
    if channels != expected:
        raise CheckpointMismatch(
            f"{HEATMAP_MARK} reads {channels} channels, the layer before gives {expected}"
        )
    return head


def _deconv_keys(shapes: Shapes) -> list[str]:
    """Names of the transposed convolutions in order; each is followed by its norm and a ReLU."""
    keys = (f"keypoint_head.deconv_layers.{3 * i}.weight" for i in range(len(shapes)))
    found: list[str] = []
    for key in keys:
        if len(shapes.get(key, ())) != 4:
            break
        found.append(key)
    return found


def vitpose_config(shapes: Shapes, path: Path) -> PoseConfig:
    """Encoder and head of a file.

    Raises:
        CheckpointMismatch: The shapes are of no ViTPose.
    """
    encoder = vit_from_shapes(shapes, "backbone.")
    head = heatmap_head(shapes, encoder.dim)
    return PoseConfig(encoder=encoder, head=head, flip_pairs=FLIP_PAIRS.get(head.keypoints, ()))


def _preset(shapes: Shapes) -> str | None:
    """The preset whose configuration the file has."""
    name = VIT_BY_WIDTH.get(shapes["backbone.pos_embed"][-1])
    try:
        config = vitpose_config(shapes, Path())
    except (CheckpointMismatch, ValueError):
        return None
    usual = HeatmapHeadConfig(context_dim=config.head.context_dim, kind=config.head.kind)
    if name is None or config.encoder != encoder_config(name) or config.head != usual:
        return None
    return f"vitpose_{name}" if config.head.kind == "classic" else f"vitpose_{name}_simple"


VITPOSE_LAYOUT = Layout(
    name="ViTPose (mmpose)",
    table=VITPOSE_TABLE,
    matches=lambda shapes: (
        {"backbone.pos_embed", "backbone.patch_embed.proj.weight", HEATMAP_MARK} <= shapes.keys()
    ),
    config=vitpose_config,
    preset=_preset,
    licence="ViTPose weights: Apache-2.0",
)
