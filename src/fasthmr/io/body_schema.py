"""What the arrays of a SMPL-format body must look like, checked before anything computes with them.

Key names are those of the published files. Imports numpy and no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fasthmr.errors import UnsafeFileError

REQUIRED_KEYS = ("v_template", "shapedirs", "J_regressor", "weights", "f", "kintree_table")
OPTIONAL_KEYS = (
    "posedirs",
    *("vt", "ft", "lmk_faces_idx", "lmk_bary_coords"),
    *(f"hands_{part}{side}" for part in ("mean", "components") for side in ("", "l", "r")),
)
BODY_KEYS = frozenset((*REQUIRED_KEYS, *OPTIONAL_KEYS))
_WHOLE_NUMBER_KEYS = ("f", "kintree_table", "ft", "lmk_faces_idx")
_Require = Callable[[bool | np.bool_, str, str], None]
_MAX_VERTICES, _MAX_JOINTS = 2**18, 512
_WEIGHT_SUM_TOLERANCE = 1e-3

_PUBLISHED_SIZES = {  # vertices, joints, faces
    (6890, 24, 13776): "SMPL",
    (6890, 52, 13776): "SMPL-H",
    (10475, 55, 20908): "SMPL-X",
    (778, 16, 1538): "MANO",
}


@dataclass(frozen=True, kw_only=True)
class CheckedBody:
    """Arrays that passed, under their names in the file, with faces and parents as int64.

    Attributes:
        arrays: `parents` replaces `kintree_table`; its first entry is -1.
        name: Published body of this size, or `custom`.
    """

    arrays: dict[str, np.ndarray]
    name: str


def check_body(arrays: Mapping[str, np.ndarray], path: Path) -> CheckedBody:
    """Check sizes, types, ranges and finiteness of everything that will be used.

    Args:
        arrays: By key; keys outside `BODY_KEYS` are left out.
        path: Named in errors.

    Raises:
        UnsafeFileError: Names the file, the key, what came and what fits.
    """

    def require(fits: bool | np.bool_, key: str, problem: str) -> None:
        if not fits:
            raise UnsafeFileError(
                f"{path}: '{key}' {problem}; expected an SMPL, SMPL-H, SMPL-X or MANO file as published"
            )

    for key in REQUIRED_KEYS:
        require(key in arrays, key, "is missing")
    kept = {key: arrays[key] for key in sorted(BODY_KEYS & arrays.keys())}
    for key, array in kept.items():
        kinds = "iu" if key in _WHOLE_NUMBER_KEYS else "f"
        require(array.dtype.kind in kinds, key, f"has type {array.dtype}")
        require(array.dtype.kind != "f" or np.isfinite(array).all(), key, "has values that are not finite")

    template, directions, table = kept["v_template"], kept["shapedirs"], kept["kintree_table"]
    require(
        template.ndim == 2 and template.shape[1] == 3, "v_template", f"has shape {template.shape}, not (V, 3)"
    )
    require(table.ndim == 2 and table.shape[0] == 2, "kintree_table", f"has shape {table.shape}, not (2, J)")
    vertices, joints, faces = template.shape[0], table.shape[1], kept["f"].shape[0]
    require(3 <= vertices <= _MAX_VERTICES, "v_template", f"has {vertices} vertices")
    require(1 <= joints <= _MAX_JOINTS, "kintree_table", f"has {joints} joints")
    betas = directions.shape[-1] if directions.ndim == 3 else 0
    shapes: dict[str, tuple[int, ...]] = {
        "shapedirs": (vertices, 3, max(betas, 1)),
        "J_regressor": (joints, vertices),
        "weights": (vertices, joints),
        "f": (faces, 3),
        "posedirs": (vertices, 3, 9 * (joints - 1)),
        "ft": (faces, 3),
        "vt": (kept["vt"].shape[0] if "vt" in kept else 0, 2),
    }
    for key, shape in shapes.items():
        if key in kept:
            require(
                kept[key].shape == shape, key, f"has shape {kept[key].shape}, the other arrays need {shape}"
            )
    _check_indices(kept, vertices, require)

    kept["parents"] = _parents(kept.pop("kintree_table"), require)
    weights = kept["weights"]
    sums = weights.sum(1, dtype=np.float64)
    require(bool((abs(sums - 1) <= _WEIGHT_SUM_TOLERANCE).all()), "weights", "has rows that do not sum to 1")
    require(bool((weights >= -_WEIGHT_SUM_TOLERANCE).all()), "weights", "has negative values")
    return CheckedBody(arrays=kept, name=_PUBLISHED_SIZES.get((vertices, joints, faces), "custom"))


def check_finite_matrix(array: np.ndarray, path: Path) -> np.ndarray:
    """A regressor from vertices: two dimensions, real numbers, finite.

    Raises:
        UnsafeFileError: It is not.
    """
    if array.ndim != 2 or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise UnsafeFileError(
            f"{path}: holds {array.dtype} of shape {array.shape}; expected a finite (points, vertices) matrix"
        )
    return array


def _check_indices(kept: dict[str, np.ndarray], vertices: int, require: _Require) -> None:
    """Faces and landmarks must point at vertices and faces that exist; widens them to int64."""
    counts = {"f": vertices, "ft": len(kept["vt"]) if "vt" in kept else 0, "lmk_faces_idx": len(kept["f"])}
    for key, count in counts.items():
        if key in kept:
            kept[key] = kept[key].astype(np.int64)
            inside = kept[key].size == 0 or 0 <= kept[key].min() <= kept[key].max() < count
            require(inside, key, f"has indices outside 0..{count - 1}")
    if "lmk_faces_idx" in kept:
        corners = kept.get("lmk_bary_coords", np.zeros(0))
        fits = kept["lmk_faces_idx"].ndim == 1 and corners.shape == (len(kept["lmk_faces_idx"]), 3)
        require(fits, "lmk_bary_coords", f"has shape {corners.shape}, not one row of 3 for each landmark")


def _parents(table: np.ndarray, require: _Require) -> np.ndarray:
    """Parent of each joint from the two rows of `kintree_table`; the root may be written as 2**32 - 1."""
    joints = table.shape[1]
    parents = table[0].astype(np.int64)
    parents[0] = -1
    before = (parents[1:] >= 0) & (parents[1:] < np.arange(1, joints))
    in_order = (table[1].astype(np.int64) == np.arange(joints)).all()
    require(bool(before.all() and in_order), "kintree_table", "is not a tree with parents before children")
    return parents
