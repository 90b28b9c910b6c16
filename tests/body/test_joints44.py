from __future__ import annotations

import torch

from fasthmr.body.joints44 import Joints44, widen_hips, with_picked_vertices
from fasthmr.body.skeletons import HMR2_44_NAMES, HMR2_44_PELVIS, SMPL_JOINT_NAMES
from fasthmr.types import BodyMesh


def _mesh(vertices: int = 6890, *batch: int) -> BodyMesh:
    random = torch.Generator().manual_seed(5)
    return BodyMesh(
        vertices=torch.randn(*batch, vertices, 3, generator=random, dtype=torch.float64),
        joints=torch.randn(*batch, 24, 3, generator=random, dtype=torch.float64),
    )


def test_named_joints_come_from_the_right_places() -> None:
    mesh = _mesh(6890, 2)
    regressor = torch.zeros(19, 6890, dtype=torch.float64)
    regressor[14, 100] = 1.0
    joints = Joints44(regressor)(mesh)
    assert joints.shape == (2, len(HMR2_44_NAMES), 3)

    def joint(name: str) -> torch.Tensor:
        return joints[:, HMR2_44_NAMES.index(name)]

    for name in ("left_wrist", "right_knee", "left_hip", "right_elbow", "neck"):
        assert torch.equal(joint(f"openpose_{name}"), mesh.joints[:, SMPL_JOINT_NAMES.index(name)])
    assert torch.equal(joint("openpose_nose"), mesh.vertices[:, 332])
    assert torch.equal(joint("openpose_right_heel"), mesh.vertices[:, 6787])
    assert torch.equal(joints[:, HMR2_44_PELVIS], mesh.vertices[:, 100])


def test_another_topology_brings_its_own_indices() -> None:
    mesh = _mesh(10, 3)
    points = with_picked_vertices(mesh, [4, 2])
    assert torch.equal(points[:, 24:], mesh.vertices[:, [4, 2]])
    joints = Joints44(torch.eye(10, dtype=torch.float64)[:2], vertex_ids=[4, 2], joint_map=[25, 0])(mesh)
    assert torch.equal(
        joints, torch.stack([points[:, 25], points[:, 0], *mesh.vertices.unbind(1)[:2]], dim=1)
    )


def test_wider_hips_keep_their_axis_and_leave_other_joints() -> None:
    joints = torch.randn(4, 44, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    moved = widen_hips(joints)
    right, left, middle = 9, 12, 8
    torch.testing.assert_close(moved[:, right] - moved[:, left], 1.5 * (joints[:, right] - joints[:, left]))
    centre = 0.5 * (joints[:, right] + joints[:, left])
    moved_centre = 0.5 * (moved[:, right] + moved[:, left])
    torch.testing.assert_close(moved_centre, 0.5 * (centre + joints[:, middle]))
    others = [i for i in range(44) if i not in (right, left)]
    assert torch.equal(moved[:, others], joints[:, others])
