"""Z-buffer for triangle meshes, vectorised, on the CPU, without a graphics library.

Homogeneous rasterisation (Olano and Greer, "Triangle Scan Conversion using 2D Homogeneous
Coordinates", 1997): with a triangle's camera-frame vertices v0, v1, v2 and the ray r = K⁻¹ (u, v, 1)
of a pixel, the solution of b0 v0 + b1 v1 + b2 v2 = r holds the perspective-correct barycentrics
divided by depth, and b0 + b1 + b2 = 1 / z. Each b is linear in (u, v), so a triangle covers one span
of pixels per picture row. Triangles that cross the camera plane need no clipping: the near plane is
one more linear bound.

A pixel with integer coordinates (u, v) is sampled at exactly (u, v), where `K` projects to: the centre
of the top left pixel is (0, 0), as in OpenCV.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# Work of one pass, so that its arrays stay in the cache; a pass more changes no pixel.
_FACES_PER_PASS = 1 << 17
_ROWS_PER_PASS = 1 << 16
_PIXELS_PER_PASS = 1 << 16
_EDGE_ON = 1e-12
_CLEARLY_INSIDE = 1e-3  # square pixels, twice the area of a face
_FACE_MASK = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Fragments:
    """What each pixel of a picture sees.

    Attributes:
        depth: z of the nearest surface in metres, infinite where there is none.
        face_id: Index of the nearest face, -1 where there is none.
        barycentrics: Perspective-correct weights of the three corners, zero where there is no face.
    """

    depth: Float[Tensor, "height width"]
    face_id: Int[Tensor, "height width"]
    barycentrics: Float[Tensor, "height width 3"]

    @property
    def silhouette(self) -> Bool[Tensor, "height width"]:
        """Pixels that see a face."""
        return self.face_id >= 0


def rasterize(
    vertices_cam: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    K: Float[Tensor, "3 3"],
    size: tuple[int, int],
    near: float = 0.05,
    cull: bool = False,
) -> Fragments:
    """Finds the nearest face at every pixel. Several people are one mesh with their faces joined.

    Where faces are equally near in float32, the one with the smaller index wins. Faces with a vertex
    that is not finite cover nothing.

    Args:
        vertices_cam: Camera frame, OpenCV axes, metres.
        K: Pinhole matrix in pixels; the last row is (0, 0, 1).
        size: Height and width of the picture.
        near: Surface closer than this depth is not seen, metres.
        cull: Leave out faces whose corners run clockwise as seen (the inside of a closed mesh).
    """
    height, width = size
    setup = _face_setup(_array(vertices_cam), _array(faces), _array(K), size, near, cull)
    key = np.zeros(height * width, dtype=np.int64)
    for part in _passes(setup.num_rows, _ROWS_PER_PASS):
        _draw(setup, part, width, key)
    return _resolve(setup, key, size)


def interpolate(
    fragments: Fragments, face_attributes: Float[Tensor, "faces 3 channels"]
) -> Float[Tensor, "height width channels"]:
    """Blends values given at the corners of each face over the picture; zero where there is no face."""
    pixels, values = interpolate_seen(fragments, face_attributes)
    picture = values.new_zeros((*fragments.face_id.shape, values.shape[-1]))
    picture.view(-1, values.shape[-1])[pixels] = values
    return picture


def interpolate_seen(
    fragments: Fragments, face_attributes: Float[Tensor, "faces 3 channels"]
) -> tuple[Int[Tensor, "seen"], Float[Tensor, "seen channels"]]:
    """The pixels that see a face, counted row by row, and the blended values there."""
    face_id = fragments.face_id.view(-1)
    pixels = (face_id >= 0).nonzero()[:, 0]
    corners = face_attributes.index_select(0, face_id.index_select(0, pixels))
    weights = fragments.barycentrics.view(-1, 3).index_select(0, pixels).to(corners.dtype)
    return pixels, (weights[:, None] @ corners)[:, 0]


@dataclass(frozen=True, kw_only=True)
class _FaceSetup:
    """Faces that may be seen, as linear functions (a, b, c) -> a u + b v + c of the pixel."""

    face_id: Int[np.ndarray, "kept"]
    corners: Float[np.ndarray, "3 3 kept"]  # [corner, (a, b, c)]: barycentric / z
    bounds: Float[np.ndarray, "bounds 3 kept"]  # inside where none is negative
    first_row: Int[np.ndarray, "kept"]
    num_rows: Int[np.ndarray, "kept"]
    first_column: Int[np.ndarray, "kept"]
    last_column: Int[np.ndarray, "kept"]


def _face_setup(
    vertices: np.ndarray, faces: np.ndarray, K: np.ndarray, size: tuple[int, int], near: float, cull: bool
) -> _FaceSetup:
    K = K.astype(np.float64)
    points = np.ascontiguousarray(vertices.T, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        in_front = points[2] >= near
        pixels = (K[:2] @ points) / np.where(in_front, points[2], np.nan)
        finite = np.isfinite(points.sum(0))
    parts = [
        _visible_faces(
            points, pixels, in_front, finite, faces[start : start + _FACES_PER_PASS], K, size, near, cull
        )
        for start in range(0, max(len(faces), 1), _FACES_PER_PASS)
    ]
    kept = np.concatenate([part[0] + i * _FACES_PER_PASS for i, part in enumerate(parts)])
    first, last = (np.concatenate([part[i] for part in parts], axis=1) for i in (1, 2))

    corner = np.take(faces, kept, axis=0).T
    x, y, z = np.take(points, corner, axis=1)
    nxt, prv = [1, 2, 0], [2, 0, 1]
    # Edge planes. A shared edge has the same numbers with the sign changed in the neighbour, so that
    # no pixel falls between two faces; BLAS would round by position, hence plain products and sums.
    normal = np.stack(
        [
            y[nxt] * z[prv] - z[nxt] * y[prv],
            z[nxt] * x[prv] - x[nxt] * z[prv],
            x[nxt] * y[prv] - y[nxt] * x[prv],
        ],
        axis=1,
    )
    det = x[0] * normal[0, 0] + y[0] * normal[0, 1] + z[0] * normal[0, 2]
    # Seen edge-on the depth is lost in rounding, and no pixel centre is covered but by chance.
    visible = np.abs(det) > _EDGE_ON * (np.abs(x) + np.abs(y) + np.abs(z)).max(0) ** 3
    if cull:
        visible &= det < 0
    if not visible.all():
        kept, first, last, normal, det, z = (
            np.compress(visible, array, axis=-1) for array in (kept, first, last, normal, det, z)
        )
    normal *= np.sign(det)
    to_x, to_y, to_z = np.linalg.inv(K)[..., None]
    edges = normal[:, 0, None] * to_x + normal[:, 1, None] * to_y + normal[:, 2, None] * to_z
    corners = edges / np.abs(det)

    bounds = edges
    if (z < near).any():
        nearness = -corners.sum(0, keepdims=True)
        nearness[0, 2] += 1 / near
        bounds = np.concatenate([edges, nearness])
    return _FaceSetup(
        face_id=kept,
        corners=corners,
        bounds=bounds,
        first_row=first[1],
        num_rows=last[1] - first[1] + 1,
        first_column=first[0],
        last_column=last[0],
    )


def _visible_faces(
    points: np.ndarray,
    pixels: np.ndarray,
    in_front: np.ndarray,
    finite: np.ndarray,
    faces: np.ndarray,
    K: np.ndarray,
    size: tuple[int, int],
    near: float,
    cull: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Faces that may cover a pixel, with their first and last column and row (2, kept)."""
    corner = np.ascontiguousarray(faces.T)
    u, v = np.take(pixels, corner, axis=1)  # several times as fast as pixels[:, corner]
    given = np.arange(corner.shape[1])
    if cull:
        # Insides are half of the work; what is about edge-on stays for an exact answer.
        with np.errstate(invalid="ignore"):
            inside = (u[1] - u[0]) * (v[2] - v[0]) - (u[2] - u[0]) * (v[1] - v[0]) > _CLEARLY_INSIDE
        given = np.flatnonzero(~inside)
        corner, u, v = (np.take(array, given, axis=1) for array in (corner, u, v))
    low = np.stack([np.fmin(np.fmin(u[0], u[1]), u[2]), np.fmin(np.fmin(v[0], v[1]), v[2])])
    high = np.stack([np.fmax(np.fmax(u[0], u[1]), u[2]), np.fmax(np.fmax(v[0], v[1]), v[2])])
    corners_in_front = in_front[corner].sum(0)
    some = finite[corner].all(0) & (corners_in_front > 0)
    crossing = np.flatnonzero(some & (corners_in_front < 3))
    if len(crossing):
        # The near plane cuts two of the edges; the cuts bound the part that is seen.
        start = points[:, corner[:, crossing]]
        end = np.roll(start, -1, axis=1)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            t = (near - start[2]) / (end[2] - start[2])
            t[(start[2] >= near) == (end[2] >= near)] = np.nan
            cut = np.einsum("ij,jef->ief", K[:2], start + t * (end - start)) / near
        low[:, crossing] = np.fmin(low[:, crossing], np.fmin.reduce(cut, axis=1))
        high[:, crossing] = np.fmax(high[:, crossing], np.fmax.reduce(cut, axis=1))
    limit = np.array([[size[1] - 1], [size[0] - 1]])
    with np.errstate(invalid="ignore"):
        first = np.ceil(np.clip(low, 0, limit + 1))
        last = np.floor(np.clip(high, -1, limit))
        kept = np.flatnonzero(some & (first <= last).all(0))
    first, last = (np.take(array, kept, axis=1).astype(np.int64) for array in (first, last))
    return given[kept], first, last


