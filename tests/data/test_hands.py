from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.body.default_body import load_default_hand
from fasthmr.data.hands import (
    FINGERTIPS,
    SyntheticHands,
    draw_hand_pose,
    finger_axes,
    load_hands,
    write_hands,
)
from fasthmr.errors import InputError
from fasthmr.geometry.cameras import project
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.types import BodyParams


@pytest.fixture(scope="module")
def hands() -> SyntheticHands:
    return SyntheticHands("train", seed=3, size=64)


def test_a_record_depends_on_its_number_alone(hands):
    first, _, again = hands.record(5), hands.record(6), hands.record(5)
    for name, value in vars(first).items():
        assert np.array_equal(value, getattr(again, name)), name
    assert first.rgb.shape == (64, 64, 3) and first.rgb.std() > 5


def test_the_hand_fills_the_picture(hands):
    for index in range(8):
        record = hands.record(index)
        params = BodyParams.of_rotmats(
            *(torch.from_numpy(x) for x in (record.rotations, record.betas, record.transl))
        )
        pixels = project(hands.hand(params).vertices, torch.from_numpy(record.K))
        low, high = pixels.amin(0), pixels.amax(0)
        assert (low > -8).all() and (high < 72).all() and (high - low).max() > 32


def test_fingers_bend_towards_the_palm():
    hand = load_default_hand()
    axes = finger_axes(hand)
    unit = torch.linalg.det(axes[1:])
    torch.testing.assert_close(unit, torch.ones_like(unit))
    vectors = torch.zeros(16, 3)
    vectors[1:] = 0.6 * axes[1:, 0]
    bent = hand(BodyParams.of_rotmats(axis_angle_to_rotmat(vectors), torch.zeros(10))).vertices
    tips = hand.extras["fingertip_index"]
    drop = bent[tips, 1] - hand.v_template[tips, 1]
    fingers = [i for i, name in enumerate(FINGERTIPS) if name != "thumb"]
    assert (drop[fingers] < -0.02).all()
    little = hand.J_template[list(hand.joint_names).index("pinky1")]
    thumb = tips[FINGERTIPS.index("thumb")]
    assert (bent[thumb] - little).norm() < (hand.v_template[thumb] - little).norm()


def test_drawn_poses_are_rotations_that_differ():
    hand = load_default_hand()
    rng = np.random.default_rng(0)
    poses = [draw_hand_pose(hand, finger_axes(hand), rng) for _ in range(5)]
    rotations = torch.stack([pose for pose, _ in poses])
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand_as(rotations), atol=1e-5, rtol=0)
    assert rotations.std(0).amax() > 0.2 and all(betas.abs().max() <= 2.5 for _, betas in poses)


def test_files_hold_the_records(hands, tmp_path):
    write_hands(hands, tmp_path, 3, chunk=2)
    kept = (tmp_path / "000000.npz").stat().st_mtime_ns
    write_hands(hands, tmp_path, 3, chunk=2)
    assert (tmp_path / "000000.npz").stat().st_mtime_ns == kept
    stored = load_hands(tmp_path)
    assert np.array_equal(stored["rgb"][2].numpy(), hands.record(2).rgb)
    with pytest.raises(InputError, match="no pictures of hands"):
        load_hands(tmp_path / "elsewhere")
