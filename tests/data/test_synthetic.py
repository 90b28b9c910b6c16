"""Synthetic people: labels, reproducibility, both renderers, the user's own photos, scenes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.data import crowd, framing
from fasthmr.data.environments import EnvironmentLibrary
from fasthmr.data.framing import project
from fasthmr.data.gl_renderer import GLRenderer
from fasthmr.data.records import KEYPOINTS_IN_POINTS, POINT_NAMES
from fasthmr.data.scenes import draw_scene
from fasthmr.data.software_renderer import SoftwareRenderer
from fasthmr.data.synthetic import SyntheticPeople, package_assets
from fasthmr.errors import InputError
from fasthmr.types import BodyParams

LABELS = (
    "rotations", "betas", "joints_3d", "points_2d", "points_inside", "coco17", "coco17_inside", "K",
    "box_xyxy", "inside_xyxy",
)  # fmt: skip


def test_a_record_does_not_depend_on_what_was_asked_before(people: SyntheticPeople) -> None:
    first = people.record(30)
    for index in (3, 70, 31):
        people.record(index)
    people._people.clear()
    again = people.record(30)
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.mask, again.mask)
    np.testing.assert_array_equal(first.joints_3d, again.joints_3d)
    assert not np.array_equal(first.rgb, people.record(31).rgb)


def test_labels_agree_with_the_body_model_and_the_camera(people: SyntheticPeople) -> None:
    model = load_default_body()
    for index in range(6):
        record = people.record(index)
        rotations = torch.from_numpy(record.rotations).float()[None]
        params = BodyParams(
            global_orient=rotations[:, :1],
            body_pose=rotations[:, 1:],
            betas=torch.from_numpy(record.betas).float()[None],
        )
        mesh = model(params)
        shift = torch.from_numpy(record.joints_3d[0]).float() - mesh.joints[0, 0]
        np.testing.assert_allclose(mesh.joints[0] + shift, record.joints_3d[:24], atol=1e-4)
        keypoints = model.keypoints(mesh.vertices)[0] + shift
        np.testing.assert_allclose(keypoints[list(KEYPOINTS_IN_POINTS)], record.joints_3d[24:], atol=1e-4)
        np.testing.assert_allclose(project(record.joints_3d, record.K), record.points_2d)
        surface = project((mesh.vertices[0] + shift).numpy(), record.K)
        if record.part == "full":
            np.testing.assert_allclose(surface.min(axis=0)[0], record.box_xyxy[0], atol=1.5)
            np.testing.assert_allclose(surface.max(axis=0), record.box_xyxy[2:], atol=1.5)


def test_the_box_square_fills_four_fifths_and_is_centred(people: SyntheticPeople) -> None:
    for index in range(20, 32):
        box = people.record(index).box_xyxy
        width, height = box[2] - box[0], box[3] - box[1]
        assert max(height, width * 256 / 192) == pytest.approx(framing.FILL * 96)
        np.testing.assert_allclose((box[:2] + box[2:]) / 2, 48, atol=1e-6)


def test_visible_joints_lie_on_the_mask(people: SyntheticPeople, monkeypatch: pytest.MonkeyPatch) -> None:
    for share in ("OTHERS_SHARE", "OCCLUDER_SHARE"):
        monkeypatch.setattr(crowd, share, 0.0)
    on_mask = []
    for index in range(40, 52):
        record = people.record(index)
        x, y = np.clip(np.round(record.points_2d[:24]).astype(int), 0, 95).T
        on_mask += (record.mask[y, x] > 0)[record.points_inside[:24]].tolist()
    assert np.mean(on_mask) > 0.97


def test_left_is_left(people: SyntheticPeople) -> None:
    """Eyes of a person who faces the camera: the left one is on the right of the picture."""
    names = {name: number for number, name in enumerate(POINT_NAMES)}
    facing = 0
    for index in range(60, 100):
        record = people.record(index)
        nose, head = record.joints_3d[names["nose"]], record.joints_3d[names["head"]]
        upright = record.joints_3d[names["pelvis"], 1] - head[1] > 0.3
        if upright and head[2] - nose[2] > 0.07:
            facing += 1
            assert record.points_2d[names["left_eye"], 0] > record.points_2d[names["right_eye"], 0]
    assert facing >= 3


def test_part_views_and_photo_edges_are_drawn(
    people: SyntheticPeople, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framing, "PART_SHARE", 1.0)
    parts = set()
    for index in range(200, 224):
        record = people.record(index)
        parts.add(record.part)
        left, top, right, bottom = np.round(record.inside_xyxy).astype(int)
        outside = np.ones((96, 96), dtype=bool)
        outside[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = False
        assert not record.rgb[outside].any()
        assert not record.mask[outside].any()
    assert len(parts) >= 4


def test_software_and_gl_draw_the_same_people(people: SyntheticPeople) -> None:
    """Without OpenGL the source itself must have fallen back on the rasteriser."""
    software = copy.copy(people)
    software.renderer = SoftwareRenderer(people.bank)
    assert isinstance(people.renderer, (GLRenderer, SoftwareRenderer))
    for index in range(4):
        a, b = people.record(index), software.record(index)
        for name in LABELS:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        one, two = a.mask > 127, b.mask > 127
        assert (one & two).sum() / (one | two).sum() > 0.97
        assert np.abs(a.rgb.astype(int) - b.rgb).mean() < 4


def test_a_folder_of_photos_serves_as_environment(tmp_path: Path, make_picture: Callable[..., Path]) -> None:
    make_picture(tmp_path / "deep" / "one.png", width=80, height=60)
    package = package_assets("environments")
    library = EnvironmentLibrary.load(tmp_path, "train", package=package)
    assert [item.id for item in library.photos] == ["one"]
    assert not library.panoramas
    assert library.lights
    with pytest.raises(InputError, match=r"neither an index\.json nor a picture"):
        EnvironmentLibrary.load(tmp_path / "empty", "train", package=package)


def test_scenes_hold_the_people_asked_for(people: SyntheticPeople) -> None:
    scene = draw_scene(people, 5, size=(120, 160), people=3)
    assert scene.rgb.shape == (120, 160, 3)
    assert 1 <= len(scene.boxes_xyxy) <= 3
    # A pixel belongs to one person at most, up to rounding at the borders.
    assert scene.masks.astype(int).sum(axis=0).max() <= 257
    again = draw_scene(people, 5, size=(120, 160), people=3)
    np.testing.assert_array_equal(scene.rgb, again.rgb)
    assert len(draw_scene(people, 6, size=(120, 160), people=0).boxes_xyxy) == 0
