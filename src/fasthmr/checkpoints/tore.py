"""Checkpoints of METRO, FastMETRO and TORE, for bodies and hands.

Published files leave out the mesh (adjacency and upsampling operators) and the body at rest; `set_mesh` of
the model takes them.
"""

from __future__ import annotations

from pathlib import Path

from fasthmr.body.hand_points import HAND_POINTS
from fasthmr.checkpoints.keymap import KeyTable, Shapes
from fasthmr.checkpoints.layout import Layout
from fasthmr.checkpoints.trunks import (
    TrunkConfig,
    numbered,
    trunk_from_shapes,
    trunk_ignored,
    trunk_renames,
)
from fasthmr.encoders.efficientnet import efficientnet_b0
from fasthmr.encoders.hrnet import hrnet_w64
from fasthmr.encoders.resnet import resnet50
from fasthmr.errors import CheckpointMismatch
from fasthmr.heads.fastmetro import FastMetroHeadConfig
from fasthmr.heads.mesh_parameters import MeshParametersConfig
from fasthmr.heads.metro import MetroHeadConfig
from fasthmr.layers.mesh_levels import MeshLevelsConfig
from fasthmr.models.mesh import MeshModelConfig
from fasthmr.reduction.gtr import NSRConfig
from fasthmr.reduction.itp import ITPConfig, kept_tokens

_BERT_UNUSED = "table or pooler of BERT that nothing calls"

_LAYER = r"head\.trans_encoder\.(\d+)\.layers\.(\d+)\."
_PUBLISHED_LAYER = r"trans_encoder.\1.bert.encoder.layer.\2."

HEAD_RENAMES: tuple[tuple[str, str], ...] = (
    (_LAYER + r"(query|key|value)\.", _PUBLISHED_LAYER + r"attention.self.\3."),
    (_LAYER + r"proj\.", _PUBLISHED_LAYER + "attention.output.dense."),
    (_LAYER + r"norm1\.", _PUBLISHED_LAYER + "attention.output.LayerNorm."),
    (_LAYER + r"fc1\.", _PUBLISHED_LAYER + "intermediate.dense."),
    (_LAYER + r"fc2\.", _PUBLISHED_LAYER + "output.dense."),
    (_LAYER + r"norm2\.", _PUBLISHED_LAYER + "output.LayerNorm."),
    (
        r"head\.trans_encoder\.(\d+)\.(position_embeddings|img_embedding)\.",
        r"trans_encoder.\1.bert.\2.",
    ),
    (r"head\.tokens\.mix\.", "conv_learn_tokens."),
    (r"head\.upsampling\.steps\.0\.", "upsampling."),
    (r"head\.upsampling\.steps\.1\.", "upsampling2."),
    (r"head\.upsamplers\.0\.", "coarse2intermediate_upsample."),
    (r"head\.parameters_of\.", "smpl_parameter_regressor."),
    (r"head\.regressor\.transformer\.", "transformer_3."),
    (r"head\.regressor\.", ""),
    (r"head\.reducer\.", ""),
    (r"head\.", ""),
)
"""From our keys to published ones, without the trunk."""

HEAD_IGNORED: tuple[tuple[str, str], ...] = (
    (r"trans_encoder\.\d+\.bert\.(embeddings|pooler)\.", _BERT_UNUSED),
)

MESH_HEAD_TABLE = KeyTable(layout="METRO, FastMETRO or TORE", renames=HEAD_RENAMES, ignored=HEAD_IGNORED)
"""Heads alone."""

MESH_TABLE = KeyTable(
    layout="METRO, FastMETRO or TORE",
    renames=(*HEAD_RENAMES, *trunk_renames()),
    ignored=(*HEAD_IGNORED, *trunk_ignored()),
)
"""Whole models."""

_LEVELS = {431: (431, 1723, 6890), 195: (195, 778)}
"""Levels of the published meshes by their coarsest: body and hand."""

_GRID = (7, 7)
"""Maps of the published models."""

_TRUNKS: tuple[tuple[str, TrunkConfig], ...] = (
    ("r50", resnet50()),
    ("hrnet_w64", hrnet_w64()),
    ("effnet_b0", efficientnet_b0()),
)
"""Encoders as the names of presets have them."""

_SIZES = {1: "s", 2: "m", 3: "l"}


def mesh_config(shapes: Shapes, path: Path) -> MeshModelConfig:
    """Encoder, head and reductions of a file.

    Raises:
        CheckpointMismatch: It holds no trunk, or a mesh that was never published.
    """
    encoder = trunk_from_shapes(shapes, "backbone.")
    if "trans_encoder.0.cls_head.weight" in shapes:
        head, tokens = _metro(shapes), None
    else:
        head, tokens = _fastmetro(shapes), _itp(shapes)
    return MeshModelConfig(encoder=encoder, head=head, tokens=tokens, regressor=_nsr(shapes))


def _fastmetro(shapes: Shapes) -> FastMetroHeadConfig:
    wide, narrow = shapes["dim_reduce_dec.weight"][::-1]
    parameters = "smpl_parameter_regressor.regressor.0.fc_block.0.weight"
    return FastMetroHeadConfig(
        context_dim=shapes["conv_1x1.weight"][1],
        grid=_GRID,
        joints=shapes["joint_token_embed.weight"][0],
        mesh=MeshLevelsConfig(vertices=_levels(shapes["vertex_token_embed.weight"][0])),
        layers=numbered(shapes, "transformer_1.encoder.layers."),
        dims=(wide, narrow),
        mlp_dims=(
            shapes["transformer_1.encoder.layers.0.linear1.weight"][0],
            shapes["transformer_2.encoder.layers.0.linear1.weight"][0],
        ),
        learned_levels=int("coarse2intermediate_upsample.weight" in shapes),
        parameters=MeshParametersConfig(hidden=shapes[parameters][0]) if parameters in shapes else None,
    )


