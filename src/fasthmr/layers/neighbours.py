"""Attention of mesh vertices to the vertices beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Which queries may read which: all read the first `shared`, these read all, the rest read neighbours.

    Attributes:
        index: For each query after the shared ones, whom it reads, counted after the shared ones; itself too.
        absent: True where a row of `index` is only filled up.
        shared: Queries in front that read all and are read by all (joint tokens).
        dense: What `allowed` gives, where somebody keeps it.
    """

    index: Int[Tensor, "vertices most"]
    absent: Bool[Tensor, "vertices most"]
    shared: int = 0
    dense: Bool[Tensor, "queries queries"] | None = None

    def allowed(self) -> Bool[Tensor, "queries queries"]:
        """The same as a dense mask, true where a row may read a column."""
        if self.dense is not None:
            return self.dense
        vertices = len(self.index)
        near = torch.zeros(vertices, vertices + 1, dtype=torch.bool, device=self.index.device)
        near.scatter_(1, torch.where(self.absent, vertices, self.index), True)
        mask = torch.ones(
            vertices + self.shared, vertices + self.shared, dtype=torch.bool, device=self.index.device
        )
        mask[self.shared :, self.shared :] = near[:, :vertices]
        return mask


NARROW = 16
"""Width of a head up to which gathering neighbours is faster than scores of all pairs (measured on a CPU)."""


def neighbours_of(adjacency: Bool[Tensor, "vertices vertices"], shared: int = 0) -> Neighbours:
    """Neighbours from pairs of vertices; every vertex counts as its own neighbour."""
    near = adjacency.clone()
    near.fill_diagonal_(True)
    most = int(near.sum(1).max())
    order = torch.sort(near.to(torch.uint8), dim=1, descending=True, stable=True)
    return Neighbours(
        index=order.indices[:, :most].contiguous(),
        absent=order.values[:, :most] == 0,
        shared=shared,
    )


def mix_rows(
    x: Float[Tensor, "batch sources dim"],
    index: Int[Tensor, "rows most"],
    weight: Float[Tensor, "rows most"],
) -> Float[Tensor, "batch rows dim"]:
    """A sparse matrix whose rows are filled up to equal length, times `x`."""
    parts = x.index_select(1, index.flatten()).unflatten(1, tuple(index.shape))
    return (parts * weight[..., None]).sum(2)


def neighbour_attention(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch heads queries head_dim"],
    v: Float[Tensor, "batch heads queries head_dim"],
    neighbours: Neighbours,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """softmax(q kᵀ / √d) v over allowed pairs alone, without the scores of the others.

    Equal to attention under the dense mask `neighbours.allowed()`, where forbidden scores are -inf.
    """
    shared, (vertices, most) = neighbours.shared, neighbours.index.shape
    asked = q[:, :, shared:] * q.shape[-1] ** -0.5
    near = neighbours.index.flatten() + shared
    near_k, near_v = (x.index_select(2, near).unflatten(2, (vertices, most)) for x in (k, v))
    scores = torch.matmul(near_k, asked[..., None])[..., 0].masked_fill(neighbours.absent, -torch.inf)
    if not shared:
        return torch.matmul(scores.softmax(-1)[..., None, :], near_v)[..., 0, :]
    scores = torch.cat([asked @ k[:, :, :shared].mT, scores], dim=-1).softmax(-1)
    mixed = torch.matmul(scores[..., None, shared:], near_v)[..., 0, :]
    mixed = mixed + scores[..., :shared] @ v[:, :, :shared]
    return torch.cat([F.scaled_dot_product_attention(q[:, :, :shared], k, v), mixed], dim=2)
