"""Labelled pictures of the free hand in random poses, each reproducible from (seed, split, index) alone.

The hand ends at its wrist; there is no arm, no object and no second hand in these pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from fasthmr.body.default_body import load_default_hand
from fasthmr.body.lbs import BodyModel
from fasthmr.data.backgrounds import View, draw_background
from fasthmr.data.environments import EnvironmentLibrary
from fasthmr.data.figures import VERTEX, Figure, Placed, TextureBank
from fasthmr.data.finish import composite, photograph, soften_background
from fasthmr.data.motion import SPLITS_VERSION, Split
from fasthmr.data.software_renderer import SoftwareRenderer
from fasthmr.data.synthetic import package_assets, vary_light
from fasthmr.errors import InputError
from fasthmr.geometry.cameras import intrinsics
from fasthmr.geometry.meshes import vertex_normals
from fasthmr.geometry.rotations import axis_angle_to_rotmat, quat_wxyz_to_rotmat
from fasthmr.types import BodyParams

_SPLITS, _STREAM = ("train", "val", "test"), 7

FINGERTIPS: tuple[str, ...] = ("index", "middle", "pinky", "ring", "thumb")
"""Order of the free hand's `fingertip_index`."""

_PALM = torch.tensor([0.0, -1.0, 0.0])
"""Where the palm of the free hand looks at rest."""

_BEND = {"1": (-0.35, 1.5), "2": (0.0, 1.75), "3": (-0.05, 1.2)}
_THUMB_BEND = {"1": (-0.5, 0.5), "2": (-0.2, 0.8), "3": (-0.3, 1.2)}
"""Bending towards the palm that a finger's joints allow, from the knuckle out (rad)."""

_SPREAD, _TWIST = 0.3, 0.06
"""Sideways range of the first joints, and of turns about a bone (rad)."""

