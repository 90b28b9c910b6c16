"""Self-attention inside windows of a map, with learned relative positions (Swin, arXiv 2103.14030, sec. 3.2).

Maps whose sides are no multiples of the window are padded at the bottom and right by zeros, as the published
dense backbones do: padding stands in the windows with the key and value of a zero, the bias of their
projection, and is not masked. Here only the tokens of the map are projected, before and after the attention,
and one gather pads, shifts and cuts into windows at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fasthmr.layers.block import DropPath
from fasthmr.layers.constant import WeightConstant
from fasthmr.layers.feedforward import FeedForward

NORM_EPS = 1e-5
"""Of all norms of Swin."""

_APART = -100.0
"""Added to the scores of pairs that only the shift brought together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowLayout:
    """How a map of some size is cut into windows.

    Attributes:
        size: Rows and columns of the map.
        window: Side of a window.
        shift: Rows and columns by which the padded map is rolled up and left before it is cut.
        windows: How many there are.
        gather: For every place in the windows the token of the map, row-major, or rows * columns for padding.
        scatter: For every token of the map its place in the windows.
        relative: For query and key of a window the row of the table of relative positions.
        apart: Added to the scores of a window; None where nothing is shifted.
    """

    size: tuple[int, int]
    window: int
    shift: int
    windows: int
    gather: Int[Tensor, "places"]
    scatter: Int[Tensor, "tokens"]
    relative: Int[Tensor, "area area"]
    apart: Float[Tensor, "windows area area"] | None

    @property
    def padded(self) -> bool:
        """Whether the windows hold more than the map."""
        return self.gather.shape[0] > self.scatter.shape[0]


def window_layout(
    size: tuple[int, int], window: int, shift: int, device: torch.device | str = "cpu"
) -> WindowLayout:
    """Cut a map of (rows, columns) into windows, padded at the bottom and right where it must be."""
    rows, columns = size
    row, column = (torch.arange(-(-side // window) * window, device=device) for side in size)
    inside = (row < rows)[:, None] & (column < columns)
    token = torch.where(inside, row[:, None] * columns + column, rows * columns)
    gather = _cut(token.roll((-shift, -shift), (0, 1)), window)
    apart = None
    if shift:
        bands = [
            (side >= len(side) - window).int() + (side >= len(side) - shift).int() for side in (row, column)
        ]
        band = _cut(3 * bands[0][:, None] + bands[1], window)
        apart = (band[:, :, None] != band[:, None, :]) * _APART
    across = torch.arange(window, device=device).repeat(window)
    down = torch.arange(window, device=device).repeat_interleave(window)
    steps = [axis[:, None] - axis[None, :] + window - 1 for axis in (down, across)]
    return WindowLayout(
        size=size,
        window=window,
        shift=shift,
        windows=gather.shape[0],
        gather=gather.flatten(),
        scatter=gather.flatten().argsort()[: rows * columns],
        relative=steps[0] * (2 * window - 1) + steps[1],
        apart=apart,
    )


def _cut(grid: Int[Tensor, "padded_rows padded_columns"], window: int) -> Int[Tensor, "windows area"]:
    """Windows of a map, row-major, each row-major."""
    cells = grid.unflatten(1, (-1, window)).unflatten(0, (-1, window))
    return cells.transpose(1, 2).flatten(2).flatten(0, 1)


class WindowAttention(nn.Module):
    """Multi-head self-attention of the tokens of a map with those of their window."""

    def __init__(self, *, dim: int, heads: int, window: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"WindowAttention: dim={dim} is not a multiple of heads={heads}")
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(
            nn.init.trunc_normal_(torch.empty((2 * window - 1) ** 2, heads), std=0.02)
        )
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self._scores = WeightConstant[Tensor]()

    def train(self, mode: bool = True) -> WindowAttention:
        """Switch between training and evaluation; what was kept is forgotten."""
        self._scores.drop()
        return super().train(mode)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], layout: WindowLayout
    ) -> Float[Tensor, "batch tokens dim"]:
        """Attend.

        Args:
            x: Tokens of the map, row-major.
            layout: Of the map, with windows of `window`.
        """
        area = self.window**2
        qkv = self.qkv(x)
        if layout.padded:
            padding = torch.zeros_like(qkv[:, :1])
            qkv = torch.cat([qkv, padding if self.qkv.bias is None else padding + self.qkv.bias], dim=1)
        places = qkv.index_select(1, layout.gather).unflatten(1, (-1, area)).flatten(0, 1)
        q, k, v = places.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self._added(layout, x).to(q.dtype))
        merged = mixed.transpose(1, 2).flatten(2).unflatten(0, (-1, layout.windows)).flatten(1, 2)
        return self.proj(merged.index_select(1, layout.scatter))

    def _added(
        self, layout: WindowLayout, x: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "all_windows_or_1 heads area area"]:
        """What is added to the scores; the same for all windows where nothing is shifted."""
        table = self.relative_position_bias_table
        added = self._scores.get(
            lambda: self._position_scores(layout),
            (table,),
            training=self.training,
            about=(layout.size, layout.shift, table.device),
        )
        return added if layout.apart is None else added.expand(x.shape[0], -1, -1, -1, -1).flatten(0, 1)

    def _position_scores(self, layout: WindowLayout) -> Float[Tensor, "windows_or_1 heads area area"]:
        scores = self.relative_position_bias_table[layout.relative].permute(2, 0, 1)[None].contiguous()
        return scores if layout.apart is None else scores + layout.apart[:, None].to(scores.dtype)


class WindowBlock(nn.Module):
    """x += attn(norm1(x)); x += mlp(norm2(x)), with attention in windows."""

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        window: int,
        mlp_ratio: float | int = 4,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = WindowAttention(dim=dim, heads=heads, window=window, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = FeedForward(dim=dim, hidden=int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def attend(
        self, tokens: Float[Tensor, "batch tokens dim"], layout: WindowLayout
    ) -> Float[Tensor, "batch tokens dim"]:
        """Tokens after the attention half."""
        return tokens + self.drop_path(self.attn(self.norm1(tokens), layout))

    def feed_forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Tokens after the feed-forward half."""
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], layout: WindowLayout
    ) -> Float[Tensor, "batch tokens dim"]:
        return self.feed_forward(self.attend(tokens, layout))
