"""Whole synthetic pictures with several people on one floor, and the box and mask of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8

from fasthmr.data.backgrounds import View, draw_background, floor_shadow
from fasthmr.data.crowd import Ground
from fasthmr.data.figures import Placed
from fasthmr.data.finish import composite, darken, photograph, soften_background
from fasthmr.data.framing import rotation
from fasthmr.data.posing import Posed, turned
from fasthmr.data.synthetic import SyntheticPeople, vary_light

_SCENE = 2
MOST_PEOPLE = 6
_APART = 0.55
_LEAST_PIXELS = 40


@dataclass(frozen=True, kw_only=True, eq=False)
class SyntheticScene:
    """A picture and its people, nearest first; those who are all but hidden are left out.

    Attributes:
        boxes_xyxy: Tight boxes of the visible parts, pixels; the right and lower edges are exclusive.
        masks: Visible coverage 0..255 of each.
        joints_3d: SMPL joints in the camera frame (m).
        K: Intrinsics.
    """

    rgb: UInt8[np.ndarray, "height width 3"]
    boxes_xyxy: Float[np.ndarray, "people 4"]
    masks: UInt8[np.ndarray, "people height width"]
    joints_3d: Float[np.ndarray, "people 24 3"]
    K: Float[np.ndarray, "3 3"]


def draw_scene(
    source: SyntheticPeople, index: int, *, size: tuple[int, int] = (360, 480), people: int | None = None
) -> SyntheticScene:
    """Draw scene `index` of a source; the same for the same seed, split, index, size and number.

    Args:
        size: Height and width in pixels.
        people: How many to place; None draws 0 to `MOST_PEOPLE`.
    """
    rng = source.rng(_SCENE, index)
    drawn_count = int(rng.integers(MOST_PEOPLE + 1))
    count = drawn_count if people is None else people
    pitch, roll = np.deg2rad([np.clip(rng.normal(-6.0, 7.0), -30.0, 8.0), rng.normal(0.0, 2.0)])
    R_pano_camera = rotation(1, rng.uniform(0, 2 * np.pi)) @ rotation(0, pitch) @ rotation(2, roll)
    focal = max(size) / 2 / np.tan(np.deg2rad(rng.uniform(30.0, 70.0)) / 2)
    K = np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1.0]])
    height = rng.uniform(1.1, 1.9)
    R_camera_world = R_pano_camera.T @ np.diag([1.0, -1.0, -1.0])
    ground = Ground.through(R_camera_world[:, 1], -height)
    view = View(R_pano_camera=R_pano_camera, K=K, size=size, floor=height, distance=5.0)
    background, light, kind = draw_background(source.environments, view, rng)
    light = vary_light(light, rng, level=kind != "panorama")
    placed, posed = _people(source, count, ground, R_camera_world, K, size, rng)
    background = soften_background(background, rng)
    if posed:
        joints = np.concatenate([person.joints for person in posed])
        background = darken(background, floor_shadow(view, joints, light, rng.uniform(0.1, 0.45)))
    frame = {"light": light, "R_pano_camera": R_pano_camera, "K": K, "size": size}
    rgb = photograph(composite(source.renderer.render(placed, **frame), background), rng)
    found = []
    for number, person in enumerate(posed):
        marked = [replace(item, target=place == number) for place, item in enumerate(placed)]
        mask = source.renderer.render(marked, **frame).mask
        rows, columns = np.flatnonzero((mask > 127).any(axis=1)), np.flatnonzero((mask > 127).any(axis=0))
        if (mask > 127).sum() >= _LEAST_PIXELS:
            box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
            found.append((box, mask, person.joints))
    found.sort(key=lambda item: float(item[2][0, 2]))
    return SyntheticScene(
        rgb=rgb,
        boxes_xyxy=np.array([box for box, _, _ in found]).reshape(-1, 4),
        masks=np.array([mask for _, mask, _ in found], dtype=np.uint8).reshape(-1, *size),
        joints_3d=np.array([joints for _, _, joints in found]).reshape(-1, 24, 3),
        K=K,
    )


def _people(
    source: SyntheticPeople,
    count: int,
    ground: Ground,
    R_camera_world: np.ndarray,
    K: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[list[Placed], list[Posed]]:
    """Stand people on the floor in view, no two in the same place."""
    placed: list[Placed] = []
    posed: list[Posed] = []
    spots: list[np.ndarray] = []
    half = size[1] / 2 / K[0, 0]
    for _ in range(count):
        depth = float(np.exp(rng.uniform(np.log(1.8), np.log(10.0))))
        spot = np.array([rng.uniform(-0.95, 0.95) * half * depth, depth])
        outfit, betas, figure = source.person(int(rng.integers(1 << 20)))
        world, _ = source.pose_person(betas, rng)
        if any(np.linalg.norm(spot - other) < _APART for other in spots):
            continue
        person = turned(world, R_camera_world, np.zeros(3))
        lift = ground.height - float((person.surface @ ground.up).min())
        place = spot[0] * ground.right + spot[1] * ground.ahead
        flat = person.joints[0] - (person.joints[0] @ ground.up) * ground.up
        person = turned(person, np.eye(3), place - flat + lift * ground.up)
        if person.surface[:, 2].min() < 0.4:
            continue
        spots.append(spot)
        posed.append(person)
        placed.append(source.placed(figure, outfit, person, K, rng, target=False))
    return placed, posed
