"""Clips whose surfaces are computed on demand: small files that give the surfaces back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from fasthmr.body.default_body import load_default_body
from fasthmr.body.posed import lazy_vertices
from fasthmr.errors import InputError
from fasthmr.results import Clip, LazyVertices


def _on_demand(clip: Clip) -> Clip:
    body = load_default_body()
    persons = []
    for person in clip.persons:
        names = ("global_orient", "body_pose", "betas", "transl")
        surface = lazy_vertices(body, **{name: getattr(person, name) for name in names})
        persons.append(dataclasses.replace(person, vertices=surface))
    return dataclasses.replace(clip, persons=tuple(persons))


@pytest.fixture
def saved(body_clip: Clip, tmp_path: Path) -> Path:
    return _on_demand(body_clip).save(tmp_path / "a.npz")


def test_the_file_holds_one_mesh_and_not_one_per_frame(body_clip: Clip, saved: Path) -> None:
    with np.load(saved) as file:
        arrays = {name: file[name] for name in file.files}
    assert "person_000/vertices" not in arrays
    mean, largest = arrays["person_000/surface_error_mm"]
    assert mean <= largest < 0.01
    # NumPy alone makes the surface from what is there.
    poses = arrays["person_000/poses"].reshape(10, -1, 3)
    rest, weights, frame = arrays["person_000/rest_joints"], arrays["lbs_weights"], 7
    world = []
    for joint, parent in enumerate(arrays["parents"]):
        own = Rotation.from_rotvec(poses[frame, joint]).as_matrix()
        world.append(own if parent < 0 else world[parent] @ own)
    points = arrays["person_000/rest_vertices"]
    joints = arrays["person_000/joints"][frame]
    moved = sum(
        weights[:, [joint]] * ((points - rest[joint]) @ R.T + joints[joint]) for joint, R in enumerate(world)
    )
    np.testing.assert_allclose(moved, body_clip.persons[0].vertices[frame], atol=1e-5)


@pytest.mark.parametrize("body", ["anny24", "somebody"])
def test_surfaces_come_back_on_demand(body_clip: Clip, tmp_path: Path, body: str) -> None:
    path = dataclasses.replace(_on_demand(body_clip), body=body).save(tmp_path / "b.npz")
    again = Clip.load(path)
    for before, after in zip(body_clip.persons, again.persons, strict=True):
        assert isinstance(after.vertices, LazyVertices) and after.vertices.shape == before.vertices.shape
        np.testing.assert_allclose(np.asarray(after.vertices), before.vertices, atol=1e-5)
        np.testing.assert_allclose(after.vertices[3], before.vertices[3], atol=1e-5)
        assert after.vertices[np.array([], dtype=int)].shape == (0, *before.vertices.shape[1:])
    # And once more, from what was read.
    np.testing.assert_allclose(
        Clip.load(again.save(tmp_path / "c.npz")).persons[1].vertices[2:4],
        body_clip.persons[1].vertices[2:4],
        atol=2e-5,
    )


def test_a_shape_that_changes_is_exact_for_the_free_body_and_said_for_others(
    body_clip: Clip, tmp_path: Path
) -> None:
    person = body_clip.persons[0]
    betas = person.betas + np.linspace(-1, 1, 10, dtype=np.float32)[:, None]
    clip = _on_demand(dataclasses.replace(body_clip, persons=(dataclasses.replace(person, betas=betas),)))
    path = clip.save(tmp_path / "b.npz")
    with np.load(path) as file:
        assert file["person_000/surface_error_mm"][0] > 1
    expected = np.asarray(clip.persons[0].vertices)
    np.testing.assert_allclose(np.asarray(Clip.load(path).persons[0].vertices), expected, atol=1e-5)


@pytest.mark.parametrize("missing", ["lbs_weights", "person_000/rest_vertices", "person_001/rest_joints"])
def test_what_is_needed_is_asked_for(saved: Path, missing: str) -> None:
    with np.load(saved) as file:
        arrays = {name: file[name] for name in file.files if name != missing}
    np.savez(saved, **arrays)
    with pytest.raises(InputError, match=r"array 'person_00\d/vertices' is missing"):
        Clip.load(saved)


def test_without_weights_the_surface_is_written_in_full(body_clip: Clip, tmp_path: Path) -> None:
    clip = dataclasses.replace(_on_demand(body_clip), lbs_weights=None)
    again = Clip.load(clip.save(tmp_path / "b.npz"))
    np.testing.assert_allclose(again.persons[0].vertices, body_clip.persons[0].vertices, atol=1e-5)


@pytest.mark.parametrize("suffix", [".glb", ".bvh", ".obj", ".json"])
def test_other_formats_take_them(body_clip: Clip, tmp_path: Path, suffix: str) -> None:
    arrays = {
        name: value for name, value in vars(body_clip.persons[0]).items() if isinstance(value, np.ndarray)
    }
    person = dataclasses.replace(body_clip.persons[0], **{name: value[:2] for name, value in arrays.items()})
    clip = dataclasses.replace(body_clip, persons=(person,), intrinsics=body_clip.intrinsics[:2])
    full = clip.save(tmp_path / f"full{suffix}")
    lazy = _on_demand(clip).save(tmp_path / f"lazy{suffix}")
    assert abs(full.stat().st_size - lazy.stat().st_size) < 0.02 * full.stat().st_size
