from __future__ import annotations

import math

import pytest
import torch
from scipy.signal import savgol_filter
from scipy.spatial.transform import Rotation

from fasthmr.geometry.quaternions import quat_multiply, quat_to_vector, turn_quat
from fasthmr.geometry.rotations import axis_angle_to_rotmat, geodesic_angle, rotmat_to_quat_wxyz
from fasthmr.temporal.smoothing import OneEuroConfig, OneEuroFilter, SavitzkyGolay, median_shape
from fasthmr.types import BodyParams, MotionTrack

FRAMES, JOINTS = 90, 24
FILTERS = [OneEuroFilter(), SavitzkyGolay()]


def track(
    vectors: torch.Tensor, transl: torch.Tensor, times: torch.Tensor | None = None, seed: int = 0
) -> MotionTrack:
    """A motion by the rotation vectors of its joints."""
    frames = len(vectors)
    turns = axis_angle_to_rotmat(vectors)
    return MotionTrack(
        params=BodyParams(
            global_orient=turns[:, :1],
            body_pose=turns[:, 1:],
            betas=torch.randn(frames, 10, generator=torch.Generator().manual_seed(seed)),
            transl=transl,
        ),
        times=torch.arange(frames) / 30 if times is None else times,
        boxes_xyxy=torch.tensor([[0.0, 0.0, 10.0, 20.0]]).expand(frames, 4),
        scores=torch.ones(frames),
        features=torch.ones(frames, 3),
    )


