"""Clothes, hair and skins for the free body: geometry fitted to its shape space, and their pictures.

A wardrobe directory holds `index.json`, `textures/` and, where the geometry was baked for it,
`garments.safetensors` with `<name>/<array>` keys (see `scripts/bake_wardrobe.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from fasthmr.data.figures import VERTEX
from fasthmr.errors import InputError

TEXTURE_SIZE = 512
"""Side of the pictures of clothes and skins as they are drawn."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Part of a garment (or of the body) ready to be joined into a figure.

    Attributes:
        corners: Prepared vertex records; their positions are filled in per body shape.
        corner_vertex: Surface vertex of each corner.
        indices: Triangle corners.
        source_faces: Face of the unmerged surface that each triangle stands for.
        template: Rest surface of the mean shape (m).
        shapedirs: Its change per shape coefficient.
        normals: Unit normals of the template.
        hides: Base-mesh vertices of the body that the piece covers.
    """

    corners: np.ndarray
    corner_vertex: Int[np.ndarray, "corners"]
    indices: Int[np.ndarray, "indices"]
    source_faces: Int[np.ndarray, "triangles"]
    template: Float[np.ndarray, "vertices 3"]
    shapedirs: Float[np.ndarray, "vertices 3 betas"]
    normals: Float[np.ndarray, "vertices 3"]
    hides: Int[np.ndarray, "hidden"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Wardrobe:
    """All garments of a directory.

    Attributes:
        items: Index entries by name.
        arrays: Geometry by `<name>/<array>`.
        slices: Texture slice by item name (`eyes` has one per colour: `eyes/<colour>`); 0 is white.
        diffuse: The pictures; alpha is opacity where `opacity` says so, else ambient occlusion.
        luminance: Mean linear luminance of each slice.
        cell: Vertices closer than this are merged (m).
    """

    items: dict[str, dict[str, Any]]
    arrays: dict[str, np.ndarray]
    slices: dict[str, int]
    diffuse: UInt8[np.ndarray, "slices size size 4"]
    opacity: np.ndarray
    luminance: np.ndarray
    cell: float
    _names: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict, repr=False)
    _pieces: dict[tuple[str, str], Piece] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, directory: Path, *, package: Path, cell: float = 0.0) -> Wardrobe:
        """Read geometry and pictures of a directory; geometry it lacks comes from the package.

        Raises:
            InputError: No index, or no geometry for any item.
        """
        from safetensors.numpy import load_file

        try:
            entries = json.loads((directory / "index.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{directory}/index.json: {error}; a wardrobe needs this list") from error
        geometry = directory / "garments.safetensors"
        arrays = load_file(geometry if geometry.is_file() else package / "garments.safetensors")
        known = {key.split("/")[0] for key in arrays}
        items = {
            entry["name"]: entry for entry in entries if entry["kind"] == "skin" or entry["name"] in known
        }
        if not known & set(items):
            raise InputError(f"{directory}: no garment of the index has geometry")
        slices, pictures = _read_pictures(items, directory)
        sample = pictures[:, 4::8, 4::8].astype(np.float32)
        linear, weight = (sample[..., :3] / 255) ** 2.2, sample[..., 3:] + 1e-3
        mean = (linear * weight).sum(axis=(1, 2)) / weight.sum(axis=(1, 2))
        opacity = np.array([_is_see_through(items, name) for name in slices])
        return cls(
            items=items,
            arrays=arrays,
            slices=slices,
            diffuse=pictures,
            opacity=opacity,
            luminance=mean @ np.array([0.2126, 0.7152, 0.0722]),
            cell=cell,
        )

    def named(self, *kinds: str) -> tuple[str, ...]:
        """Names of the items of some kinds, sorted; "eye colour" gives the slices of the eyes."""
        if kinds not in self._names:
            names = [name for name, item in self.items.items() if item["kind"] in kinds]
            if "eye colour" in kinds:
                names += [name for name in self.slices if "/" in name]
            self._names[kinds] = tuple(sorted(names))
        return self._names[kinds]

    def piece(self, name: str, part: str = "all") -> Piece:
        """A garment, or the "upper" or "lower" half of a suit."""
        if (name, part) not in self._pieces:
            array = {
                key.split("/")[1]: value for key, value in self.arrays.items() if key.startswith(f"{name}/")
            }
            faces, faces_uv, hides = array["faces"], array["faces_uv"], array["delete_verts"]
            if part != "all":
                islands = self.items[name][f"{part}_islands"]
                keep = np.isin(array["island"], islands)
                faces, faces_uv = faces[keep], faces_uv[keep]
                hides = hides[np.isin(array["delete_island"], islands)]
            self._pieces[name, part] = make_piece(
                template=array["template"],
                shapedirs=array["shapedirs"],
                lbs_index=array["lbs_index"],
                lbs_weight=array["lbs_weight"],
                faces=faces,
                faces_uv=faces_uv,
                uv=array["uv"],
                hides=hides,
                cell=self.cell,
            )
        return self._pieces[name, part]


def make_piece(
    *,
    template: np.ndarray,
    shapedirs: np.ndarray,
    lbs_index: np.ndarray,
    lbs_weight: np.ndarray,
    faces: np.ndarray,
    faces_uv: np.ndarray,
    uv: np.ndarray,
    hides: np.ndarray,
    cell: float,
) -> Piece:
    """Merge vertices closer than a cell (m), and split them where texture coordinates differ."""
    faces, faces_uv = faces.astype(np.int64), faces_uv.astype(np.int64)
    template = template.astype(np.float32)
    normals = surface_normals(template, faces)
    merged = merge_vertices(template, normals, cell)[faces]
    distinct = (merged != np.roll(merged, 1, axis=1)).all(axis=1)
    source = np.flatnonzero(distinct)
    merged, faces_uv = merged[distinct], faces_uv[distinct]
    # Corners of one vertex share a record where their texture places are close.
    place = np.floor(uv[faces_uv] * 32).astype(np.int64) + 64
    code = (merged << 16) + (place[..., 0] << 8) + place[..., 1]
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    triangles = inverse.reshape(-1, 3)
    turned = np.take_along_axis(triangles, (triangles.argmin(axis=1)[:, None] + np.arange(3)) % 3, axis=1)
    _, once = np.unique(turned, axis=0, return_index=True)
    once.sort()
    corner_vertex, corner_uv = merged.reshape(-1)[first], faces_uv.reshape(-1)[first]
    used, compact = np.unique(corner_vertex, return_inverse=True)
    corners = np.zeros(len(first), dtype=VERTEX)
    corners["normal"][:, :3] = np.round(normals[corner_vertex] * 127)
    # v = 0 is the bottom of the picture, row 0 of a texture its top.
    corners["uv"] = np.stack([uv[corner_uv, 0], 1 - uv[corner_uv, 1]], axis=-1)
    corners["bones"] = lbs_index[corner_vertex]
    corners["weights"] = lbs_weight[corner_vertex]
    return Piece(
        corners=corners,
        corner_vertex=compact,
        indices=triangles[once].reshape(-1),
        source_faces=source[once],
        template=template[used],
        shapedirs=shapedirs[used].astype(np.float32),
        normals=normals[used],
        hides=hides.astype(np.int64),
    )


def merge_vertices(
    vertices: Float[np.ndarray, "v 3"], normals: Float[np.ndarray, "v 3"], cell: float
) -> Int[np.ndarray, "v"]:
    """The vertex that stands for each vertex: one per cell of a grid and octant of the normal."""
    if cell <= 0:
        return np.arange(len(vertices))
    grid = np.floor(vertices / cell).astype(np.int64) + (1 << 15)
    octant = (normals > 0) @ np.array([1, 2, 4])
    code = (((grid[:, 0] << 16) + grid[:, 1]) << 19) + (grid[:, 2] << 3) + octant
    _, cluster, count = np.unique(code, return_inverse=True, return_counts=True)
    mean = (
        np.stack([np.bincount(cluster, weights=vertices[:, k]) for k in range(3)], axis=-1) / count[:, None]
    )
    distance = np.linalg.norm(vertices - mean[cluster], axis=1)
    order = np.lexsort((distance, cluster))
    nearest = order[np.concatenate([[0], np.cumsum(count)[:-1]])]
    return nearest[cluster]


def surface_normals(vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]) -> np.ndarray:
    """Unit vertex normals, area-weighted."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    total = np.stack(
        [
            np.bincount(faces.reshape(-1), weights=np.repeat(cross[:, k], 3), minlength=len(vertices))
            for k in range(3)
        ],
        axis=-1,
    )
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    # The two sides of a sheet can cancel; any direction then does.
    return np.where(length > 1e-12, total / np.maximum(length, 1e-12), [0.0, 0.0, 1.0]).astype(np.float32)


