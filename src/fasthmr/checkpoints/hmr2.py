"""Checkpoints of 4D-Humans (HMR 2.0) and of the light family with the same layout."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fasthmr.body.joints44 import Joints44
from fasthmr.body.lbs import BodyModel
from fasthmr.checkpoints.keymap import KeyTable

_LAYER = r"head\.decoder\.layers\.(\d+)\."
_PUBLISHED_LAYER = r"smpl_head.transformer.transformer.layers.\1."

DECODER_RENAMES: tuple[tuple[str, str], ...] = (
    (_LAYER + r"self_norm\.", _PUBLISHED_LAYER + "0.norm."),
    (_LAYER + r"self_attention\.to_out\.", _PUBLISHED_LAYER + "0.fn.to_out.0."),
    (_LAYER + r"self_attention\.", _PUBLISHED_LAYER + "0.fn."),
    (_LAYER + r"cross_norm\.", _PUBLISHED_LAYER + "1.norm."),
    (_LAYER + r"cross_attention\.to_out\.", _PUBLISHED_LAYER + "1.fn.to_out.0."),
    (_LAYER + r"cross_attention\.", _PUBLISHED_LAYER + "1.fn."),
    (_LAYER + r"mlp_norm\.", _PUBLISHED_LAYER + "2.norm."),
    (_LAYER + r"mlp\.fc1\.", _PUBLISHED_LAYER + "2.fn.net.0."),
    (_LAYER + r"mlp\.fc2\.", _PUBLISHED_LAYER + "2.fn.net.3."),
    (r"head\.decoder\.", "smpl_head.transformer."),
)

_VIT_BY_WIDTH = {384: "s", 768: "b", 1024: "l", 1280: "h"}


def _suggest_preset(state: Mapping[str, Tensor]) -> str:
    """The preset whose encoder has the width of the file's."""
    positions = state.get("backbone.pos_embed")
    size = _VIT_BY_WIDTH.get(positions.shape[-1]) if positions is not None and positions.dim() == 3 else None
    if size is None:
        return ""
    return f'The file looks like ViT-{size.upper()}; try create_model("hmr2_vit_{size}").'


HMR2_TABLE = KeyTable(
    layout="4D-Humans",
    renames=(*DECODER_RENAMES, (r"head\.", "smpl_head."), (r"encoder\.", "backbone.")),
    ignored=(
        (r"smpl\.", "body model; see body_in_checkpoint"),
        (r"discriminator\.", "training only"),
        (r"initialized$", "training bookkeeping"),
    ),
    hint=_suggest_preset,
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
