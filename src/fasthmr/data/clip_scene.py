"""Synthetic clips: one dressed person in one place, filmed for some seconds, drawn as a tracker crops them.

A clip is a function of (seed, split, index, frames). It is planned first (movement, camera, boxes, labels)
and then drawn frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from fasthmr.data.backdrop import Backdrop, draw_backdrop
from fasthmr.data.backgrounds import View, floor_shadow
from fasthmr.data.clip_camera import (
    CameraPath,
    TrackedBoxes,
    clipped,
    plan_camera,
    seen_share,
    track_boxes,
)
from fasthmr.data.clip_film import Film, blacken, developed, sample_film, streaked
from fasthmr.data.clip_motion import Movement, sample_movement
from fasthmr.data.clip_props import Prop, person_prop, place_passer_by, sample_things, shown
from fasthmr.data.figures import Figure, Light, Placed
from fasthmr.data.finish import composite, darken
from fasthmr.data.framing import FILL, rotation
from fasthmr.data.posing import Posed, turned
from fasthmr.data.recordings import Recordings
from fasthmr.data.synthetic import SyntheticPeople, vary_light
from fasthmr.geometry.boxes import hmr2_square

_CLIP = 3
_CLIP_PEOPLE, _PASSERS_BY = 1 << 28, 1 << 29
_PASSER_SHARE = 0.2
_FINE_HEAD_PX = 10.0
_FEWEST_SEEN = 0.2
_TRIES = 30


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipPlan:
    """Everything about a clip but its pixels.

    Attributes:
        world: The body in the world (y up, floor at 0).
        posed: The body in the camera frame.
        tracked: Boxes in the full picture, as a tracker gives them.
        centers, sides: Squares around them (`geometry.boxes.hmr2_square`).
        K_crop: Intrinsics of the stored crops, whose middle 0.8 is the square.
    """

    index: int
    action: str
    betas: Float[np.ndarray, "betas"]
    figure: Figure
    layers: Float[np.ndarray, "layers 16"]
    world: Posed
    posed: Posed
    camera: CameraPath
    tracked: TrackedBoxes
    true_boxes: Float[np.ndarray, "frames 4"]
    centers: Float[np.ndarray, "frames 2"]
    sides: Float[np.ndarray, "frames"]
    K_crop: Float[np.ndarray, "frames 3 3"]
    size: tuple[int, int]
    backdrop: Backdrop
    light: Light
    shade: float
    props: tuple[Prop, ...]
    film: Film
    seed: int

    def inside(self) -> Float[np.ndarray, "frames 4"]:
        """Part of each crop that the full picture covers."""
        width, height = self.camera.image_size
        edges = np.array([-0.5, -0.5, width - 0.5, height - 0.5])
        scale = self.K_crop[:, 0, 0] / self.camera.K[0, 0]
        corner = self.K_crop[:, :2, 2] - scale[:, None] * self.camera.K[:2, 2]
        return edges * scale[:, None] + np.tile(corner, 2)


class SyntheticClips:
    """Clips of the people of a source.

    Args:
        people: Wardrobe, environments, motion, split, seed, size of the crops and renderer.
        frames: Length of every clip, at 30 frames per second.

    Raises:
        ValueError: The motion files have no roots.
    """

    def __init__(self, people: SyntheticPeople, *, frames: int = 243) -> None:
        self.people = people
        self.frames = frames
        self.recordings = Recordings(people.motion)

    def plan(self, index: int) -> ClipPlan:
        """Everything about the clip of an index but its pixels."""
        people = self.people
        rng = people.rng(_CLIP, index)
        outfit, betas, figure = people.person(_CLIP_PEOPLE + index)
        movement, world, camera = self._filmed(betas, rng)
        true_boxes = camera.boxes(world.outline())
        tracked = track_boxes(clipped(true_boxes, camera.image_size), rng)
        centers, sides = (
            part.numpy() for part in hmr2_square(torch.from_numpy(tracked.boxes_xyxy), (192, 256))
        )
        K_crop = _crop_cameras(camera.K, centers, sides, people.size)
        backdrop, light, kind = draw_backdrop(
            people.environments, camera, world.joints[:, 0], K_crop, people.size, rng
        )
        light = vary_light(light, rng, level=kind != "panorama")
        posed = turned(world, camera.R_camera_world, camera.t_camera_world)
        look = people.placed(figure, outfit, posed.at(0), camera.K, rng, target=True)
        shadowed = kind != "photo" or rng.random() < 0.3
        return ClipPlan(
            index=index,
            action=movement.action,
            betas=betas,
            figure=figure,
            layers=look.layers,
            world=world,
            posed=posed,
            camera=camera,
            tracked=tracked,
            true_boxes=true_boxes,
            centers=centers,
            sides=sides,
            K_crop=K_crop,
            size=people.size,
            backdrop=backdrop,
            light=light,
            shade=rng.uniform(0.1, 0.45) * shadowed,
            props=self._props(index, world, posed, camera, rng),
            film=sample_film(people.size, rng),
            seed=int(rng.integers(1 << 31)),
        )

    def _filmed(self, betas: np.ndarray, rng: np.random.Generator) -> tuple[Movement, Posed, CameraPath]:
        """A movement and a camera that never loses it."""
        for _ in range(_TRIES):
            movement, world = self._walk(betas, rng)
            camera = plan_camera(world, rng)
            if seen_share(camera.boxes(world.outline()), camera.image_size).min() > _FEWEST_SEEN:
                return movement, world, camera
        raise RuntimeError(
            f"no camera keeps the person in view in {_TRIES} tries; are the motion files sound?"
        )

    def _walk(self, betas: np.ndarray, rng: np.random.Generator) -> tuple[Movement, Posed]:
        """A movement with any heading."""
        people = self.people
        movement = sample_movement(self.recordings, people.body, betas, self.frames, rng)
        turn = rotation(1, rng.uniform(0, 2 * np.pi))
        return movement, turned(movement.posed(people.body, betas), turn, np.zeros(3))

    def draw(self, plan: ClipPlan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draw the crops of all frames: RGB, and coverage 0..255 of the person's visible part."""
        rng = np.random.default_rng(plan.seed)
        camera, inside = plan.camera, plan.inside()
        head_px = plan.K_crop[:, 0, 0] * 0.23 / np.maximum(plan.posed.joints[:, 15, 2], 0.1)
        fine = bool(np.median(head_px) >= _FINE_HEAD_PX)
        for frame, K in enumerate(plan.K_crop):
            R, center = camera.R_camera_world[frame], camera.centers[frame]
            view = View(
                R_pano_camera=camera.R_pano_camera[frame],
                K=K,
                size=plan.size,
                floor=float(center[1]),
                distance=float(plan.posed.joints[frame, 0, 2]),
            )
            background = plan.backdrop.seen(R, center, K, plan.size)
            if camera.moves and frame:
                background = streaked(background, plan.film.shutter * _way(plan, frame))
            placed = [
                Placed(
                    figure=plan.figure,
                    matrices=plan.posed.matrices[frame].astype(np.float32),
                    layers=plan.layers,
                    target=True,
                    fine=fine,
                )
            ]
            shadows = [plan.posed.joints[frame]]
            for prop in plan.props:
                here, shadow = shown(prop, frame, camera, K, plan.size)
                placed += here
                shadows.append(shadow)
            if plan.shade:
                left = floor_shadow(view, np.concatenate(shadows), plan.light, plan.shade)
                background = darken(background, left)
            drawn = self.people.renderer.render(
                placed, light=plan.light, R_pano_camera=view.R_pano_camera, K=K, size=plan.size
            )
            rgb, mask = developed(composite(drawn, background), plan.film, rng), drawn.mask.copy()
            blacken(rgb, mask, inside[frame])
            yield rgb, mask

    def _props(
        self, index: int, world: Posed, posed: Posed, camera: CameraPath, rng: np.random.Generator
    ) -> tuple[Prop, ...]:
        props = sample_things(world, posed, camera, self.people.patterns, rng)
        if rng.random() < _PASSER_SHARE:
            outfit, betas, figure = self.people.person(_PASSERS_BY + index)
            other = place_passer_by(self._walk(betas, rng)[1], world, camera, rng)
            if other is not None:
                look = self.people.placed(figure, outfit, posed.at(0), camera.K, rng, target=False)
                props.append(person_prop(figure, look.layers, other))
        return tuple(props)