def _is_see_through(items: dict[str, dict[str, Any]], name: str) -> bool:
    item = items.get(name.split("/")[0])
    if item is None or item["kind"] == "skin":
        return False
    return any(_file(texture).endswith(".png") for texture in item["textures"].values())


def _file(texture: str | dict[str, Any]) -> str:
    """The path of a texture: an index gives it alone or in a record."""
    return texture if isinstance(texture, str) else texture["file"]


def _read_pictures(
    items: dict[str, dict[str, Any]], directory: Path
) -> tuple[dict[str, int], UInt8[np.ndarray, "slices size size 4"]]:
    slices = {"white": 0}
    pictures = [np.full((TEXTURE_SIZE, TEXTURE_SIZE, 4), 255, dtype=np.uint8)]
    for name in sorted(items):
        textures = items[name]["textures"]
        if items[name]["kind"] == "eyes":
            colours = {key: value for key, value in textures.items() if key not in ("ao", "normal")}
        else:
            colours = {"diffuse": textures.get("diffuse")}
        for colour, texture in sorted(colours.items()):
            picture = pictures[0].copy() if texture is None else _read_picture(directory / _file(texture))
            if "ao" in textures:
                # The maps know the whole suit; its lower half alone must not be black at the waist.
                picture[..., 3] = 100 + _read_picture(directory / _file(textures["ao"]))[..., 1] * (155 / 255)
            slices[f"{name}/{colour}" if items[name]["kind"] == "eyes" else name] = len(pictures)
            pictures.append(picture)
    return slices, np.stack(pictures)