def _draw(setup: _FaceSetup, part: slice, width: int, key: np.ndarray) -> None:
    """Adds some faces to the buffer of keys: inverse depth in the high half, face in the low half."""
    counts = setup.num_rows[part]
    face = np.repeat(np.arange(part.start, part.stop), counts)
    row = setup.first_row[face] + _ramp(counts)
    left, right = setup.first_column[face].astype(np.float64), setup.last_column[face].astype(np.float64)
    for a, b, c in setup.bounds[:, :, part]:
        with np.errstate(divide="ignore", invalid="ignore"):
            slope, start = -b / a, -c / a
        slope[a == 0] = 0  # parallel to the row: the row range says enough
        start[a == 0] = -np.inf
        upper = a < 0
        crossing = np.repeat(slope, counts) * row + np.repeat(start, counts)
        upper = np.repeat(upper, counts)
        np.maximum(left, crossing, out=left, where=~upper)
        np.minimum(right, crossing, out=right, where=upper)
    left = np.ceil(left, out=left)
    length = np.floor(right, out=right) - left + 1
    spans = np.flatnonzero(length > 0)
    face, row, length = face[spans], row[spans], length[spans].astype(np.int64)
    left = left[spans].astype(np.int64)

    du, dv, offset = setup.corners.sum(0)
    start = dv[face] * row + offset[face]
    step = du[face]
    order = _FACE_MASK - face
    first_pixel = row * width
    for some in _passes(length, _PIXELS_PER_PASS):
        n = length[some]
        column = np.repeat(left[some], n) + _ramp(n)
        inverse_depth = (np.repeat(start[some], n) + np.repeat(step[some], n) * column).astype(np.float32)
        value = inverse_depth.view(np.int32).astype(np.int64) << 32
        value |= np.repeat(order[some], n)
        np.maximum.at(key, np.repeat(first_pixel[some], n) + column, value)


