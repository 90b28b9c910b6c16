"""Encoder and decoder of FastMETRO (arXiv 2207.13820, sec. 3) and of TORE: learned queries, one camera token.

Pre-norm layers with ReLU and a last norm on both halves, as in the released code and under its key names.
Tokens stand batch first here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.layers.constant import WeightConstant
from fasthmr.layers.neighbours import NARROW, Neighbours, neighbour_attention


def sine_positions(rows: int, columns: int, dim: int) -> Float[Tensor, "tokens dim"]:
    """Sine code of a grid, row by row: y in the first half of the numbers, x in the second.

    Row and column count from 1 and are scaled to 2π; sine and cosine alternate.
    """
    half = dim // 2
    frequency = 10000 ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half)

    def code(count: int) -> Float[Tensor, "count half"]:
        place = torch.arange(1, count + 1) / (count + 1e-6) * (2 * torch.pi)
        angle = place[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1)

    y, x = code(rows), code(columns)
    return torch.cat([y[:, None].expand(-1, columns, -1), x[None].expand(rows, -1, -1)], dim=-1).flatten(0, 1)


def learned_tokens(count: int, dim: int) -> nn.Embedding:
    """Tokens that start at a tenth of the usual size, so that what they read shows beside them at once.

    The released code starts at 1, and long trainings get over it.
    """
    tokens = nn.Embedding(count, dim)
    nn.init.normal_(tokens.weight, std=0.1)
    return tokens


class QueryAttention(nn.Module):
    """Softmax attention with the weights of queries, keys and values in one matrix."""

    def __init__(self, *, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"QueryAttention: dim={dim} is not a multiple of heads={heads}")
        self.dim, self.heads, self.dropout = dim, heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.in_proj_bias)
        nn.init.zeros_(self.out_proj.bias)

    def project(
        self, x: Float[Tensor, "batch tokens dim"], first: int, count: int
    ) -> list[Float[Tensor, "batch heads tokens head_dim"]]:
        """`count` of queries (0), keys (1) and values (2) of tokens, from `first` on."""
        rows = slice(first * self.dim, (first + count) * self.dim)
        projected = F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return list(projected.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0))

    def mix(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch heads tokens head_dim"],
        v: Float[Tensor, "batch heads tokens head_dim"],
        neighbours: Neighbours | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Attend, to allowed pairs alone where `neighbours` are given.

        Scores of forbidden pairs are left out for narrow heads, and masked for wide ones, where that is
        faster.
        """
        dropout = self.dropout if self.training else 0.0
        if neighbours is not None and not dropout and q.shape[-1] <= NARROW:
            mixed = neighbour_attention(q, k, v, neighbours)
        else:
            mask = None if neighbours is None else neighbours.allowed()
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


class _Layer(nn.Module):
    """What both kinds of layers end with."""

    def __init__(self, *, dim: int, heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = QueryAttention(dim=dim, heads=heads, dropout=dropout)
        self.linear1 = nn.Linear(dim, mlp_dim)
        self.linear2 = nn.Linear(mlp_dim, dim)
        for linear in (self.linear1, self.linear2, self.self_attn.out_proj):
            nn.init.xavier_uniform_(linear.weight)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def _mlp(self, x: Tensor) -> Tensor:
        return self._drop(self.linear2(self._drop(F.relu(self.linear1(x)))))


class ContextLayer(_Layer):
    """x += attention(norm1(x)); x += mlp(norm2(x)); positions are added to queries and keys."""

    def __init__(self, *, dim: int, heads: int, mlp_dim: int, dropout: float = 0.0) -> None:
        super().__init__(dim=dim, heads=heads, mlp_dim=mlp_dim, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], positions: Float[Tensor, "#batch tokens dim"]
    ) -> Float[Tensor, "batch tokens dim"]:
        y = self.norm1(x)
        q, k = self.self_attn.project(y + positions, 0, 2)
        (v,) = self.self_attn.project(y, 2, 1)
        x = x + self._drop(self.self_attn.mix(q, k, v))
        return x + self._mlp(self.norm2(x))


class QueryLayer(_Layer):
    """x += attention(norm1(x)); x += attention(norm2(x), context); x += mlp(norm3(x))."""

    def __init__(self, *, dim: int, heads: int, mlp_dim: int, dropout: float = 0.0) -> None:
        super().__init__(dim=dim, heads=heads, mlp_dim=mlp_dim, dropout=dropout)
        self.multihead_attn = QueryAttention(dim=dim, heads=heads, dropout=dropout)
        nn.init.xavier_uniform_(self.multihead_attn.out_proj.weight)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)

    def before_context(
        self, x: Float[Tensor, "batch queries dim"], neighbours: Neighbours | None
    ) -> tuple[Float[Tensor, "batch queries dim"], Float[Tensor, "batch heads queries head_dim"]]:
        """Tokens after their self-attention, and what they ask the context."""
        q, k, v = self.self_attn.project(self.norm1(x), 0, 3)
        x = x + self._drop(self.self_attn.mix(q, k, v, neighbours))
        return x, self.multihead_attn.project(self.norm2(x), 0, 1)[0]

    def read_context(
        self,
        x: Float[Tensor, "#batch queries dim"],
        q: Float[Tensor, "#batch heads queries head_dim"],
        context: Float[Tensor, "batch tokens dim"],
        positions: Float[Tensor, "#batch tokens dim"],
    ) -> Float[Tensor, "batch queries dim"]:
        """Tokens after the context and the feed-forward network, from what `before_context` gave."""
        (k,) = self.multihead_attn.project(context + positions, 1, 1)
        (v,) = self.multihead_attn.project(context, 2, 1)
        x = x + self._drop(self.multihead_attn.mix(q.expand(len(context), -1, -1, -1), k, v))
        return x + self._mlp(self.norm3(x))


