"""What surrounds the person of a synthetic clip: standing and held things, somebody else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fasthmr.data import crowd
from fasthmr.data.clip_camera import CameraPath
from fasthmr.data.figures import Figure, Placed
from fasthmr.data.framing import Framed
from fasthmr.data.posing import Posed, turned

_OCCLUDER_SHARE, _HELD_SHARE, _CLUTTER_SHARE = 0.18, 0.08, 0.3
_CLEARANCE = 0.15
_APART, _FROM_CAMERA = 0.6, 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Prop:
    """A thing or person beside the labelled one, with bones to world for every frame."""

    figure: Figure
    layers: Float[np.ndarray, "layers 16"]
    matrices: Float[np.ndarray, "frames bones 3 4"]
    points: Float[np.ndarray, "frames n 3"]
    shadow: Float[np.ndarray, "frames joints 3"]


def sample_things(
    world: Posed, posed: Posed, camera: CameraPath, patterns: np.ndarray, rng: np.random.Generator
) -> list[Prop]:
    """Things before, behind and in the hand of a person, as seen in the middle frame.

    Args:
        world, posed: The body in the world and in the camera frame.
    """
    middle = len(camera.t_camera_world) // 2
    framed = _framed(posed, camera, middle)
    ground = crowd.Ground.through(framed.R_camera_world[:, 1], -float(camera.centers[middle, 1]))
    occluded, held, cluttered = rng.random(3)
    things: list[Placed | None] = []
    if occluded < _OCCLUDER_SHARE:
        kind = "slab" if rng.random() < 0.65 else "bar"
        things.append(crowd.standing_occluder(kind, framed, ground, patterns, rng))
    if cluttered < _CLUTTER_SHARE:
        things += crowd.clutter(framed, ground, patterns, rng)
    standing = [_standing(thing, framed, len(camera.t_camera_world)) for thing in things if thing is not None]
    props = [prop for prop in standing if not _bumped_into(prop, world)]
    if held < _HELD_SHARE:
        props.append(_held(crowd.held_thing(framed.posed, patterns, rng), framed, world))
    return props


def place_passer_by(other: Posed, world: Posed, camera: CameraPath, rng: np.random.Generator) -> Posed | None:
    """Move somebody else near the person; None where they would meet the person or the camera."""
    middle = len(camera.t_camera_world) // 2
    ahead = (world.joints[middle, 0] - camera.centers[middle]) * np.array([1.0, 0, 1.0])
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, [0.0, 1.0, 0.0])
    nearer, farther = rng.uniform(-1.5, 0), rng.uniform(0, 3)
    offset = rng.uniform(-1.3, 1.3) * right + rng.choice([nearer, farther]) * ahead
    shift = (world.joints[middle, 0] + offset - other.joints[middle, 0]) * np.array([1.0, 0, 1.0])
    other = turned(other, np.eye(3), shift)
    apart = np.linalg.norm((other.joints[:, 0] - world.joints[:, 0])[:, [0, 2]], axis=1)
    from_camera = np.linalg.norm(other.joints[:, 0] - camera.centers, axis=1)
    return None if apart.min() < _APART or from_camera.min() < _FROM_CAMERA else other


def person_prop(figure: Figure, layers: np.ndarray, world: Posed) -> Prop:
    """Somebody else, posed in the world."""
    return Prop(
        figure=figure, layers=layers, matrices=world.matrices, points=world.outline(), shadow=world.joints
    )


def _framed(posed: Posed, camera: CameraPath, frame: int) -> Framed:
    """One frame in the form that places things around a person."""
    body = posed.at(frame)
    R = camera.R_camera_world[frame]
    width, height = camera.image_size
    whole = np.array([0.0, 0.0, width, height])
    return Framed(
        posed=body,
        R_pano_camera=camera.R_pano_camera[frame],
        R_camera_world=R,
        t_camera_world=camera.t_camera_world[frame],
        K=camera.K,
        box_xyxy=whole,
        inside_xyxy=whole,
        part="full",
    )


def _standing(thing: Placed, framed: Framed, frames: int) -> Prop:
    """A thing that stays where it stands."""
    back = framed.R_camera_world.T
    matrix = back @ thing.matrices.astype(np.float64)
    matrix[..., 3] -= back @ framed.t_camera_world
    return _prop(thing, np.broadcast_to(matrix, (frames, 1, 3, 4)))


def _held(thing: Placed, framed: Framed, world: Posed) -> Prop:
    """A thing that goes along with the hand it is nearest to."""
    place = thing.matrices[0, :, 3]
    wrist = min((20, 21), key=lambda joint: float(np.linalg.norm(framed.posed.joints[joint] - place)))
    hand = framed.posed.matrices[wrist]
    local = hand[:, :3].T @ thing.matrices[0].astype(np.float64)
    local[:, 3] -= hand[:, :3].T @ hand[:, 3]
    moved = world.matrices[:, wrist]
    matrices = moved[..., :3] @ local
    matrices[..., 3] += moved[..., 3]
    return _prop(thing, matrices[:, None])


def _prop(thing: Placed, matrices: np.ndarray) -> Prop:
    corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 3)
    points = corners @ matrices[:, 0, :, :3].swapaxes(1, 2) + matrices[:, :, :, 3]
    return Prop(
        figure=thing.figure,
        layers=thing.layers,
        matrices=matrices,
        points=points,
        shadow=np.zeros((len(points), 0, 3)),
    )


def _bumped_into(thing: Prop, world: Posed) -> bool:
    """Whether joints of the person come into a standing thing, or almost."""
    matrix = thing.matrices[0, 0]
    extent = np.linalg.norm(matrix[:, :3], axis=0)
    local = (world.joints - matrix[:, 3]) @ (matrix[:, :3] / extent)
    return bool((np.abs(local) < extent / 2 + _CLEARANCE).all(axis=-1).any())


def shown(
    prop: Prop, frame: int, camera: CameraPath, K: np.ndarray, size: tuple[int, int]
) -> tuple[list[Placed], np.ndarray]:
    """A prop as the camera sees it, or nothing where it is outside the crop; its joints for the shadow."""
    R, t = camera.R_camera_world[frame], camera.t_camera_world[frame]
    points = prop.points[frame] @ R.T + t
    ahead = points[points[:, 2] > 0.05]
    shadow = prop.shadow[frame] @ R.T + t
    if not len(ahead):
        return [], shadow[:0]
    xy = ahead[:, :2] / ahead[:, 2:] * K[0, 0] + K[:2, 2]
    if len(ahead) == len(points) and ((xy.max(axis=0) < 0).any() or (xy.min(axis=0) > size[::-1]).any()):
        return [], shadow
    matrices = R @ prop.matrices[frame]
    matrices[..., 3] += t
    return [Placed(figure=prop.figure, matrices=matrices.astype(np.float32), layers=prop.layers)], shadow
