"""A body mesh at several resolutions, as METRO, FastMETRO and TORE use it.

Every coarser level is a subset of the vertices of the level before it; `up` brings values back. Hierarchies
come from a user's file (`fasthmr.io.hierarchy_files`) or are computed here for any mesh. `docs/design/023`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasthmr.body.default_body import load_default_body, load_default_hand, read_asset
from fasthmr.errors import UsageError
from fasthmr.geometry.decimation import decimate
from fasthmr.geometry.meshes import mesh_edges, vertices_in_triangles

_FACTOR = 4
"""Vertices of a level to those of the next coarser one."""

DEFAULT_BODIES = {"body": load_default_body, "hand": load_default_hand}
DEFAULT_LEVELS = {"body": 3, "hand": 2}
HIERARCHIES_FILE = "hierarchies.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshHierarchy:
    """Levels of a mesh, finest first.

    Attributes:
        sizes: Vertices of each level.
        up: From level i + 1 to level i, sparse (fine, coarse) in double precision.
        kept: For each vertex of level i + 1 the vertex of level i that it is.
        edges: Pairs of neighbours of each level, the smaller index first.
        faces: Triangles of each level; None where a file does not say.
    """

    sizes: tuple[int, ...]
    up: tuple[Float[Tensor, "_fine _coarse"], ...]
    kept: tuple[Int[Tensor, " _coarse"], ...]
    edges: tuple[Int[Tensor, "_edges 2"], ...]
    faces: tuple[Int[Tensor, "_faces 3"] | None, ...]

    def __post_init__(self) -> None:
        if not len(self.up) == len(self.kept) == len(self.sizes) - 1:
            raise ValueError(f"MeshHierarchy: {len(self.up)} operators between {len(self.sizes)} levels")
        if not len(self.edges) == len(self.faces) == len(self.sizes):
            raise ValueError("MeshHierarchy: edges and faces are needed for every level")
        for (fine, coarse), up, kept in zip(pairwise(self.sizes), self.up, self.kept, strict=True):
            if up.shape != (fine, coarse) or kept.shape != (coarse,):
                raise ValueError(f"MeshHierarchy: an operator {tuple(up.shape)} between {fine} and {coarse}")

    def adjacency(self, level: int = -1) -> Bool[Tensor, "vertices vertices"]:
        """Which vertices of a level share an edge; every vertex is beside itself, so no row is empty."""
        near = torch.eye(self.sizes[level], dtype=torch.bool)
        first, second = self.edges[level].unbind(1)
        near[first, second] = near[second, first] = True
        return near

    def coarsest_first(self) -> tuple[Float[Tensor, "_fine _coarse"], ...]:
        """The operators `up` in the order in which a network applies them."""
        return self.up[::-1]

    def upsample(
        self, coarse: Float[Tensor, "*batch coarse channels"], *, level: int = -1, to: int = 0
    ) -> Float[Tensor, "*batch fine channels"]:
        """Values at the vertices of one level brought to a finer one."""
        level = range(len(self.sizes))[level]
        for operator in reversed(self.up[to:level]):
            flat = coarse.movedim(-2, 0).flatten(1)
            mixed = torch.sparse.mm(operator.to(coarse), flat)
            coarse = mixed.unflatten(1, (*coarse.shape[:-2], coarse.shape[-1])).movedim(0, -2)
        return coarse

    def downsample(
        self, fine: Float[Tensor, "*batch fine channels"], *, level: int = 0, to: int = -1
    ) -> Float[Tensor, "*batch coarse channels"]:
        """Values at the vertices of one level at those that a coarser one keeps."""
        for kept in self.kept[level : range(len(self.sizes))[to]]:
            fine = fine[..., kept.to(fine.device), :]
        return fine

    def first(self, levels: int) -> MeshHierarchy:
        """The finest levels alone; the published hand file has five, of which networks use two.

        Raises:
            UsageError: There are not so many.
        """
        if not 1 <= levels <= len(self.sizes):
            raise UsageError(f"{levels} levels of a mesh hierarchy that has {_chain(self.sizes)} vertices")
        return MeshHierarchy(
            sizes=self.sizes[:levels],
            up=self.up[: levels - 1],
            kept=self.kept[: levels - 1],
            edges=self.edges[:levels],
            faces=self.faces[:levels],
        )

    def coarser(self, template: Float[Tensor, "vertices 3"]) -> MeshHierarchy:
        """With one more level, of a quarter of the vertices of the coarsest; each level needs its faces.

        Raises:
            UsageError: The coarsest level has no faces.
            ValueError: It cannot be simplified that far without tearing or folding.
        """
        faces = self.faces[-1]
        if faces is None:
            raise UsageError(f"a mesh hierarchy of {_chain(self.sizes)} vertices without faces")
        points = self.downsample(template)
        more = build_hierarchy(points, faces, levels=2)
        return MeshHierarchy(
            sizes=(*self.sizes, more.sizes[1]),
            up=(*self.up, *more.up),
            kept=(*self.kept, *more.kept),
            edges=(*self.edges, more.edges[1]),
            faces=(*self.faces, more.faces[1]),
        )

    def check_body(self, vertices: int, name: str) -> None:
        """Make sure that the finest level is the mesh of a body.

        Raises:
            UsageError: It is not; names both.
        """
        if vertices != self.sizes[0]:
            raise UsageError(
                f"the mesh hierarchy has {_chain(self.sizes)} vertices and the body '{name}' has {vertices}; "
                "give the hierarchy of this body, or compute one with build_hierarchy"
            )


def build_hierarchy(
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    *,
    levels: int = 3,
    sizes: Sequence[int] | None = None,
) -> MeshHierarchy:
    """Compute a hierarchy of any mesh: quadric-error simplification by four from level to level.

    A vertex that a level drops is expressed by the corners of the nearest triangle of that level, with
    weights that sum to one, so that the operators follow translations and rotations of the mesh.

    Args:
        vertices: The template, in metres.
        levels: How many in all, the mesh itself included.
        sizes: Vertices of each coarser level instead of a quarter each time.

    Raises:
        ValueError: The mesh cannot be simplified that far without tearing or folding.
    """
    if sizes is None:
        count, chosen = len(vertices), []
        for _ in range(levels - 1):
            count = -(-count // _FACTOR)
            chosen.append(count)
        sizes = chosen
    points, triangles = vertices.detach().cpu().double().numpy(), faces.cpu().long().numpy()
    coarser = []
    for size in sizes:
        kept, triangles = decimate(points, triangles, size)
        points = points[kept]
        coarser.append((torch.from_numpy(kept), torch.from_numpy(triangles)))
    return _join_levels(vertices, faces, coarser)


@lru_cache(maxsize=2)
def default_hierarchy(kind: Literal["body", "hand"]) -> MeshHierarchy:
    """Hierarchy of the free body (13718, 3430 and 858 vertices) or of the free hand (1609 and 403).

    The choice of vertices comes with the package, written by `scripts/bake_hierarchies.py`.
    """
    model = DEFAULT_BODIES[kind]()
    stored, _ = read_asset(HIERARCHIES_FILE)
    steps = range(1, DEFAULT_LEVELS[kind])
    coarser = [(stored[f"{kind}.kept{i}"].long(), stored[f"{kind}.faces{i}"].long()) for i in steps]
    return _join_levels(model.v_template, model.faces, coarser)


def mesh_fingerprint(vertices: Float[Tensor, "vertices 3"], faces: Int[Tensor, "faces 3"]) -> str:
    """A digest of a mesh, to know it again."""
    digest = hashlib.sha256(vertices.detach().cpu().double().contiguous().numpy().tobytes())
    digest.update(faces.cpu().long().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _join_levels(
    vertices: Float[Tensor, "vertices 3"],
    faces: Int[Tensor, "faces 3"],
    coarser: Sequence[tuple[Int[Tensor, " _kept"], Int[Tensor, "_faces 3"]]],
) -> MeshHierarchy:
    """The hierarchy of a mesh from the vertices that each coarser level keeps and the faces between them."""
    points, all_faces, ups = vertices.detach().cpu().double(), [faces.cpu().long()], []
    for kept, triangles in coarser:
        ups.append(_up_operator(points, kept, triangles))
        all_faces.append(triangles)
        points = points[kept]
    return MeshHierarchy(
        sizes=(len(vertices), *(len(kept) for kept, _ in coarser)),
        up=tuple(ups),
        kept=tuple(kept for kept, _ in coarser),
        edges=tuple(mesh_edges(level) for level in all_faces),
        faces=tuple(all_faces),
    )


def _up_operator(
    points: Float[Tensor, "fine 3"], kept: Int[Tensor, " coarse"], faces: Int[Tensor, "faces 3"]
) -> Float[Tensor, "fine coarse"]:
    """Kept vertices are themselves; the others lie in, or near, a triangle."""
    dropped = torch.from_numpy(np.setdiff1d(np.arange(len(points)), kept.numpy()))
    corners, weights = vertices_in_triangles(points[dropped], points[kept], faces)
    rows = torch.cat([kept, dropped.repeat_interleave(3)])
    columns = torch.cat([torch.arange(len(kept)), corners.flatten()])
    values = torch.cat([torch.ones(len(kept), dtype=points.dtype), weights.flatten()])
    size = (len(points), len(kept))
    return torch.sparse_coo_tensor(
        torch.stack([rows, columns]), values, size, check_invariants=True
    ).coalesce()


def _chain(sizes: Sequence[int]) -> str:
    return " > ".join(map(str, sizes))
