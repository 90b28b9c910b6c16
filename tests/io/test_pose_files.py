"""2D keypoints as COCO results and as .npz."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fasthmr.errors import InputError, UsageError
from fasthmr.evaluation.coco import read_results
from fasthmr.io.export import load_result
from fasthmr.results import Clip, PoseClip

Make = Callable[..., PoseClip]


def test_coco_results(make_pose_clip: Make, tmp_path: Path) -> None:
    clip = make_pose_clip(2, 3)
    rows = json.loads(clip.save(tmp_path / "a.json").read_text(encoding="utf-8"))
    assert rows == read_results(tmp_path / "a.json")
    assert [row["image_id"] for row in rows] == [785, 786, 787, 786, 787]
    first, person = rows[0], clip.persons[0]
    assert {row["category_id"] for row in rows} == {1}
    assert len(first["keypoints"]) == 51
    np.testing.assert_allclose(first["keypoints"], person.keypoints_2d[0].reshape(-1), atol=6e-4)
    np.testing.assert_allclose(first["bbox"][:2], person.boxes_xyxy[0, :2], atol=6e-4)
    np.testing.assert_allclose(first["bbox"][2:], [100, 100], atol=1e-3)
    assert first["score"] == pytest.approx(person.scores[0], abs=1e-6)
    assert first["file_name"] == "größe.jpg"


def test_nobody(make_pose_clip: Make, tmp_path: Path) -> None:
    clip = make_pose_clip(0, 1)
    assert json.loads(clip.save(tmp_path / "a.json").read_text()) == []
    assert PoseClip.load(clip.save(tmp_path / "a.npz")).persons == ()


@pytest.mark.parametrize(("persons", "frames"), [(1, 1), (3, 1), (2, 5)])
def test_round_trip(persons: int, frames: int, make_pose_clip: Make, tmp_path: Path) -> None:
    clip = make_pose_clip(persons, frames)
    again = PoseClip.load(clip.save(tmp_path / "a.npz"))
    assert again.num_frames == frames
    for field in dataclasses.fields(PoseClip):
        if field.name != "persons":
            np.testing.assert_equal(getattr(again, field.name), getattr(clip, field.name))
    for one, other in zip(clip.persons, again.persons, strict=True):
        for field in dataclasses.fields(one):
            np.testing.assert_equal(getattr(other, field.name), getattr(one, field.name))


def test_the_kind_of_a_result_is_told_from_the_file(
    make_pose_clip: Make, make_clip: Callable[..., Clip], tmp_path: Path
) -> None:
    poses, meshes = make_pose_clip().save(tmp_path / "p.npz"), make_clip().save(tmp_path / "m.npz")
    assert isinstance(load_result(poses), PoseClip)
    loaded = load_result(meshes)
    assert isinstance(loaded, Clip) and loaded.camera_source == "exif"
    with pytest.raises(InputError, match=r"fasthmr\.clip"):
        Clip.load(poses)
    with pytest.raises(InputError, match=r"fasthmr\.pose"):
        PoseClip.load(meshes)
    with pytest.raises(InputError, match="no such file"):
        load_result(tmp_path / "x.npz")


def test_suffixes(make_pose_clip: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"keypoints are saved as \.json, \.npz"):
        make_pose_clip().save(tmp_path / "a.glb")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"person_000/keypoints_2d": np.zeros((1, 16, 3), np.float32)}, "keypoints_2d"),
        ({"person_000/keypoints_2d": np.full((1, 17, 3), np.nan, np.float32)}, "not finite"),
        ({"person_000/scores": None}, "'person_000/scores' is missing"),
        ({"image_ids": np.zeros(0, np.int64)}, "rising indices"),
    ],
)
def test_files_that_lie(
    changes: dict[str, np.ndarray | None], expected: str, make_pose_clip: Make, tmp_path: Path
) -> None:
    path = make_pose_clip(1).save(tmp_path / "a.npz")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=expected):
        PoseClip.load(path)