_SKIN = ((0.18, 0.09, 0.05), (0.80, 0.52, 0.40))
"""Darkest and lightest colour of skin, linear."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HandRecord:
    """One picture of a right hand.

    Attributes:
        rgb: The finished picture.
        rotations: Of the wrist in the camera frame (x right, y down, z forward), then of each joint relative
            to its parent.
        betas: Shape coefficients, standard deviations.
        transl: Of the hand in the camera frame, metres.
        K: Intrinsics.
    """

    rgb: UInt8[np.ndarray, "height width 3"]
    rotations: Float[np.ndarray, "16 3 3"]
    betas: Float[np.ndarray, "betas"]
    transl: Float[np.ndarray, "3"]
    K: Float[np.ndarray, "3 3"]


class SyntheticHands:
    """Pictures of hands with exact labels.

    Args:
        split: Environments (val shares those of train) of this split only.
        size: Height and width of a picture in pixels.
        environments: Directory in the layout of the package's own; None takes that.

    Raises:
        InputError: The directory lacks what is needed.
    """

    def __init__(
        self, split: Split = "train", *, seed: int = 0, size: int = 112, environments: Path | None = None
    ) -> None:
        own = package_assets("environments")
        self.split: Split = split
        self.seed, self.size = seed, size
        self.environments = EnvironmentLibrary.load(environments or own, split, package=own)
        self.hand = load_default_hand()
        self._bones, self._weights = _largest_weights(self.hand)
        self._axes = finger_axes(self.hand)
        white = np.full((1, 8, 8, 4), 255, dtype=np.uint8)
        self._renderer = SoftwareRenderer(TextureBank(diffuse=white, patterns=white))

    def record(self, index: int) -> HandRecord:
        """The record of an index; the same whatever was asked before."""
        rng = np.random.default_rng([SPLITS_VERSION, self.seed, _SPLITS.index(self.split), _STREAM, index])
        rotations, betas = draw_hand_pose(self.hand, self._axes, rng)
        params = BodyParams.of_rotmats(rotations, betas)
        mesh = self.hand(params)
        size = torch.full((2,), float(self.size))
        K = intrinsics(self.size * torch.tensor(rng.uniform(1.0, 2.5)).float(), size)
        transl = _place(mesh.vertices, K, self.size, rng)
        placed = self._placed(params, transl, rng)
        tilt = torch.tensor([rng.uniform(-0.6, 0.6), rng.uniform(-np.pi, np.pi), rng.uniform(-0.3, 0.3)])
        R_pano_camera = axis_angle_to_rotmat(tilt).numpy().astype(np.float64)
        view = View(
            R_pano_camera=R_pano_camera,
            K=K.numpy().astype(np.float64),
            size=(self.size, self.size),
            floor=float(rng.uniform(0.3, 1.6)),
            distance=float(transl[2]),
        )
        background, light, kind = draw_background(self.environments, view, rng)
        drawn = self._renderer.render(
            [placed],
            light=vary_light(light, rng, level=kind != "panorama"),
            R_pano_camera=R_pano_camera,
            K=view.K,
            size=view.size,
        )
        rgb = photograph(composite(drawn, soften_background(background, rng)), rng)
        return HandRecord(
            rgb=rgb, rotations=rotations.numpy(), betas=betas.numpy(), transl=transl.numpy(), K=K.numpy()
        )

    def _placed(self, params: BodyParams, transl: Tensor, rng: np.random.Generator) -> Placed:
        """The hand as the renderer draws it, with a colour of skin."""
        rest = self.hand.v_template + self.hand.shapedirs @ params.betas
        vertices = np.zeros(len(rest), dtype=VERTEX)
        vertices["position"] = rest.numpy()
        vertices["normal"][:, :3] = np.round(vertex_normals(rest, self.hand.faces).numpy() * 127)
        vertices["bones"], vertices["weights"] = self._bones, self._weights
        corners = self.hand.faces.numpy().astype(np.uint32).reshape(-1)
        end = len(corners)
        figure = Figure(key="hand", vertices=vertices, indices=corners, spans=(0, end, end, end, end))
        matrices, _ = self.hand.joint_transforms(params)
        moved = matrices.clone()
        moved[..., 3] += transl
        dark, light = np.array(_SKIN)
        tint = (dark + (light - dark) * rng.uniform()) * rng.uniform(0.85, 1.15, 3)
        layer = np.zeros((1, 16), dtype=np.float32)
        layer[0, :3] = tint
        layer[0, 8], layer[0, 11] = 1, 1
        layer[0, 13], layer[0, 14] = rng.uniform(0, 0.15), 1
        return Placed(figure=figure, matrices=moved.numpy().astype(np.float32), layers=layer, target=True)


def finger_axes(hand: BodyModel) -> Float[Tensor, "joints 3 3"]:
    """For each joint but the wrist: the axis that bends it towards the palm, sideways, and along its bone.

    A thumb bends towards the root of the little finger rather than straight down.
    """
    rest, names = hand.J_template, list(hand.joint_names)
    tips = dict(zip(FINGERTIPS, hand.extras["fingertip_index"].tolist(), strict=True))
    axes = torch.zeros(len(names), 3, 3)
    for joint, name in enumerate(names[1:], start=1):
        finger, number = name[:-1], int(name[-1])
        end = hand.v_template[tips[finger]] if number == 3 else rest[names.index(f"{finger}{number + 1}")]
        along = F.normalize(end - rest[joint], dim=0)
        towards = _PALM
        if finger == "thumb":
            across = F.normalize(rest[names.index("pinky1")] - rest[joint], dim=0)
            towards = _PALM + across
        bend = F.normalize(torch.linalg.cross(along, towards), dim=0)
        axes[joint] = torch.stack([bend, torch.linalg.cross(along, bend), along])
    return axes


def draw_hand_pose(
    hand: BodyModel, axes: Float[Tensor, "joints 3 3"], rng: np.random.Generator
) -> tuple[Float[Tensor, "joints 3 3"], Float[Tensor, "betas"]]:
    """Rotations within the limits of the joints, seen from any side, and a shape.

    The fingers of a hand bend alike to a random degree; the outer joints follow the inner ones.
    """
    common, alike = rng.uniform(), rng.uniform(0.3, 0.9)
    vectors = torch.zeros(hand.num_joints, 3)
    bends: dict[str, float] = {}
    for joint, name in enumerate(hand.joint_names[1:], start=1):
        finger, number = name[:-1], name[-1]
        share = bends.setdefault(finger, float(alike * common + (1 - alike) * rng.uniform()))
        share = float(np.clip(share + rng.normal() * 0.15, 0, 1))
        low, high = (_THUMB_BEND if finger == "thumb" else _BEND)[number]
        side = rng.uniform(-_SPREAD, _SPREAD) if number == "1" else 0.0
        turns = torch.tensor([low + share * (high - low), side, rng.uniform(-_TWIST, _TWIST)])
        vectors[joint] = turns.float() @ axes[joint]
    rotations = axis_angle_to_rotmat(vectors)
    quat = rng.normal(size=4)  # of any length: a uniform rotation once it has length one
    rotations[0] = quat_wxyz_to_rotmat(torch.from_numpy(quat / np.linalg.norm(quat)).float())
    betas = torch.from_numpy(np.clip(rng.normal(size=hand.num_betas), -2.5, 2.5)).float()
    return rotations, betas


def _place(
    vertices: Float[Tensor, "vertices 3"], K: Float[Tensor, "3 3"], size: int, rng: np.random.Generator
) -> Float[Tensor, "3"]:
    """Where the hand fills most of the picture, near its middle."""
    low, high = vertices.amin(0), vertices.amax(0)
    extent = float((high - low)[:2].max())
    distance = float(K[0, 0]) * extent / (size * rng.uniform(0.62, 0.92)) + float(high[2] - low[2]) / 2
    shift = rng.uniform(-0.06, 0.06, 2) * size / float(K[0, 0]) * distance
    place = torch.tensor([shift[0], shift[1], distance]).float()
    return place - (low + high) / 2


def _largest_weights(hand: BodyModel) -> tuple[np.ndarray, np.ndarray]:
    weights, bones = hand.lbs_weights.topk(4, dim=1)
    return bones.numpy().astype(np.uint8), (weights / weights.sum(1, keepdim=True)).numpy()


def write_hands(hands: SyntheticHands, folder: Path, count: int, chunk: int = 500) -> None:
    """Draw records 0 .. count into a folder, leaving complete files as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, chunk):
        path = folder / f"{first:06d}.npz"
        if path.is_file():
            continue
        records = [hands.record(index) for index in range(first, min(first + chunk, count))]
        arrays = {name: np.stack([getattr(record, name) for record in records]) for name in _FIELDS}
        part = path.with_suffix(".part.npz")
        np.savez(part, **arrays)  # pyright: ignore[reportArgumentType]
        part.replace(path)


def load_hands(folder: Path) -> dict[str, Tensor]:
    """All records of a folder, stacked by name.

    Raises:
        InputError: There is none.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in _FIELDS}
    for path in sorted(folder.glob("[0-9]*[0-9].npz")):
        with np.load(path, allow_pickle=False) as data:
            for name in _FIELDS:
                found[name].append(torch.from_numpy(data[name]))
    if not found["rgb"]:
        raise InputError(f"{folder}: no pictures of hands")
    return {name: torch.cat(parts) for name, parts in found.items()}


_FIELDS = ("rgb", "rotations", "betas", "transl", "K")
