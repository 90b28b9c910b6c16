"""Simplification of triangle meshes that keeps a subset of the vertices.

Quadric error metrics (Garland and Heckbert, SIGGRAPH 1997) with collapses of one end of an edge into the
other, so that every vertex of the coarse mesh is one of the fine mesh.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int

Point = tuple[float, float, float]

_EVEN = 1e-3
"""Weight of the squared edge length beside the squared distance to planes: flat parts stay evenly meshed."""

_MIN_TURN = 0.2
"""Cosine between a face's normals before and after a collapse below which it counts as turned over."""


def decimate(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "faces 3"], target: int
) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, "new_faces 3"]]:
    """Simplify a mesh to `target` vertices.

    Boundaries, the number of surfaces and their holes stay as they are; vertices of no face are kept.

    Returns:
        Which vertices are kept, in increasing order, and the faces between them.

    Raises:
        ValueError: The mesh cannot be simplified that far without tearing or folding it.
    """
    mesh = _Mesh(vertices.astype(np.float64), faces)
    remaining = len(vertices)
    while remaining > target:
        if not mesh.heap:
            raise ValueError(
                f"{target} vertices are too few: the mesh of {len(vertices)} comes down to {remaining} "
                "before it would tear or fold"
            )
        remaining -= mesh.collapse_cheapest()
    kept = np.flatnonzero(mesh.alive)
    place = np.full(len(vertices), -1)
    place[kept] = np.arange(len(kept))
    left = np.array([face for face in mesh.faces if face is not None], dtype=np.int64).reshape(-1, 3)
    return kept, place[left]


