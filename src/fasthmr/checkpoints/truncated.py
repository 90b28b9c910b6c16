"""Models with cut hierarchical encoders, and mmpose's with whole ones.

Cut models have the encoder's official names under `backbone.encoder.`, the layer that matches resolutions
under `backbone.match.`, and heads as HMR 2.0 (`smpl_head.`) or ViTPose (`keypoint_head.`) have them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from fasthmr.checkpoints.hierarchical import find_encoder, same_weights
from fasthmr.checkpoints.hmr2 import HMR2_TABLE, has_smpl_head, published_decoder, smpl_head_from_shapes
from fasthmr.checkpoints.keymap import KeyTable, Shapes
from fasthmr.checkpoints.layout import Layout
from fasthmr.checkpoints.swin_names import official_swin
from fasthmr.checkpoints.vitpose import FLIP_PAIRS, HEATMAP_MARK, VITPOSE_TABLE, heatmap_head
from fasthmr.encoders.registry import encoder_config, list_encoders
from fasthmr.encoders.truncated import TruncatedConfig
from fasthmr.errors import CheckpointMismatch
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.pose import PoseConfig

_ENCODER, _MATCH = "backbone.encoder.", "backbone.match.weight"
_COMPUTED = (r"backbone\..*\.(attn_mask|relative_position_index)$", "computed from the sizes")
_IN_ZOO = re.compile(r"[a-z]+_[tsb]_s\d")
"""Encoders that have presets: three sizes of each family."""


TRUNCATED_HMR_TABLE = replace(
    HMR2_TABLE, layout="HMR 2.0 with a cut encoder", ignored=(*HMR2_TABLE.ignored, _COMPUTED)
)

TRUNCATED_POSE_TABLE = KeyTable(
    layout="ViTPose with a cut encoder", renames=VITPOSE_TABLE.renames, ignored=(_COMPUTED,)
)

SWIN_POSE_TABLE = KeyTable(
    layout="mmpose Swin",
    renames=VITPOSE_TABLE.renames,
    ignored=(_COMPUTED,),
    prepare=lambda state: official_swin(state, "backbone."),
)


def truncated_from_shapes(shapes: Shapes) -> TruncatedConfig:
    """The cut encoder of a file, with the rate of stochastic depth of the known one, if it is one.

    Raises:
        CheckpointMismatch: There is none, or its matching layer is missing.
    """
    found = find_encoder(shapes)
    if found is None or found[0] != _ENCODER:
        raise CheckpointMismatch(f"no hierarchical encoder among the keys '{_ENCODER}*'")
    encoder = found[1].from_shapes(found[2])
    stages, match = len(encoder.depths), shapes.get(_MATCH)
    if (match is None) != (stages == 3) or (match is not None and len(match) != 4):
        said = "is missing" if match is None else f"is {match}"
        raise CheckpointMismatch(f"an encoder of {stages} stages, and {_MATCH} {said}")
    width = encoder.widths[-1] if match is None else match[0 if stages == 2 else 1]
    config = TruncatedConfig(
        encoder=encoder,
        context_dim=width,
        match_kernel=3 if match is None or stages == 4 else match[-1],
        match_norm="backbone.match_norm.weight" in shapes,
    )
    return _known(config)[1]


def _known(config: TruncatedConfig) -> tuple[str | None, TruncatedConfig]:
    """The registered encoder that a configuration from shapes is, with its name; else the configuration.

    The first stages of several encoders may be one network: those of presets come first, T before S.
    """
    in_order = sorted(list_encoders(), key=lambda name: (bool(_IN_ZOO.fullmatch(name)), name), reverse=True)
    for name in in_order:
        known = encoder_config(name)
        if not isinstance(known, TruncatedConfig) or not same_weights(known.encoder, config.encoder):
            continue
        if replace(known, encoder=config.encoder) == replace(config, encoder=config.encoder):
            return name, known
    return None, config


def _preset(prefix: str, encoder: TruncatedConfig) -> str | None:
    name, _ = _known(encoder)
    return f"{prefix}_{name}" if name and _IN_ZOO.fullmatch(name) else None


def _hmr_config(shapes: Shapes, path: Path) -> HMRConfig:
    try:
        head = smpl_head_from_shapes(shapes, path)
        return HMRConfig(encoder=truncated_from_shapes(shapes), head=head)
    except ValueError as error:
        raise CheckpointMismatch(f"{path}: {error}") from error


def _hmr_preset(shapes: Shapes) -> str | None:
    try:
        config = _hmr_config(shapes, Path())
    except CheckpointMismatch:
        return None
    if published_decoder(config.head) != "small" or not isinstance(config.encoder, TruncatedConfig):
        return None
    return _preset("hmr2", config.encoder)


def _pose_config(shapes: Shapes, path: Path) -> PoseConfig:
    encoder = truncated_from_shapes(shapes)
    head = heatmap_head(shapes, encoder.context_dim)
    return PoseConfig(encoder=encoder, head=head, flip_pairs=FLIP_PAIRS.get(head.keypoints, ()))


def _pose_preset(shapes: Shapes) -> str | None:
    try:
        config = _pose_config(shapes, Path())
    except (CheckpointMismatch, ValueError):
        return None
    usual = HeatmapHeadConfig(context_dim=config.head.context_dim)
    if config.head != usual or not isinstance(config.encoder, TruncatedConfig):
        return None
    return _preset("vitpose", config.encoder)


def _swin_pose_config(shapes: Shapes, path: Path) -> PoseConfig:
    """A whole Swin with as many transposed convolutions as the file has; read without UDP, as trained."""
    found = find_encoder(shapes)
    if found is None:
        raise CheckpointMismatch(f"{path}: no Swin among the keys 'backbone.*'")
    encoder = found[1].from_shapes(found[2])
    head = heatmap_head(shapes, encoder.widths[-1])
    flip_pairs = FLIP_PAIRS.get(head.keypoints, ())
    return PoseConfig(encoder=encoder, head=head, flip_pairs=flip_pairs, decoding="shift", shift_flipped=True)


def _has_cut_encoder(shapes: Shapes) -> bool:
    return any(key.startswith(_ENCODER) for key in shapes)


TRUNCATED_HMR_LAYOUT = Layout(
    name="HMR 2.0 with a cut encoder",
    table=TRUNCATED_HMR_TABLE,
    matches=lambda shapes: _has_cut_encoder(shapes) and has_smpl_head(shapes),
    config=_hmr_config,
    preset=_hmr_preset,
    licence="the terms of the file's source; the SMPL body of its training has its own licence",
)

TRUNCATED_POSE_LAYOUT = Layout(
    name="ViTPose with a cut encoder",
    table=TRUNCATED_POSE_TABLE,
    matches=lambda shapes: _has_cut_encoder(shapes) and HEATMAP_MARK in shapes,
    config=_pose_config,
    preset=_pose_preset,
    licence="the terms of the file's source",
)

SWIN_POSE_LAYOUT = Layout(
    name="Swin (mmpose)",
    table=SWIN_POSE_TABLE,
    matches=lambda shapes: (
        "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight" in shapes and HEATMAP_MARK in shapes
    ),
    config=_swin_pose_config,
    preset=lambda shapes: None,
    licence="mmpose weights: Apache-2.0",
)
