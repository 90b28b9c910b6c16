"""Results as .json: what is in it, rounding, null for what is not finite."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fasthmr.results import Clip

MakeClip = Callable[..., Clip]


def _saved(clip: Clip, path: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    clip.save(path)
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_contents(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(2, 3)
    record = _saved(clip, tmp_path / "a.json")
    assert (record["schema"], record["schema_version"]) == ("fasthmr.clip", 1)
    assert record["source"] == "pictures/größe.jpg"
    assert record["image_size"] == {"width": 640, "height": 480}
    assert len(record["keypoint_names"]) == 17
    np.testing.assert_allclose(record["intrinsics"], clip.intrinsics)
    person, written = clip.persons[1], record["persons"][1]
    assert written["track_id"] == 2
    assert [row["frame"] for row in written["frames"]] == [1, 2]
    row = written["frames"][1]
    np.testing.assert_allclose(row["joints_3d"], person.joints[1], atol=6e-6)
    np.testing.assert_allclose(row["body_pose"], person.body_pose[1], atol=6e-6)
    x, y, z = person.joints[1].astype(float).T
    expected = np.stack([600 * x / z + 319.5, 600 * y / z + 239.5], axis=-1)
    np.testing.assert_allclose(row["joints_2d"], expected, atol=6e-6)
    assert np.array_equal(np.round(row["transl"], 5), row["transl"])


@pytest.mark.parametrize("frames", [0, 1, 4])
def test_nobody(make_clip: MakeClip, tmp_path: Path, frames: int) -> None:
    record = _saved(make_clip(0, frames), tmp_path / "a.json")
    assert record["persons"] == [] and len(record["intrinsics"]) == frames


def test_not_finite_and_behind_the_camera_become_null(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(1, keypoints=False)
    joints = clip.persons[0].joints.copy()
    joints[0, 1, 2] = -1
    person = dataclasses.replace(clip.persons[0], joints=joints, scores=np.array([np.nan], np.float32))
    row = _saved(dataclasses.replace(clip, persons=(person,)), tmp_path / "a.json")["persons"][0]["frames"][0]
    assert row["score"] is None
    assert row["joints_2d"][1] == [None, None] and None not in row["joints_2d"][0]
    assert "keypoints_2d" not in row
