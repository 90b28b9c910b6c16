"""Synthetic clips: labels, reproducibility, crops as the runtime cuts them, smooth movement, the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.data import clip_props, clip_scene, clips
from fasthmr.data.augment import AugmentConfig, make_batch
from fasthmr.data.clip_camera import clipped, seen_share, track_boxes
from fasthmr.data.clip_file import clip_labels, save_clip
from fasthmr.data.clip_motion import sample_movement
from fasthmr.data.clip_scene import SyntheticClips
from fasthmr.data.clips import ClipStore, SyntheticClip, render_clips
from fasthmr.data.framing import project
from fasthmr.data.recordings import Recordings
from fasthmr.data.synthetic import SyntheticPeople
from fasthmr.errors import InputError
from fasthmr.geometry.crops import crop_pictures, normalize

FRAMES = 20


@pytest.fixture(scope="module")
def source(people: SyntheticPeople) -> SyntheticClips:
    return SyntheticClips(people, frames=FRAMES)


@pytest.fixture(scope="module")
def stored(source: SyntheticClips, tmp_path_factory: pytest.TempPathFactory) -> SyntheticClip:
    folder = tmp_path_factory.mktemp("clips")
    save_clip(source, 5, folder / "00005.clip.npz")
    return ClipStore(folder)[0]


def test_a_clip_does_not_depend_on_what_was_asked_before(source: SyntheticClips) -> None:
    first = source.plan(2)
    pictures = list(source.draw(first))
    source.plan(7)
    again = source.plan(2)
    one, two = clip_labels(source.people, first), clip_labels(source.people, again)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    assert len(pictures) == FRAMES
    for (rgb, mask), (rgb_again, mask_again) in zip(pictures, source.draw(again), strict=True):
        np.testing.assert_array_equal(rgb, rgb_again)
        np.testing.assert_array_equal(mask, mask_again)


def test_labels_agree_with_the_body_model_and_the_cameras(stored: SyntheticClip) -> None:
    track = stored.track()
    assert track.params.transl is not None
    mesh = load_default_body()(track.params)
    np.testing.assert_allclose(mesh.joints, stored.joints_3d[:, :24], atol=1e-4)
    for frame in (0, FRAMES - 1):
        in_crop = project(stored.joints_3d[frame], stored.K_crop[frame])
        np.testing.assert_allclose(in_crop, stored.points_2d[frame], atol=1e-2)
        surface = project(mesh.vertices[frame].numpy(), stored.K)
        size = stored.person_xyxy[frame, 2:] - stored.person_xyxy[frame, :2]
        np.testing.assert_allclose(surface.max(axis=0), stored.person_xyxy[frame, 2:], atol=0.03 * size.max())
        world = (mesh.vertices[frame].numpy() - stored.t_camera_world[frame]) @ stored.R_camera_world[frame]
        assert abs(world[:, 1].min()) < 0.1  # feet on the floor
        focal = 0.8 * 96 / stored.box_size[frame] * stored.K[0, 0]
        np.testing.assert_allclose(stored.K_crop[frame, 0, 0], focal, rtol=1e-4)


def test_visible_joints_lie_on_the_mask(source: SyntheticClips, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (clip_props, "_OCCLUDER_SHARE"),
        (clip_props, "_HELD_SHARE"),
        (clip_scene, "_PASSER_SHARE"),
    ):
        monkeypatch.setattr(module, name, 0.0)
    on_mask = []
    for index in (10, 11, 12):
        plan = source.plan(index)
        labels = clip_labels(source.people, plan)
        for frame, (_, mask) in enumerate(source.draw(plan)):
            x, y = np.clip(np.round(labels["points_2d"][frame, :24]).astype(int), 0, 95).T
            on_mask += (mask[y, x] > 0)[labels["points_inside"][frame, :24]].tolist()
    assert np.mean(on_mask) > 0.97


def test_crops_are_those_that_the_runtime_cuts_from_the_full_picture(source: SyntheticClips) -> None:
    for index in (20, 21, 23):
        plan = source.plan(index)
        plain = replace(plan.film, table=None, blur=0.0, grain=None, shutter=0.0)
        # The full picture is drawn at a size at which nothing has to be blurred before it is cut.
        scale = 100 / plan.sides[0]
        K = plan.camera.K * np.array([[scale, 1, scale], [1, scale, scale], [1, 1, 1]])
        width, height = (round(scale * side) for side in plan.camera.image_size)
        camera = replace(plan.camera, K=K, image_size=(width, height))
        plan = replace(plan, film=plain, props=())
        whole = replace(
            plan, camera=camera, K_crop=np.tile(K, (FRAMES, 1, 1)), size=(height, width), film=plain
        )
        crop, full = next(source.draw(plan))[0], next(source.draw(whole))[0]
        cut = crop_pictures(full, torch.from_numpy(scale * plan.tracked.boxes_xyxy[:1]), size=77)
        np.testing.assert_allclose(cut.box_center[0], scale * plan.centers[0], rtol=1e-5)
        np.testing.assert_allclose(cut.box_size[0], 100, rtol=1e-5)
        # The square is 76.8 of the 96 stored pixels wide: read these where the network's 77 lie.
        black, white = normalize(torch.zeros(3, 1, 1)), normalize(torch.full((3, 1, 1), 255.0))
        wanted = (255 * (cut.pixels[0] - black) / (white - black)).permute(1, 2, 0).numpy()
        place = np.round((np.arange(77) - 38.5) * 76.8 / 77 + 48).astype(int)
        difference, moved = (
            np.abs(crop[place][:, place + aside].astype(float) - wanted).mean() for aside in (0, 2)
        )
        assert difference < 0.75 * moved
        assert difference < 12


def test_a_wall_and_a_floor_stand_still(source: SyntheticClips) -> None:
    """Points of the floor and the wall, by way of any frame, are where the backdrop has them."""
    for index in range(6):
        plan = source.plan(index)
        backdrop, camera = plan.backdrop, plan.camera
        normal, distance = backdrop.wall
        pelvis = plan.world.joints[0, 0]
        side = np.cross(normal, [0.0, 1.0, 0.0])
        floor = np.array([pelvis[0], 0.0, pelvis[2]]) + 0.3 * side
        wall = distance * normal + (pelvis @ side) * side + np.array([0.0, 1.5, 0.0])
        for plane, point in (((np.array([0.0, 1.0, 0.0]), 0.0), floor), (backdrop.wall, wall)):
            expected = project((backdrop.R_camera_world @ (point - backdrop.center)), backdrop.K)
            for frame in (0, FRAMES - 1):
                R, t = camera.R_camera_world[frame], camera.t_camera_world[frame]
                seen = np.append(project(R @ point + t, plan.K_crop[frame]), 1.0)
                K_inverse = np.linalg.inv(plan.K_crop[frame])
                there = backdrop.homography(plane, R.T, camera.centers[frame], K_inverse) @ seen
                np.testing.assert_allclose(there[:2] / there[2], expected, atol=1e-4 * abs(expected).max())


def test_movement_is_smooth_where_recordings_are_joined(people: SyntheticPeople) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        betas = rng.normal(size=people.body.J_shapedirs.shape[-1])
        movement = sample_movement(Recordings(people.motion), people.body, betas, 150, rng)
        posed = movement.posed(people.body, betas)
        assert len(movement) == 150
        np.testing.assert_allclose(posed.joints[:, 0], movement.root, atol=1e-9)
        step = np.linalg.norm(np.diff(posed.joints, axis=0), axis=-1)
        assert step.max() < 0.8
        assert np.abs(np.diff(movement.root, n=2, axis=0)).max() < 0.12
        lowest = posed.surface[..., 1].min(axis=1)
        assert np.median(np.abs(lowest)) < 0.04


def test_people_stay_in_view_and_boxes_follow_them(source: SyntheticClips) -> None:
    for index in range(8):
        plan = source.plan(index)
        assert seen_share(plan.true_boxes, plan.camera.image_size).min() > 0.2
        boxes = clipped(plan.true_boxes, plan.camera.image_size)
        followed = track_boxes(boxes, np.random.default_rng(index))
        low = np.maximum(boxes[:, :2], followed.boxes_xyxy[:, :2])
        high = np.minimum(boxes[:, 2:], followed.boxes_xyxy[:, 2:])
        both = np.prod(np.maximum(high - low, 0), axis=1)
        area = [np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, followed.boxes_xyxy)]
        assert np.median(both / (area[0] + area[1] - both)) > 0.6
        assert ((followed.scores == 0) | (followed.scores >= 0.3)).all()
        assert followed.scores[0] > 0


def test_stored_crops_fit_the_networks(stored: SyntheticClip) -> None:
    crop, mask = stored.crops([0, 7], size=256)
    assert crop.pixels.shape == (2, 3, 256, 256)
    assert mask.shape == (2, 256, 256)
    np.testing.assert_array_equal(crop.box_center, stored.box_center[[0, 7]])
    # The network's half-size picture is that of `make_batch` without any change.
    batch = make_batch(stored.batch([0, 7]), AugmentConfig.none(), torch.Generator(), 128, (128, 96))
    halved = torch.nn.functional.avg_pool2d(crop.pixels[..., 32:224], 2)
    assert (batch.pixels - halved).abs().mean() < 0.06
    inside = torch.from_numpy(stored.points_inside[[0, 7]])
    points = project(stored.joints_3d[0], stored.K)[0]
    unit = (points - stored.box_center[0]) / stored.box_size[0]
    np.testing.assert_allclose(batch.points[0, 0], unit, atol=1e-3)
    assert (batch.inside <= inside).all()


def test_rendering_goes_on_where_it_stopped(
    source: SyntheticClips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips, "SyntheticPeople", lambda **_: source.people)
    assert render_clips(tmp_path, "train", 1, frames=3, start=4, size=96) == 1
    assert render_clips(tmp_path, "train", 2, frames=3, start=4, size=96) == 1
    assert render_clips(tmp_path, "train", 2, frames=3, start=4, size=96) == 0
    store = ClipStore(tmp_path)
    assert [clip.index for clip in store] == [4, 5]
    assert store[-1].index == 5
    shape = store[0].pictures().shape
    assert shape == (3, 96, 96, 4)
    with pytest.raises(InputError, match="frames=3"):
        render_clips(tmp_path, "train", 1, frames=4, size=96)
    path = store.paths[0]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="render again"):
        store[0]
    with pytest.raises(InputError, match="no rendered clip"):
        ClipStore(tmp_path / "empty")


def test_recordings_are_cut_where_they_jump(people: SyntheticPeople) -> None:
    library = replace(people.motion, rates=np.full(len(people.motion.rates), 30.0))
    whole = Recordings(library)
    clip = next(
        clip
        for clip in range(len(library.actions))
        if len(whole.runs(clip)) == 1 and whole.length(whole.runs(clip)[0]) > 50
    )
    first, last = int(library.starts[clip]), int(library.starts[clip + 1]) - 1
    assert library.roots is not None
    roots = library.roots.copy()
    roots[first + 30 :] += 2.0
    runs = Recordings(replace(library, roots=roots)).runs(clip)
    assert [(run.first, run.last) for run in runs] == [(first, first + 29), (first + 30, last)]
    poses = library.poses.copy()
    poses[first + 40, 1, 0] += 2.0
    runs = Recordings(replace(library, poses=poses)).runs(clip)
    assert all(not run.first <= first + 40 <= run.last for run in runs)
    with pytest.raises(ValueError, match="root"):
        Recordings(replace(library, roots=None))
    with pytest.raises(ValueError, match="9999 frames"):
        Recordings(library).draw(9999, np.random.default_rng(0))
