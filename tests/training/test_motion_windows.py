from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.data.motion import MotionLibrary
from fasthmr.data.synthetic import package_assets
from fasthmr.geometry.rotations import geodesic_angle
from fasthmr.training.motion_windows import MotionWindows, camera_turns


@pytest.fixture(scope="module")
def windows() -> MotionWindows:
    return MotionWindows(MotionLibrary.load(package_assets("motion"), "val"), 60)


def test_windows_are_smooth_rotations(windows):
    rotations = windows.draw(np.random.default_rng(0))
    assert rotations.shape == (60, 24, 3, 3)
    assert torch.allclose(rotations @ rotations.mT, torch.eye(3), atol=1e-4)
    for seed in range(20):
        rotations = windows.draw(np.random.default_rng(seed))
        assert geodesic_angle(rotations[1:], rotations[:-1]).max() < 0.7  # rad in a frame: no jump at a joint


def test_batches_are_functions_of_their_seed(windows):
    a, b, c = windows.batch(2, (0, 1)), windows.batch(2, (0, 1)), windows.batch(2, (0, 2))
    assert torch.equal(a.body_pose, b.body_pose) and torch.equal(a.betas, b.betas)
    assert not torch.equal(a.global_orient, c.global_orient)
    assert a.global_orient.shape == (2, 60, 1, 3, 3) and a.betas.shape == (2, 60, 10)


def test_cameras_have_y_down_and_turn_slowly():
    turns = camera_turns(64, 60, torch.Generator().manual_seed(0))
    up = turns[..., :, 1]
    assert (up[..., 1] < 0).float().mean() > 0.99
    step = geodesic_angle(turns[:, 1:], turns[:, :-1])
    assert step.max() < 0.2
    assert (step.amax(1) < 1e-3).float().mean() > 0.1  # some stand still


def test_recordings_are_cut_where_they_jump():
    frames = 200
    poses = 0.2 * np.sin(np.arange(frames)[:, None, None] / 15 + np.arange(24)[:, None])
    poses = np.repeat(poses, 3, axis=2)
    poses[100:, 18] += 1.2
    library = MotionLibrary(
        poses=poses.astype(np.float16),
        roots=np.zeros((frames, 3), dtype=np.float32),
        rates=np.array([30.0]),
        starts=np.array([0, frames]),
        actions=("walk",),
        trusted_wrists=np.array([True]),
        limits=np.stack([poses.min(axis=0), poses.max(axis=0)]),
        split="train",
    )
    windows = MotionWindows(library, 60)
    for seed in range(10):
        rotations = windows.draw(np.random.default_rng(seed))
        assert geodesic_angle(rotations[1:], rotations[:-1]).max() < 0.3
