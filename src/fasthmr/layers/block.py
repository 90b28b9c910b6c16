"""Pre-norm transformer block whose two halves can be called apart."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.layers.attention import SelfAttention
from fasthmr.layers.feedforward import FeedForward


class DropPath(nn.Module):
    """Drops a residual branch for whole samples while training (stochastic depth, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch *rest"]:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty(x.shape[0], *(1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * (mask / keep)


class TransformerBlock(nn.Module):
    """x += attn(norm1(x)); x += mlp(norm2(x))  (ViT, arXiv 2010.11929, eq. 2-3).

    A token reducer stands between the two calls `attend` and `feed_forward`; `forward` runs both.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        mlp_ratio: float | int = 4,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = SelfAttention(dim=dim, heads=heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = FeedForward(dim=dim, hidden=int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def attend(
        self, tokens: Float[Tensor, "batch tokens dim"], size: Float[Tensor, "batch tokens"] | None = None
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch heads tokens head_dim"]]:
        """Tokens after the attention half, and the keys they were compared by.

        Args:
            size: Patches merged into each token; None where nothing is merged.
        """
        mixed, keys = self.attn(self.norm1(tokens), size)
        return tokens + self.drop_path(mixed), keys

    def feed_forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Tokens after the feed-forward half."""
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], size: Float[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        return self.feed_forward(self.attend(tokens, size)[0])
