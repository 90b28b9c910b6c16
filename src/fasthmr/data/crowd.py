"""What stands around a synthetic person: other people, held things, furniture, bars, clutter behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fasthmr.data.figures import Figure, Placed, box_figure, round_figure
from fasthmr.data.framing import Framed, project
from fasthmr.data.outfits import layer, random_colour
from fasthmr.data.posing import Posed, turned

OTHERS_SHARE, OCCLUDER_SHARE, CLUTTER_SHARE, SEAT_SHARE = 0.30, 0.15, 0.25, 0.6
_MOST_HIDDEN = 0.55
_WRISTS = (20, 21)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """Axes of the floor in the camera frame, and its height along `up` (m)."""

    up: Float[np.ndarray, "3"]
    right: Float[np.ndarray, "3"]
    ahead: Float[np.ndarray, "3"]
    height: float

    @classmethod
    def under(cls, framed: Framed) -> Ground:
        """The level floor that the lowest point of the framed person touches."""
        up = framed.R_camera_world[:, 1]
        return cls.through(up, float((framed.posed.surface @ up).min()))

    @classmethod
    def through(cls, up: Float[np.ndarray, "3"], height: float) -> Ground:
        """The level floor at a height along `up`."""
        ahead = np.array([0, 0, 1.0]) - up[2] * up
        ahead /= np.linalg.norm(ahead)
        return cls(up=up, right=np.cross(ahead, up), ahead=ahead, height=height)

    def at(self, lateral: float, depth: float, height: float) -> Float[np.ndarray, "3"]:
        """A point right of and beyond the camera's foot point, above the floor."""
        return lateral * self.right + depth * self.ahead + (self.height + height) * self.up


def place_other(framed: Framed, ground: Ground, other_world: Posed, rng: np.random.Generator) -> Posed | None:
    """Put another person beside, behind or in front; None where they would hide most of the first."""
    where = rng.choice(3, p=[0.42, 0.36, 0.22])
    side = rng.choice([-1.0, 1.0])
    lateral, depth = (
        (side * rng.uniform(0.35, 1.2), rng.uniform(-0.3, 0.4)),
        (rng.uniform(-0.9, 0.9), rng.uniform(0.45, 4.0)),
        (side * rng.uniform(0.25, 0.9), rng.uniform(-1.2, -0.35)),
    )[where]
    R = framed.R_camera_world
    pelvis = framed.posed.joints[0]
    other = turned(other_world, R, np.zeros(3))
    target = pelvis + lateral * ground.right + depth * ground.ahead
    shift = target - other.joints[0]
    lowest = float((other.surface @ ground.up).min() + shift @ ground.up)
    shift += (ground.height - lowest) * ground.up
    other = turned(other, np.eye(3), shift)
    if other.surface[:, 2].min() < 0.5 or _hides(other.surface, framed, other.joints[0, 2]):
        return None
    return other


def _hides(points: Float[np.ndarray, "n 3"], framed: Framed, depth: float) -> bool:
    """Whether the box of the points, nearer than the person, covers most of the joints in view."""
    if depth > framed.posed.joints[0, 2]:
        return False
    xy = project(points, framed.K)
    joints = project(framed.posed.joints, framed.K)
    low, high = xy.min(axis=0), xy.max(axis=0)
    box = framed.box_xyxy
    seen = ((joints >= box[:2]) & (joints <= box[2:])).all(axis=1)
    inside = ((joints >= low) & (joints <= high)).all(axis=1)
    return bool((inside & seen).sum() > _MOST_HIDDEN * max(int(seen.sum()), 1))


def place_thing(
    figure: Figure,
    centre: Float[np.ndarray, "3"],
    axes: Float[np.ndarray, "3 3"],
    extent: Float[np.ndarray, "3"],
    patterns: np.ndarray,
    rng: np.random.Generator,
) -> Placed:
    """A unit figure scaled to an extent (m), with axes as columns in the camera frame."""
    matrix = np.concatenate([axes * extent, centre[:, None]], axis=1)
    row = layer(0)
    row[:3] = random_colour(rng)
    row[13] = rng.uniform(0, 0.4)
    if len(patterns) and rng.random() < 0.6:
        row[:3] = rng.uniform(0.4, 1.3) * row[:3] ** 0.25
        row[4], row[5] = rng.choice(patterns), rng.uniform(0.6, 1.0)
        row[8:12] = np.exp(rng.uniform(0, 1.5)) * np.eye(2).reshape(-1)
    return Placed(figure=figure, matrices=matrix[None], layers=row[None].astype(np.float32))


def occluder(framed: Framed, ground: Ground, patterns: np.ndarray, rng: np.random.Generator) -> Placed | None:
    """A table or wall before the legs, a bar across the picture, or a thing in a hand."""
    kind = rng.choice(["slab", "bar", "held"], p=[0.4, 0.2, 0.4])
    if kind == "held":
        return held_thing(framed.posed, patterns, rng)
    return standing_occluder(str(kind), framed, ground, patterns, rng)


