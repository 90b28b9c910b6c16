"""Plain vision transformers under the names that MAE, timm and ViTPose share, and their use as encoders.

A ViT of an ImageNet file (MAE, arXiv 2111.06377) has square pictures, a class token and sometimes patches of
14 pixels. The encoders here keep the position row of the class token, which they add to every patch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fasthmr.checkpoints.files import read_weights
from fasthmr.checkpoints.keymap import KeyTable, load_into
from fasthmr.checkpoints.layout import Layout, Shapes
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.vit import ViT, ViTConfig
from fasthmr.errors import CheckpointMismatch
from fasthmr.layers.embedding import resize_pos_embed

VIT_BY_WIDTH = {384: "vit_s", 768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""The encoder that a token width stands for; its number of heads cannot be read from a file."""

_PATCHES = "patch_embed.proj.weight"
_POSITIONS = "pos_embed"
_EXPERT = re.compile(r"^(.*\.mlp\.)fc2\.(weight|bias)$")

EXPERTS_IGNORED = (
    (r"(.*\.)?mlp\.experts\.0\.", "rows of mlp.fc2 for COCO, joined to it"),
    (r"(.*\.)?mlp\.experts\.", "expert of another data set"),
)

PLAIN_VIT_TABLE = KeyTable(
    layout="plain ViT",
    renames=((r"last_norm\.", "norm."),),
    ignored=(
        (r"cls_token$", "the encoder has no class token; its position is kept"),
        (r"mask_token$|decoder", "training only (reconstruction)"),
        (r"(head|fc_norm|pre_logits)\.", "classifier"),
    ),
)