def swing(times: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Joints that swing and a person who walks to and fro, the root beyond half a turn."""
    phase = torch.arange(JOINTS)
    angle = 0.6 * torch.sin(2 * math.pi * 0.4 * times[:, None] + phase)
    axis = torch.nn.functional.normalize(
        torch.randn(JOINTS, 3, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    vectors = angle[..., None] * axis
    vectors[:, 0] = torch.tensor([0.0, math.pi, 0.0]) + vectors[:, 0] * 0.3
    transl = torch.stack([torch.sin(times), 0.1 * times, 5 + 0.5 * torch.cos(times)], dim=-1)
    return vectors, transl


def noisy(times: torch.Tensor, sigma: float = 0.12) -> tuple[MotionTrack, MotionTrack]:
    """A true motion, and the same with noise."""
    vectors, transl = swing(times)
    random = torch.Generator().manual_seed(2)
    shaken = transl + torch.randn(transl.shape, generator=random) * torch.tensor([0.01, 0.01, 0.15])
    return track(vectors, transl, times), track(
        vectors + sigma * torch.randn(vectors.shape, generator=random), shaken, times
    )


def rotations(motion: MotionTrack) -> torch.Tensor:
    return torch.cat([motion.params.global_orient, motion.params.body_pose], dim=1)


def jerk(motion: MotionTrack) -> float:
    """Size of the second differences of the rotations."""
    columns = rotations(motion).flatten(1)
    return float((columns[2:] - 2 * columns[1:-1] + columns[:-2]).norm(dim=-1).mean())


def error(a: MotionTrack, b: MotionTrack) -> float:
    return float(geodesic_angle(rotations(a), rotations(b)).mean())


def test_quaternions_agree_with_scipy() -> None:
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 3, generator=random, dtype=torch.float64) * 1.5
    a, b = vectors[:25], vectors[25:]
    qa, qb = (
        rotmat_to_quat_wxyz(torch.from_numpy(Rotation.from_rotvec(v.numpy()).as_matrix())) for v in (a, b)
    )
    true = Rotation.from_rotvec(a.numpy()) * Rotation.from_rotvec(b.numpy())
    product = quat_multiply(qa, qb)
    agreement = (product.numpy() * true.as_quat(scalar_first=True)).sum(-1)
    torch.testing.assert_close(torch.from_numpy(abs(agreement)), torch.ones(25, dtype=torch.float64))
    between = (Rotation.from_rotvec(a.numpy()).inv() * Rotation.from_rotvec(b.numpy())).as_rotvec()
    torch.testing.assert_close(quat_to_vector(qa, -qb), torch.from_numpy(between))
    again = turn_quat(qa, quat_to_vector(qa, qb))
    torch.testing.assert_close((again * qb).sum(-1).abs(), torch.ones(25, dtype=torch.float64))
    same = quat_to_vector(qa, qa)
    torch.testing.assert_close(same, torch.zeros_like(same), atol=1e-9, rtol=0)


@pytest.mark.parametrize("smooth", FILTERS)
def test_noise_goes_and_the_motion_stays(smooth) -> None:
    true, given = noisy(torch.arange(FRAMES) / 30)
    out = smooth(given)
    assert jerk(out) < jerk(given) / 3
    assert error(out, true) < error(given, true)
    depth = (motion.params.transl[5:, 2] - true.params.transl[5:, 2] for motion in (out, given))
    assert next(depth).std() < next(depth).std() / 1.5


@pytest.mark.parametrize("smooth", FILTERS)
def test_what_is_no_motion_is_kept(smooth) -> None:
    _, given = noisy(torch.arange(FRAMES) / 30)
    out = smooth(given)
    for name in ("times", "boxes_xyxy", "scores", "features"):
        assert getattr(out, name) is getattr(given, name)
    torch.testing.assert_close(out.params.betas, given.params.betas.median(0).values.expand(FRAMES, 10))
    eye = rotations(out) @ rotations(out).mT
    torch.testing.assert_close(eye, torch.eye(3).expand_as(eye), atol=1e-5, rtol=0)


@pytest.mark.parametrize("smooth", FILTERS)
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 4, 10, 12])
def test_short_tracks(smooth, frames: int) -> None:
    _, given = noisy(torch.arange(max(frames, 1)) / 30)
    if frames == 0:
        given = track(torch.zeros(0, JOINTS, 3), torch.zeros(0, 3))
    out = smooth(given)
    assert len(out.times) == frames
    assert rotations(out).isfinite().all()
    if frames == 1:
        torch.testing.assert_close(rotations(out), rotations(given), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.params.transl, given.params.transl)


@pytest.mark.parametrize("smooth", FILTERS)
def test_a_still_person_stays_still(smooth) -> None:
    vectors, transl = swing(torch.zeros(FRAMES))
    given = track(vectors, transl)
    out = smooth(given)
    torch.testing.assert_close(rotations(out), rotations(given), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.params.transl, given.params.transl, atol=1e-5, rtol=0)


def test_people_stay_where_they_are_seen_when_their_depth_is_filtered() -> None:
    times = torch.arange(FRAMES) / 30
    vectors, _ = swing(times)
    depth = 5 * torch.exp(0.2 * torch.randn(FRAMES, generator=torch.Generator().manual_seed(3)))
    seen = torch.tensor([0.2, -0.1])
    given = track(vectors, torch.cat([seen * depth[:, None], depth[:, None]], dim=1))
    for smooth in FILTERS:
        place = smooth(given).params.transl
        torch.testing.assert_close(place[:, :2] / place[:, 2:], seen.expand(FRAMES, 2), atol=1e-5, rtol=0)
        assert place[:, 2].diff().abs().mean() < depth.diff().abs().mean() / 2


def test_frame_by_frame_is_the_same_as_the_whole() -> None:
    _, given = noisy(torch.arange(FRAMES) / 30)
    whole = OneEuroFilter()(given)
    stepper = OneEuroFilter().stepper()
    parts = []
    for start, end in ((0, 1), (1, 2), (2, 40), (40, 40), (40, FRAMES)):
        some = slice(start, end)
        params = given.params
        part = MotionTrack(
            params=BodyParams(
                global_orient=params.global_orient[some],
                body_pose=params.body_pose[some],
                betas=params.betas[some],
                transl=params.transl[some],
            ),
            times=given.times[some],
            boxes_xyxy=given.boxes_xyxy[some],
            scores=given.scores[some],
        )
        parts.append(stepper(part))
    torch.testing.assert_close(torch.cat([rotations(part) for part in parts]), rotations(whole))
    torch.testing.assert_close(torch.cat([part.params.transl for part in parts]), whole.params.transl)
    betas = torch.cat([part.params.betas for part in parts])
    torch.testing.assert_close(betas[-1], given.params.betas.mean(0))
    torch.testing.assert_close(betas[0], given.params.betas[0])


def test_one_euro_follows_fast_motion_better_than_a_fixed_filter() -> None:
    times = torch.arange(FRAMES) / 30
    vectors = torch.zeros(FRAMES, JOINTS, 3)
    vectors[:, :, 2] = torch.where(times < 1.5, 0.0, 4 * (times - 1.5)).clamp(max=3)[:, None]
    given = track(vectors, torch.tensor([[0.0, 0.0, 5.0]]).expand(FRAMES, 3))
    quick, fixed = (OneEuroConfig(rotation_gain=gain).build()(given) for gain in (0.6, 0.0))
    assert error(quick, given) < 0.5 * error(fixed, given)


def test_savitzky_golay_of_small_turns_is_that_of_scipy() -> None:
    random = torch.Generator().manual_seed(0)
    vectors = torch.zeros(FRAMES, JOINTS, 3)
    vectors[..., 1] = 0.01 * torch.randn(FRAMES, JOINTS, generator=random)
    depth = 5 * torch.exp(0.05 * torch.randn(FRAMES, 1, generator=random))
    given = track(vectors, torch.cat([torch.zeros(FRAMES, 2), depth], dim=1))
    out = SavitzkyGolay(window=9, order=3)(given)
    angles = 2 * rotmat_to_quat_wxyz(rotations(out))[..., 2].asin()
    true = savgol_filter(vectors[..., 1].numpy(), 9, 3, axis=0)
    torch.testing.assert_close(angles, torch.from_numpy(true), atol=1e-5, rtol=0)
    true = savgol_filter(depth.log().numpy(), 9, 3, axis=0)
    torch.testing.assert_close(out.params.transl[:, 2:].log(), torch.from_numpy(true), atol=1e-5, rtol=0)


def test_uneven_times_count() -> None:
    """A turn at constant speed stays so, whatever the frames."""
    times = torch.rand(FRAMES, generator=torch.Generator().manual_seed(0)).add(0.1).cumsum(0)
    vectors = torch.zeros(FRAMES, JOINTS, 3)
    vectors[..., 0] = 0.05 * times[:, None]
    given = track(vectors, torch.tensor([[0.0, 0.0, 5.0]]).expand(FRAMES, 3), times)
    torch.testing.assert_close(rotations(SavitzkyGolay()(given)), rotations(given), atol=1e-4, rtol=0)


def test_impossible_windows_are_refused() -> None:
    for options in ({"window": 10}, {"window": 3, "order": 3}):
        with pytest.raises(ValueError, match="window"):
            SavitzkyGolay(**options)


def test_shape_that_is_stored_once_stays():
    shape = torch.randn(1, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(median_shape(shape.expand(36, -1)), shape.expand(36, -1))


def test_place_alone_is_smoothed_as_with_the_rest():
    generator = torch.Generator().manual_seed(0)
    transl = torch.tensor([0.1, 0.2, 4.0]) + 0.05 * torch.randn(30, 3, generator=generator)
    eye = torch.eye(3).expand(30, 24, 3, 3)
    track = MotionTrack(
        params=BodyParams(
            global_orient=eye[:, :1], body_pose=eye[:, 1:], betas=torch.zeros(30, 10), transl=transl
        ),
        times=torch.arange(30) / 30,
        boxes_xyxy=torch.zeros(30, 4),
        scores=torch.ones(30),
    )
    smooth = SavitzkyGolay()
    whole = smooth(track).params.transl
    assert whole is not None and torch.allclose(smooth.place(transl, track.times), whole, atol=1e-6)
    assert torch.equal(smooth.place(transl[:2], track.times[:2]), transl[:2])
