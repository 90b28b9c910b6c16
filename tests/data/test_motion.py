"""Motion library: splits, licences, mirroring, limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fasthmr.data.motion import MotionLibrary, mirror_pose, read_index
from fasthmr.data.synthetic import package_assets
from fasthmr.errors import InputError

MOTION = package_assets("motion")


def write_motion(folder: Path, licence: str = "CC BY-SA 3.0") -> None:
    entries = []
    for number, split in enumerate(("train", "train", "test")):
        entries.append(
            {
                "clip": f"c{number}",
                "subject": f"s{number}",
                "split": split,
                "type": "walk",
                "file": "all.npz",
                "licence": licence if number else "CC0 1.0",
            }
        )
    poses = {f"c{n}/pose": np.full((5, 24, 3), 0.1 * n, np.float16) for n in range(3)}
    np.savez(folder / "all.npz", **poses)  # pyright: ignore[reportArgumentType]
    (folder / "index.json").write_text(json.dumps(entries))


def test_package_clips_are_free_and_splits_do_not_share_subjects() -> None:
    entries = read_index(MOTION)
    assert {entry["licence"] for entry in entries} == {"MIT", "CC0 1.0"}
    subjects = {
        split: {e["subject"] for e in entries if e["split"] == split} for split in ("train", "val", "test")
    }
    assert not subjects["train"] & (subjects["val"] | subjects["test"])
    assert not subjects["val"] & subjects["test"]
    assert all(
        MotionLibrary.load(MOTION, split).poses.shape[1:] == (24, 3) for split in ("train", "val", "test")
    )


def test_share_alike_clips_stay_out_of_training_unless_asked_for(tmp_path: Path) -> None:
    write_motion(tmp_path)
    assert len(MotionLibrary.load(tmp_path, "train").actions) == 1
    assert len(MotionLibrary.load(tmp_path, "train", share_alike=True).actions) == 2
    assert len(MotionLibrary.load(tmp_path, "test").actions) == 1
    with pytest.raises(InputError, match="no motion clip"):
        MotionLibrary.load(tmp_path, "val")
    with pytest.raises(InputError, match=r"index\.json"):
        MotionLibrary.load(tmp_path / "missing", "train")


def test_mirroring_twice_gives_the_pose_back_and_swaps_sides() -> None:
    pose = np.random.default_rng(0).normal(size=(24, 3))
    np.testing.assert_allclose(mirror_pose(mirror_pose(pose)), pose)
    np.testing.assert_allclose(mirror_pose(pose)[1], pose[2] * [1, -1, -1])


def test_samples_depend_on_the_generator_alone_and_noise_respects_limits() -> None:
    library = MotionLibrary.load(MOTION, "train")
    first = [library.sample(np.random.default_rng(seed)) for seed in range(40)]
    again = [library.sample(np.random.default_rng(seed)) for seed in range(40)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.axis_angle, b.axis_angle)
    angles = np.linalg.norm(np.stack([pose.axis_angle[1:] for pose in first]), axis=-1)
    assert angles.max() < np.pi
    assert len({pose.action for pose in first}) >= 5
