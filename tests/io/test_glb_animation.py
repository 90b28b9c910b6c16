"""Clips as animated .glb: what the file's own data play is what the clip holds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh

from fasthmr.errors import UsageError
from fasthmr.results import Clip, Person
from tests.io.gltf import Gltf

MakeClip = Callable[..., Clip]

_VIEWER = np.array([1, -1, -1])
_CORNERS = 2  # vertices behind those of the body


def _saved(clip: Clip, path: Path) -> Gltf:
    clip.save(path)
    assert os.listdir(path.parent) == [path.name]
    file = Gltf.read(path)
    file.check()
    return file


def _assert_plays(file: Gltf, clip: Clip, tolerance: float = 1e-5) -> None:
    for person in clip.persons:
        for index, frame in enumerate(person.frames):
            vertices, joints = file.play(f"person_{person.track_id:03d}_mesh", clip.frame_times[frame])
            np.testing.assert_allclose(vertices[:-_CORNERS], person.vertices[index] * _VIEWER, atol=tolerance)
            np.testing.assert_allclose(joints[1:], person.joints[index] * _VIEWER, atol=tolerance)


def test_every_frame_of_every_person_plays(body_clip: Clip, tmp_path: Path) -> None:
    file = _saved(body_clip, tmp_path / "a.glb")
    _assert_plays(file, body_clip)
    (animation,) = file.document["animations"]
    assert {channel["target"]["path"] for channel in animation["channels"]} == {
        "rotation", "translation", "scale",
    }  # fmt: skip
    error = file.node("person_001_mesh")["extras"]["skinning_error_mm"]
    assert error["max"] < 0.01 and file.node("person_004")["extras"] == {"track_id": 4}


def test_skeleton_has_the_names_and_the_tree_of_the_body(body_clip: Clip, tmp_path: Path) -> None:
    file = _saved(body_clip, tmp_path / "a.glb")
    nodes = file.document["nodes"]
    for skin, person in zip(file.document["skins"], body_clip.persons, strict=True):
        assert skin["name"] == f"person_{person.track_id:03d}"
        assert [nodes[joint]["name"] for joint in skin["joints"]] == ["root", *body_clip.joint_names]
        for child, parent in enumerate(body_clip.parents):
            assert skin["joints"][child + 1] in nodes[skin["joints"][parent + 1]]["children"]
        (above,) = [node for node in nodes if skin["joints"][0] in node.get("children", [])]
        assert above["name"] == skin["name"]
    # Before anything moves, everybody stands as first seen.
    assert nodes[file.document["skins"][1]["joints"][1]]["translation"] == pytest.approx(
        body_clip.persons[1].joints[0, 0] * _VIEWER
    )


def test_people_show_only_while_they_are_seen(body_clip: Clip, tmp_path: Path) -> None:
    file = _saved(body_clip, tmp_path / "a.glb")
    for frame in range(10):
        vertices, _ = file.play("person_004_mesh", (frame + 0.5) / 25)
        size = np.ptp(vertices[:-_CORNERS], axis=0).max()
        assert size > 1 if 2 <= frame <= 7 else size < 1e-6
    # A frame in which nobody was found lies between its neighbours.
    before, between, after = (file.play("person_004_mesh", frame / 25)[1][1] for frame in (4, 5, 6))
    np.testing.assert_allclose(between, (before + after) / 2, atol=1e-5)


def test_unused_vertices_hold_the_whole_motion(body_clip: Clip, tmp_path: Path) -> None:
    file = _saved(body_clip, tmp_path / "a.glb")
    indices = file.values(file.document["meshes"][0]["primitives"][0]["indices"])
    assert indices.max() == body_clip.persons[0].vertices.shape[1] - 1
    for person in body_clip.persons:
        for time in (0, 0.2, 9):
            low, high = file.play(f"person_{person.track_id:03d}_mesh", time)[0][-_CORNERS:]
            surface = person.vertices * _VIEWER
            assert (low < surface.min((0, 1))).all() and (high > surface.max((0, 1))).all()


def test_a_variable_frame_rate_keeps_its_times(body_clip: Clip, tmp_path: Path) -> None:
    times = 3 + np.cumsum([0, 0.1, 0.03, 0.2, 0.03, 0.5, 0.03, 0.03, 0.03, 0.03])
    clip = dataclasses.replace(body_clip, times=times)
    file = _saved(clip, tmp_path / "a.glb")
    _assert_plays(file, clip)
    inputs = [file.values(s["input"])[:, 0] for s in file.document["animations"][0]["samplers"]]
    assert max(keys[-1] for keys in inputs) == pytest.approx(times[-1] - 3)


def test_a_track_of_one_frame(body_clip: Clip, tmp_path: Path) -> None:
    person = _part(body_clip.persons[1], slice(2, 3))
    clip = dataclasses.replace(body_clip, persons=(person,))
    file = _saved(clip, tmp_path / "a.glb")
    _assert_plays(file, clip, 1e-3)
    assert np.ptp(file.play("person_004_mesh", 0)[0][:-_CORNERS], axis=0).max() < 1e-6


def test_inconsistent_results_still_give_a_valid_file(make_clip: MakeClip, tmp_path: Path) -> None:
    """Joints that no skeleton has, vertices without weights, a track without frames."""
    clip = make_clip(3, 2)
    assert [len(person.frames) for person in clip.persons] == [2, 1, 2]
    empty = _part(clip.persons[2], slice(0, 0))
    file = _saved(dataclasses.replace(clip, persons=(*clip.persons[:2], empty)), tmp_path / "a.glb")
    assert len(file.document["meshes"]) == 2


def test_without_skinning_weights_it_says_what_to_do(body_clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"10 frames but no skinning weights.*\.obj"):
        dataclasses.replace(body_clip, lbs_weights=None).save(tmp_path / "a.glb")
    assert os.listdir(tmp_path) == []


def test_trimesh_reads_meshes_and_nodes(body_clip: Clip, tmp_path: Path) -> None:
    body_clip.save(tmp_path / "a.glb")
    scene = trimesh.load(tmp_path / "a.glb", force="scene")
    assert sorted(scene.geometry) == ["person_001", "person_004"]
    assert scene.geometry["person_001"].faces.shape == body_clip.faces.shape
    assert "left_knee" in scene.graph.nodes


def _part(person: Person, some: slice) -> Person:
    values = vars(person)
    kept = {name: value[some] for name, value in values.items() if isinstance(value, np.ndarray)}
    return Person(**(values | kept))
