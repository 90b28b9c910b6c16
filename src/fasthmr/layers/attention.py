"""Multi-head self-attention over tokens."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def proportional_attention(
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch heads tokens head_dim"],
    v: Float[Tensor, "batch heads tokens value_dim"],
    size: Float[Tensor, "batch tokens"],
) -> Float[Tensor, "batch heads queries value_dim"]:
    """Attention where a merged token counts as the patches it stands for.

    softmax(q kᵀ / √d + log s) v  (ToMe, arXiv 2210.09461, sec. 3).

    Args:
        size: Patches merged into each token, >= 1; all ones before any merge.
    """
    return F.scaled_dot_product_attention(q, k, v, attn_mask=size.log().to(q.dtype)[:, None, None])


class SelfAttention(nn.Module):
    """Self-attention with one fused projection, laid out as (q, k, v), then heads (ViT, timm order)."""

    def __init__(self, *, dim: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"SelfAttention: dim={dim} is not a multiple of heads={heads}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], size: Float[Tensor, "batch tokens"] | None = None
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch heads tokens head_dim"]]:
        """Attend, and also return the keys, by which token merging compares tokens.

        Args:
            size: Patches merged into each token for `proportional_attention`; None for plain attention.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if size is None:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = proportional_attention(q, k, v, size)
        return self.proj(mixed.transpose(1, 2).flatten(-2)), k
