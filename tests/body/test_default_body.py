from __future__ import annotations

import time
from importlib.resources import as_file, files

import pytest
import torch

from fasthmr.body.default_body import load_default_body, load_default_hand
from fasthmr.body.keypoints import KeypointBody
from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import COCO17_FLIP, COCO17_NAMES, MANO_PARENTS, SMPL_FLIP, SMPL_PARENTS
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.io.body_files import load_body_file
from fasthmr.types import BodyParams


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return load_default_body()


def test_the_free_body_has_the_skeleton_of_smpl(body: BodyModel) -> None:
    assert tuple(body.parents.tolist()) == SMPL_PARENTS and body.num_betas == 10
    assert body.keypoint_names[:17] == COCO17_NAMES
    assert body.faces.min() >= 0 and body.faces.max() < body.num_vertices
    torch.testing.assert_close(body.lbs_weights.sum(1), torch.ones(body.num_vertices))
    assert {"uv", "faces_uv", "base_vertex_index"} <= body.extras.keys()
    assert load_default_body(num_betas=4).num_betas == 4


def test_the_free_body_stands_in_a_t_pose_with_its_pelvis_at_the_origin(body: BodyModel) -> None:
    mesh = body(body.rest_params())
    joints = dict(zip(body.joint_names, mesh.joints, strict=True))
    height = float(mesh.vertices[:, 1].max() - mesh.vertices[:, 1].min())
    assert 1.55 < height < 1.85
    assert joints["pelvis"].norm() < 0.01
    assert joints["left_wrist"][0] > 0.5 and joints["right_wrist"][0] < -0.5
    assert abs(float(joints["left_wrist"][1] - joints["left_shoulder"][1])) < 0.1
    keypoints = dict(zip(body.keypoint_names, body.keypoints(mesh.vertices), strict=True))
    assert keypoints["nose"][2] > keypoints["left_ear"][2] and keypoints["left_ear"][0] > 0.04


def test_the_free_body_is_nearly_symmetric(body: BodyModel) -> None:
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    mesh = body(body.rest_params())
    keypoints = body.keypoints(mesh.vertices)[:17]
    torch.testing.assert_close(mesh.joints[list(SMPL_FLIP)] * mirror, mesh.joints, atol=5e-3, rtol=0)
    torch.testing.assert_close(keypoints[list(COCO17_FLIP)] * mirror, keypoints, atol=6e-3, rtol=0)


def test_regressed_joints_are_near_the_exact_ones(body: BodyModel) -> None:
    betas = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    rest = body.rest_params(64)
    mesh = body(BodyParams(global_orient=rest.global_orient, body_pose=rest.body_pose, betas=betas))
    assert body.J_regressor is not None
    error_mm = 1000 * (body.J_regressor @ mesh.vertices - mesh.joints).norm(dim=-1)
    assert error_mm.mean() < 4.5


def test_keypoints_without_vertices_are_exact(body: BodyModel) -> None:
    generator = torch.Generator().manual_seed(1)
    rotations = axis_angle_to_rotmat(torch.randn(3, 24, 3, generator=generator))
    params = BodyParams(
        global_orient=rotations[:, :1],
        body_pose=rotations[:, 1:],
        betas=torch.randn(3, 10, generator=generator),
        transl=torch.randn(3, 3, generator=generator),
    )
    mesh = body(params)
    expected = torch.cat((mesh.joints, body.keypoints(mesh.vertices)[:, [22, 3]]), dim=1)
    torch.testing.assert_close(KeypointBody(body, rows=(22, 3))(params), expected, atol=1e-5, rtol=0)


def test_the_free_hands_mirror_one_another() -> None:
    right, left = load_default_hand(), load_default_hand("left")
    assert tuple(right.parents.tolist()) == MANO_PARENTS
    mesh = right(right.rest_params())
    assert mesh.joints[1:, 0].max() < 0  # fingers of the right hand point along -x
    thumb, index = mesh.joints[13:16].mean(0), mesh.joints[1:4].mean(0)
    assert thumb[2] > index[2]
    mirrored = left(left.rest_params())
    torch.testing.assert_close(mirrored.vertices, mesh.vertices * torch.tensor([-1.0, 1.0, 1.0]))
    assert {"fingertip_index"} <= right.extras.keys()


def test_the_shipped_file_is_a_body_file(body: BodyModel) -> None:
    with as_file(files("fasthmr").joinpath("assets", "body.safetensors")) as path:
        loaded = load_body_file(path)
    assert loaded.name == body.name and torch.equal(loaded.v_template, body.v_template)


def test_loading_is_quick() -> None:
    start = time.perf_counter()
    load_default_body()
    assert time.perf_counter() - start < 2
