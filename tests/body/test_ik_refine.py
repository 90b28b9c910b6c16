"""Gauss-Newton refinement: the optimum of each step, and what it gains on noisy points."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fasthmr.body.default_body import load_default_body
from fasthmr.body.ik import IKSkeleton, forward_kinematics
from fasthmr.body.ik_refine import refine_rotations
from fasthmr.body.swing_twist import solve_rotations, twists_of
from fasthmr.geometry.rotations import axis_angle_to_rotmat

SKELETON = IKSkeleton.of(load_default_body())
REST = SKELETON.rest(torch.zeros(10))


def random_rotmats(frames: int, seed: int, largest: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    axis = F.normalize(torch.randn(frames, 24, 3, generator=generator, dtype=torch.float64), dim=-1)
    angle = largest * torch.rand(frames, 24, 1, generator=generator, dtype=torch.float64)
    return axis_angle_to_rotmat(axis * angle)


def noisy(rotmats: Tensor, sigma: float, seed: int) -> tuple[Tensor, Tensor]:
    rest = REST.to(rotmats.dtype)
    points, twists = forward_kinematics(rotmats, rest)[0], twists_of(rotmats, rest)
    noise = torch.randn(points.shape, generator=torch.Generator().manual_seed(seed), dtype=points.dtype)
    noise[:, 0] = 0
    return points + sigma * noise, twists


def dense_step(R: Tensor, joints: Tensor, rest: Tensor, weight: Tensor, damping: float) -> Tensor:
    """The same step from the 87 x 72 Jacobian by automatic differentiation."""

    def residual(delta: Tensor) -> Tensor:
        return forward_kinematics(R @ axis_angle_to_rotmat(delta), rest)[0] - (joints - joints[0] + rest[0])

    zero = torch.zeros(24, 3, dtype=R.dtype)
    J = torch.autograd.functional.jacobian(residual, zero).reshape(87, 72)
    w = weight.repeat_interleave(3)[:, None]
    normal = J.mT @ (w * J) + damping * torch.eye(72, dtype=R.dtype)
    delta = torch.linalg.solve(normal, -J.mT @ (w[:, 0] * residual(zero).flatten()))
    return R @ axis_angle_to_rotmat(delta.view(24, 3))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_is_the_dense_least_squares_step(weighted):
    rest = SKELETON.rest(torch.linspace(-1, 1, 10)).double()
    start = random_rotmats(1, 0)[0]
    joints = noisy(random_rotmats(1, 1), 0.0, 0)[0][0]
    weight = torch.rand(29, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    weights = weight if weighted else None
    stepped = refine_rotations(start, joints, rest, steps=1, sigma=0.02, weights=weights)
    expected = dense_step(start, joints, rest, weight if weighted else torch.ones_like(weight), 4 * 0.02**2)
    torch.testing.assert_close(stepped, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("sigma_mm", [5, 10, 20])
def test_refinement_on_noisy_points(sigma_mm):
    true = random_rotmats(400, 3, 1.2).float()
    points, _ = noisy(true, 0.0, 0)
    given, twists = noisy(true, 1e-3 * sigma_mm, 4)
    start = solve_rotations(given, twists, REST)

    def error_mm(R: Tensor) -> float:
        return 1e3 * (forward_kinematics(R, REST)[0] - points)[:, 1:24].norm(dim=-1).mean().item()

    of_points, before, after = (
        1e3 * (given - points)[:, 1:].norm(dim=-1).mean().item(),
        error_mm(start),
        error_mm(refine_rotations(start, given, REST, sigma=1e-3 * sigma_mm)),
    )
    assert after < 0.75 * of_points
    assert after < (0.8 if sigma_mm == 5 else 0.6) * before


def test_clean_points_are_left_alone():
    true = random_rotmats(20, 5).float()
    points, twists = noisy(true, 0.0, 0)
    solved = solve_rotations(points, twists, REST)
    torch.testing.assert_close(refine_rotations(solved, points, REST), true, atol=1e-4, rtol=0)
    assert refine_rotations(solved, points, REST, steps=0) is solved


def test_no_precision_is_lost_for_precise_points():
    given, twists = noisy(random_rotmats(20, 6), 0.005, 7)
    start = solve_rotations(given, twists, REST.double())
    exact = refine_rotations(start, given, REST.double(), sigma=0.002)
    single = refine_rotations(start.float(), given.float(), REST, sigma=0.002)
    torch.testing.assert_close(single.double(), exact, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match=r"sigma=0\.0 must be positive"):
        refine_rotations(start, given, REST.double(), sigma=0.0)


def test_degenerate_points_give_rotations_and_finite_gradients():
    points = torch.stack([torch.zeros(29, 3), REST, -REST, 100 * REST]).requires_grad_()
    start = random_rotmats(4, 8).float().requires_grad_()
    refined = refine_rotations(start, points, REST)
    torch.testing.assert_close(refined @ refined.mT, torch.eye(3).expand_as(refined), atol=1e-5, rtol=0)
    gradients = torch.autograd.grad(refined.sum(), [points, start])
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_gradients_are_those_of_differences():
    given, twists = noisy(random_rotmats(2, 9), 0.01, 10)
    start = solve_rotations(given, twists, REST.double()).detach()
    inputs = [start.requires_grad_(), given.requires_grad_(), REST.double().requires_grad_()]
    torch.autograd.gradcheck(lambda *x: refine_rotations(*x), inputs, fast_mode=True)


def test_a_batch_equals_its_parts():
    given, twists = noisy(random_rotmats(3, 11), 0.01, 12)
    start = solve_rotations(given, twists, REST.double())
    whole = refine_rotations(start, given, REST.double())
    parts = [refine_rotations(*frame, REST.double()) for frame in zip(start, given, strict=True)]
    torch.testing.assert_close(whole, torch.stack(parts))
