"""The picture engine without OpenGL: the package's own rasteriser, shaded in NumPy.

Draws what `gl_renderer` draws, by the same formulas; textures are read without filtering from a smaller
copy, and only the nearest transparent surface is looked through, so single pixels of hair differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from fasthmr.data.figures import Light, Placed, Rendered, TextureBank, octahedral_coordinates
from fasthmr.render.rasterizer import rasterize

_SAMPLES = 2
_TEXTURE_SIZE = 128
_MOSTLY_CLEAR = 0.5
_THRESHOLDS = np.array([[0.125, 0.625], [0.875, 0.375]])
_LUMA = np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scene:
    """All figures as one mesh in the camera frame, with what shading needs per vertex and per face."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    place: np.ndarray
    light: np.ndarray
    gloss: np.ndarray
    layer: np.ndarray
    item: np.ndarray
    see_through: np.ndarray


class SoftwareRenderer:
    """Draws figures on the CPU, without a graphics library.

    Args:
        bank: Pictures that the layers refer to.
    """

    def __init__(self, bank: TextureBank) -> None:
        count, size = bank.diffuse.shape[:2]
        step = max(size // _TEXTURE_SIZE, 1)
        blocks = bank.diffuse.reshape(count, size // step, step, size // step, step, 4)
        self._diffuse = blocks.mean(axis=(2, 4), dtype=np.float32) / 255
        self._patterns = bank.patterns

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
        large = (size[0] * _SAMPLES, size[1] * _SAMPLES)
        K_large = K.copy()
        K_large[:2, :2] *= _SAMPLES
        K_large[:2, 2] = (K[:2, 2] + 0.5) * _SAMPLES - 0.5
        scene = _join(placed, light, R_pano_camera)
        layers = np.stack([_padded(item.layers) for item in placed])
        targets = np.array([item.target for item in placed])
        clear = scene.see_through & (self._face_opacity(scene, layers) < _MOSTLY_CLEAR)
        color, mask, passed = self._draw(
            scene, np.ones(len(scene.faces), bool), layers, targets, K_large, large
        )
        if scene.see_through.any():
            behind, behind_mask, _ = self._draw(scene, ~clear, layers, targets, K_large, large, solid=True)
            color = np.where(passed[..., None], color, behind)
            mask = np.where(passed, mask, behind_mask)
        return Rendered(rgba=_averaged(color, size), mask=_averaged(mask[..., None], size)[..., 0])

    def _draw(
        self,
        scene: _Scene,
        keep: np.ndarray,
        layers: np.ndarray,
        targets: np.ndarray,
        K: np.ndarray,
        size: tuple[int, int],
        *,
        solid: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Colour, mask, and where the nearest surface is opaque enough for its sample (or taken as solid)."""
        kept = np.flatnonzero(keep)
        fragments = rasterize(
            torch.from_numpy(scene.vertices),
            torch.from_numpy(scene.faces[kept]),
            torch.from_numpy(K.astype(np.float32)),
            size,
        )
        face = fragments.face_id.numpy()
        color, mask = np.zeros((*size, 4), dtype=np.float32), np.zeros(size, dtype=np.float32)
        passed = np.ones(size, dtype=bool)
        rows, columns = np.nonzero(face >= 0)
        if not len(rows):
            return color, mask, passed
        face_id = kept[face[rows, columns]]
        corners, weight = scene.faces[face_id], fragments.barycentrics.numpy()[rows, columns]
        row = layers[scene.item[corners[:, 0]], scene.layer[corners[:, 0]]].astype(np.float32)
        uv, place, lit, gloss = (
            np.einsum("nk,nkc->nc", weight, values[corners])
            for values in (scene.uv, scene.place, scene.light, scene.gloss)
        )
        texture = self._sample(self._diffuse, row[:, 3], uv)
        threshold = _THRESHOLDS[rows % 2, columns % 2]
        opaque = solid | (row[:, 12] < 0.5) | (texture[:, 3] >= threshold)
        passed[rows, columns] = opaque
        occlusion = np.where(row[:, 12] > 0.5, 1.0, texture[:, 3])
        linear = texture[:, :3] ** np.float32(2.2)
        luminance = np.clip(linear @ _LUMA / row[:, 14], 0, 2.5)
        albedo = row[:, :3] * (1 - row[:, 6:7] + row[:, 6:7] * linear)
        albedo *= (1 - row[:, 7] + row[:, 7] * luminance)[:, None]
        pattern = self._sample(self._patterns, row[:, 4], place)[:, :3].astype(np.float32) / 255
        albedo *= 1 - row[:, 5:6] + row[:, 5:6] * pattern ** np.float32(2.2)
        a, b, c = (scene.vertices[corners[:, k]] for k in range(3))
        back = (np.cross(b - a, c - a) * a).sum(axis=1) > 0
        v = albedo * lit * (occlusion * np.where(back, 0.5, 1.0))[:, None] + gloss
        t = np.clip(v * (2.51 * v + 0.03) / (v * (2.43 * v + 0.59) + 0.14), 0, 1)
        srgb = np.where(t < 0.0031308, 12.92 * t, 1.055 * t ** (1 / 2.4) - 0.055)
        drawn = np.concatenate([srgb, np.ones_like(srgb[:, :1])], axis=1) * opaque[:, None]
        color[rows, columns] = drawn
        mask[rows, columns] = targets[scene.item[corners[:, 0]]] * opaque
        return color, mask, passed

    def _face_opacity(self, scene: _Scene, layers: np.ndarray) -> np.ndarray:
        opacity = np.ones(len(scene.faces))
        chosen = np.flatnonzero(scene.see_through)
        corners = scene.faces[chosen]
        picture = layers[scene.item[corners[:, 0]], scene.layer[corners[:, 0]], 3]
        opacity[chosen] = self._sample(self._diffuse, picture, scene.uv[corners].mean(axis=1))[:, 3]
        return opacity

    @staticmethod
    def _sample(pictures: np.ndarray, number: np.ndarray, uv: np.ndarray) -> np.ndarray:
        height, width = pictures.shape[1:3]
        column, row = np.floor(uv[:, 0] * width).astype(int), np.floor(uv[:, 1] * height).astype(int)
        return pictures[number.astype(int), row % height, column % width]


def _padded(layers: np.ndarray) -> np.ndarray:
    full = np.zeros((16, 16), dtype=np.float32)
    full[: len(layers)] = layers
    return full


def _averaged(large: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    blocks = large.reshape(size[0], _SAMPLES, size[1], _SAMPLES, -1)
    return np.round(255 * blocks.mean(axis=(1, 3))).astype(np.uint8)


def _join(placed: list[Placed], light: Light, R_pano_camera: np.ndarray) -> _Scene:
    """Skin, light and list all figures; back faces of closed surfaces are left out."""
    columns: dict[str, list[np.ndarray]] = {
        name: []
        for name in ("vertices", "faces", "uv", "place", "light", "gloss", "layer", "item", "see_through")
    }
    start = 0
    for number, item in enumerate(placed):
        figure = item.figure
        record = figure.vertices
        weights = record["weights"].astype(np.float32)
        weights /= weights.sum(axis=1, keepdims=True)
        blended = np.einsum("nk,nkab->nab", weights, item.matrices[record["bones"]])
        point = np.einsum("nab,nb->na", blended[..., :3], record["position"]) + blended[..., 3]
        normal = np.einsum("nab,nb->na", blended[..., :3], record["normal"][:, :3].astype(np.float32))
        normal = normal @ R_pano_camera.T.astype(np.float32)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        rows = item.layers[record["layer"][:, 0]]
        uv = record["uv"].astype(np.float32)
        lit, gloss = _lit(normal, point @ R_pano_camera.T, rows[:, 13], light)
        closed, opaque, eyeballs, fine, end = figure.spans
        runs = [(0, opaque, False), (opaque, eyeballs, False), (fine, end, True)]
        if item.fine and fine > eyeballs:
            runs[1] = (eyeballs, fine, True)
        for first, last, see_through in runs:
            faces = figure.indices[first:last].reshape(-1, 3).astype(np.int64)
            if first == 0:
                a, b, c = (point[faces[: closed // 3, k]] for k in range(3))
                away = (np.cross(b - a, c - a) * a).sum(axis=1) > 0
                faces = np.concatenate([faces[: closed // 3][~away], faces[closed // 3 :]])
            columns["faces"].append(faces + start)
            columns["see_through"].append(np.full(len(faces), see_through))
        columns["vertices"].append(point.astype(np.float32))
        columns["uv"].append(uv)
        columns["place"].append(np.einsum("nab,nb->na", rows[:, 8:12].reshape(-1, 2, 2), uv))
        columns["light"].append(lit)
        columns["gloss"].append(gloss)
        columns["layer"].append(record["layer"][:, 0].astype(np.int64))
        columns["item"].append(np.full(len(record), number))
        start += len(record)
    return _Scene(**{name: np.concatenate(values) for name, values in columns.items()})


def _lit(
    normal: np.ndarray, point: np.ndarray, strength: np.ndarray, light: Light
) -> tuple[np.ndarray, np.ndarray]:
    """Light on, and highlight of, each vertex; everything in the frame of the place."""
    size = light.irradiance.shape[0]
    texel = np.clip(octahedral_coordinates(normal) * size - 0.5, 0, size - 1)
    low = np.minimum(texel.astype(int), size - 2)
    part = texel - low
    sky = np.zeros_like(normal)
    for dy in (0, 1):
        for dx in (0, 1):
            share = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
            sky = sky + share[:, None] * light.irradiance[low[:, 1] + dy, low[:, 0] + dx]
    sun = np.maximum(normal @ light.sun_direction, 0)[:, None] * light.sun_color
    view = -point / np.maximum(np.linalg.norm(point, axis=1, keepdims=True), 1e-6)
    half = view + light.sun_direction
    half /= np.maximum(np.linalg.norm(half, axis=1, keepdims=True), 1e-6)
    highlight = np.maximum((normal * half).sum(axis=1), 0) ** 24 * strength
    return (sky + sun) * (0.8 / np.pi), highlight[:, None] * light.sun_color * (0.8 / np.pi)
