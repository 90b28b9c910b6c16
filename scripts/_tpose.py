"""T-pose of the free body: world rotations per bone, forward kinematics and skinning, all batched.

Directions are in SMPL axes; the recipe is written for the left side and mirrored for the right.
"""

from __future__ import annotations

import numpy as np
from _anny import Rig
from scipy import sparse

_MIRROR = np.array([-1.0, 1.0, 1.0])


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
    points: np.ndarray,
    weights: sparse.csr_matrix,
    heads: np.ndarray,
    rotations: np.ndarray,
    posed: np.ndarray,
) -> np.ndarray:
    """Linear blend skinning of (n, P, 3) points with (P, B) weights and world bone rotations."""
    offset = posed - (rotations @ heads[..., None])[..., 0]
    out = np.empty_like(points)
    for i in range(len(points)):
        blend = weights @ np.concatenate([rotations[i].reshape(-1, 9), offset[i]], axis=1)
        out[i] = np.einsum("pij,pj->pi", blend[:, :9].reshape(-1, 3, 3), points[i]) + blend[:, 9:]
    return out


def t_posed_people(rig: Rig, coefficients: np.ndarray, batch: int = 50) -> tuple[np.ndarray, np.ndarray]:
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
