from __future__ import annotations

import pytest
import smplx.lbs
import torch
from torch import Tensor, nn

from fasthmr.body.default_body import body_from_baked
from fasthmr.body.keypoints import KeypointBody
from fasthmr.body.lbs import BodyModel, dense_lbs_weights
from fasthmr.body.skeletons import MANO_PARENTS, SMPL_PARENTS, SMPLX_PARENTS
from fasthmr.types import BodyMesh, BodyParams


def stand_in_arrays(
    *, vertices: int = 60, parents: tuple[int, ...] = SMPL_PARENTS, betas: int = 10, seed: int = 0
) -> dict[str, Tensor]:
    """Random float64 arrays with the layout of a published body."""
    random = torch.Generator().manual_seed(seed)
    joints = len(parents)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return {
        "v_template": normal(vertices, 3),
        "shapedirs": 0.05 * normal(vertices, 3, betas),
        "posedirs": 0.01 * normal(9 * (joints - 1), 3 * vertices),
        "J_regressor": normal(joints, vertices).softmax(-1),
        "lbs_weights": (3 * normal(vertices, joints)).softmax(-1),
        "faces": torch.randint(vertices, (2 * vertices, 3), generator=random),
    }


def stand_in(parents: tuple[int, ...] = SMPL_PARENTS, **options: int) -> BodyModel:
    return BodyModel(**stand_in_arrays(parents=parents, **options), parents=parents)


def rotation(axis_angle: Tensor) -> Tensor:
    """Rotation matrices by the exponential of the cross-product matrix."""
    x, y, z = axis_angle.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(cross)


def random_params(body: BodyModel, *batch: int, seed: int = 1, angle: float = 0.7) -> BodyParams:
    random = torch.Generator().manual_seed(seed)
    dtype = body.v_template.dtype
    vectors = angle * torch.randn(*batch, body.num_joints, 3, generator=random, dtype=dtype)
    rotations = rotation(vectors)
    return BodyParams(
        global_orient=rotations[..., :1, :, :],
        body_pose=rotations[..., 1:, :, :],
        betas=torch.randn(*batch, body.num_betas, generator=random, dtype=dtype),
        transl=torch.randn(*batch, 3, generator=random, dtype=dtype),
    )


@pytest.mark.parametrize("parents", [MANO_PARENTS, SMPL_PARENTS, SMPLX_PARENTS])
def test_agrees_with_smplx(parents: tuple[int, ...]) -> None:
    arrays = stand_in_arrays(parents=parents, betas=7)
    body = BodyModel(**arrays, parents=parents)
    params = random_params(body, 4)
    rotations = torch.cat([params.global_orient, params.body_pose], dim=1)
    vertices, joints = smplx.lbs.lbs(
        params.betas,
        rotations,
        arrays["v_template"],
        arrays["shapedirs"],
        arrays["posedirs"],
        arrays["J_regressor"],
        torch.tensor(parents),
        arrays["lbs_weights"],
        pose2rot=False,
    )
    ours = body(params)
    torch.testing.assert_close(ours.vertices, vertices + params.transl[:, None], atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.joints, joints + params.transl[:, None], atol=1e-12, rtol=0)