@no_type_check  # here and below: called for every edge, where checks of types take longer than the work
class _Mesh:
    """A mesh while edges collapse, and the candidates in the order of their cost."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        self.points: list[Point] = [(x, y, z) for x, y, z in vertices.tolist()]
        self.faces: list[tuple[int, int, int] | None] = [(a, b, c) for a, b, c in faces.tolist()]
        self.of_vertex: list[set[int]] = [set() for _ in vertices]
        for index, corners in enumerate(faces.tolist()):
            for corner in corners:
                self.of_vertex[corner].add(index)
        self.quadrics: list[list[float]] = _quadrics(vertices, faces).tolist()
        self.alive = np.ones(len(vertices), dtype=bool)
        self.version = [0] * len(vertices)
        self.heap: list[tuple[float, int, int, int, int]] = []
        for vertex in range(len(vertices)):
            self._offer(vertex, (other for other in self._near(vertex) if other > vertex))
        self.refused: list[list[tuple[float, int, int, int, int]]] = [[] for _ in vertices]

    def collapse_cheapest(self) -> int:
        """Take the cheapest candidate; returns how many vertices it removes (it may be out of date)."""
        candidate = heapq.heappop(self.heap)
        _, gone, into, gone_version, into_version = candidate
        if self.version[gone] != gone_version or self.version[into] != into_version:
            return 0
        if not self._allowed(gone, into):
            self.refused[gone].append(candidate)
            return 0
        for index in list(self.of_vertex[gone]):
            face = self.faces[index]
            assert face is not None
            if into in face:
                self.faces[index] = None
                for corner in face:
                    self.of_vertex[corner].discard(index)
            else:
                a, b, c = (into if corner == gone else corner for corner in face)
                self.faces[index] = (a, b, c)
                self.of_vertex[into].add(index)
        self.of_vertex[gone].clear()
        self.alive[gone] = False
        self.version[gone] += 1
        self.quadrics[into] = [a + b for a, b in zip(self.quadrics[into], self.quadrics[gone], strict=True)]
        changed = self._near(into)
        self.version[into] += 1
        self._offer(into, changed)
        for vertex in changed:  # what was refused round here may be allowed now
            for candidate in self.refused[vertex]:
                heapq.heappush(self.heap, candidate)
            self.refused[vertex].clear()
        return 1

    def _near(self, vertex: int) -> set[int]:
        near: set[int] = set()
        for index in self.of_vertex[vertex]:
            near.update(self.faces[index] or ())
        near.discard(vertex)
        return near

    def _allowed(self, gone: int, into: int) -> bool:
        """Whether the surface stays one of the same kind and no face turns over."""
        shared = self.of_vertex[gone] & self.of_vertex[into]
        near_gone, near_into = self._near(gone), self._near(into)
        if len(near_gone & near_into) != len(shared) or not 1 <= len(shared) <= 2:
            return False
        if self._on_boundary(gone, near_gone) and len(shared) != 1:
            return False
        if len(near_gone | near_into) < 3 + len(shared):
            return False
        return not any(self._turns(index, gone, into) for index in self.of_vertex[gone] - shared)

    def _on_boundary(self, vertex: int, near: set[int]) -> bool:
        return len(near) != len(self.of_vertex[vertex])

    def _turns(self, index: int, gone: int, into: int) -> bool:
        face = self.faces[index]
        assert face is not None
        p, q, r = face
        before = _normal(self.points[p], self.points[q], self.points[r])
        p, q, r = (into if corner == gone else corner for corner in face)
        after = _normal(self.points[p], self.points[q], self.points[r])
        lengths = _dot(before, before) * _dot(after, after)
        return _dot(before, after) <= _MIN_TURN * lengths**0.5

    def _offer(self, vertex: int, others: Iterable[int]) -> None:
        """Put the edges from a vertex among the candidates, in both directions."""
        for other in others:
            quadric = [a + b for a, b in zip(self.quadrics[vertex], self.quadrics[other], strict=True)]
            keep_vertex = _error(quadric, self.points[vertex])
            keep_other = _error(quadric, self.points[other])
            (ax, ay, az), (bx, by, bz) = self.points[vertex], self.points[other]
            even = _EVEN * ((ax - bx) ** 2 + (ay - by) ** 2 + (az - bz) ** 2)
            for cost, gone, into in ((keep_other, vertex, other), (keep_vertex, other, vertex)):
                entry = (cost + even, gone, into, self.version[gone], self.version[into])
                heapq.heappush(self.heap, entry)


def _quadrics(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Of each vertex the sum of squared distances to the planes of its faces, as ten coefficients.

    A boundary edge counts as a face at right angles too.
    """
    corners = vertices[faces]
    normal = _unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    result = np.zeros((len(vertices), 10))
    _add_planes(result, normal, corners[:, 0], faces.T)
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    _, first, count = np.unique(np.sort(directed, axis=1), axis=0, return_index=True, return_counts=True)
    open_edges = first[count == 1]
    ends = directed[open_edges]
    along = vertices[ends[:, 1]] - vertices[ends[:, 0]]
    across = _unit(np.cross(along, normal[open_edges % len(faces)]))
    _add_planes(result, across, vertices[ends[:, 0]], ends.T)
    return result


def _add_planes(result: np.ndarray, normal: np.ndarray, point: np.ndarray, owners: np.ndarray) -> None:
    a, b, c = normal.T
    d = -(normal * point).sum(1)
    plane = np.stack([a * a, b * b, c * c, d * d, a * b, a * c, a * d, b * c, b * d, c * d], axis=1)
    for owner in owners:
        np.add.at(result, owner, plane)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)


@no_type_check
def _error(q: list[float], p: Point) -> float:
    aa, bb, cc, dd, ab, ac, ad, bc, bd, cd = q
    x, y, z = p
    squares = aa * x * x + bb * y * y + cc * z * z + dd
    return max(squares + 2 * (ab * x * y + ac * x * z + ad * x + bc * y * z + bd * y + cd * z), 0.0)


@no_type_check
def _normal(p: Point, q: Point, r: Point) -> Point:
    ax, ay, az = q[0] - p[0], q[1] - p[1], q[2] - p[2]
    bx, by, bz = r[0] - p[0], r[1] - p[1], r[2] - p[2]
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@no_type_check
def _dot(p: Point, q: Point) -> float:
    return p[0] * q[0] + p[1] * q[1] + p[2] * q[2]
