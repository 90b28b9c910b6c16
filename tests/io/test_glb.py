"""Pictures as .glb: read by trimesh, and checked against the glTF rules for accessors and chunks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh

from fasthmr.results import Clip
from tests.io.gltf import Gltf

MakeClip = Callable[..., Clip]


def test_pictures_are_static_and_follow_the_specification(make_clip: MakeClip, tmp_path: Path) -> None:
    make_clip(3).save(tmp_path / "a.glb")
    file = Gltf.read(tmp_path / "a.glb")
    file.check()
    document = file.document
    assert "skins" not in document and "animations" not in document
    assert "y up" in document["asset"]["extras"]["axes"]
    for mesh in document["meshes"]:
        (primitive,) = mesh["primitives"]
        points = file.values(primitive["attributes"]["POSITION"])
        normals = file.values(primitive["attributes"]["NORMAL"])
        assert ((points - points.mean(0)) * normals).sum(1).min() > 0
        assert document["materials"][primitive["material"]]["pbrMetallicRoughness"]["baseColorFactor"][3] == 1
    colors = [tuple(m["pbrMetallicRoughness"]["baseColorFactor"]) for m in document["materials"]]
    assert len(set(colors)) == 3


def test_trimesh_reads_every_person_y_up(make_clip: MakeClip, tmp_path: Path) -> None:
    clip = make_clip(3)
    clip.save(tmp_path / "a.glb")
    scene = trimesh.load(tmp_path / "a.glb", force="scene")
    assert sorted(scene.geometry) == ["person_001", "person_002", "person_003"]
    for person in clip.persons:
        mesh = scene.geometry[f"person_{person.track_id:03d}"]
        assert mesh.vertices.shape == (6, 3) and mesh.faces.shape == (8, 3)
        expected = person.vertices[0] * [1, -1, -1]
        np.testing.assert_allclose(mesh.bounds, [expected.min(0), expected.max(0)], atol=1e-6)
        assert mesh.is_watertight and mesh.volume > 0


def test_camera_matches_the_picture(make_clip: MakeClip, tmp_path: Path) -> None:
    make_clip(1).save(tmp_path / "a.glb")
    document = Gltf.read(tmp_path / "a.glb").document
    view = document["cameras"][0]["perspective"]
    assert np.tan(view["yfov"] / 2) == pytest.approx(240 / 600)
    assert view["aspectRatio"] == pytest.approx(640 / 480)
    assert document["asset"]["extras"]["intrinsics"] == [[[600, 0, 319.5], [0, 600, 239.5], [0, 0, 1]]]


@pytest.mark.parametrize("frames", [0, 1, 5])
def test_nobody(make_clip: MakeClip, tmp_path: Path, frames: int) -> None:
    make_clip(0, frames).save(tmp_path / "a.glb")
    file = Gltf.read(tmp_path / "a.glb")
    file.check()
    assert file.binary == b"" and "animations" not in file.document
    assert len(trimesh.load(tmp_path / "a.glb", force="scene").geometry) == 0
