"""Bodies and hands as METRO-like models learn them: mesh, levels, and joints as sums of vertices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasthmr.body.hand_points import hand_regressor
from fasthmr.body.hierarchy import DEFAULT_BODIES, MeshHierarchy, default_hierarchy
from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import BODY_JOINTS_OF_17
from fasthmr.data.metro_tsv import Kind
from fasthmr.errors import UsageError
from fasthmr.io.body_files import load_body_file
from fasthmr.io.hierarchy_files import load_hierarchy_file
from fasthmr.training.tore_losses import MeshJoints
from fasthmr.types import BodyParams

BODY_14 = (8, 5, 2, 1, 4, 7, 21, 19, 17, 16, 18, 20, 12, 15)
"""The 14 joints of body models among SMPL's 24: right leg up, left leg down, arms alike, neck, head."""

FITTED_LEVELS = 3
"""Coarsest levels that losses compare, as in the papers."""

_PUBLISHED_LEVELS = {"body": 3, "hand": 2}
"""Levels of SMPL and MANO that published models have."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MeshSubject:
    """A body, or hand, as a mesh model sees it.

    Attributes:
        regressor: Its joints from the posed vertices of the finest level, and its root in the last row.
        fitted: The same body at the finest of the levels that losses compare.
    """

    kind: Kind
    body: BodyModel
    hierarchy: MeshHierarchy
    regressor: Float[Tensor, "joints_1 vertices"]
    fitted: BodyModel

    @property
    def compared(self) -> int:
        """Levels that losses compare."""
        return min(len(self.hierarchy.sizes), FITTED_LEVELS)

    @property
    def skipped(self) -> int:
        """Levels finer than those that losses compare."""
        return max(len(self.hierarchy.sizes) - FITTED_LEVELS, 0)

    def faces(self, level: int, *, needed: bool) -> Int[Tensor, "faces 3"]:
        """Triangles of one of the levels that losses compare, the coarsest being 0.

        Args:
            needed: Otherwise any triangles will do.

        Raises:
            UsageError: They are needed and the file of the hierarchy does not hold them.
        """
        place = range(-1, -1 - self.compared, -1)[level]
        faces = self.hierarchy.faces[place]
        if faces is None and (place == -len(self.hierarchy.sizes) or not needed):
            faces = self.body.faces
        if faces is None:
            raise UsageError("terms of surfaces need triangles of every level, which this mesh file lacks")
        return faces

    def joints(self, *, fitted: bool) -> MeshJoints:
        """The regressor for the finest level, or for the finest that losses compare."""
        rows = self.regressor
        for up in self.hierarchy.up[: self.skipped] if fitted else ():
            rows = torch.sparse.mm(up.mT.to(rows.dtype), rows.mT).mT
        return MeshJoints(rows[:-1].contiguous(), rows[-1].contiguous())

    def levels(self, params: BodyParams) -> tuple[Float[Tensor, "batch _vertices 3"], ...]:
        """Posed vertices of the levels that losses compare, coarsest first."""
        vertices = self.fitted(params).vertices
        first = self.skipped
        return tuple(
            self.hierarchy.downsample(vertices, level=first, to=level)
            for level in reversed(range(first, len(self.hierarchy.sizes)))
        )


@lru_cache(maxsize=2)
def mesh_subject(kind: Kind) -> MeshSubject:
    """The free body at 215, 858, 3430 and 13718 vertices, or the free hand at 101, 403 and 1609."""
    body = DEFAULT_BODIES[kind]()
    hierarchy = default_hierarchy(kind).coarser(body.v_template)
    if kind == "body":
        assert body.J_regressor is not None
        rows = body.J_regressor[[*BODY_14, 0]]
    else:
        rows = hand_regressor(body)
        rows = torch.cat([rows, rows[:1]])
    kept = torch.arange(body.num_vertices)
    for ids in hierarchy.kept[: max(len(hierarchy.sizes) - FITTED_LEVELS, 0)]:
        kept = kept[ids]
    fitted = body.restrict(kept)
    return MeshSubject(kind=kind, body=body, hierarchy=hierarchy, regressor=rows, fitted=fitted)


def subject_of_files(kind: Kind, body_file: Path, mesh_file: Path) -> MeshSubject:
    """SMPL or MANO, with the hierarchy of METRO's file.

    Args:
        mesh_file: As published or imported; that of a body imported with METRO's regressor of 17 joints.

    Raises:
        InputError: A file is missing.
        UnsafeFileError: A file is damaged or unsafe.
        UsageError: Body and mesh do not go together, or the regressor is missing; names both.
    """
    body, file = load_body_file(body_file), load_hierarchy_file(mesh_file)
    file.hierarchy.check_body(body.num_vertices, body.name)
    hierarchy = file.hierarchy.first(_PUBLISHED_LEVELS[kind])
    if kind == "hand":
        rows = hand_regressor(body)
        rows = torch.cat([rows, rows[:1]])
    elif file.regressor is None or len(file.regressor) != 17:
        raise UsageError(
            f"{mesh_file} lacks the regressor of its joints; needed: METRO's of "
            "17 joints: fasthmr import mesh_downsampling.npz --regressor J_regressor_h36m_correct.npy"
        )
    else:
        rows = file.regressor.to(body.v_template)[[*BODY_JOINTS_OF_17, 0]]
    return MeshSubject(kind=kind, body=body, hierarchy=hierarchy, regressor=rows, fitted=body)