def _read_picture(path: Path) -> UInt8[np.ndarray, "size size 4"]:
    """Read a picture as RGBA at the drawing size; colour is carried into transparent parts."""
    import cv2

    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise InputError(f"{path}: not a picture that can be read")
    if picture.ndim == 2:
        picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    size = (TEXTURE_SIZE, TEXTURE_SIZE)
    way = cv2.INTER_AREA if picture.shape[0] > TEXTURE_SIZE else cv2.INTER_LINEAR
    if picture.shape[2] == 3:
        return cv2.cvtColor(cv2.resize(picture, size, interpolation=way), cv2.COLOR_BGR2RGBA)
    alpha = picture[..., 3:].astype(np.float32) / 255
    colour = cv2.resize(picture[..., :3] * alpha, size, interpolation=way)
    alpha = cv2.resize(alpha, size, interpolation=way)[..., None]
    # Where nothing is opaque, mipmaps need a neighbour's colour and not black.
    blurred_alpha = cv2.blur(alpha, (41, 41))[..., None] + 1e-4
    spread = (
        cv2.blur(colour, (41, 41)) + 1e-4 * colour.mean(axis=(0, 1)) / max(alpha.mean(), 1e-3)
    ) / blurred_alpha
    colour = np.where(alpha > 0.02, colour / np.maximum(alpha, 0.02), spread)
    rgba = np.concatenate([colour[..., ::-1], alpha * 255], axis=-1)
    return np.clip(np.round(rgba), 0, 255).astype(np.uint8)
