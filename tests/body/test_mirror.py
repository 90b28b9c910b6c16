from __future__ import annotations

import pytest
import torch

from fasthmr.body.default_body import load_default_hand
from fasthmr.body.lbs import BodyModel
from fasthmr.body.mirror import mirror_params, mirror_points, mirrored
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.types import BodyParams


def hand(correctives: bool) -> BodyModel:
    """The free hand, with made-up correctives."""
    free = load_default_hand().restrict(torch.arange(0, 1609, 9))
    if not correctives:
        return free
    generator = torch.Generator().manual_seed(0)
    posedirs = 0.01 * torch.randn(9 * 15, 3 * free.num_vertices, generator=generator)
    return BodyModel(
        v_template=free.v_template,
        shapedirs=free.shapedirs,
        faces=free.faces,
        parents=free.parents.tolist(),
        lbs_weights=free.lbs_weights,
        posedirs=posedirs,
        J_template=free.J_template,
        J_shapedirs=free.J_shapedirs,
    )


def poses(count: int, transl: bool) -> BodyParams:
    generator = torch.Generator().manual_seed(1)
    rotations = axis_angle_to_rotmat(0.7 * torch.randn(count, 16, 3, generator=generator))
    betas = torch.randn(count, 10, generator=generator)
    place = torch.randn(count, 3, generator=generator) if transl else None
    return BodyParams.of_rotmats(rotations, betas, place)


@pytest.mark.parametrize("correctives", [False, True])
@pytest.mark.parametrize("transl", [False, True])
def test_the_mirror_image_moves_like_the_reflection(correctives: bool, transl: bool) -> None:
    right, params = hand(correctives), poses(3, transl)
    left = mirrored(right)
    seen = left(mirror_params(params, torch.ones(3, dtype=torch.bool)))
    torch.testing.assert_close(seen.vertices, mirror_points(right(params).vertices), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.joints, mirror_points(right(params).joints), atol=1e-5, rtol=1e-5)
    assert torch.equal(left.faces, right.faces.flip(-1))


def test_only_the_rows_asked_for_are_mirrored() -> None:
    params = poses(3, True)
    rows = torch.tensor([False, True, False])
    changed = mirror_params(params, rows)
    for name in ("global_orient", "body_pose", "transl"):
        same = (getattr(changed, name) == getattr(params, name)).flatten(1).all(1)
        assert same.tolist() == [True, False, True]
    back = mirror_params(changed, rows)
    assert torch.equal(back.global_orient, params.global_orient)
