"""Results from one format to others: animated clips as well as pictures, and what cannot be."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from fasthmr.body.default_body import load_default_body
from fasthmr.body.posed import lazy_vertices
from fasthmr.errors import UsageError
from fasthmr.io.bvh_reader import read_bvh
from fasthmr.results import Clip, Person
from fasthmr.runtime.convert import FORMATS, convert_result


def _video(frames: int) -> Clip:
    body = load_default_body()
    params = {
        "global_orient": np.tile(np.diag(np.float32([1, -1, -1])), (frames, 1, 1, 1)),
        "body_pose": np.tile(np.eye(3, dtype=np.float32), (frames, 23, 1, 1)),
        "betas": np.zeros((frames, 10), np.float32),
        "transl": np.linspace((0, 0, 4), (1, 0, 5), frames, dtype=np.float32),
    }
    rest = body.joints(body.rest_params()).numpy() * np.float32([1, -1, -1])
    person = Person(
        track_id=3,
        frames=np.arange(frames),
        boxes_xyxy=np.zeros((frames, 4), np.float32),
        scores=np.ones(frames, np.float32),
        vertices=lazy_vertices(body, **params),
        joints=rest + params["transl"][:, None],
        **params,
    )
    return Clip(
        persons=(person,),
        faces=body.faces.numpy(),
        parents=body.parents.numpy(),
        joint_names=tuple(body.joint_names),
        intrinsics=np.tile(np.float64([[500, 0, 320], [0, 500, 240], [0, 0, 1]]), (frames, 1, 1)),
        image_size=(640, 480),
        fps=30.0,
        body=body.name,
        lbs_weights=body.lbs_weights.numpy(),
    )


def test_a_video_becomes_every_format(tmp_path: Path) -> None:
    clip = _video(3)
    clip.save(tmp_path / "a.npz")
    written = convert_result(tmp_path / "a.npz", FORMATS, tmp_path / "out")
    assert [path.name for path in written] == ["a.glb", "a.bvh", "a_000000.obj", "a.json", "a.npz"]
    assert sorted(os.listdir(tmp_path / "out")) == [
        *("a.bvh", "a.glb", "a.json", "a.npz", "a_000000.obj", "a_000001.obj", "a_000002.obj"),
    ]
    joints = read_bvh(tmp_path / "out" / "a.bvh").joints()
    np.testing.assert_allclose(joints[:, 0], clip.persons[0].joints[:, 0] * [1, -1, -1], atol=1e-5)
    again = Clip.load(tmp_path / "out" / "a.npz")
    np.testing.assert_allclose(again.persons[0].vertices[2], clip.persons[0].vertices[2], atol=1e-5)


def test_nobody_becomes_every_format(tmp_path: Path) -> None:
    dataclasses.replace(_video(3), persons=()).save(tmp_path / "a.npz")
    for path in convert_result(tmp_path / "a.npz", FORMATS, tmp_path / "out"):
        assert path.stat().st_size > 0


@pytest.mark.parametrize(
    ("to", "expected"), [(["fbx"], "cannot convert to 'fbx'"), ([""], "nothing to convert")]
)
def test_unknown_formats(tmp_path: Path, to: list[str], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        convert_result(tmp_path / "a.npz", to)
