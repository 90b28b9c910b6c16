"""Swing-twist inverse kinematics: exact where it can be, finite and a rotation everywhere else."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fasthmr.body.default_body import load_default_body
from fasthmr.body.ik import IK_CHILDREN, IKSkeleton, bones_of, forward_kinematics
from fasthmr.body.swing_twist import solve_rotations, twists_of
from fasthmr.geometry.rotations import axis_angle_to_rotmat, geodesic_angle

SKELETON = IKSkeleton.of(load_default_body())
REST = SKELETON.rest(torch.zeros(10))


def random_rotmats(frames: int, seed: int, largest: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    axis = F.normalize(torch.randn(frames, 24, 3, generator=generator, dtype=torch.float64), dim=-1)
    angle = largest * torch.rand(frames, 24, 1, generator=generator, dtype=torch.float64)
    return axis_angle_to_rotmat(axis * angle)


def observed(rotmats: Tensor, rest: Tensor = REST) -> tuple[Tensor, Tensor]:
    rest = rest.to(rotmats.dtype)
    return forward_kinematics(rotmats, rest)[0], twists_of(rotmats, rest)


def assert_rotations(R: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(R @ R.mT, torch.eye(3).to(R).expand_as(R), atol=atol, rtol=0)
    assert bool((torch.linalg.det(R) > 0.99).all())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    largest=st.floats(0.0, 2.9),
    scale=st.floats(-2.0, 2.0),
    solver=st.sampled_from(["adaptive", "naive"]),
)
def test_points_of_a_body_are_inverted_exactly(seed, largest, scale, solver):
    rest = SKELETON.rest(torch.full((10,), scale)).double()
    true = random_rotmats(4, seed, largest)
    points, twists = observed(true, rest)
    torch.testing.assert_close(solve_rotations(points, twists, rest, solver=solver), true, atol=1e-6, rtol=0)
    single = solve_rotations(points.float() + 3.0, 0.3 * twists.float(), rest.float(), solver=solver)
    assert geodesic_angle(single.double(), true).max() < math.radians(0.02)


def test_single_precision_error_of_entries_is_small():
    true = random_rotmats(200, 0)
    solved = solve_rotations(*(part.float() for part in observed(true)), REST)
    torch.testing.assert_close(solved.double(), true, atol=1e-4, rtol=0)


def test_twist_is_the_angle_about_the_bone():
    bone = F.normalize(bones_of(REST)[list(IK_CHILDREN)], dim=-1)
    angle = torch.linspace(-math.pi, math.pi, 24)[:, None]
    about_bone = axis_angle_to_rotmat(bone * angle)
    swing_axis = F.normalize(torch.linalg.cross(bone, torch.tensor([0.3, -0.5, 0.8]).expand(24, 3)), dim=-1)
    for swing in (0.0, 1.0, 3.0):
        twists = twists_of(axis_angle_to_rotmat(swing * swing_axis) @ about_bone, REST)
        expected = torch.cat([angle.cos(), angle.sin()], dim=-1)[1:]
        torch.testing.assert_close(twists, expected, atol=2e-5, rtol=0)


def swings_by(angle: float, seed: int, dtype: torch.dtype) -> Tensor:
    """Every joint but the root swings by this angle about some axis, after some twist."""
    bone = F.normalize(bones_of(REST)[list(IK_CHILDREN)].double(), dim=-1)
    generator = torch.Generator().manual_seed(seed)
    other = torch.randn(8, 24, 3, generator=generator, dtype=torch.float64)
    axis = F.normalize(torch.linalg.cross(bone.expand_as(other), other), dim=-1)
    twist = 3 * torch.rand(8, 24, 1, generator=generator, dtype=torch.float64)
    R = axis_angle_to_rotmat(angle * axis) @ axis_angle_to_rotmat(twist * bone)
    return R.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("short_of", [0.0, 1e-4])
def test_half_turns_of_all_joints(dtype, short_of):
    true = swings_by(math.pi - short_of, 0, dtype)
    solved = solve_rotations(*observed(true), REST.to(dtype))
    assert_rotations(solved)
    torch.testing.assert_close(solved, true, atol=1e-4, rtol=0)


@pytest.mark.parametrize("short_of", [0.0, 5e-4, 3e-3, 0.01, 0.1])
def test_nearly_half_turns_of_single_joints(short_of):
    true = random_rotmats(23, 1)
    swung = swings_by(math.pi - short_of, 2, torch.float64)[0]
    joints = torch.arange(1, 24)
    true[joints - 1, joints] = swung[joints]
    points, twists = observed(true)
    exact = solve_rotations(points, twists, REST.double())
    torch.testing.assert_close(exact, true, atol=1e-6, rtol=0)
    # The twist is as uncertain as the directions are, over what is missing from 180 degrees.
    single = solve_rotations(points.float(), twists.float(), REST).double()
    assert geodesic_angle(single, true).max() < 1e-4 + 5e-6 / max(short_of, 1e-3)


def test_all_input_gives_rotations_and_finite_gradients():
    generator = torch.Generator().manual_seed(0)
    nothing = torch.zeros(29, 3)
    collinear = torch.linspace(0, 1, 29)[:, None] * torch.tensor([0.0, 1.0, 0.0])
    half_turns = observed(swings_by(math.pi, 0, torch.float32))[0][0]
    points = torch.stack([nothing, nothing + 1e-12, collinear, REST, -REST, half_turns, 1e3 * REST])
    points = torch.cat([points, torch.randn(5, 29, 3, generator=generator)])
    for pairs in (
        torch.zeros(12, 23, 2),
        1e-6 * torch.ones(12, 23, 2),
        torch.randn(12, 23, 2, generator=generator),
    ):
        for solver, guard in (("adaptive", 0.015), ("adaptive", None), ("naive", None)):
            inputs = [
                points.clone().requires_grad_(),
                pairs.clone().requires_grad_(),
                REST.clone().requires_grad_(),
            ]
            solved = solve_rotations(*inputs, solver=solver, guard=guard)
            assert_rotations(solved)
            gradients = torch.autograd.grad(solved.square().sum() + solved.sum(), inputs)
            assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("swing", ["exact", "released"])
@pytest.mark.parametrize("root", ["svd", "analytic"])
def test_degenerate_points_give_finite_numbers_in_every_mode(swing, root):
    solved = solve_rotations(torch.zeros(2, 29, 3), torch.zeros(2, 23, 2), REST, swing=swing, root=root)
    assert bool(solved.isfinite().all())


def test_points_in_one_place_give_the_resting_root():
    solved = solve_rotations(torch.ones(29, 3), torch.zeros(23, 2), REST)
    torch.testing.assert_close(solved[0], torch.eye(3))


def test_bones_of_another_length_keep_their_directions():
    true = random_rotmats(20, 3)
    longer = 1.1 * REST.double()
    points, twists = observed(true, longer)
    solved = solve_rotations(points, twists, REST.double())
    torch.testing.assert_close(solved, true, atol=1e-6, rtol=0)


def test_correction_stops_at_the_guard():
    true = random_rotmats(50, 4)
    points, twists = observed(true)
    generator = torch.Generator().manual_seed(5)
    for sigma, same in ((1e-4, True), (0.03, False)):
        noisy = points + sigma * torch.randn(points.shape, generator=generator, dtype=points.dtype)
        free = solve_rotations(noisy, twists, REST.double(), guard=None)
        guarded = solve_rotations(noisy, twists, REST.double())
        assert bool((free == guarded).all()) == same


def test_adaptive_beats_naive_and_the_svd_root_the_analytic_one():
    true = random_rotmats(300, 6, 1.2)
    points, twists = observed(true)
    noise = 0.01 * torch.randn(points.shape, generator=torch.Generator().manual_seed(7), dtype=points.dtype)
    noise[:, 0] = 0

    def error_mm(**options: str) -> float:
        solved = solve_rotations(points + noise, twists, REST.double(), **options)
        reached, _ = forward_kinematics(solved, REST.double())
        return 1e3 * (reached - points)[:, 1:24].norm(dim=-1).mean().item()

    adaptive, naive = error_mm(), error_mm(solver="naive")
    assert adaptive < 0.95 * naive
    assert adaptive < 0.75 * error_mm(root="analytic")
    assert naive < 0.75 * error_mm(solver="naive", root="analytic")


def test_a_batch_equals_its_parts():
    points, twists = (part.float() for part in observed(random_rotmats(6, 8)))
    whole = solve_rotations(points.view(2, 3, 29, 3), twists.view(2, 3, 23, 2), REST)
    parts = [solve_rotations(*frame, REST) for frame in zip(points, twists, strict=True)]
    torch.testing.assert_close(whole.view(6, 24, 3, 3), torch.stack(parts))
    rests = REST.expand(6, 29, 3)
    torch.testing.assert_close(solve_rotations(points, twists, rests).view_as(whole), whole)


def test_gradients_are_those_of_differences():
    generator = torch.Generator().manual_seed(9)
    points, twists = observed(random_rotmats(2, 10))
    noisy = points + 0.004 * torch.randn(points.shape, generator=generator, dtype=points.dtype)
    inputs = [noisy.requires_grad_(), twists.detach().requires_grad_(), REST.double().requires_grad_()]
    torch.autograd.gradcheck(lambda *x: solve_rotations(*x), inputs, fast_mode=True)
    rotmats = random_rotmats(1, 11).requires_grad_()
    torch.autograd.gradcheck(lambda R: twists_of(R, REST.double()), [rotmats], fast_mode=True)
