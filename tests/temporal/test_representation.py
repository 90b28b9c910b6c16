"""Poses as 133 numbers, their statistics, and clips of them in time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasthmr.body.default_body import load_default_body
from fasthmr.body.ik import IKSkeleton
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.temporal.representation import (
    MOTION_CHANNELS,
    PoseRepresentation,
    Standardiser,
    join_motion,
    resample,
    sample_frames,
    split_motion,
)
from fasthmr.types import BodyParams

BODY = load_default_body()
REPRESENTATION = PoseRepresentation(IKSkeleton.of(BODY))


def moving_params(frames: int, seed: int = 0) -> BodyParams:
    """Joints that turn steadily, each its own way."""
    generator = torch.Generator().manual_seed(seed)
    start, speed = 0.4 * torch.randn(2, 24, 3, generator=generator)
    rotmats = axis_angle_to_rotmat(start + torch.linspace(0, 1, frames)[:, None, None] * speed)
    betas = torch.randn(10, generator=generator).expand(frames, 10)
    transl = torch.randn(frames, 3, generator=generator)
    return BodyParams(global_orient=rotmats[:, :1], body_pose=rotmats[:, 1:], betas=betas, transl=transl)


def rotmats_of(params: BodyParams) -> Tensor:
    return torch.cat([params.global_orient, params.body_pose], dim=-3)


def test_channels_are_points_then_twists():
    params = moving_params(5)
    motion = REPRESENTATION.encode(params)
    assert motion.shape == (5, 133) and MOTION_CHANNELS == 133
    points, pairs = split_motion(motion)
    joints = BODY.joints(params)
    torch.testing.assert_close(points[:, :24], joints - joints[:, :1], atol=1e-5, rtol=0)
    assert bool((motion[:, :3] == 0).all())
    torch.testing.assert_close(pairs.norm(dim=-1), torch.ones(5, 23))
    assert bool((join_motion(points, pairs) == motion).all())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), refine_steps=st.integers(0, 2))
def test_decoding_undoes_encoding(seed, refine_steps):
    params = moving_params(4, seed)
    decoded = REPRESENTATION.decode(REPRESENTATION.encode(params), params.betas, refine_steps=refine_steps)
    torch.testing.assert_close(decoded, rotmats_of(params), atol=1e-4, rtol=0)


def test_decoding_takes_any_batch_and_one_shape_for_all():
    params = moving_params(6)
    motion = REPRESENTATION.encode(params)
    whole = REPRESENTATION.decode(motion, params.betas)
    torch.testing.assert_close(REPRESENTATION.decode(motion, params.betas[0]), whole)
    nested = REPRESENTATION.decode(motion.view(2, 3, 133), params.betas.view(2, 3, 10))
    torch.testing.assert_close(nested.view(6, 24, 3, 3), whole)


def test_refinement_brings_the_points_closer():
    params = moving_params(100)
    motion = REPRESENTATION.encode(params)
    noise = 0.01 * torch.randn(motion.shape, generator=torch.Generator().manual_seed(1))
    noise[:, :3] = noise[:, 87:] = 0

    def error(refine_steps: int) -> float:
        R = REPRESENTATION.decode(motion + noise, params.betas, refine_steps=refine_steps)
        found = BodyParams(global_orient=R[:, :1], body_pose=R[:, 1:], betas=params.betas)
        return (REPRESENTATION.encode(found) - motion)[:, :72].view(-1, 24, 3).norm(dim=-1).mean().item()

    assert error(2) < 0.7 * error(0)


def test_gradients_reach_the_numbers_and_the_shape():
    params = moving_params(3)
    motion = (REPRESENTATION.encode(params) + 0.005).requires_grad_()
    betas = params.betas.clone().requires_grad_()
    REPRESENTATION.decode(motion, betas).square().sum().backward()
    REPRESENTATION.decode(motion, betas)[..., 0].sum().backward()
    for gradient in (motion.grad, betas.grad):
        assert gradient is not None and bool(gradient.isfinite().all()) and bool((gradient != 0).any())


def test_standardised_numbers_have_unit_variance_and_constants_survive():
    generator = torch.Generator().manual_seed(0)
    scale, shift = torch.tensor([2.0, 0.1, 1e-5, 0.0]), torch.tensor([100.0, -3.0, 7.0, 0.1])
    data = shift + scale * torch.randn(6, 50, 4, generator=generator)
    standardiser = Standardiser(4)
    standardiser.fit(iter(data.split(1)))
    seen = standardiser.normalise(data)
    torch.testing.assert_close(seen.mean((0, 1)), torch.zeros(4), atol=2e-2, rtol=0)
    torch.testing.assert_close(seen[..., :2].std((0, 1)), torch.ones(2), atol=2e-2, rtol=0)
    assert bool((standardiser.std[2:] == 1e-3).all())
    assert bool((seen[..., 3] == 0).all())
    restored = standardiser.restore(seen)
    assert bool((restored[..., 3] == data[..., 3]).all())
    torch.testing.assert_close(restored, data)


def test_statistics_do_not_depend_on_batches_and_travel_with_weights():
    data = REPRESENTATION.encode(moving_params(40))
    whole, parts = Standardiser(), Standardiser()
    whole.fit([data])
    parts.fit(data.split(7))
    torch.testing.assert_close(parts.state_dict(), whole.state_dict())
    loaded = Standardiser()
    loaded.load_state_dict(whole.state_dict())
    assert bool((loaded.normalise(data) == whole.normalise(data)).all())


@pytest.mark.parametrize(
    ("batches", "reason"), [([], "no frames"), ([torch.full((2, 3), torch.nan)], "not finite")]
)
def test_statistics_of_nothing_are_refused(batches, reason):
    with pytest.raises(ValueError, match=reason):
        Standardiser(3).fit(batches)


@given(frames=st.integers(1, 60), other=st.integers(1, 300))
def test_resampling_straight_lines_is_exact(frames, other):
    line = torch.linspace(-1, 2, frames)[:, None] * torch.tensor([1.0, -3.0])
    expected = torch.linspace(-1, 2, other)[:, None] * torch.tensor([1.0, -3.0])
    got = resample(line, other)
    assert got.shape == (other, 2)
    if frames > 1:
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    else:
        assert bool((got == line[0]).all())


def test_sampling_between_and_beyond_frames():
    line = torch.tensor([[0.0], [1.0], [4.0]])
    positions = torch.tensor([-1.0, 0.0, 0.25, 1.0, 1.5, 2.0, 7.0])
    expected = torch.tensor([0.0, 0.0, 0.25, 1.0, 2.5, 4.0, 4.0])
    torch.testing.assert_close(sample_frames(line, positions)[:, 0], expected)
