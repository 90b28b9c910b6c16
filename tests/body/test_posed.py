from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.body.posed import lazy_vertices
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.types import BodyParams

FRAMES = 35


@pytest.fixture(scope="module")
def body():
    return load_default_body().restrict(torch.arange(0, 13000, 100))


@pytest.fixture(scope="module")
def params(body) -> BodyParams:
    random = torch.Generator().manual_seed(0)
    turns = axis_angle_to_rotmat(0.4 * torch.randn(FRAMES, 24, 3, generator=random))
    return BodyParams(
        global_orient=turns[:, :1],
        body_pose=turns[:, 1:],
        betas=torch.randn(FRAMES, 10, generator=random),
        transl=torch.randn(FRAMES, 3, generator=random),
    )


def test_any_part_is_what_the_body_gives(body, params: BodyParams) -> None:
    arrays = {name: getattr(params, name).numpy() for name in ("global_orient", "body_pose", "betas")}
    vertices = lazy_vertices(body, **arrays, transl=params.transl.numpy())
    true = body(params).vertices.numpy()
    assert vertices.shape == true.shape
    assert len(vertices) == FRAMES
    np.testing.assert_allclose(np.asarray(vertices), true, atol=1e-6)
    np.testing.assert_allclose(vertices[-1], true[-1], atol=1e-6)
    np.testing.assert_allclose(vertices[3:9:2], true[3:9:2], atol=1e-6)
    np.testing.assert_allclose(vertices[np.array([4, 0])], true[[4, 0]], atol=1e-6)
    assert vertices[:0].shape == (0, *true.shape[1:])
    assert np.asarray(vertices, dtype=np.float64).dtype == np.float64
    with pytest.raises(IndexError):
        vertices[FRAMES]
    with pytest.raises(ValueError, match="copy"):
        np.array(vertices, copy=False)


def test_a_pose_of_another_skeleton_is_refused(body, params: BodyParams) -> None:
    with pytest.raises(ValueError, match="22 joints does not fit"):
        lazy_vertices(
            body,
            global_orient=params.global_orient.numpy(),
            body_pose=params.body_pose[:, :21].numpy(),
            betas=params.betas.numpy(),
            transl=params.transl.numpy(),
        )
