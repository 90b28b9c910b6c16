"""Body and hand files of the user: SMPL, SMPL-H, SMPL-X and MANO as `.npz`, `.pkl` or `.safetensors`.

Pickles are read without running what they name and without chumpy or scipy; see `restricted_pickle`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from fasthmr.body.default_body import body_from_baked
from fasthmr.body.lbs import BodyModel
from fasthmr.errors import InputError, UnsafeFileError
from fasthmr.io.atomic import atomic_path
from fasthmr.io.body_reader import LIMITS
from fasthmr.io.isolated import read_isolated

_BODY_MODEL_KEYS = frozenset(
    (
        "v_template",
        "shapedirs",
        "posedirs",
        "J_regressor",
        "weights",
        "f",
        "parents",
        "lmk_faces_idx",
        "lmk_bary_coords",
    )
)


def load_body_file(
    path: Path | str, *, num_betas: int | None = 10, dtype: torch.dtype = torch.float32
) -> BodyModel:
    """A body from the user's own file; the format is told by the content, not by the suffix.

    The file is read in a separate process with at most 2 GB of memory and 60 s of CPU time (the limits need
    Linux or macOS; elsewhere a wall-clock limit of 90 s remains).

    Args:
        num_betas: Shape components to keep; None for all. SMPL-X has 300 of shape, then 100 of expression.

    Raises:
        InputError: There is no such file.
        UnsafeFileError: Unsafe, damaged, not finite, or not a body; names the file, the key and the remedy.
        ResourceError: The reading process could not run (memory or disk is full).
    """
    path = Path(path)
    if _is_baked(path):
        return _load_baked(path, num_betas).to(dtype)
    arrays, name = _read_isolated("body", path)
    weights = {key: value.to(dtype) if value.is_floating_point() else value for key, value in arrays.items()}
    posedirs = weights.get("posedirs")
    landmarks = _landmark_regressor(weights)
    return BodyModel(
        v_template=weights["v_template"],
        shapedirs=weights["shapedirs"][..., :num_betas].contiguous(),
        faces=weights["f"],
        parents=weights["parents"].tolist(),
        lbs_weights=weights["weights"],
        posedirs=None if posedirs is None else posedirs.flatten(0, 1).mT.contiguous(),
        J_regressor=weights["J_regressor"],
        keypoint_regressor=landmarks,
        keypoint_names=[f"face_landmark_{i}" for i in range(0 if landmarks is None else len(landmarks))],
        extras={key: weights[key] for key in sorted(weights.keys() - _BODY_MODEL_KEYS)},
        name=name,
    )


def load_regressor_file(
    path: Path | str, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "points vertices"]:
    """A matrix that takes mesh vertices to points (`SMPL_to_J19.pkl`, `J_regressor_h36m.npy`).

    Raises:
        InputError: There is no such file.
        UnsafeFileError: Unsafe, damaged, not finite, or not one matrix.
    """
    return _read_isolated("regressor", Path(path))[0]["array"].to(dtype)


def import_body_file(source: Path | str, target: Path | str) -> str:
    """Write the checked arrays of a body file as safetensors, in full precision; returns the body's name.

    The licence of the source goes with the copy.

    Raises:
        InputError: There is no such file.
        UnsafeFileError: As in `load_body_file`.
    """
    arrays, name = _read_isolated("body", Path(source))
    table = torch.stack([arrays.pop("parents"), torch.arange(arrays["weights"].shape[1])])
    metadata = {"name": name, "licence": "that of the file this was imported from; do not redistribute"}
    with atomic_path(Path(target)) as temporary:
        save_file({**arrays, "kintree_table": table}, temporary, metadata=metadata)
    return name


def _read_isolated(kind: Literal["body", "regressor"], path: Path) -> tuple[dict[str, Tensor], str]:
    """Arrays that passed the checks of `body_reader` in its own process, and the name of the body."""
    if not path.exists():
        raise InputError(f"{path}: no such file")
    with tempfile.TemporaryDirectory(prefix="fasthmr-") as folder:
        result = Path(folder) / "arrays.safetensors"
        report = read_isolated(
            "fasthmr.io.body_reader",
            path,
            (kind, str(path.absolute()), str(result)),
            limits=LIMITS,
            what="body file",
            packages=(np, safetensors),
        )
        return load(result.read_bytes()), report["name"]


def _landmark_regressor(arrays: dict[str, Tensor]) -> Float[Tensor, "landmarks vertices"] | None:
    """Points on faces, given as face and barycentric coordinates, as rows over the vertices."""
    if "lmk_faces_idx" not in arrays:
        return None
    corners = arrays["f"][arrays["lmk_faces_idx"]]
    coordinates = arrays["lmk_bary_coords"]
    rows = coordinates.new_zeros(len(corners), arrays["v_template"].shape[0])
    return rows.scatter_add(1, corners, coordinates)


def _is_baked(path: Path) -> bool:
    """Whether this is the compact format of the free body."""
    try:
        with safe_open(path, framework="np") as file:
            return "lbs_index" in file.keys()  # noqa: SIM118
    except (SafetensorError, OSError):
        return False


def _load_baked(path: Path, num_betas: int | None) -> BodyModel:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
            body = body_from_baked(tensors, metadata=file.metadata(), num_betas=num_betas)
    except (SafetensorError, KeyError, ValueError, IndexError, RuntimeError) as error:
        raise UnsafeFileError(f"{path}: not a compact body file ({error}); bake it again") from None
    for key, value in body.named_buffers():
        if value.is_floating_point() and not value.isfinite().all():
            raise UnsafeFileError(f"{path}: '{key}' has values that are not finite; bake it again")
    return body
