"""Geometry token reduction: a mesh from the tokens of a few joints (TORE, arXiv 2211.10705, sec. 3.2).

The transformers in front then carry joint tokens alone. Three ways from joints to vertices are compared in
the paper's table 7; the Neural Shape Regressor is the published one. The other two are not published beyond
their names, so their sizes are this project's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.layers.neighbours import Neighbours, mix_rows
from fasthmr.layers.query_transformer import (
    QueryTransformer,
    QueryTransformerConfig,
    learned_tokens,
    sine_positions,
)

Regressed = tuple[Float[Tensor, "batch vertices 3"], Float[Tensor, "batch 1 dim"]]
"""Vertices in metres, and the camera token afterwards."""


@dataclass(frozen=True, kw_only=True)
class NSRConfig:
    """Sizes of a `NeuralShapeRegressor`; the paper's by default.

    Attributes:
        dim: Width of the joint tokens that it reads.
        layers: Of its encoder and of its decoder, each.
    """

    dim: int = 128
    mlp_dim: int = 512
    layers: int = 3
    heads: int = 8
    dropout: float = 0.1

    def build(self, joints: int, vertices: int) -> NeuralShapeRegressor:
        return NeuralShapeRegressor(self, joints, vertices)


class NeuralShapeRegressor(nn.Module):
    """Joint tokens read one another and the camera; learned vertex tokens read their neighbours and them.

    A whole encoder and decoder, as released; the paper's text speaks of the cross-attention alone.
    """

    transformer: QueryTransformer

    def __init__(self, config: NSRConfig, joints: int, vertices: int) -> None:
        super().__init__()
        self.config = config
        self.transformer = QueryTransformerConfig(
            dim=config.dim,
            mlp_dim=config.mlp_dim,
            layers=config.layers,
            heads=config.heads,
            dropout=config.dropout,
        ).build()
        self.vertex_token_embed = learned_tokens(vertices, config.dim)
        self.xyz_regressor_v = nn.Linear(config.dim, 3)
        self.register_buffer("positions", sine_positions(joints, 1, config.dim), persistent=False)

    positions: Tensor

    def forward(
        self,
        body: Float[Tensor, "batch joints dim"],
        camera: Float[Tensor, "batch 1 dim"],
        neighbours: Neighbours,
    ) -> Regressed:
        camera, _, vertices = self.transformer(
            body, camera, (self.vertex_token_embed.weight,), self.positions, neighbours
        )
        return self.xyz_regressor_v(vertices), camera

    def attention(
        self,
        body: Float[Tensor, "batch joints dim"],
        camera: Float[Tensor, "batch 1 dim"],
        neighbours: Neighbours,
    ) -> Float[Tensor, "batch heads vertices joints"]:
        """How much of each joint every vertex reads in the last layer (the paper's figure 8)."""
        queries = (self.vertex_token_embed.weight,)
        return self.transformer.attention(body, camera, queries, self.positions, neighbours)


@dataclass(frozen=True, kw_only=True)
class MLPRegressorConfig:
    """Sizes of an `MLPRegressor`."""

    dim: int = 128
    hidden: int = 512

    def build(self, joints: int, vertices: int) -> MLPRegressor:
        return MLPRegressor(self, joints, vertices)


class MLPRegressor(nn.Module):
    """All joint tokens at once through two hidden layers to all vertices."""

    def __init__(self, config: MLPRegressorConfig, joints: int, vertices: int) -> None:
        super().__init__()
        self.config, self.vertices = config, vertices
        self.fc1 = nn.Linear(joints * config.dim, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.hidden)
        self.fc3 = nn.Linear(config.hidden, 3 * vertices)

    def forward(
        self,
        body: Float[Tensor, "batch joints dim"],
        camera: Float[Tensor, "batch 1 dim"],
        neighbours: Neighbours,
    ) -> Regressed:
        hidden = F.gelu(self.fc2(F.gelu(self.fc1(body.flatten(1)))))
        return self.fc3(hidden).unflatten(-1, (self.vertices, 3)), camera


@dataclass(frozen=True, kw_only=True)
class GCNRegressorConfig:
    """Sizes of a `GCNRegressor`."""

    dim: int = 128
    layers: int = 3

    def build(self, joints: int, vertices: int) -> GCNRegressor:
        return GCNRegressor(self, joints, vertices)


class GCNRegressor(nn.Module):
    """Joint tokens spread over the vertices by learned weights, then graph convolutions on the mesh."""

    def __init__(self, config: GCNRegressorConfig, joints: int, vertices: int) -> None:
        super().__init__()
        self.config = config
        self.spread = nn.Linear(joints, vertices)
        self.own = nn.ModuleList(nn.Linear(config.dim, config.dim) for _ in range(config.layers))
        self.near = nn.ModuleList(nn.Linear(config.dim, config.dim, bias=False) for _ in range(config.layers))
        self.norms = nn.ModuleList(nn.LayerNorm(config.dim) for _ in range(config.layers))
        self.xyz_regressor_v = nn.Linear(config.dim, 3)

    def forward(
        self,
        body: Float[Tensor, "batch joints dim"],
        camera: Float[Tensor, "batch 1 dim"],
        neighbours: Neighbours,
    ) -> Regressed:
        x = self.spread(body.mT).mT
        for own, near, norm in zip(self.own, self.near, self.norms, strict=True):
            y = norm(x)
            x = x + F.relu(own(y) + near(_mean_of_neighbours(y, neighbours)))
        return self.xyz_regressor_v(x), camera


def _mean_of_neighbours(
    x: Float[Tensor, "batch vertices dim"], neighbours: Neighbours
) -> Float[Tensor, "batch vertices dim"]:
    present = (~neighbours.absent).to(x.dtype)
    weight = present / present.sum(1, keepdim=True).clamp(min=1)
    return mix_rows(x, neighbours.index, weight)
