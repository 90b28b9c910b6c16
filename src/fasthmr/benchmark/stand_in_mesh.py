"""Meshes of the right size for models whose own belongs to a body that is not at hand: it takes as long."""

from __future__ import annotations

from itertools import pairwise

import torch

from fasthmr.heads.metro import MetroHead
from fasthmr.layers.mesh_levels import MeshOperators
from fasthmr.models.mesh import MeshModel

_NEIGHBOURS = 3  # on each side; the published meshes have 4 to 11 in all, itself included
_SUPPORT = 3


def give_stand_in_mesh(model: MeshModel, seed: int = 0) -> None:
    """Neighbours in a ring, and fine vertices that are means of three coarse ones; where no mesh is known."""
    if model.has_mesh:
        return
    generator = torch.Generator().manual_seed(seed)
    sizes = model.head.config.mesh.vertices
    near = torch.zeros(sizes[0], sizes[0], dtype=torch.bool)
    place = torch.arange(sizes[0])
    for step in range(1, _NEIGHBOURS + 1):
        other = (place + step) % sizes[0]
        near[place, other] = near[other, place] = True
    up = []
    for coarse, fine in pairwise(sizes):
        columns = torch.randint(coarse, (fine * _SUPPORT,), generator=generator)
        rows = torch.arange(fine).repeat_interleave(_SUPPORT)
        values = torch.full((len(rows),), 1 / _SUPPORT)
        entries = torch.stack([rows, columns])
        matrix = torch.sparse_coo_tensor(entries, values, (fine, coarse), check_invariants=True)
        up.append(matrix.coalesce())
    points = model.head.tokens.points if isinstance(model.head, MetroHead) else 0
    template = torch.randn(points, 3, generator=generator) if points else None
    model.set_mesh(MeshOperators(adjacency=near, up=tuple(up)), template)
