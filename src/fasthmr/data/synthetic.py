"""Endless labelled pictures of synthetic people, each reproducible from (seed, split, index) alone.

Four records in a row show the same dressed person in new poses, colours, light and places, because
dressing costs more than drawing.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np

from fasthmr.body.default_body import load_default_body
from fasthmr.data import crowd
from fasthmr.data.backgrounds import View, draw_background, floor_shadow
from fasthmr.data.environments import EnvironmentLibrary
from fasthmr.data.figures import Figure, Light, Placed, Renderer, TextureBank
from fasthmr.data.finish import composite, darken, photograph, soften_background
from fasthmr.data.framing import Framed, frame_person, project, rotation
from fasthmr.data.motion import SPLITS_VERSION, MotionLibrary, Pose, Split
from fasthmr.data.outfits import Outfit, dress, sample_layers, sample_outfit
from fasthmr.data.posing import Posed, SyntheticBody, turned
from fasthmr.data.records import KEYPOINTS_IN_POINTS, SyntheticRecord
from fasthmr.data.wardrobe import Wardrobe

_LOG = logging.getLogger(__name__)
_SPLIT_NUMBER = {"train": 0, "val": 1, "test": 2}
_PERSON, _PICTURE = 0, 1
RECORDS_PER_PERSON = 4
_KEPT_PEOPLE = 16
_PATTERN_SIZE = 128
_FINE_HEAD_PX = 12.0
_CELL_PX = 1.8
"""Detail below this many pixels of a picture that is one metre wide is not drawn."""


def package_assets(name: str) -> Path:
    """A folder of data that comes with the package."""
    return Path(str(files("fasthmr"))) / "assets" / name


class SyntheticPeople:
    """Pictures of dressed people with exact labels.

    Args:
        split: Motion clips, and environments (val shares those of train), of this split only.
        seed: Another seed gives other pictures.
        wardrobe, environments, motion: Directories in the layout of the package's own; None takes those.
            `environments` may also be any folder of photos.
        size: Height and width of a record's picture in pixels.
        share_alike: In train and val, too, use sources under a share-alike licence.
        renderer: "auto" takes OpenGL where a context can be made.

    Raises:
        InputError: A directory lacks what is needed.
    """

    def __init__(
        self,
        split: Split = "train",
        *,
        seed: int = 0,
        wardrobe: str | Path | None = None,
        environments: str | Path | None = None,
        motion: str | Path | None = None,
        size: tuple[int, int] = (160, 160),
        share_alike: bool = False,
        renderer: Literal["auto", "gl", "software"] = "auto",
    ) -> None:
        self.split: Split = split
        self.seed = seed
        self.size = size
        own_environments = package_assets("environments")
        cell = _CELL_PX / min(size)
        self.wardrobe = Wardrobe.load(
            Path(wardrobe or package_assets("wardrobe")), package=package_assets("wardrobe"), cell=cell
        )
        self.environments = EnvironmentLibrary.load(
            Path(environments or own_environments), split, package=own_environments, share_alike=share_alike
        )
        self.motion = MotionLibrary.load(
            Path(motion or package_assets("motion")), split, share_alike=share_alike
        )
        self.body = SyntheticBody.from_model(load_default_body(), cell=cell)
        self.bank, self.fabrics, self.patterns = _texture_bank(self.wardrobe, self.environments)
        self.renderer = make_renderer(self.bank, renderer)
        self._people: OrderedDict[int, tuple[Outfit, np.ndarray, Figure]] = OrderedDict()

    def rng(self, kind: int, number: int) -> np.random.Generator:
        """The random stream of one person or picture."""
        return np.random.default_rng([SPLITS_VERSION, self.seed, _SPLIT_NUMBER[self.split], kind, number])

    def person(self, number: int) -> tuple[Outfit, np.ndarray, Figure]:
        """The dressed person of a number: outfit, betas, figure."""
        if number in self._people:
            self._people.move_to_end(number)
            return self._people[number]
        rng = self.rng(_PERSON, number)
        spread = 1.2 if self.split == "train" else 1.0
        betas = np.clip(rng.normal(size=self.body.J_shapedirs.shape[-1]) * spread, -2.5, 2.5)
        outfit = sample_outfit(self.wardrobe, rng)
        key = f"person/{self.split}/{self.seed}/{number}"
        self._people[number] = outfit, betas, dress(self.body, self.wardrobe, outfit, betas, key)
        if len(self._people) > _KEPT_PEOPLE:
            self._people.popitem(last=False)
        return self._people[number]

    def pose_person(self, betas: np.ndarray, rng: np.random.Generator) -> tuple[Posed, Pose]:
        """Draw a pose with any heading, y up."""
        pose = self.motion.sample(rng)
        posed = self.body.pose(betas, pose.axis_angle)
        return turned(posed, rotation(1, rng.uniform(0, 2 * np.pi)), np.zeros(3)), pose

    def record(self, index: int) -> SyntheticRecord:
        """The record of an index; the same whatever was asked before."""
        rng = self.rng(_PICTURE, index)
        number = index // RECORDS_PER_PERSON
        outfit, betas, figure = self.person(number)
        posed_world, pose = self.pose_person(betas, rng)
        framed = frame_person(posed_world, self.body.surface_joint, self.size, rng)
        ground = crowd.Ground.under(framed)
        view = _view(framed, ground, self.size)
        background, light, kind = draw_background(self.environments, view, rng)
        light = vary_light(light, rng, level=kind != "panorama")
        target = self.placed(figure, outfit, framed.posed, framed.K, rng, target=True)
        placed, shadows = [target], [framed.posed.joints]
        for other in self._others(number, framed, ground, rng):
            placed.append(other[0])
            shadows.append(other[1].joints)
        placed += self._things(framed, ground, pose.action, rng)
        background = soften_background(background, rng)
        if kind != "photo" or rng.random() < 0.3:
            strength = rng.uniform(0.1, 0.45)
            background = darken(background, floor_shadow(view, np.concatenate(shadows), light, strength))
        drawn = self.renderer.render(
            placed, light=light, R_pano_camera=framed.R_pano_camera, K=framed.K, size=self.size
        )
        rgb, mask = photograph(composite(drawn, background), rng), drawn.mask.copy()
        left, top, right, bottom = np.round(framed.inside_xyxy).astype(int)
        outside = np.ones(self.size, dtype=bool)
        outside[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = False
        rgb[outside], mask[outside] = 0, 0
        return _labelled(index, rgb, mask, framed, betas, pose.action)

    def placed(
        self,
        figure: Figure,
        outfit: Outfit,
        posed: Posed,
        K: np.ndarray,
        rng: np.random.Generator,
        *,
        target: bool,
    ) -> Placed:
        """A posed person with fresh colours."""
        head_px = K[0, 0] * 0.23 / max(float(posed.joints[15, 2]), 0.1)
        return Placed(
            figure=figure,
            matrices=posed.matrices.astype(np.float32),
            layers=sample_layers(self.wardrobe, outfit, self.fabrics, rng),
            target=target,
            fine=bool(head_px >= _FINE_HEAD_PX),
        )

    def _others(
        self, number: int, framed: Framed, ground: crowd.Ground, rng: np.random.Generator
    ) -> list[tuple[Placed, Posed]]:
        if rng.random() >= crowd.OTHERS_SHARE:
            return []
        found = []
        for _ in range(1 + int(rng.random() < 0.35)):
            # Recent numbers are still dressed when records are drawn in order.
            outfit, betas, figure = self.person(abs(number - 1 - int(rng.integers(3))))
            posed_world, _ = self.pose_person(betas, rng)
            posed = crowd.place_other(framed, ground, posed_world, rng)
            if posed is not None:
                found.append((self.placed(figure, outfit, posed, framed.K, rng, target=False), posed))
        return found

    def _things(
        self, framed: Framed, ground: crowd.Ground, action: str, rng: np.random.Generator
    ) -> list[Placed]:
        occluded, cluttered, seated = rng.random(3)
        things: list[Placed | None] = []
        if occluded < crowd.OCCLUDER_SHARE:
            things.append(crowd.occluder(framed, ground, self.patterns, rng))
        if cluttered < crowd.CLUTTER_SHARE:
            things += crowd.clutter(framed, ground, self.patterns, rng)
        if action == "sit" and seated < crowd.SEAT_SHARE:
            things.append(crowd.seat(framed, ground, self.patterns, rng))
        return [thing for thing in things if thing is not None]


def make_renderer(bank: TextureBank, which: Literal["auto", "gl", "software"]) -> Renderer:
    """A renderer of synthetic pictures; "auto" falls back on the software rasteriser."""
    if which != "software":
        from fasthmr.data.gl_renderer import GLRenderer

        try:
            return GLRenderer(bank)
        except Exception as error:  # moderngl raises the bare class when there is no context
            if which == "gl":
                raise
            _LOG.warning("OpenGL is not available (%s); drawing with the software rasteriser", error)
    from fasthmr.data.software_renderer import SoftwareRenderer

    return SoftwareRenderer(bank)


def vary_light(light: Light, rng: np.random.Generator, *, level: bool) -> Light:
    """Vary strength and colour; `level` first brings it to a usual strength."""
    gain = 2 ** rng.uniform(-0.5, 0.5) * rng.uniform(0.93, 1.07, size=3)
    sun = rng.uniform(0.4, 1.1)
    mean = float(light.irradiance.mean() + 0.25 * light.sun_color.mean())
    if level:
        gain = gain * np.pi * rng.uniform(0.35, 0.9) / max(mean, 1e-3)
    else:  # a camera exposes for the person, not for the sky or lamp behind
        gain = gain * (np.clip(mean, np.pi * 0.4, np.pi * 0.9) / max(mean, 1e-3)) ** 0.8
    return Light(
        irradiance=light.irradiance * gain.astype(np.float32),
        sun_direction=light.sun_direction,
        sun_color=light.sun_color * gain * sun,
    )


def _view(framed: Framed, ground: crowd.Ground, size: tuple[int, int]) -> View:
    return View(
        R_pano_camera=framed.R_pano_camera,
        K=framed.K,
        size=size,
        floor=-ground.height,
        distance=float(framed.posed.joints[0, 2]),
    )


def _labelled(
    index: int, rgb: np.ndarray, mask: np.ndarray, framed: Framed, betas: np.ndarray, action: str
) -> SyntheticRecord:
    posed = framed.posed
    points = np.concatenate([posed.joints, posed.keypoints[list(KEYPOINTS_IN_POINTS)]])
    points_2d, coco17 = project(points, framed.K), project(posed.keypoints[:17], framed.K)
    low, high = framed.inside_xyxy[:2], framed.inside_xyxy[2:]
    return SyntheticRecord(
        index=index,
        rgb=rgb,
        mask=mask,
        rotations=posed.rotations,
        betas=betas,
        joints_3d=points,
        points_2d=points_2d,
        points_inside=np.asarray(((points_2d >= low) & (points_2d < high)).all(axis=1)),
        coco17=coco17,
        coco17_inside=np.asarray(((coco17 >= low) & (coco17 < high)).all(axis=1)),
        K=framed.K,
        box_xyxy=framed.box_xyxy,
        inside_xyxy=framed.inside_xyxy,
        part=framed.part,
        action=action,
    )


def _texture_bank(
    wardrobe: Wardrobe, environments: EnvironmentLibrary
) -> tuple[TextureBank, np.ndarray, np.ndarray]:
    """Pictures for the renderer, the pattern slices that suit clothes, and those that suit things."""
    import cv2

    kinds = {
        "swatch": environments.swatches,
        "texture": environments.textures,
        "photo": environments.photos[:60],
    }
    pictures, cloth = [], []
    for kind, items in kinds.items():
        for item in items:
            picture = environments.picture(item, kind)
            side = min(picture.shape[:2])
            square = picture[:side, :side]
            square = cv2.resize(square, (_PATTERN_SIZE, _PATTERN_SIZE), interpolation=cv2.INTER_AREA)
            pictures.append(np.dstack([square, np.full(square.shape[:2], 255, dtype=np.uint8)]))
            cloth.append(item.category in ("fabric", "carpet") or kind == "photo")
    patterns = np.stack(pictures)
    bank = TextureBank(diffuse=wardrobe.diffuse, patterns=patterns)
    return bank, np.flatnonzero(cloth), np.arange(len(patterns))
