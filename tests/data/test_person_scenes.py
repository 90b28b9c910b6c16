"""Pasted scenes of people: boxes, cut sides, reproducibility."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest

from fasthmr.data.collage import Canvas, Cutout
from fasthmr.data.environments import EnvironmentLibrary
from fasthmr.data.person_scenes import PersonScenes, cut_out


@pytest.fixture(scope="module")
def library() -> EnvironmentLibrary:
    """The places that come with the package."""
    places = Path(str(files("fasthmr"))) / "assets" / "environments"
    return EnvironmentLibrary.load(places, "train", package=places)


def figure(rows: slice, columns: slice) -> np.ndarray:
    rgbm = np.full((80, 80, 4), 90, np.uint8)
    rgbm[..., 3] = 0
    rgbm[rows, columns] = (200, 120, 80, 255)
    return rgbm


def test_cut_sides_are_those_at_the_border_or_straight() -> None:
    whole = figure(slice(20, 60), slice(30, 50))
    whole[20:60, 30:33, 3] = 0
    cv2.ellipse(whole, (40, 40), (15, 30), 0, 0, 360, (200, 120, 80, 255), -1)
    cutout = cut_out(whole)
    assert cutout is not None
    assert cutout.cut == (False, False, False, False)
    assert cutout.rgba.shape == (61, 31, 4)
    below = cut_out(figure(slice(30, 80), slice(30, 50)))
    assert below is not None
    assert below.cut[3]
    assert cut_out(figure(slice(0, 5), slice(0, 5))) is None


def test_boxes_hold_what_is_seen() -> None:
    rng = np.random.default_rng(3)
    canvas = Canvas(np.zeros((100, 200, 3), np.uint8), rng)
    cutout = Cutout(rgba=np.full((50, 20, 4), 255, np.uint8), cut=(False,) * 4)
    canvas.paste_person(cutout, 50.0, rng)
    boxes, ignored = canvas.people()
    ys, xs = np.nonzero(canvas.owner == 1)
    assert boxes.tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
    assert not ignored.any()
    assert (canvas.rgb[canvas.owner == 1] == 255).all()


def test_people_who_are_covered_are_ignored() -> None:
    rng = np.random.default_rng(0)
    canvas = Canvas(np.zeros((60, 60, 3), np.uint8), rng)
    cutout = Cutout(rgba=np.full((40, 20, 4), 255, np.uint8), cut=(False,) * 4)
    canvas.paste_person(cutout, 30.0, rng)
    seen = np.argwhere(canvas.owner == 1)
    canvas.owner[canvas.owner == 1] = 0
    canvas.owner[tuple(seen[:8].T)] = 1
    assert canvas.people()[1].tolist() == [True]


def test_scenes_are_reproducible_and_boxes_lie_inside(library: EnvironmentLibrary) -> None:
    shard = np.stack([figure(slice(10, 70), slice(30, 50)), figure(slice(30, 80), slice(20, 60))])
    scenes = [PersonScenes([shard], library, seed=5, backgrounds=2, background_side=96) for _ in range(2)]
    people = 0
    for index in range(12):
        first, second = (source.scene(index, (96, 128)) for source in scenes)
        assert first.rgb.shape == (96, 128, 3)
        assert (first.rgb == second.rgb).all()
        assert (first.boxes_xyxy == second.boxes_xyxy).all()
        assert (first.boxes_xyxy >= 0).all()
        assert (first.boxes_xyxy <= np.array([128, 96, 128, 96])).all()
        assert (first.boxes_xyxy[:, 2:] > first.boxes_xyxy[:, :2]).all()
        people += int((~first.ignored).sum())
    assert people >= 4
