from __future__ import annotations

import pytest
import torch

from fasthmr.body.default_body import load_default_body, load_default_hand
from fasthmr.body.fit_vertices import VertexFit
from fasthmr.body.lbs import BodyModel
from fasthmr.geometry.rotations import axis_angle_to_rotmat, geodesic_angle
from fasthmr.types import BodyParams

BODIES = {"body": load_default_body(), "hand": load_default_hand()}


def posed(body: BodyModel, count: int = 4) -> BodyParams:
    generator = torch.Generator().manual_seed(0)
    turns = torch.randn(count, body.num_joints, 3, generator=generator) * 0.5
    turns[:, 0] *= 3
    rotations = axis_angle_to_rotmat(turns)
    return BodyParams(
        global_orient=rotations[:, :1],
        body_pose=rotations[:, 1:],
        betas=torch.randn(count, body.num_betas, generator=generator),
        transl=torch.randn(count, 3, generator=generator),
    )


def distances_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return 1000 * torch.linalg.vector_norm(a - b, dim=-1)


@pytest.mark.parametrize("kind", BODIES)
def test_a_posed_body_comes_back(kind: str) -> None:
    body = BODIES[kind]
    params = posed(body)
    mesh = body(params)
    fitted = VertexFit(body)(mesh.vertices)
    assert distances_mm(body(fitted).vertices, mesh.vertices).mean() < 0.2
    assert distances_mm(body.joints(fitted), mesh.joints).max() < 1.5
    assert geodesic_angle(fitted.body_pose, params.body_pose).max() < 0.05


def test_rough_vertices_give_a_smooth_body() -> None:
    body = BODIES["body"]
    mesh = body(posed(body))
    noise = 0.005 * torch.randn(mesh.vertices.shape, generator=torch.Generator().manual_seed(1))
    fitted = VertexFit(body)(mesh.vertices + noise)
    assert distances_mm(body(fitted).vertices, mesh.vertices).mean() < 2.5
    assert distances_mm(noise, torch.zeros(())).mean() > 7


def test_pose_correctives_are_counted_in() -> None:
    free = BODIES["hand"]
    generator = torch.Generator().manual_seed(2)
    body = BodyModel(
        v_template=free.v_template,
        shapedirs=free.shapedirs,
        faces=free.faces,
        parents=free.parents.tolist(),
        lbs_weights=free.lbs_weights,
        posedirs=1e-3 * torch.randn(9 * 15, 3 * free.num_vertices, generator=generator),
        J_template=free.J_template,
        J_shapedirs=free.J_shapedirs,
    )
    vertices = body(posed(body)).vertices
    assert distances_mm(body(VertexFit(body)(vertices)).vertices, vertices).mean() < 0.5


@pytest.mark.parametrize("vertices", [torch.zeros(2, 1609, 3), torch.full((2, 1609, 3), 1e4)])
def test_vertices_of_no_body_give_finite_numbers(vertices: torch.Tensor) -> None:
    fitted = VertexFit(BODIES["hand"])(vertices)
    for value in (fitted.global_orient, fitted.body_pose, fitted.betas, fitted.transl):
        assert value is not None and bool(value.isfinite().all())
    assert float(fitted.betas.abs().max()) <= 5
