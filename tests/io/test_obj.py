"""Results as .obj: one group per person, one file per frame, as trimesh reads them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh

from fasthmr.errors import ResourceError
from fasthmr.results import Clip

MakeClip = Callable[..., Clip]


def test_picture(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(3)
    assert clip.save(tmp_path / "a.obj") == tmp_path / "a.obj"
    text = (tmp_path / "a.obj").read_text()
    assert [line for line in text.splitlines() if line.startswith("g ")] == [
        "g person_001", "g person_002", "g person_003",
    ]  # fmt: skip
    mesh = trimesh.load(tmp_path / "a.obj", force="mesh", process=False)
    assert mesh.vertices.shape == (18, 3) and mesh.faces.shape == (24, 3)
    expected = np.concatenate([person.vertices[0] for person in clip.persons]) * [1, -1, -1]
    np.testing.assert_allclose(mesh.vertices, expected, atol=1e-6)
    assert mesh.volume > 0  # faces look outward


def test_frames_become_numbered_files(make_clip: MakeClip, tmp_path: Path) -> None:
    first = make_clip(2, 3).save(tmp_path / "a.obj")
    assert first == tmp_path / "a_000000.obj"
    assert sorted(os.listdir(tmp_path)) == ["a_000000.obj", "a_000001.obj", "a_000002.obj"]
    assert (tmp_path / "a_000000.obj").read_text().count("g person") == 1  # the second comes a frame later
    assert (tmp_path / "a_000001.obj").read_text().count("g person") == 2


def test_a_video_that_does_not_fit_is_refused_at_once(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match=r"another 0\.0 GB.*\.glb"):
        make_clip(1, 300).save(tmp_path / "a.obj")
    assert os.listdir(tmp_path) == ["a_000000.obj"]


def test_nobody(make_clip: MakeClip, tmp_path: Path) -> None:
    make_clip(0).save(tmp_path / "a.obj")
    assert (tmp_path / "a.obj").read_text().startswith("#")