def _metro(shapes: Shapes) -> MetroHeadConfig:
    encoders = numbered(shapes, "trans_encoder.")
    inputs = [shapes[f"trans_encoder.{i}.bert.img_embedding.weight"][1] for i in range(encoders)]
    hidden = tuple(shapes[f"trans_encoder.{i}.bert.img_embedding.weight"][0] for i in range(encoders))
    steps = [shapes[key] for key in ("upsampling.weight", "upsampling2.weight") if key in shapes]
    vertices = (steps[0][1], *(step[0] for step in steps))
    mix = shapes.get("conv_learn_tokens.weight")
    camera = shapes.get("cam_param_fc2.weight")
    if mix is None:
        joints = shapes["cam_param_fc2.weight"][1] - vertices[0]
    else:
        joints = mix[0] if "vertex_token_embed.weight" in shapes else mix[0] - vertices[0]
    words = shapes.get("trans_encoder.0.bert.embeddings.word_embeddings.weight", (0,))[0]
    return MetroHeadConfig(
        context_dim=inputs[0] - 3,
        cells=None if mix is None else mix[1],
        joints=joints,
        mesh=MeshLevelsConfig(vertices=vertices),
        widths=tuple(inputs[1:]),
        hidden=hidden,
        layers=numbered(shapes, "trans_encoder.0.bert.encoder.layer."),
        mlp_dim=shapes["trans_encoder.0.bert.encoder.layer.0.intermediate.dense.weight"][0],
        positions=shapes["trans_encoder.0.bert.position_embeddings.weight"][0],
        camera_hidden=250 if camera is None else camera[0],
        camera_reads_joints=camera is not None and camera[1] == joints + vertices[0],
        masked_share=0.0 if mix is None else 0.3,
        unused_words=words,
    )


def _nsr(shapes: Shapes) -> NSRConfig | None:
    linear = shapes.get("transformer_3.encoder.layers.0.linear1.weight")
    if linear is None:
        return None
    layers = numbered(shapes, "transformer_3.encoder.layers.")
    return NSRConfig(dim=linear[1], mlp_dim=linear[0], layers=layers)


def _itp(shapes: Shapes) -> ITPConfig | None:
    selector = shapes.get("token_selector_fc.weight")
    if selector is None:
        return None
    return ITPConfig(keep_ratio=keep_ratio_of(selector[0], _GRID[0] * _GRID[1]))


def keep_ratio_of(tokens: int, cells: int) -> float:
    """The roundest ratio that keeps so many tokens.

    Raises:
        CheckpointMismatch: There are more tokens than cells, or none.
    """
    if not 0 < tokens <= cells:
        raise CheckpointMismatch(f"{tokens} image tokens from a map of {cells} cells")
    for steps in (10, 100, 1000):
        for i in range(steps, 0, -1):
            if int(cells * i / steps) == tokens and kept_tokens(cells, i / steps) == tokens:
                return i / steps
    return (tokens + 0.5) / cells


def _levels(coarse: int) -> tuple[int, ...]:
    if coarse not in _LEVELS:
        known = " and ".join(f"{levels[0]} of {levels[-1]}" for levels in _LEVELS.values())
        raise CheckpointMismatch(f"a mesh of {coarse} vertices; published ones have {known}")
    return _LEVELS[coarse]


def _trunk_name(shapes: Shapes) -> str | None:
    config = trunk_from_shapes(shapes, "backbone.")
    return next((name for name, known in _TRUNKS if known == config), None)


def _preset(shapes: Shapes) -> str | None:
    """Name of the preset; the smaller sizes have one for ResNet-50 and bodies alone."""
    trunk, config = _trunk_name(shapes), mesh_config(shapes, Path())
    if trunk is None:
        return None
    head, hand, gtr = config.head, config.head.joints == HAND_POINTS, config.regressor is not None
    if isinstance(head, MetroHeadConfig):
        return preset_name("metro", trunk, hand=hand, gtr=gtr)
    size = _SIZES.get(head.layers)
    if size is None or (size != "l" and (trunk != "r50" or hand)):
        return None
    kept = round(100 * config.tokens.keep_ratio) if isinstance(config.tokens, ITPConfig) else None
    if kept not in ((None, 80) if hand else (None, 80, 50)):
        return None
    ending = ("" if kept is None else f"_itp{kept}") + ("_smpl" if head.parameters else "")
    return preset_name("fastmetro", f"{size}_{trunk}{ending}", hand=hand, gtr=gtr)


def preset_name(family: str, rest: str, *, hand: bool, gtr: bool) -> str:
    """Name of a preset; a hand's says so in the second word."""
    first, *others = ("tore", family, rest) if gtr else (family, rest)
    return "_".join((first, *(["hand"] if hand else []), *others))


MESH_LAYOUT = Layout(
    name="METRO, FastMETRO or TORE",
    table=MESH_TABLE,
    matches=lambda shapes: (
        "trans_encoder.0.bert.img_embedding.weight" in shapes
        or {"transformer_1.encoder.norm.weight", "cam_token_embed.weight"} <= shapes.keys()
    ),
    config=mesh_config,
    preset=_preset,
    licence="METRO, FastMETRO, TORE: MIT; the training data and the body model have their own terms",
)