def position_grid(positions: int) -> tuple[int, int]:
    """Rows and columns behind a class row: a square, or four rows to three columns.

    Raises:
        CheckpointMismatch: The number fits neither.
    """
    patches = positions - 1
    side, unit = math.isqrt(max(patches, 0)), math.isqrt(max(patches, 0) // 12)
    if side and side * side == patches:
        return side, side
    if unit and 12 * unit * unit == patches:
        return 4 * unit, 3 * unit
    raise CheckpointMismatch(
        f"{_POSITIONS} has {positions} rows; expected a class row and a grid that is square or 4:3"
    )


def vit_from_shapes(shapes: Shapes, prefix: str = "") -> ViTConfig:
    """The encoder that tensors under `prefix` belong to; heads and drop path are those of its width's ViT.

    Raises:
        CheckpointMismatch: A tensor is missing or oddly shaped, or the width is nobody's.
    """
    names = (_POSITIONS, _PATCHES, "blocks.0.mlp.fc1.weight")
    missing = [prefix + name for name in names if prefix + name not in shapes]
    if missing:
        raise CheckpointMismatch(f"not a plain ViT: the file has no {', '.join(missing)}")
    positions, patches, hidden = (shapes[prefix + name] for name in names)
    if len(positions) != 3 or len(patches) != 4 or len(hidden) != 2 or positions[-1] not in VIT_BY_WIDTH:
        raise CheckpointMismatch(
            f"{prefix}{_POSITIONS} is {positions}: no ViT of this width is known "
            f"({', '.join(f'{name} {width}' for width, name in VIT_BY_WIDTH.items())})"
        )
    width, patch = positions[-1], patches[-1]
    pattern = re.compile(re.escape(prefix) + r"blocks\.(\d+)\.")
    blocks = {int(found[1]) for key in shapes if (found := pattern.match(key))}
    rows, columns = position_grid(positions[1])
    return replace(
        cast(ViTConfig, encoder_config(VIT_BY_WIDTH[width])),
        depth=max(blocks) + 1,
        image_size=(rows * patch, columns * patch),
        patch_size=patch,
        mlp_ratio=hidden[0] // width if hidden[0] % width == 0 else hidden[0] / width,
        qkv_bias=f"{prefix}blocks.0.attn.qkv.bias" in shapes,
    )


def fit_plain_vit(state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """Weights with patches and positions brought to the sizes of `config`, as released with ViTPose.

    A smaller patch kernel is padded with zeros, evenly and one more at the end; positions are interpolated
    (bicubic) with the class row kept.

    Raises:
        CheckpointMismatch: The positions are of no known grid.
    """
    fitted = dict(state)
    missing = config.patch_size - state[_PATCHES].shape[-1]
    if missing > 0:
        before, after = missing // 2, missing - missing // 2
        fitted[_PATCHES] = F.pad(state[_PATCHES], (before, after, before, after))
    grid = position_grid(state[_POSITIONS].shape[1])
    if grid != config.grid:
        fitted[_POSITIONS] = resize_pos_embed(state[_POSITIONS].float(), grid, config.grid)
    return fitted


def join_experts(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights of ViTPose++ (arXiv 2212.04246, sec. 3.3) with the COCO expert's rows joined to each `mlp.fc2`.

    Files without experts, or whose rows are joined already, come back as they are.
    """
    if not any(".mlp.experts.0." in key for key in state):
        return state
    joined = dict(state)
    for key, rows in state.items():
        found = _EXPERT.match(key)
        expert = state.get(f"{found[1]}experts.0.{found[2]}") if found else None
        inputs = state.get(f"{found[1]}fc1.weight") if found else None
        if expert is not None and inputs is not None and len(rows) + len(expert) == inputs.shape[-1]:
            joined[key] = torch.cat([rows, expert])
    return joined


def init_encoder(encoder: ViT, file: Path | str) -> dict[str, str]:
    """Start an encoder from a published file: MAE or ImageNet ViT, ViTPose, HMR 2.0, or its bare encoder.

    Patches and positions are fitted (`fit_plain_vit`). A final norm that the file does not have stays as it
    is; the release of ViTPose leaves it so even where MAE's file has one.

    Returns:
        Keys of the file that were not used, with the reason for each.

    Raises:
        UsageError: There is no such file.
        UnsafeFileError: The file is damaged or unsafe.
        CheckpointMismatch: The file holds another encoder.
    """
    state, _ = read_weights(file)
    prefix = next((prefix for prefix in ("backbone.", "encoder.") if prefix + _POSITIONS in state), "")
    own = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    if _POSITIONS not in own or _PATCHES not in own:
        raise CheckpointMismatch(
            f"{file}: holds no plain ViT ({prefix}{_POSITIONS} or {_PATCHES} is missing)"
        )
    own = fit_plain_vit(join_experts(own), encoder.config)
    if "last_norm.weight" in own:
        table = ENCODER_TABLE
    else:
        table = PLAIN_VIT_TABLE
        for name, tensor in encoder.last_norm.state_dict().items():
            own.setdefault(f"norm.{name}", tensor)
    ignored = load_into(encoder, own, table, Path(file).name)
    others = {key: "not of the encoder" for key in state if not key.startswith(prefix)}
    return {**others, **{prefix + key: reason for key, reason in ignored.items()}}


ENCODER_TABLE = KeyTable(layout="ViTPose encoder", ignored=EXPERTS_IGNORED, prepare=join_experts)
"""A bare encoder of ViTPose (`vitpose_backbone.pth` of 4D-Humans); its names are ours."""


def _has_vit(shapes: Shapes) -> bool:
    return {_POSITIONS, _PATCHES, "blocks.0.attn.qkv.weight"} <= shapes.keys()


ENCODER_LAYOUT = Layout(
    name="ViTPose encoder",
    table=ENCODER_TABLE,
    matches=lambda shapes: _has_vit(shapes) and "last_norm.weight" in shapes,
    config=lambda shapes, path: vit_from_shapes(shapes),
    preset=lambda shapes: None,
    licence="ViTPose weights: Apache-2.0",
)

PLAIN_VIT_LAYOUT = Layout(
    name="plain ViT (MAE, ImageNet)",
    table=PLAIN_VIT_TABLE,
    matches=lambda shapes: _has_vit(shapes) and "last_norm.weight" not in shapes,
    config=lambda shapes, path: replace(vit_from_shapes(shapes), patch_padding=0),
    preset=lambda shapes: None,
    licence="MAE weights: CC BY-NC 4.0, no commercial use; of other files the terms of their source hold",
)
