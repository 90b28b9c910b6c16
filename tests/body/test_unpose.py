"""Rest meshes from posed ones: exact for plain skinning, best for what plain skinning cannot give."""

from __future__ import annotations

import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.body.lbs import BodyModel, dense_lbs_weights
from fasthmr.body.unpose import (
    RestSkeleton,
    largest_weights,
    leaf_ends,
    skin,
    unpose_joints,
    unpose_vertices,
)
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.types import BodyParams


def _posed(body: BodyModel, frames: int, scale: float = 0.5) -> BodyParams:
    generator = torch.Generator().manual_seed(3)
    R = axis_angle_to_rotmat(torch.randn(frames, body.num_joints, 3, generator=generator).double() * scale)
    return BodyParams(
        global_orient=R[:, :1],
        body_pose=R[:, 1:],
        betas=torch.randn(1, 10, generator=generator).double().expand(frames, 10),
        transl=torch.randn(frames, 3, generator=generator).double(),
    )


def _skeleton(body: BodyModel, params: BodyParams) -> tuple[RestSkeleton, torch.Tensor]:
    mesh = body(params)
    assert params.transl is not None
    rotations = torch.cat([params.global_orient, params.body_pose], dim=1)
    return unpose_joints(rotations, mesh.joints, params.transl, body.parents.tolist()), mesh.vertices


@pytest.mark.parametrize("frames", [1, 6])
def test_the_body_at_rest_comes_back(frames: int) -> None:
    body = load_default_body().double()
    params = _posed(body, frames)
    skeleton, vertices = _skeleton(body, params)
    rest = body(BodyParams(**(vars(body.rest_params(1)) | {"betas": params.betas[:1]})))
    torch.testing.assert_close(skeleton.rest, rest.joints[0], atol=1e-9, rtol=0)
    found = unpose_vertices(vertices, skeleton, body.lbs_weights)
    again = skin(found, skeleton.world, skeleton.offsets(), body.lbs_weights)
    torch.testing.assert_close(again, vertices, atol=2e-4, rtol=0)
    if frames > 1:  # a single frame leaves some vertices open
        torch.testing.assert_close(found, rest.vertices[0], atol=2e-4, rtol=0)


def test_correctives_are_met_half_way() -> None:
    """The fitted rest mesh is closer to a body with pose correctives than the body's own rest mesh is."""
    plain = load_default_body().double().restrict(torch.arange(0, 13718, 20))
    generator = torch.Generator().manual_seed(5)
    posedirs = torch.randn(207, 3 * plain.num_vertices, generator=generator).double() * 1e-3
    body = BodyModel(
        v_template=plain.v_template,
        shapedirs=plain.shapedirs,
        faces=plain.faces,
        parents=plain.parents.tolist(),
        lbs_weights=plain.lbs_weights,
        J_template=plain.J_template,
        J_shapedirs=plain.J_shapedirs,
        posedirs=posedirs,
    )
    params = _posed(body, 8)
    skeleton, vertices = _skeleton(body, params)
    own = plain(BodyParams(**(vars(body.rest_params(1)) | {"betas": params.betas[:1]}))).vertices[0]

    def error(rest: torch.Tensor) -> float:
        return float((skin(rest, skeleton.world, skeleton.offsets(), body.lbs_weights) - vertices).norm())

    assert error(unpose_vertices(vertices, skeleton, body.lbs_weights)) < 0.9 * error(own)


def test_a_vertex_between_opposite_turns_stays_with_its_strongest_joint() -> None:
    world = torch.stack([torch.eye(3), torch.diag(torch.tensor([-1.0, -1.0, 1.0]))])[None].double()
    skeleton = RestSkeleton(
        rest=torch.zeros(2, 3).double(), world=world, joints=torch.zeros(1, 2, 3).double()
    )
    vertices = torch.tensor([[[0.0, 0.0, 0.5]]]).double()
    found = unpose_vertices(vertices, skeleton, torch.tensor([[0.5, 0.5]]).double())
    torch.testing.assert_close(found, vertices[0])


def test_largest_weights_sum_to_one() -> None:
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    index, weight = largest_weights(weights, 2)
    assert index.tolist() == [[1, 3], [2, 0], [0, 0]]
    torch.testing.assert_close(weight, torch.tensor([[4 / 7, 3 / 7], [1.0, 0.0], [1.0, 0.0]]))
    index, weight = largest_weights(weights[:, :3], 4)  # fewer joints than places
    assert index.shape == (3, 4)
    torch.testing.assert_close(dense_lbs_weights(index, weight, 3)[1], torch.tensor([0.0, 0.0, 1.0]))


def test_ends_of_bones() -> None:
    body = load_default_body()
    rest = body(body.rest_params())
    ends = leaf_ends(rest.joints, body.parents.tolist(), rest.vertices, body.lbs_weights)
    assert sorted(ends) == [10, 11, 15, 22, 23]
    tips = {joint: rest.joints[joint] + end for joint, end in ends.items()}
    assert tips[15][1] > rest.vertices[:, 1].max() - 0.02
    assert tips[22][0] > rest.vertices[:, 0].max() - 0.02 and tips[23][0] < rest.vertices[:, 0].min() + 0.02
    assert tips[10][2] > rest.joints[10, 2] + 0.04
    bare = leaf_ends(rest.joints, body.parents.tolist())
    torch.testing.assert_close(bare[15], (rest.joints[15] - rest.joints[12]) / 2)
    assert leaf_ends(torch.zeros(1, 3), [-1])[0].tolist() == [0, 0, 0]