class _Stack(nn.Module):
    def __init__(self, layers: list[nn.Module], dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)


@dataclass(frozen=True, kw_only=True)
class QueryTransformerConfig:
    """Sizes of a `QueryTransformer`, as part of a model's configuration.

    Attributes:
        layers: Of the encoder and of the decoder, each.
    """

    dim: int = 512
    mlp_dim: int = 2048
    layers: int = 3
    heads: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.layers < 1 or self.heads < 1 or self.dim % self.heads or self.dim % 4:
            raise ValueError(
                f"QueryTransformerConfig: dim={self.dim}, heads={self.heads}, layers={self.layers}; dim is a "
                "multiple of 4 and of heads, layers is at least 1"
            )

    def build(self) -> QueryTransformer:
        return QueryTransformer(self)


class QueryTransformer(nn.Module):
    """Context tokens and a camera token read one another; then queries read one another and the context.

    Learned queries are the same for every picture, and so is the first self-attention of the decoder: it is
    computed once for a batch, and kept between calls.
    """

    def __init__(self, config: QueryTransformerConfig) -> None:
        super().__init__()
        self.config = config
        sizes = {"dim": config.dim, "heads": config.heads, "mlp_dim": config.mlp_dim}
        self.encoder = _Stack(
            [ContextLayer(**sizes, dropout=config.dropout) for _ in range(config.layers)], config.dim
        )
        self.decoder = _Stack(
            [QueryLayer(**sizes, dropout=config.dropout) for _ in range(config.layers)], config.dim
        )
        self._constant: WeightConstant[tuple[Tensor, Tensor]] = WeightConstant()

    def train(self, mode: bool = True) -> QueryTransformer:
        self._constant.drop()
        return super().train(mode)

    def forward(
        self,
        context: Float[Tensor, "batch tokens dim"],
        camera: Float[Tensor, "batch 1 dim"],
        queries: tuple[Float[Tensor, "_ dim"], ...] | Float[Tensor, "batch queries dim"],
        positions: Float[Tensor, "*samples tokens dim"],
        neighbours: Neighbours | None = None,
    ) -> tuple[
        Float[Tensor, "batch 1 dim"], Float[Tensor, "batch tokens dim"], Float[Tensor, "batch queries dim"]
    ]:
        """The camera token, the context and the queries after all layers.

        Args:
            queries: Tables of learned tokens that follow each other, or tokens of each sample (without the
                shortcut).
            positions: Code of the context tokens; the camera token has none.
            neighbours: Which queries read which in the decoder; None for all.
        """
        positions = positions if positions.dim() == 3 else positions[None]
        camera, context = self._encode(context, camera, positions)
        read, _ = self._decode(context, queries, positions, neighbours)
        return camera, context, self.decoder.norm(read)

    def attention(
        self,
        context: Float[Tensor, "batch tokens dim"],
        camera: Float[Tensor, "batch 1 dim"],
        queries: tuple[Float[Tensor, "_ dim"], ...] | Float[Tensor, "batch queries dim"],
        positions: Float[Tensor, "*samples tokens dim"],
        neighbours: Neighbours | None = None,
    ) -> Float[Tensor, "batch heads queries tokens"]:
        """How much of each context token every query reads in the last layer; rows sum to one."""
        positions = positions if positions.dim() == 3 else positions[None]
        _, context = self._encode(context, camera, positions)
        _, q = self._decode(context, queries, positions, neighbours)
        last = cast("QueryLayer", self.decoder.layers[-1])
        (k,) = last.multihead_attn.project(context + positions, 1, 1)
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)

    def _encode(self, context: Tensor, camera: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([camera, context], dim=1)
        shifted = F.pad(positions, (0, 0, 1, 0))
        for layer in self.encoder.layers:
            x = layer(x, shifted)
        x = self.encoder.norm(x)
        return x[:, :1], x[:, 1:]

    def _decode(
        self,
        context: Tensor,
        queries: tuple[Tensor, ...] | Tensor,
        positions: Tensor,
        neighbours: Neighbours | None,
    ) -> tuple[Tensor, Tensor]:
        """The queries after all layers, and what they asked the context in the last one."""
        read, q = self._start(queries, neighbours, len(context))
        for i, layer in enumerate(cast("list[QueryLayer]", list(self.decoder.layers))):
            if i > 0:
                read, q = layer.before_context(read, neighbours)
            read = layer.read_context(read, q, context, positions)
        return read, q

    def _start(
        self, queries: tuple[Tensor, ...] | Tensor, neighbours: Neighbours | None, batch: int
    ) -> tuple[Tensor, Tensor]:
        """The queries at their first look at the context."""
        layer = cast("QueryLayer", self.decoder.layers[0])
        if isinstance(queries, Tensor):
            return layer.before_context(queries, neighbours)
        learned = queries
        if self.training and layer.dropout:
            return layer.before_context(torch.cat(learned).expand(batch, -1, -1), neighbours)
        parts = (layer.norm1, layer.self_attn, layer.norm2, layer.multihead_attn)
        weights = (*learned, *(weight for part in parts for weight in part.parameters()))
        if neighbours is not None:
            weights += (neighbours.index, neighbours.absent)
        return self._constant.get(
            lambda: layer.before_context(torch.cat(learned)[None], neighbours),
            weights,
            training=self.training,
            about=None if neighbours is None else neighbours.shared,
        )