def test_rest_pose_returns_the_template() -> None:
    body = stand_in()
    mesh = body(body.rest_params(2))
    torch.testing.assert_close(mesh.vertices, body.v_template.expand(2, -1, -1))
    torch.testing.assert_close(mesh.joints, body.J_template.expand(2, -1, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_leading_shape_equals_singles(dtype: torch.dtype) -> None:
    body = stand_in().to(dtype)
    params = random_params(body, 2, 3)
    mesh = body(params)
    assert mesh.vertices.shape == (2, 3, 60, 3) and mesh.vertices.dtype == dtype
    assert mesh.vertices.is_contiguous()
    single = body(
        BodyParams(
            global_orient=params.global_orient[1, 2],
            body_pose=params.body_pose[1, 2],
            betas=params.betas[1, 2],
            transl=params.transl[1, 2] if params.transl is not None else None,
        )
    )
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(mesh.vertices[1, 2], single.vertices, atol=tolerance, rtol=0)
    torch.testing.assert_close(mesh.joints[1, 2], single.joints, atol=tolerance, rtol=0)


def test_joints_alone_equal_those_of_the_mesh() -> None:
    body = stand_in()
    params = random_params(body, 5)
    assert torch.equal(body.joints(params), body(params).joints)


def test_global_orientation_turns_the_body_about_its_root() -> None:
    body = stand_in()
    params = random_params(body)
    turn = rotation(torch.tensor([0.3, -1.2, 0.4], dtype=torch.float64))
    turned = BodyParams(
        global_orient=turn @ params.global_orient,
        body_pose=params.body_pose,
        betas=params.betas,
        transl=params.transl,
    )
    before, after = body(params), body(turned)
    root = before.joints[0]
    torch.testing.assert_close(after.vertices, (before.vertices - root) @ turn.mT + root)
    torch.testing.assert_close(body.world_rotations(turned), turn @ body.world_rotations(params))


def test_fewer_betas_count_as_zero_and_more_are_refused() -> None:
    body = stand_in()
    params = random_params(body, 2)
    betas = params.betas.clone()
    betas[:, 4:] = 0
    padded = body(BodyParams(global_orient=params.global_orient, body_pose=params.body_pose, betas=betas))
    short = body(
        BodyParams(global_orient=params.global_orient, body_pose=params.body_pose, betas=betas[:, :4])
    )
    torch.testing.assert_close(padded.vertices, short.vertices)
    longer = BodyParams(
        global_orient=params.global_orient,
        body_pose=params.body_pose,
        betas=torch.zeros(2, 11, dtype=torch.float64),
    )
    with pytest.raises(ValueError, match="betas has 11 coefficients"):
        body(longer)


def test_exact_joint_form_replaces_the_regressor() -> None:
    arrays = stand_in_arrays()
    body = BodyModel(**arrays, parents=SMPL_PARENTS)
    del arrays["J_regressor"]
    exact = BodyModel(
        **arrays, parents=SMPL_PARENTS, J_template=body.J_template, J_shapedirs=body.J_shapedirs
    )
    params = random_params(body, 2)
    assert torch.equal(exact(params).vertices, body(params).vertices)
    with pytest.raises(ValueError, match="J_regressor"):
        BodyModel(**arrays, parents=SMPL_PARENTS)


def test_wrong_sizes_are_named() -> None:
    arrays = stand_in_arrays()
    arrays["posedirs"] = arrays["posedirs"][:-9]
    with pytest.raises(
        ValueError, match=r"posedirs has shape \(198, 180\), the other parts need \(207, 180\)"
    ):
        BodyModel(**arrays, parents=SMPL_PARENTS)


def test_gradients_reach_every_parameter() -> None:
    body = stand_in()
    params = random_params(body, 2)
    leaves = [params.global_orient, params.body_pose, params.betas, params.transl]
    for leaf in leaves:
        assert leaf is not None
        leaf.requires_grad_()
    body(params).vertices.square().sum().backward()
    assert all(leaf is not None and leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves)


def test_body_data_stay_out_of_checkpoints() -> None:
    assert not stand_in().state_dict()


class _Posed(nn.Module):
    """Tensors in, tensors out, as exporters want it."""

    def __init__(self, body: BodyModel) -> None:
        super().__init__()
        self.body = body

    def forward(self, rotations: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        mesh: BodyMesh = self.body(
            BodyParams(global_orient=rotations[:, :1], body_pose=rotations[:, 1:], betas=betas)
        )
        return mesh.vertices, mesh.joints


@pytest.mark.compile
def test_exports_with_a_free_batch_size() -> None:
    body = stand_in().float()
    posed = _Posed(body)
    first, second = random_params(body, 3), random_params(body, 5, seed=7)

    def inputs(params: BodyParams) -> tuple[Tensor, Tensor]:
        return torch.cat([params.global_orient, params.body_pose], dim=1), params.betas

    batch = torch.export.Dim("batch")
    program = torch.export.export(posed, inputs(first), dynamic_shapes=({0: batch}, {0: batch}))
    for got, want in zip(program.module()(*inputs(second)), posed(*inputs(second)), strict=True):
        torch.testing.assert_close(got, want)


def _baked(seed: int = 3) -> dict[str, Tensor]:
    """A compact file as the bake writes it, from a random stand-in with 4 weights a vertex."""
    arrays = stand_in_arrays(seed=seed)
    value, index = arrays["lbs_weights"].topk(4, dim=1)
    joints = arrays["J_regressor"]
    row, column = (joints > 0.01).nonzero(as_tuple=True)
    return {
        "v_template": arrays["v_template"].float(),
        "shapedirs": arrays["shapedirs"].half(),
        "faces": arrays["faces"].to(torch.uint16),
        "lbs_index": index.to(torch.uint8),
        "lbs_weight": value.half(),
        "parents": torch.tensor(SMPL_PARENTS),
        "J_template": (joints @ arrays["v_template"]).float(),
        "J_shapedirs": torch.einsum("jv,vcb->jcb", joints, arrays["shapedirs"]).float(),
        "J_regressor_row": row.to(torch.uint8),
        "J_regressor_col": column.to(torch.uint16),
        "J_regressor_val": joints[row, column].half(),
        "keypoint_row": torch.tensor([0, 0, 1], dtype=torch.uint8),
        "keypoint_col": torch.tensor([3, 9, 5], dtype=torch.uint16),
        "keypoint_val": torch.tensor([0.25, 0.75, 1.0]),
        "base_vertex_index": torch.arange(60).to(torch.uint16),
    }


def test_compact_file_becomes_a_body() -> None:
    baked = _baked()
    body = body_from_baked(baked, metadata={"keypoint_names": '["nose", "left_eye"]'}, num_betas=4)
    assert (body.num_vertices, body.num_joints, body.num_betas) == (60, 24, 4)
    assert body.v_template.dtype == torch.float32 and body.faces.dtype == torch.int64
    torch.testing.assert_close(body.lbs_weights.sum(1), torch.ones(60))
    assert body.extras["base_vertex_index"].tolist() == list(range(60))
    mesh = body(random_params(body, 2))
    keypoints = body.keypoints(mesh.vertices)
    torch.testing.assert_close(keypoints[:, 0], 0.25 * mesh.vertices[:, 3] + 0.75 * mesh.vertices[:, 9])


def test_bodies_without_keypoints_say_so() -> None:
    body = stand_in()
    with pytest.raises(ValueError, match="no keypoint regressor"):
        body.keypoints(body.v_template)
    with pytest.raises(ValueError, match="needs a keypoint regressor"):
        KeypointBody(body, rows=(0,))


def test_restricted_body_moves_like_the_whole() -> None:
    body = stand_in()
    kept = torch.tensor([7, 3, 40])
    params = random_params(body, 2)
    torch.testing.assert_close(body.restrict(kept)(params).vertices, body(params).vertices[:, kept])


def test_sparse_weights_become_rows_that_sum_to_one() -> None:
    dense = dense_lbs_weights(torch.tensor([[2, 0], [1, 1]]), torch.tensor([[0.3, 0.1], [0.2, 0.2]]), 3)
    torch.testing.assert_close(dense, torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]]))