def standing_occluder(
    kind: str, framed: Framed, ground: Ground, patterns: np.ndarray, rng: np.random.Generator
) -> Placed | None:
    """A "slab" (table or wall) before the legs, or a "bar" across the picture; None if it hides too much."""
    pelvis = framed.posed.joints[0]
    level = np.stack([ground.right, ground.up, -ground.ahead], axis=1)
    lateral, depth = pelvis @ ground.right, pelvis @ ground.ahead
    nearer = rng.uniform(0.3, 0.9)
    if kind == "slab":
        height = rng.uniform(0.3, 1.0)
        extent = np.array([rng.uniform(0.4, 2.5), height, rng.uniform(0.1, 0.6)])
        if rng.random() < 0.5:  # a table top with room below
            extent[1] = rng.uniform(0.03, 0.15)
        centre = ground.at(lateral + rng.normal(0, 0.4), depth - nearer, height - extent[1] / 2)
        turn = _turn(rng.uniform(-0.5, 0.5))
        thing = place_thing(box_figure(), centre, level @ turn, extent, patterns, rng)
    else:
        lean = rng.normal(0, 0.15) + (np.pi / 2 if rng.random() < 0.3 else 0.0)
        c, s = np.cos(lean), np.sin(lean)
        axes = level @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        width = rng.uniform(0.03, 0.15)
        centre = ground.at(lateral + rng.normal(0, 0.25), depth - nearer, rng.uniform(0.3, 1.3))
        figure = round_figure("bar") if rng.random() < 0.6 else box_figure()
        thing = place_thing(figure, centre, axes, np.array([width, 5.0, width]), patterns, rng)
    corners = (np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), -1).reshape(-1, 3)) @ thing.matrices[0, :, :3].T
    corners = corners + thing.matrices[0, :, 3]
    if corners[:, 2].min() < 0.3 or (kind == "slab" and _hides(corners, framed, 0.0)):
        return None
    return thing


def held_thing(posed: Posed, patterns: np.ndarray, rng: np.random.Generator) -> Placed:
    """A box, ball or stick at one hand, or carried before the chest with both."""
    wrist = int(rng.choice(_WRISTS))
    elbow = wrist - 2
    reach = posed.joints[wrist] - posed.joints[elbow]
    reach /= np.linalg.norm(reach) + 1e-9
    centre = posed.joints[wrist] + 0.1 * reach
    if rng.random() < 0.25:
        centre = (posed.joints[20] + posed.joints[21]) / 2 + 0.05 * reach
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    axes *= np.sign(np.linalg.det(axes))
    shape = rng.choice(["box", "ball", "bar"])
    if shape == "box":
        return place_thing(box_figure(), centre, axes, np.exp(rng.uniform(-3.0, -0.9, size=3)), patterns, rng)
    if shape == "ball":
        extent = np.full(3, rng.uniform(0.06, 0.3))
    else:
        width = rng.uniform(0.015, 0.06)
        extent = np.array([width, rng.uniform(0.2, 1.4), width])
    return place_thing(round_figure(str(shape)), centre, axes, extent, patterns, rng)


def seat(framed: Framed, ground: Ground, patterns: np.ndarray, rng: np.random.Generator) -> Placed | None:
    """A box or stool under the pelvis, when there is room between it and the floor."""
    pelvis = framed.posed.joints[0]
    top = pelvis @ ground.up - ground.height - 0.1
    if top < 0.2:
        return None
    level = np.stack([ground.right, ground.up, -ground.ahead], axis=1) @ _turn(rng.uniform(0, np.pi))
    width = rng.uniform(0.3, 0.6, size=2)
    thick = top if rng.random() < 0.6 else rng.uniform(0.04, 0.15)
    centre = ground.at(pelvis @ ground.right, pelvis @ ground.ahead, top - thick / 2)
    figure = box_figure() if rng.random() < 0.75 else round_figure("bar")
    return place_thing(figure, centre, level, np.array([width[0], thick, width[1]]), patterns, rng)


def clutter(framed: Framed, ground: Ground, patterns: np.ndarray, rng: np.random.Generator) -> list[Placed]:
    """One to four boxes, balls and bars standing behind the person."""
    pelvis = framed.posed.joints[0]
    width = framed.posed.joints[0, 2] / framed.K[0, 0] * framed.K[0, 2]
    things = []
    for _ in range(int(rng.integers(1, 5))):
        depth = pelvis @ ground.ahead + rng.uniform(0.7, 5.0)
        lateral = pelvis @ ground.right + rng.uniform(-1.3, 1.3) * width
        extent = np.exp(rng.uniform(-1.8, 0.6, size=3))
        shape = rng.choice(["box", "bar", "ball"], p=[0.6, 0.3, 0.1])
        if shape == "ball":
            extent[:] = extent.min()
        level = np.stack([ground.right, ground.up, -ground.ahead], axis=1) @ _turn(rng.uniform(0, np.pi))
        figure = box_figure() if shape == "box" else round_figure(str(shape))
        centre = ground.at(lateral, depth, extent[1] / 2)
        things.append(place_thing(figure, centre, level, extent, patterns, rng))
    return things


def _turn(angle: float) -> Float[np.ndarray, "3 3"]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
