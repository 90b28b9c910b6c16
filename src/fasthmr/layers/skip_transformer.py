"""Post-norm transformer layers in a stack with long skips, and learned positions.

The blocks of MLD (arXiv 2212.04048, sec. 3.1 and its released code), which FastHMR's motion models follow
(arXiv 2510.10868, tables 14 and 15). Tokens stand batch first here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fasthmr.layers.constant import WeightConstant
from fasthmr.layers.feedforward import FeedForward


@dataclass(frozen=True, kw_only=True)
class SkipStackConfig:
    """Sizes of a `SkipEncoder` or `SkipDecoder`, as part of a model's configuration.

    Attributes:
        width: Numbers of a token.
        layers: Odd: as many before the middle one as after it.
        mlp_dim: Hidden size of the feed-forward networks.
        max_tokens: Rows of the position table.
    """

    width: int = 512
    layers: int = 5
    heads: int = 4
    mlp_dim: int = 1024
    max_tokens: int = 500
    dropout: float = 0.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"{name}: width={self.width} is not a multiple of heads={self.heads}")
        if self.layers < 1 or self.layers % 2 == 0:
            raise ValueError(f"{name}: layers={self.layers}; long skips need an odd number")


def length_mask(lengths: Int[Tensor, "batch"], tokens: int) -> Bool[Tensor, "batch tokens"]:
    """Which of `tokens` places are in use when a sequence fills the first `lengths` of them."""
    return torch.arange(tokens, device=lengths.device) < lengths[:, None]


class MultiHeadAttention(nn.Module):
    """Softmax attention with one fused projection for queries, keys and values.

    Queries can come from one sequence, keys and values from another.
    """

    def __init__(self, *, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim, self.heads, self.dropout = dim, heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def queries(self, x: Float[Tensor, "batch queries dim"]) -> Float[Tensor, "batch heads queries head_dim"]:
        """What tokens ask."""
        projected = F.linear(x, self.qkv.weight[: self.dim], self.qkv.bias[: self.dim])
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(
        self, x: Float[Tensor, "batch tokens dim"]
    ) -> tuple[Float[Tensor, "batch heads tokens head_dim"], Float[Tensor, "batch heads tokens head_dim"]]:
        """By what tokens are found, and what they give."""
        projected = F.linear(x, self.qkv.weight[self.dim :], self.qkv.bias[self.dim :])
        k, v = projected.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return k, v

    def mix(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch heads tokens head_dim"],
        v: Float[Tensor, "batch heads tokens head_dim"],
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Attend. Tokens whose `key_mask` is false are not read."""
        mask = None if key_mask is None else key_mask[:, None, None]
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate)
        return self.proj(mixed.transpose(1, 2).flatten(-2))

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
        keep: slice | None = None,
    ) -> Float[Tensor, "batch kept dim"]:
        """Self-attention.

        Args:
            keep: Tokens whose outputs are wanted; all if None.
        """
        if keep is None:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, (k, v) = self.queries(x[:, keep]), self.keys_values(x)
        return self.mix(q, k, v, key_mask)


