"""What mesh heads need to know of a mesh: who is beside whom, and how coarse vertices become fine ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fasthmr.errors import UsageError
from fasthmr.layers.constant import WeightConstant
from fasthmr.layers.neighbours import Neighbours, mix_rows, neighbours_of


@dataclass(frozen=True, kw_only=True)
class MeshLevelsConfig:
    """Sizes of a mesh at several resolutions.

    Attributes:
        vertices: Of each level, coarsest first.
        neighbours: Most vertices beside one of the coarsest level, itself included.
        support: Most coarse vertices that one of the next finer level is made of. Both are binding only
            where the mesh is stored.
        stored: Whether adjacency and operators are saved with the weights. Published files leave them out; a
            model for a mesh of one's own carries them.
    """

    vertices: tuple[int, ...] = (431, 1723, 6890)
    neighbours: int = 11
    support: int = 3
    stored: bool = False

    def __post_init__(self) -> None:
        if not self.vertices or list(self.vertices) != sorted(set(self.vertices)):
            raise ValueError(f"MeshLevelsConfig: vertices={self.vertices} are not increasing")

    def build(self) -> MeshLevels:
        return MeshLevels(self)


@dataclass(frozen=True, kw_only=True)
class MeshOperators:
    """A mesh at several resolutions, as a user's files or `body.hierarchy` give it.

    Attributes:
        adjacency: Pairs of vertices of the coarsest level that share an edge; the diagonal does not matter.
        up: Matrices from each level to the next finer one, coarsest first; dense or sparse.
    """

    adjacency: Bool[Tensor, "coarse coarse"]
    up: tuple[Tensor, ...]

    def config(self, *, stored: bool = True) -> MeshLevelsConfig:
        """Sizes that fit."""
        near = self.adjacency.clone()
        near.fill_diagonal_(True)
        rows = [_to_coo(matrix) for matrix in self.up]
        support = [torch.bincount(m.indices()[0], minlength=1).max().item() for m in rows]
        return MeshLevelsConfig(
            vertices=(len(self.adjacency), *(matrix.shape[0] for matrix in self.up)),
            neighbours=int(near.sum(1).max()),
            support=int(max([1, *support])),
            stored=stored,
        )


class MeshLevels(nn.Module):
    """Adjacency and upsampling operators in rows of equal length.

    They are zero until `place` or until weights that carry them are loaded.
    """

    near_index: Tensor
    near_absent: Tensor

    def __init__(self, config: MeshLevelsConfig) -> None:
        super().__init__()
        self.config = config
        coarse = config.vertices[0]
        self._keep("near_index", torch.zeros(coarse, config.neighbours, dtype=torch.int64))
        self._keep("near_absent", torch.ones(coarse, config.neighbours, dtype=torch.bool))
        for i, fine in enumerate(config.vertices[1:]):
            self._keep(f"up_index_{i}", torch.zeros(fine, config.support, dtype=torch.int64))
            self._keep(f"up_weight_{i}", torch.zeros(fine, config.support))
        self._placed = False
        self._dense: WeightConstant[Tensor] = WeightConstant()

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=self.config.stored)

    def place(self, operators: MeshOperators) -> None:
        """Take over adjacency and operators.

        Raises:
            UsageError: They are of another mesh; names both.
        """
        found, own = operators.config(), self.config
        sizes_in = tuple(matrix.shape[1] for matrix in operators.up)
        if found.vertices != own.vertices or sizes_in != own.vertices[:-1]:
            raise UsageError(
                f"the mesh has levels of {_chain(found.vertices)} vertices, the model "
                f"{_chain(own.vertices)}; give the hierarchy of the model's body"
            )
        room = found.neighbours <= own.neighbours and found.support <= own.support
        if own.stored and not room:
            raise UsageError(
                f"the mesh has up to {found.neighbours} neighbours and {found.support} coarse vertices to a "
                f"fine one, the model room for {own.neighbours} and {own.support}"
            )
        near = neighbours_of(operators.adjacency.cpu())
        self._take("near_index", near.index, False)
        self._take("near_absent", near.absent, True)
        for i, matrix in enumerate(operators.up):
            index, weight = _rows(matrix)
            self._take(f"up_index_{i}", index, False)
            self._take(f"up_weight_{i}", weight, False)
        self._placed = True

    @property
    def known(self) -> bool:
        """Whether the mesh is there, placed or loaded with the weights."""
        if self.near_absent.is_meta:
            return True
        self._placed = self._placed or not bool(self.near_absent.all())
        return self._placed

    def neighbours(self, shared: int = 0) -> Neighbours:
        """Who reads whom at the coarsest level, behind `shared` tokens that all read.

        Raises:
            UsageError: The mesh is not known yet.
        """
        self._check()
        plain = Neighbours(index=self.near_index, absent=self.near_absent, shared=shared)
        buffers = (self.near_index, self.near_absent)
        dense = self._dense.get(plain.allowed, buffers, training=False, about=shared)
        return replace(plain, dense=dense)

    def adjacency(self) -> Bool[Tensor, "coarse coarse"]:
        """The same as pairs, with the diagonal."""
        return self.neighbours().allowed()

    def up(self, vertices: Float[Tensor, "batch coarse 3"], level: int) -> Float[Tensor, "batch fine 3"]:
        """Vertices of the level after `level` (0 is the coarsest), a few coarse ones each.

        Raises:
            UsageError: The mesh is not known yet.
        """
        self._check()
        index = self.get_buffer(f"up_index_{level}")
        weight = self.get_buffer(f"up_weight_{level}").to(vertices.dtype)
        return mix_rows(vertices, index, weight)

    def _take(self, name: str, rows: Tensor, rest: bool) -> None:
        """Put rows into a buffer, filled up to its width where that is saved with the weights."""
        old = self.get_buffer(name)
        width = old.shape[1] if self.config.stored else rows.shape[1]
        new = torch.full((len(rows), width), rest, dtype=old.dtype, device=old.device)
        new[:, : rows.shape[1]] = rows.to(old.device, old.dtype)
        setattr(self, name, new)

    def _check(self) -> None:
        if not self.known:
            raise UsageError(
                f"this model needs the mesh of its body at {_chain(self.config.vertices)} vertices, which "
                "published weight files do not hold: model.set_mesh(operators)"
            )


def _to_coo(matrix: Tensor) -> Tensor:
    return (matrix if matrix.layout == torch.sparse_coo else matrix.to_sparse_coo()).coalesce()


def _rows(
    matrix: Tensor,
) -> tuple[Int[Tensor, "fine support"], Float[Tensor, "fine support"]]:
    """Columns and values of a sparse matrix in rows of equal length, filled up with zeros."""
    coo = _to_coo(matrix.cpu())
    row, column = coo.indices()
    counts = torch.bincount(row, minlength=matrix.shape[0])
    slot = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    index = torch.zeros(matrix.shape[0], int(counts.max()), dtype=torch.int64)
    weight = torch.zeros(index.shape, dtype=torch.float64)
    index[row, slot] = column
    weight[row, slot] = coo.values().double()
    return index, weight


def _chain(vertices: Sequence[int]) -> str:
    return " < ".join(map(str, vertices))
