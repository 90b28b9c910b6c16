"""What the renderers of synthetic pictures draw: skinned figures, their place, and the light.

A figure is one vertex buffer and one index buffer. Each vertex names up to four bones and one of the
figure's surface layers; a layer says how texture, pattern and tint become a colour. People, held
objects and furniture are all figures, so both renderers draw one kind of thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

VERTEX = np.dtype(
    [
        ("position", "<f4", 3),
        ("normal", "i1", 4),
        ("uv", "<f2", 2),
        ("bones", "u1", 4),
        ("weights", "<f2", 4),
        ("layer", "u1", 4),
    ]
)
"""One corner of a figure: rest position (m), normal * 127, texture place, bones, weights, layer."""

MAX_LAYERS = 16
"""Surface layers a figure may have."""

MAX_BONES = 24
"""Bones a figure may have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """A drawable thing in its rest pose.

    Attributes:
        key: Names the geometry; renderers keep buffers by it.
        vertices: (V,) array of `VERTEX`.
        indices: (3T,) uint32 triangle corners, counter-clockwise seen from outside.
        spans: Ends (in indices) of five runs: closed opaque surfaces, open opaque surfaces, plain
            eyeballs, fine parts drawn instead of the eyeballs when the head is large, surfaces with
            transparency.
    """

    key: str
    vertices: np.ndarray
    indices: np.ndarray
    spans: tuple[int, int, int, int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """A figure in the picture.

    Attributes:
        matrices: Rest frame to camera frame for each bone (metres, OpenCV axes).
        layers: One row per surface layer: tint rgb, diffuse slice | pattern slice, pattern share,
            colour share, luminance share | pattern matrix (2 x 2) | alpha is opacity (else occlusion),
            specular strength, mean luminance of the diffuse picture, unused.
        target: This is the labelled person: its visible part is the mask.
        fine: Draw the fine parts (eyes, eyebrows).
    """

    figure: Figure
    matrices: Float[np.ndarray, "bones 3 4"]
    layers: Float[np.ndarray, "layers 16"]
    target: bool = False
    fine: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Light:
    """Light at one place, in the frame of a level camera (x right, y down, z forward).

    Attributes:
        irradiance: Octahedral map of irradiance without the sun, linear; see `octahedral_directions`.
        sun_direction: Unit vector towards the strongest source.
        sun_color: Its irradiance on a facing surface, linear.
    """

    irradiance: Float[np.ndarray, "size size 3"]
    sun_direction: Float[np.ndarray, "3"]
    sun_color: Float[np.ndarray, "3"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TextureBank:
    """Pictures that layers refer to by slice: clothes and skins, and small repeating patterns (sRGB)."""

    diffuse: UInt8[np.ndarray, "slices size size 4"]
    patterns: UInt8[np.ndarray, "patterns side side 4"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendered:
    """A picture before the background: colour times coverage (sRGB), coverage, and target mask."""

    rgba: UInt8[np.ndarray, "height width 4"]
    mask: UInt8[np.ndarray, "height width"]


@runtime_checkable
class Renderer(Protocol):
    """Draws placed figures; GL and the software rasteriser both offer it."""

    def render(
        self,
        placed: list[Placed],
        *,
        light: Light,
        R_pano_camera: Float[np.ndarray, "3 3"],
        K: Float[np.ndarray, "3 3"],
        size: tuple[int, int],
    ) -> Rendered:
        """Draw the figures; pixel (i, j) shows what projects to x = j, y = i; size is (height, width)."""
        ...


def octahedral_directions(size: int) -> Float[np.ndarray, "size size 3"]:
    """Unit direction of each texel centre of a size x size octahedral map, poles along y."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, z = np.meshgrid(axis, axis)
    y = 1 - np.abs(x) - np.abs(z)
    fold_x = (1 - np.abs(z)) * np.where(x >= 0, 1.0, -1.0)
    fold_z = (1 - np.abs(x)) * np.where(z >= 0, 1.0, -1.0)
    x, z = np.where(y < 0, fold_x, x), np.where(y < 0, fold_z, z)
    directions = np.stack([x, y, z], axis=-1)
    return directions / np.linalg.norm(directions, axis=-1, keepdims=True)


def octahedral_coordinates(directions: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
    """Place of unit directions in an octahedral map, 0..1 (inverse of `octahedral_directions`)."""
    n = directions / np.abs(directions).sum(axis=-1, keepdims=True)
    x, y, z = n[..., 0], n[..., 1], n[..., 2]
    fold_x = (1 - np.abs(z)) * np.where(x >= 0, 1.0, -1.0)
    fold_z = (1 - np.abs(x)) * np.where(z >= 0, 1.0, -1.0)
    return np.stack([np.where(y < 0, fold_x, x), np.where(y < 0, fold_z, z)], axis=-1) * 0.5 + 0.5


def rigid_figure(
    key: str,
    position: Float[np.ndarray, "v 3"],
    normal: Float[np.ndarray, "v 3"],
    uv: Float[np.ndarray, "v 2"],
    faces: np.ndarray,
) -> Figure:
    """A closed figure with one bone and one layer."""
    vertices = np.zeros(len(position), dtype=VERTEX)
    vertices["position"] = position
    vertices["normal"][:, :3] = np.round(normal * 127)
    vertices["uv"] = uv
    vertices["weights"][:, 0] = 1
    indices = np.ascontiguousarray(faces, dtype=np.uint32).reshape(-1)
    n = len(indices)
    return Figure(key=key, vertices=vertices, indices=indices, spans=(n, n, n, n, n))


@lru_cache(maxsize=1)
def box_figure() -> Figure:
    """The cube -0.5..0.5 with each side textured 0..1."""
    position, normal, uv, faces = [], [], [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            u_axis, v_axis = (axis + 1) % 3, (axis + 2) % 3
            start = len(position)
            for u, v in ((0, 0), (1, 0), (1, 1), (0, 1)):
                point = np.zeros(3)
                point[axis], point[u_axis], point[v_axis] = sign * 0.5, u - 0.5, v - 0.5
                position.append(point)
                normal.append(np.eye(3)[axis] * sign)
                uv.append((float(u), float(v)))
            quad = [(0, 1, 2), (0, 2, 3)] if sign > 0 else [(0, 2, 1), (0, 3, 2)]
            faces += [[start + c for c in corner] for corner in quad]
    return rigid_figure("box", np.array(position), np.array(normal), np.array(uv), np.array(faces))


@lru_cache(maxsize=2)
def round_figure(kind: str) -> Figure:
    """A "ball" of diameter 1 or a "bar" (capped cylinder, axis y) of diameter and length 1."""
    around, rings = 16, 9
    turn = np.linspace(0, 2 * np.pi, around + 1)
    if kind == "ball":
        tilt = np.linspace(-np.pi / 2, np.pi / 2, rings)
        radius, height = np.cos(tilt) / 2, np.sin(tilt) / 2
        normal_up = np.sin(tilt)
    else:
        radius = np.array([0, 0.5, 0.5, 0.5, 0.5, 0])
        height = np.array([-0.5, -0.5, -0.5, 0.5, 0.5, 0.5])
        normal_up = np.array([-1, -1, 0, 0, 1, 1.0])
    rings = len(radius)
    out = np.sqrt(np.maximum(1 - normal_up**2, 0))
    circle = np.stack([np.sin(turn), np.cos(turn)], axis=-1)
    grid = np.zeros((rings, around + 1, 3))
    normal = np.zeros_like(grid)
    grid[..., 0], grid[..., 2] = radius[:, None] * circle[:, 0], radius[:, None] * circle[:, 1]
    grid[..., 1] = height[:, None]
    normal[..., 0], normal[..., 2] = out[:, None] * circle[:, 0], out[:, None] * circle[:, 1]
    normal[..., 1] = normal_up[:, None]
    u, v = np.meshgrid(np.linspace(0, 1, around + 1), np.linspace(0, 1, rings))
    corner = (np.arange(rings - 1)[:, None] * (around + 1) + np.arange(around)).reshape(-1)
    up = corner + around + 1
    faces = np.concatenate([np.stack([corner, corner + 1, up + 1], -1), np.stack([corner, up + 1, up], -1)])
    flat = (-1, 3)
    return rigid_figure(
        kind, grid.reshape(flat), normal.reshape(flat), np.stack([u, v], -1).reshape(-1, 2), faces
    )