class PostNormLayer(nn.Module):
    """x = norm1(x + attention(x)); x = norm2(x + mlp(x))."""

    def __init__(self, *, dim: int, heads: int, mlp_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attention = MultiHeadAttention(dim=dim, heads=heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim=dim, hidden=mlp_dim, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
        keep: slice | None = None,
    ) -> Float[Tensor, "batch kept dim"]:
        """The tokens, or those of `keep`, after the layer. Where `key_mask` is false they are not read."""
        kept = x if keep is None else x[:, keep]
        kept = self.norm1(kept + self._drop(self.self_attention(x, key_mask, keep)))
        return self.norm2(kept + self._drop(self.mlp(kept)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class PostNormCrossLayer(nn.Module):
    """x = norm1(x + attention(x)); x = norm2(x + attention(x, memory)); x = norm3(x + mlp(x))."""

    def __init__(self, *, dim: int, heads: int, mlp_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attention = MultiHeadAttention(dim=dim, heads=heads, dropout=dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attention = MultiHeadAttention(dim=dim, heads=heads, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim=dim, hidden=mlp_dim, dropout=dropout)
        self.norm3 = nn.LayerNorm(dim)

    def before_memory(
        self, x: Float[Tensor, "batch tokens dim"], key_mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch heads tokens head_dim"]]:
        """Tokens after their self-attention, and what they ask the memory."""
        x = self.norm1(x + self._drop(self.self_attention(x, key_mask)))
        return x, self.cross_attention.queries(x)

    def read_memory(
        self,
        x: Float[Tensor, "batch_or_1 tokens dim"],
        q: Float[Tensor, "batch_or_1 heads tokens head_dim"],
        memory: Float[Tensor, "batch memory_tokens dim"],
    ) -> Float[Tensor, "batch tokens dim"]:
        """Tokens after the memory and the feed-forward network, from what `before_memory` gave."""
        q = q.expand(memory.shape[0], -1, -1, -1)
        k, v = self.cross_attention.keys_values(memory)
        x = self.norm2(x + self._drop(self.cross_attention.mix(q, k, v)))
        return self.norm3(x + self._drop(self.mlp(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class _SkipStack(nn.Module):
    """Layers 1..n of odd n, where the input of each layer behind the middle one is joined with the output of
    its mirror image before it, as in a U-Net; learned positions before them and a norm after."""

    def __init__(
        self, layer: type[PostNormLayer] | type[PostNormCrossLayer], config: SkipStackConfig
    ) -> None:
        super().__init__()
        dim, half = config.width, config.layers // 2

        def make() -> nn.Module:
            return layer(dim=dim, heads=config.heads, mlp_dim=config.mlp_dim, dropout=config.dropout)

        self.positions = nn.Parameter(torch.empty(config.max_tokens, 1, dim).uniform_())
        self.first = nn.ModuleList(make() for _ in range(half))
        self.middle = make()
        self.last = nn.ModuleList(make() for _ in range(half))
        self.joins = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(half))
        self.norm = nn.LayerNorm(dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def _positions(self, tokens: int) -> Float[Tensor, "1 tokens dim"]:
        if tokens > len(self.positions):
            raise ValueError(
                f"{tokens} tokens in a sequence, but positions for {len(self.positions)}; cut it into windows"
            )
        return self.positions[:tokens].transpose(0, 1)


class SkipEncoder(_SkipStack):
    """Tokens that read one another.

    In the last layer only those tokens are computed whose outputs are wanted; the others serve as keys and
    values there.
    """

    def __init__(self, config: SkipStackConfig) -> None:
        super().__init__(PostNormLayer, config)

    def forward(
        self,
        x: Float[Tensor, "batch tokens dim"],
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
        keep: slice | None = None,
    ) -> Float[Tensor, "batch kept dim"]:
        """The tokens, or those of `keep`, after all layers.

        Args:
            key_mask: False for tokens that are not to be read; at least one of each sequence is.

        Raises:
            ValueError: More tokens than positions.
        """
        x = x + self._positions(x.shape[1])
        skipped: list[Tensor] = []
        for layer in self.first:
            x = layer(x, key_mask)
            skipped.append(x)
        x = self.middle(x, key_mask, keep if not skipped else None)
        for join, layer in zip(self.joins, self.last, strict=True):
            x = join(torch.cat([x, skipped.pop()], dim=-1))
            x = layer(x, key_mask, keep if not skipped else None)
        return self.norm(x)


class SkipDecoder(_SkipStack):
    """Tokens that differ by position alone, and read one another and a memory.

    All before the first look at the memory depends on weights and the number of tokens alone; it is computed
    once for a batch, and kept between calls where nothing is masked.
    """

    def __init__(self, config: SkipStackConfig) -> None:
        super().__init__(PostNormCrossLayer, config)
        self._constant: WeightConstant[tuple[Tensor, Tensor]] = WeightConstant()

    def train(self, mode: bool = True) -> SkipDecoder:
        self._constant.drop()
        return super().train(mode)

    def forward(
        self,
        memory: Float[Tensor, "batch memory_tokens dim"],
        tokens: int,
        key_mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """The tokens after all layers.

        Args:
            tokens: How many.
            key_mask: False for tokens that the others are not to read; at least one of each sequence is.

        Raises:
            ValueError: More tokens than positions.
        """
        layers = self._layers
        x, q = self._start(memory.shape[0], tokens, key_mask)
        joins = iter(self.joins)
        skipped: list[Tensor] = []
        for i, layer in enumerate(layers):
            if i > len(self.first):
                x = next(joins)(torch.cat([x, skipped.pop()], dim=-1))
            if i > 0:
                x, q = layer.before_memory(x, key_mask)
            x = layer.read_memory(x, q, memory)
            if i < len(self.first):
                skipped.append(x)
        return self.norm(x)

    @property
    def _layers(self) -> list[PostNormCrossLayer]:
        return cast("list[PostNormCrossLayer]", [*self.first, self.middle, *self.last])

    def _start(self, batch: int, tokens: int, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """What enters the first look at the memory; the same for a whole batch where nothing is masked."""
        layer, zero = self._layers[0], self._positions(tokens)
        if key_mask is not None or (self.training and layer.dropout):
            return layer.before_memory(zero.expand(batch, -1, -1), key_mask)
        weights = (self.positions, *layer.self_attention.parameters(), *layer.norm1.parameters())
        weights += tuple(layer.cross_attention.parameters())
        return self._constant.get(
            lambda: layer.before_memory(zero), weights, training=self.training, about=tokens
        )
