"""Pictures behind synthetic people: cuts of panoramas and photos, rooms of textures, shadows on the floor.

Directions follow `assets/environments`: a level camera at the panorama centre, x right, y down, z forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from fasthmr.data.environments import EnvironmentLibrary, Item
from fasthmr.data.figures import Light

KIND_WEIGHTS = {"panorama": 0.44, "photo": 0.2, "room": 0.27, "plain": 0.09}
"""How often each kind of background is drawn; kinds without pictures are left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A camera in a place: rotation into the panorama frame, intrinsics, size, floor below the camera.

    Attributes:
        floor: Height of the floor below the camera centre (m, along +y of the panorama frame).
        distance: Distance of the person (m).
    """

    R_pano_camera: Float[np.ndarray, "3 3"]
    K: Float[np.ndarray, "3 3"]
    size: tuple[int, int]
    floor: float
    distance: float

    def rays(self, zoom: float = 1.0, step: int = 1) -> Float[np.ndarray, "height width 3"]:
        """Directions of the pixels in the panorama frame, not normalised; every `step`-th pixel."""
        height, width = self.size
        x = (np.arange((step - 1) / 2, width, step) - self.K[0, 2]) / (self.K[0, 0] * zoom)
        y = (np.arange((step - 1) / 2, height, step) - self.K[1, 2]) / (self.K[1, 1] * zoom)
        grid = np.empty((len(y), len(x), 3), dtype=np.float32)
        grid[..., 0], grid[..., 1], grid[..., 2] = x, y[:, None], 1
        return grid @ self.R_pano_camera.T.astype(np.float32)


def draw_background(
    library: EnvironmentLibrary, view: View, rng: np.random.Generator, *, widen: bool = True
) -> tuple[UInt8[np.ndarray, "height width 3"], Light, str]:
    """Choose and draw a background; returns it with the light that fits and its kind.

    Args:
        widen: Show more of a panorama than the camera sees where it would be a blurred patch.
    """
    weights = dict(KIND_WEIGHTS)
    if not library.panoramas:
        del weights["panorama"]
    if not library.photos:
        del weights["photo"]
    total = np.array(list(weights.values()))
    kind = list(weights)[int(rng.choice(len(weights), p=total / total.sum()))]
    if kind == "panorama":
        item = library.panoramas[int(rng.integers(len(library.panoramas)))]
        picture = _panorama_view(library.picture(item, "panorama"), view, rng, widen)
    elif kind == "photo":
        item = library.photos[int(rng.integers(len(library.photos)))]
        picture = _photo_crop(library.picture(item, "photo"), view.size, rng)
    else:
        item = Item(id="", path=_choice(library.textures, rng).path, place="indoor")
        picture = _room(library, view, rng) if kind == "room" else _plain(library, view.size, rng)
    return picture, library.light_for(item, rng), kind


def _choice(items: tuple[Item, ...], rng: np.random.Generator) -> Item:
    return items[int(rng.integers(len(items)))]


def _panorama_view(panorama: np.ndarray, view: View, rng: np.random.Generator, widen: bool) -> np.ndarray:
    import cv2

    height, width = panorama.shape[:2]
    source_pixels = np.arctan(view.size[1] / 2 / view.K[0, 0]) / np.pi * width
    wanted = rng.uniform(0.45, 1.0) * min(view.size[1], 200)
    # A far person covers few panorama pixels.
    zoom = float(np.clip(source_pixels / wanted, 0.2, 1.0)) if widen else 1.0
    d = view.rays(zoom)
    azimuth = np.arctan2(d[..., 0], d[..., 2])
    elevation = np.arctan2(-d[..., 1], np.hypot(d[..., 0], d[..., 2]))
    column = (azimuth / (2 * np.pi) + 0.5) * width - 0.5
    row = np.clip((0.5 - elevation / np.pi) * height - 0.5, 0, height - 1)
    return cv2.remap(
        panorama,
        column.astype(np.float32),
        row.astype(np.float32),
        cv2.INTER_CUBIC if zoom < 0.99 else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


def _photo_crop(photo: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    import cv2

    height, width = photo.shape[:2]
    largest = min(height / size[0], width / size[1])
    scale = largest * rng.uniform(0.3, 1.0)
    h, w = max(2, int(size[0] * scale)), max(2, int(size[1] * scale))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    crop = photo[top : top + h, left : left + w]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    way = cv2.INTER_AREA if h > size[0] else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(crop), (size[1], size[0]), interpolation=way)


def _plain(library: EnvironmentLibrary, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A wall seen straight on: a colour gradient, or a texture stretched and tinted."""
    import cv2

    base = rng.uniform(30, 245) + rng.normal(scale=rng.choice([8.0, 40.0]), size=(1, 1, 3))
    corners = base + rng.normal(scale=15, size=(2, 2, 1)) + rng.normal(scale=5, size=(2, 2, 3))
    picture = cv2.resize(corners.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        texture = library.picture(_choice(library.textures, rng), "texture")
        crop = _photo_crop(texture, size, rng).astype(np.float32)
        picture = picture * (0.4 + 0.6 * crop / max(float(crop.mean()), 1.0))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _room(library: EnvironmentLibrary, view: View, rng: np.random.Generator) -> np.ndarray:
    """A box around camera and person with a texture on each side; sometimes open to the sky."""
    import cv2

    turn = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(turn), np.sin(turn)
    d = view.rays() @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], dtype=np.float32)
    person = view.R_pano_camera @ np.array([0, 0, view.distance])
    x, z = cos * person[0] + sin * person[2], -sin * person[0] + cos * person[2]
    room = rng.uniform(0.5, 4.0, size=4)
    open_sky = rng.random() < 0.35
    if open_sky:
        room = room * rng.choice([1.0, 4.0], size=4)
    ceiling = view.floor - (60.0 if open_sky else rng.uniform(2.3, 4.0))
    low = np.array([min(0, x) - room[0], min(ceiling, -0.4), min(0, z) - room[1]], dtype=np.float32)
    high = np.array([max(0, x) + room[2], max(view.floor, 0.25), max(0, z) + room[3]], dtype=np.float32)
    # Plane by plane: reductions over a last axis of three are slow in NumPy.
    planes = [np.where(np.abs(d[..., k]) < 1e-5, np.float32(1e-5), d[..., k]) for k in range(3)]
    reach = [np.where(plane > 0, high[k], low[k]) / plane for k, plane in enumerate(planes)]
    t = np.minimum(np.minimum(reach[0], reach[1]), reach[2])
    axis = np.where(t == reach[0], 0, np.where(t == reach[1], 1, 2))
    side = 2 * axis + np.choose(axis, [plane > 0 for plane in planes])
    point = [plane * t for plane in planes]
    picture = np.empty((*view.size, 3), dtype=np.float32)
    fade = 1 / (1 + 0.03 * t[..., None])
    brightness = rng.uniform(60, 200)
    wall = _choice(library.textures, rng)
    for face in np.unique(side):
        here = (side == face)[..., None]
        u_axis, v_axis = ((2, 1), (0, 2), (0, 1))[face // 2]
        if face == 2 and open_sky:
            sky = rng.uniform([110, 150, 190], [220, 225, 250]).astype(np.float32)
            np.copyto(picture, sky * (1 - 0.35 * np.clip(-planes[1][..., None], 0, 1)), where=here)
            continue
        item = _choice(library.textures, rng) if face // 2 == 1 or rng.random() < 0.4 else wall
        texture = library.picture(item, "texture")
        metres = rng.uniform(0.8, 2.5)
        # Shrink the texture to what the camera resolves at the middle of the wall, against aliasing.
        texel = float(np.median(t[here[..., 0]])) / view.K[0, 0]
        side_px = int(np.clip(metres / texel, 8, texture.shape[0]))
        if side_px < texture.shape[0]:
            texture = cv2.resize(texture, (side_px, side_px), interpolation=cv2.INTER_AREA)
        u, v = point[u_axis] * (side_px / metres), point[v_axis] * (side_px / metres)
        seen = cv2.remap(texture, u % side_px, v % side_px, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        level = brightness * rng.uniform(0.6, 1.3) / max(float(texture.mean()), 20.0)
        if face == 2 or rng.random() < 0.3:  # painted: the texture barely shows
            paint = 255 * rng.uniform(0.35, 0.95) * (1 + rng.normal(scale=0.06, size=3))
            colour = 0.25 * level * seen + 0.75 * paint.astype(np.float32)
        else:
            colour = level * seen
        np.copyto(picture, (colour * fade).astype(np.float32), where=here)
    return np.clip(picture, 0, 255).astype(np.uint8)


def floor_shadow(
    view: View, points_cam: Float[np.ndarray, "n 3"], light: Light, strength: float
) -> Float[np.ndarray, "height width"]:
    """How much light is left on the floor: soft blobs below the points and along the sun, 0..1.

    Args:
        points_cam: Joints of the people in the camera frame.
        strength: Darkness of the contact shadow, 0..1.
    """
    import cv2

    step = 5
    d = view.rays(step=step)
    seen = d[..., 1] > 1e-3
    t = np.where(seen, view.floor / np.maximum(d[..., 1], 1e-3), 0.0)
    ground = np.stack([d[..., 0] * t, d[..., 2] * t], axis=-1).reshape(-1, 2).astype(np.float32)
    points = points_cam @ view.R_pano_camera.T
    height = np.maximum(view.floor - points[:, 1], 0.0)
    sun = light.sun_direction
    elevation = -sun[1]
    blobs = [(points[:, [0, 2]], 0.10 + 0.35 * height, strength * np.exp(-height / 0.35))]
    if elevation > 0.2:
        up = light.irradiance[0, 0].mean()  # octahedral corner: straight up (-y)
        share = float(light.sun_color.mean() * elevation)
        share = share / (share + float(up) + 1e-6)
        cast = points[:, [0, 2]] - sun[[0, 2]] / elevation * height[:, None]
        blobs.append((cast, np.full(len(points), 0.13), np.full(len(points), 0.5 * share)))
    left = np.ones(len(ground), dtype=np.float32)
    for centre, radius, depth in blobs:
        strong = depth > 0.02
        inverse = (-0.5 / radius[strong] ** 2).astype(np.float32)
        # exp(-|g - c|^2 / 2 r^2) with the square written out, as one matrix product
        centre = centre[strong].astype(np.float32)
        squared = (ground**2).sum(axis=1)[:, None] - 2 * ground @ centre.T + (centre**2).sum(axis=1)
        dark = np.exp(np.maximum(squared, 0) * inverse) @ depth[strong].astype(np.float32)
        left *= 1 - np.minimum(dark, 0.75)
    left = np.where(seen, left.reshape(t.shape), 1)
    return cv2.resize(left.astype(np.float32), (view.size[1], view.size[0]), interpolation=cv2.INTER_LINEAR)