def _way(plan: ClipPlan, frame: int) -> Float[np.ndarray, "2"]:
    """How far what is behind the middle of a crop went since the last frame, in pixels of the crop."""
    K_inverse = np.linalg.inv(plan.K_crop[frame])
    middle = np.array([plan.size[1] / 2, plan.size[0] / 2, 1.0])
    now, before = (
        plan.backdrop.homography(
            plan.backdrop.wall, plan.camera.R_camera_world[k].T, plan.camera.centers[k], K_inverse
        )
        for k in (frame, frame - 1)
    )
    there = np.linalg.solve(before, now @ middle)
    return there[:2] / there[2] - middle[:2]


def _crop_cameras(
    K: Float[np.ndarray, "3 3"],
    centers: Float[np.ndarray, "frames 2"],
    sides: Float[np.ndarray, "frames"],
    size: tuple[int, int],
) -> Float[np.ndarray, "frames 3 3"]:
    """Cameras whose pictures hold 1 / 0.8 of each square, its centre at size / 2."""
    scale = FILL * min(size) / sides
    crops = np.tile(np.eye(3), (len(sides), 1, 1))
    crops[:, 0, 0] = crops[:, 1, 1] = K[0, 0] * scale
    crops[:, :2, 2] = np.array(size[::-1]) / 2 + scale[:, None] * (K[:2, 2] - centers)
    return crops
