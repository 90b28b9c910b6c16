"""Checkpoints of 4D-Humans (HMR 2.0) and of the light family with the same layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fasthmr.body.joints44 import Joints44
from fasthmr.body.lbs import BodyModel
from fasthmr.checkpoints.decoder_keys import decoder_renames, decoder_sizes
from fasthmr.checkpoints.keymap import KeyTable
from fasthmr.checkpoints.layout import Layout, Shapes
from fasthmr.checkpoints.plain_vit import VIT_BY_WIDTH, vit_from_shapes
from fasthmr.encoders.registry import encoder_config
from fasthmr.errors import CheckpointMismatch
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig

HMR2_TABLE = KeyTable(
    layout="4D-Humans",
    renames=(*decoder_renames("smpl_head"), (r"head\.", "smpl_head."), (r"encoder\.", "backbone.")),
    ignored=(
        (r"smpl\.", "body model; see body_in_checkpoint"),
        (r"discriminator\.", "training only"),
        (r"initialized$", "training bookkeeping"),
    ),
)


_DIRECTORY = re.compile(r"d\d+-a(\d+)x(\d+)-m\d+")
_READOUTS = ("decpose", "decshape", "deccam")


def _heads_in_path(path: Path, shapes: Shapes) -> int | None:
    """Attention heads that a folder `dD-aHxE-mM` on the way to the file names, if it fits the shapes."""
    width = shapes.get("smpl_head.transformer.transformer.layers.0.1.fn.to_q.weight", (0,))[0]
    for part in reversed(path.absolute().parts):
        for found in _DIRECTORY.finditer(part):
            heads, head_dim = map(int, found.groups())
            if heads * head_dim == width:
                return heads
    return None


def has_smpl_head(shapes: Shapes) -> bool:
    """Whether a file holds the head of HMR 2.0."""
    token = shapes.get("smpl_head.transformer.to_token_embedding.weight", ())
    readouts = [shapes.get(f"smpl_head.{name}.bias", ()) for name in _READOUTS]
    if len(token) != 2 or any(len(shape) != 1 for shape in readouts):
        return False
    return token[1] in (1, sum(size for (size,) in readouts))


def smpl_head_from_shapes(shapes: Shapes, path: Path) -> SMPLHeadConfig:
    """The head of a file; its number of attention heads may stand in a folder on the way to it.

    Raises:
        CheckpointMismatch: A tensor is missing or oddly shaped, or the number of heads is not known.
        ValueError: The sizes do not fit each other.
    """
    token = shapes["smpl_head.transformer.to_token_embedding.weight"][1]
    return SMPLHeadConfig(
        **decoder_sizes(shapes, "smpl_head", _heads_in_path(path, shapes)),
        joints=shapes["smpl_head.decpose.bias"][0] // 6,
        num_betas=shapes["smpl_head.decshape.bias"][0],
        token_input="zero" if token == 1 else "mean_shape",
    )


def _config(shapes: Shapes, path: Path) -> HMRConfig:
    try:
        head = smpl_head_from_shapes(shapes, path)
        return HMRConfig(encoder=vit_from_shapes(shapes, "backbone."), head=head)
    except ValueError as error:
        raise CheckpointMismatch(f"{path}: {error}") from error


_DECODERS = {(6, 512, 1024): "large", (3, 64, 128): "small"}
"""Published decoders by depth, width of the attention in all, and width of the feed-forward network."""


def published_decoder(head: SMPLHeadConfig) -> str | None:
    """ "large" or "small", or None for sizes that nobody published."""
    return _DECODERS.get((head.depth, head.heads * head.head_dim, head.mlp_dim))


def _preset(shapes: Shapes) -> str | None:
    try:
        config = _config(shapes, Path())
    except CheckpointMismatch:
        return None
    size = VIT_BY_WIDTH[shapes["backbone.pos_embed"][-1]]
    decoder = published_decoder(config.head)
    if decoder is None or config.encoder != encoder_config(size):
        return None
    usual = "large" if size == "vit_h" else "small"
    return f"hmr2_{size}" if decoder == usual else f"hmr2_{size}_{decoder}"


HMR2_LAYOUT = Layout(
    name="4D-Humans (HMR 2.0)",
    table=HMR2_TABLE,
    matches=lambda shapes: "backbone.pos_embed" in shapes and has_smpl_head(shapes),
    config=_config,
    preset=_preset,
    licence="HMR 2.0 weights: MIT; the SMPL body that they were trained with has its own licence",
)


def body_in_checkpoint(
    state: Mapping[str, Tensor], *, vertex_ids: tuple[int, ...] | None = None
) -> tuple[BodyModel, Joints44] | None:
    """The SMPL body and 44-joint set that a checkpoint carries under `smpl.`, or None if it has none.

    Args:
        vertex_ids: Vertices picked as further joints; those stored in the file if None.
    """
    smpl = {key.removeprefix("smpl."): tensor for key, tensor in state.items() if key.startswith("smpl.")}
    if not smpl:
        return None
    picked = smpl["vertex_joint_selector.extra_joints_idxs"].tolist() if vertex_ids is None else vertex_ids
    body = BodyModel(
        v_template=smpl["v_template"],
        shapedirs=smpl["shapedirs"],
        faces=smpl["faces_tensor"],
        parents=smpl["parents"].tolist(),
        lbs_weights=smpl["lbs_weights"],
        posedirs=smpl["posedirs"],
        J_regressor=smpl["J_regressor"],
        name="smpl",
    )
    joints = Joints44(smpl["joint_regressor_extra"], vertex_ids=picked, joint_map=smpl["joint_map"].tolist())
    return body, joints
