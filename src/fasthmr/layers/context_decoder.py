"""One query token that reads a set of context tokens: the decoder of HMR 2.0 and its relatives.

The released code runs a general transformer decoder. With a single query, three identities make the same
function cheaper (`docs/design/002-hmr2-exact-speedups.md`):

1. softmax over one key is 1, so self-attention is `to_out(V)`;
2. the first token is the same for every picture, so everything before the first look at the context is a
   constant of the weights;
3. q . (W_k c) = (W_kᵀ q) . c and Σ a (W_v c) = W_v (Σ a c), so the key and value projections are applied to
   the one query instead of to all context tokens, for every layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.layers.constant import WeightConstant
from fasthmr.layers.feedforward import FeedForward


def _output_projection(dim: int, heads: int, head_dim: int) -> nn.Module:
    """As in the released code: nothing to project when one head already has the full width."""
    return nn.Identity() if heads == 1 and head_dim == dim else nn.Linear(heads * head_dim, dim)


class LoneSelfAttention(nn.Module):
    """Self-attention of a single token. Queries and keys exist in published weights but have no effect."""

    def __init__(self, *, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.inner = heads * head_dim
        self.to_qkv = nn.Linear(dim, 3 * self.inner, bias=False)
        self.to_out = _output_projection(dim, heads, head_dim)

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        return self.to_out(F.linear(x, self.to_qkv.weight[2 * self.inner :]))


class LoneCrossAttention(nn.Module):
    """Cross-attention of a single query token, without forming keys and values of the context."""

    def __init__(self, *, dim: int, context_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        inner = heads * head_dim
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(context_dim, 2 * inner, bias=False)
        self.to_out = _output_projection(dim, heads, head_dim)

    def context_query(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch heads context_dim"]:
        """The query of each head carried through its key projection: W_kᵀ W_q x."""
        key_weight = self.to_kv.weight[: self.heads * self.head_dim].unflatten(0, (self.heads, self.head_dim))
        query = self.to_q(x).unflatten(-1, (self.heads, self.head_dim)).transpose(0, 1)
        return torch.bmm(query, key_weight.to(query.dtype)).transpose(0, 1)

    def forward(
        self,
        query: Float[Tensor, "batch_or_1 heads context_dim"],
        context: Float[Tensor, "batch tokens context_dim"],
    ) -> Float[Tensor, "batch dim"]:
        """Read the context with what `context_query` returned."""
        query = query.to(context.dtype).expand(context.shape[0], -1, -1)
        shared = context[:, None]
        mixed = F.scaled_dot_product_attention(query[:, None], shared, shared, scale=self.head_dim**-0.5)
        value_weight = self.to_kv.weight[self.heads * self.head_dim :].unflatten(
            0, (self.heads, self.head_dim)
        )
        mixed = mixed[:, 0].transpose(0, 1)
        values = torch.bmm(mixed, value_weight.mT.to(mixed.dtype)).transpose(0, 1)
        return self.to_out(values.flatten(1))


class ContextDecoderLayer(nn.Module):
    """Pre-norm branches of one layer: the token itself, the context, a feed-forward network."""

    def __init__(
        self, *, dim: int, heads: int, head_dim: int, mlp_dim: int, context_dim: int, norm_eps: float
    ) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.self_attention = LoneSelfAttention(dim=dim, heads=heads, head_dim=head_dim)
        self.cross_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.cross_attention = LoneCrossAttention(
            dim=dim, context_dim=context_dim, heads=heads, head_dim=head_dim
        )
        self.mlp_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = FeedForward(dim=dim, hidden=mlp_dim)

    def before_context(
        self, x: Float[Tensor, "batch dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch heads context_dim"]]:
        """The token after its self-attention, and its query to the context."""
        x = x + self.self_attention(self.self_norm(x))
        return x, self.cross_attention.context_query(self.cross_norm(x))

    def read_context(
        self,
        x: Float[Tensor, "batch dim"],
        query: Float[Tensor, "batch_or_1 heads context_dim"],
        context: Float[Tensor, "batch tokens context_dim"],
    ) -> Float[Tensor, "batch dim"]:
        """The token after cross-attention and feed-forward."""
        x = x + self.cross_attention(query, context)
        return x + self.mlp(self.mlp_norm(x))


@dataclass(frozen=True, kw_only=True)
class ContextDecoderConfig:
    """Sizes of a `ContextDecoder`, as part of a head's configuration. The defaults are HMR 2.0's.

    Attributes:
        context_dim: Channels of the context; follows the encoder.
    """

    context_dim: int
    dim: int = 1024
    depth: int = 6
    heads: int = 8
    head_dim: int = 64
    mlp_dim: int = 1024
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"{type(self).__name__}: depth is at least 1")

    def decoder(self, token_dim: int) -> ContextDecoder:
        """The decoder of this size for a token made from `token_dim` numbers."""
        return ContextDecoder(
            token_dim=token_dim,
            dim=self.dim,
            depth=self.depth,
            heads=self.heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            context_dim=self.context_dim,
            norm_eps=self.norm_eps,
        )


class ContextDecoder(nn.Module):
    """Pre-norm layers of self-attention, cross-attention and feed-forward on a single token."""

    def __init__(
        self,
        *,
        token_dim: int,
        dim: int,
        depth: int,
        heads: int,
        head_dim: int,
        mlp_dim: int,
        context_dim: int,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.token_dim = token_dim
        self.to_token_embedding = nn.Linear(token_dim, dim)
        self.pos_embedding = nn.Parameter(torch.empty(1, 1, dim).normal_())
        self.layers = nn.ModuleList(
            ContextDecoderLayer(
                dim=dim,
                heads=heads,
                head_dim=head_dim,
                mlp_dim=mlp_dim,
                context_dim=context_dim,
                norm_eps=norm_eps,
            )
            for _ in range(depth)
        )
        self._constant: WeightConstant[tuple[Tensor, Tensor]] = WeightConstant()

    def train(self, mode: bool = True) -> ContextDecoder:
        self._constant.drop()
        return super().train(mode)

    def forward(
        self,
        context: Float[Tensor, "batch tokens context_dim"],
        token: Float[Tensor, "batch_or_1 token_dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Read the context.

        Args:
            token: Input of the token embedding; None for the constant zero token of the released models.
                A batch of one is shared by all samples.
        """
        x, query = self._constant_start() if token is None else self._start(token)
        x = x.expand(context.shape[0], -1)
        for i, layer in enumerate(self._typed_layers):
            if i > 0:
                x, query = layer.before_context(x)
            x = layer.read_context(x, query, context)
        return x

    @property
    def _typed_layers(self) -> list[ContextDecoderLayer]:
        return cast("list[ContextDecoderLayer]", list(self.layers))

    def _start(
        self, token: Float[Tensor, "batch token_dim"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch heads context_dim"]]:
        """Everything before the first look at the context: the token, and its query there."""
        return self._typed_layers[0].before_context(self.to_token_embedding(token) + self.pos_embedding[0])

    def _constant_start(self) -> tuple[Tensor, Tensor]:
        """`_start` of the zero token, kept between calls while the weights stay as they are."""
        zero = self.pos_embedding.new_zeros(1, self.token_dim)
        weights = (self.pos_embedding, *self.to_token_embedding.parameters(), *self.layers[0].parameters())
        return self._constant.get(lambda: self._start(zero), weights, training=self.training)