def _resolve(setup: _FaceSetup, key: np.ndarray, size: tuple[int, int]) -> Fragments:
    height, width = size
    depth = np.full(height * width, np.inf, dtype=np.float32)
    face_id = np.full(height * width, -1, dtype=np.int64)
    barycentrics = np.zeros((height * width, 3), dtype=np.float32)
    seen = np.flatnonzero(key != 0)
    for start in range(0, len(seen), _PIXELS_PER_PASS):
        pixel = seen[start : start + _PIXELS_PER_PASS]
        row = pixel // width
        column = pixel - row * width
        kept = _FACE_MASK - (key[pixel] & _FACE_MASK)
        a, b, c = (np.take(setup.corners[:, i], kept, axis=1) for i in range(3))
        weights = a * column + b * row + c
        np.maximum(weights, 0, out=weights)
        inverse_depth = weights[0] + weights[1] + weights[2]
        depth[pixel] = 1 / inverse_depth
        face_id[pixel] = setup.face_id[kept]
        barycentrics[pixel] = (weights / inverse_depth).T
    return Fragments(
        depth=torch.from_numpy(depth).view(height, width),
        face_id=torch.from_numpy(face_id).view(height, width),
        barycentrics=torch.from_numpy(barycentrics).view(height, width, 3),
    )


def _passes(counts: np.ndarray, limit: int) -> Iterator[slice]:
    """Splits items into runs whose counts add up to about `limit` at most."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + limit, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def _ramp(counts: np.ndarray) -> np.ndarray:
    """0, 1, ..., counts[0] - 1, 0, 1, ..., counts[1] - 1, ..."""
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts, counts)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
