"""Results as .glb: read by trimesh, and checked against the glTF rules for accessors and chunks."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from fasthmr.errors import UsageError
from fasthmr.results import Clip

MakeClip = Callable[..., Clip]

_SIZES = {5123: 2, 5125: 4, 5126: 4}
_WIDTH = {"SCALAR": 1, "VEC3": 3}


def _parse(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    chunks, place = [], 12
    while place < len(data):
        size, kind = struct.unpack_from("<I4s", data, place)
        assert size % 4 == 0
        chunks.append((kind, data[place + 8 : place + 8 + size]))
        place += 8 + size
    assert place == len(data)
    assert [kind for kind, _ in chunks] in ([b"JSON"], [b"JSON", b"BIN\0"])
    return json.loads(chunks[0][1]), chunks[1][1] if len(chunks) > 1 else b""


def _values(document: dict[str, Any], binary: bytes, index: int) -> np.ndarray:
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    assert view["byteOffset"] % _SIZES[accessor["componentType"]] == 0
    count = accessor["count"] * _WIDTH[accessor["type"]]
    assert view["byteLength"] == count * _SIZES[accessor["componentType"]]
    assert view["byteOffset"] + view["byteLength"] <= document["buffers"][0]["byteLength"] == len(binary)
    dtype = {5123: "<u2", 5125: "<u4", 5126: "<f4"}[accessor["componentType"]]
    return np.frombuffer(binary, dtype, count, view["byteOffset"]).reshape(accessor["count"], -1)


def test_accessors_follow_the_specification(make_clip: MakeClip, tmp_path: Path) -> None:
    make_clip(3).save(tmp_path / "a.glb")
    document, binary = _parse(tmp_path / "a.glb")
    assert document["asset"]["version"] == "2.0"
    assert "y up" in document["asset"]["extras"]["axes"]
    for mesh in document["meshes"]:
        (primitive,) = mesh["primitives"]
        position = document["accessors"][primitive["attributes"]["POSITION"]]
        points = _values(document, binary, primitive["attributes"]["POSITION"])
        np.testing.assert_array_equal(np.float32(position["min"]), points.min(0))
        np.testing.assert_array_equal(np.float32(position["max"]), points.max(0))
        normals = _values(document, binary, primitive["attributes"]["NORMAL"])
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
        assert ((points - points.mean(0)) * normals).sum(1).min() > 0
        assert _values(document, binary, primitive["indices"]).max() < len(points)
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
    document, _ = _parse(tmp_path / "a.glb")
    view = document["cameras"][0]["perspective"]
    assert np.tan(view["yfov"] / 2) == pytest.approx(240 / 600)
    assert view["aspectRatio"] == pytest.approx(640 / 480)
    assert document["asset"]["extras"]["intrinsics"][0][0] == [600.0, 0.0, 319.5]


@pytest.mark.parametrize("frames", [0, 1])
def test_nobody(make_clip: MakeClip, tmp_path: Path, frames: int) -> None:
    make_clip(0, frames).save(tmp_path / "a.glb")
    document, binary = _parse(tmp_path / "a.glb")
    assert binary == b""
    assert not [name for name, value in document.items() if value == []]
    assert len(trimesh.load(tmp_path / "a.glb", force="scene").geometry) == 0


def test_several_frames_are_refused_not_dropped(make_clip: MakeClip, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="5 frames"):
        make_clip(1, 5).save(tmp_path / "a.glb")
    assert os.listdir(tmp_path) == []
