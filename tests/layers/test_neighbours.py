from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from fasthmr.errors import UsageError
from fasthmr.layers.mesh_levels import MeshLevelsConfig, MeshOperators
from fasthmr.layers.neighbours import neighbour_attention, neighbours_of


def ring(vertices: int) -> torch.Tensor:
    index = torch.arange(vertices)
    adjacency = torch.zeros(vertices, vertices, dtype=torch.bool)
    adjacency[index, (index + 1) % vertices] = adjacency[(index + 1) % vertices, index] = True
    adjacency[0, vertices // 2] = adjacency[vertices // 2, 0] = True  # rows of unequal length
    return adjacency


def operators(*levels: int) -> MeshOperators:
    torch.manual_seed(5)
    up = []
    for coarse, fine in itertools.pairwise(levels):
        matrix = torch.zeros(fine, coarse, dtype=torch.float64)
        matrix[torch.arange(fine), torch.arange(fine) % coarse] = 0.75
        matrix[torch.arange(0, fine, 2), (torch.arange(0, fine, 2) + 1) % coarse] = 0.25
        up.append(matrix)
    return MeshOperators(adjacency=ring(levels[0]), up=tuple(up))


@pytest.mark.parametrize("shared", [0, 3])
def test_neighbours_alone_equal_the_dense_mask(shared):
    torch.manual_seed(0)
    neighbours = neighbours_of(ring(12), shared)
    q, k, v = torch.randn(3, 2, 4, 12 + shared, 8, dtype=torch.float64).unbind(0)
    dense = F.scaled_dot_product_attention(q, k, v, attn_mask=neighbours.allowed())
    assert torch.allclose(neighbour_attention(q, k, v, neighbours), dense, atol=1e-12)


def test_mask_of_joints_and_mesh():
    allowed = neighbours_of(ring(6), 2).allowed()
    assert allowed[:2].all() and allowed[:, :2].all()
    assert torch.equal(allowed[2:, 2:], ring(6) | torch.eye(6, dtype=torch.bool))


@pytest.mark.parametrize("sparse", [False, True])
def test_operators_in_rows(sparse):
    mesh = operators(6, 11, 20)
    up = tuple(m.to_sparse_coo() if sparse else m for m in mesh.up)
    levels = MeshLevelsConfig(vertices=(6, 11, 20)).build()
    levels.place(MeshOperators(adjacency=mesh.adjacency, up=up))
    coarse = torch.rand(2, 6, 3)
    mid = levels.up(coarse, 0)
    assert torch.allclose(mid, mesh.up[0].float() @ coarse, atol=1e-6)
    assert torch.allclose(levels.up(mid, 1), mesh.up[1].float() @ mid, atol=1e-6)
    assert torch.equal(levels.adjacency(), mesh.adjacency | torch.eye(6, dtype=torch.bool))


def test_a_mesh_is_needed_and_must_fit():
    levels = MeshLevelsConfig(vertices=(6, 11)).build()
    with pytest.raises(UsageError, match="needs the mesh of its body at 6 < 11 vertices"):
        levels.neighbours()
    with pytest.raises(UsageError, match="levels of 7 < 11 vertices, the model 6 < 11"):
        levels.place(operators(7, 11))
    narrow = MeshLevelsConfig(vertices=(6, 11), neighbours=2, stored=True).build()
    with pytest.raises(UsageError, match="up to 4 neighbours"):
        narrow.place(operators(6, 11))


def test_stored_meshes_travel_with_the_weights():
    mesh = operators(6, 11)
    config = mesh.config()
    levels, again = config.build(), config.build()
    levels.place(mesh)
    again.load_state_dict(levels.state_dict())
    assert torch.equal(again.adjacency(), levels.adjacency())
    assert not MeshLevelsConfig(vertices=(6, 11)).build().state_dict()


def test_levels_increase():
    with pytest.raises(ValueError, match="not increasing"):
        MeshLevelsConfig(vertices=(11, 6))
