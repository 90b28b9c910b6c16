"""Attention over tokens and groups of them (GroupMixFormer, arXiv 2311.15157, sec. 3), maps channels last.

Key names are the published ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.layers.block import DropPath
from fasthmr.layers.feedforward import FeedForward

_HEADS = 8
SEGMENTS = 5
_KERNELS = (3, 5, 7)
"""Of the segments 1, 2 and 3, and of the relative positions."""

_HEADS_OF_KERNEL = (2, 3, 3)
"""Heads whose relative positions each kernel reads."""

_NORM_EPS = 1e-6

Map = Float[Tensor, "batch rows columns dim"]


def channels_first(x: Map) -> Tensor:
    """Channels first for a convolution; memory stays as it is."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Map:
    """Channels last again."""
    return x.permute(0, 2, 3, 1)


class SeparableConv(nn.Module):
    """A depthwise convolution and a pointwise one, without biases."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, in_channels, kernel, stride, kernel // 2, groups=in_channels, bias=False
        )
        self.pointwise_conv = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "batch in_channels rows columns"]
    ) -> Float[Tensor, "batch channels new_rows new_columns"]:
        return self.pointwise_conv(self.conv1(x))


class PositionConv(nn.Module):
    """x + depthwise 3x3 convolution: where a token lies (CPVT, arXiv 2102.10882)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.folded = False

    @torch.no_grad()
    def fold(self) -> None:
        """Let the convolution add its input itself, for inference; exact."""
        if not self.folded:
            self.proj.weight[:, :, 1, 1] += 1
            self.folded = True

    def forward(self, x: Map) -> Map:
        placed = channels_last(self.proj(channels_first(x)))
        return placed if self.folded else x + placed


class LocalSegment(nn.Module):
    """The last segments of queries, keys and values together, convolved and normalised per token."""

    def __init__(self, segment: int) -> None:
        super().__init__()
        self.conv = SeparableConv(3 * segment, segment, 3)
        self.norm = nn.LayerNorm(segment)

    def forward(
        self, x: Float[Tensor, "batch rows columns triple"]
    ) -> Float[Tensor, "batch rows columns segment"]:
        return F.hardswish(self.norm(channels_last(self.conv(channels_first(x)))))


class GroupAggregator(nn.Module):
    """Segments of queries, keys and values gathered over four sizes of neighbourhoods; the local segment."""

    batch_norm_pairs = tuple((f"agg{i}.pointwise_conv", f"norm{i}") for i in (1, 2, 3))

    def __init__(self, dim: int) -> None:
        super().__init__()
        segment = dim // SEGMENTS
        self.norm0: nn.Module = nn.BatchNorm2d(segment)
        for i, kernel in enumerate(_KERNELS, start=1):
            self.add_module(f"agg{i}", SeparableConv(segment, segment, kernel))
            self.add_module(f"norm{i}", nn.BatchNorm2d(segment))
        self.agg0 = LocalSegment(segment)

    def forward(
        self, qkv: Float[Tensor, "batch rows columns triple"]
    ) -> tuple[Float[Tensor, "3 batch rows columns four_segments"], Map]:
        """Gathered queries, keys and values, and the local segment."""
        pieces = qkv.unflatten(-1, (3, SEGMENTS, -1))
        local = self.agg0(pieces[..., -1, :].flatten(-2))
        apart = pieces[..., :-1, :].permute(4, 3, 0, 1, 2, 5).flatten(1, 2)
        gathered = [self.norm0(channels_first(apart[0]))]
        for i in (1, 2, 3):
            convolved = self.get_submodule(f"agg{i}")(channels_first(apart[i]))
            gathered.append(self.get_submodule(f"norm{i}")(convolved))
        mixed = F.hardswish(torch.cat([channels_last(x) for x in gathered], dim=-1))
        return mixed.unflatten(0, (3, -1)), local


class RelativePositions(nn.Module):
    """Values convolved over neighbourhoods, which queries weigh (CoaT, arXiv 2104.06399, eq. 8)."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.channels = [heads * head_dim for heads in _HEADS_OF_KERNEL]
        self.conv_list = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
            for channels, kernel in zip(self.channels, _KERNELS, strict=True)
        )

    def forward(self, q: Map, v: Map) -> Map:
        parts = v.split(self.channels, dim=-1)
        seen = [
            channels_last(conv(channels_first(part)))
            for conv, part in zip(self.conv_list, parts, strict=True)
        ]
        return q * torch.cat(seen, dim=-1)


class GroupMixAttention(nn.Module):
    """Factorised attention of gathered queries, keys and values, beside the local segment (sec. 3.2)."""

    def __init__(self, dim: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.scale = (dim // _HEADS) ** -0.5  # of the full width, as released
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.aggregator = GroupAggregator(dim)
        self.crpe = RelativePositions(dim * (SEGMENTS - 1) // SEGMENTS // _HEADS)
        self.proj = nn.Linear(dim, dim)

    @torch.no_grad()
    def fold(self) -> None:
        """Let the linear layer do the work of the batch norm of the first segments, for inference; exact."""
        norm = self.aggregator.norm0
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        if self.qkv.bias is None:
            self.qkv.bias = nn.Parameter(torch.zeros_like(self.qkv.weight[:, 0]), requires_grad=False)
        for start in range(0, self.qkv.out_features, self.qkv.in_features):
            rows = slice(start, start + norm.num_features)
            self.qkv.weight[rows] *= scale[:, None]
            self.qkv.bias[rows] = (self.qkv.bias[rows] - norm.running_mean) * scale + norm.bias
        self.aggregator.norm0 = nn.Identity()

    def forward(self, x: Map) -> Map:
        mixed, local = self.aggregator(self.qkv(x))
        heads = mixed.flatten(2, 3).unflatten(-1, (_HEADS, -1)).transpose(2, 3)
        q, k, v = heads.unbind(0)
        context = k.softmax(dim=-2).mT @ v
        seen = (q @ (context * self.scale)).transpose(1, 2).flatten(2).unflatten(1, x.shape[1:3])
        positions = self.crpe(mixed[0], mixed[2])
        return self.proj(torch.cat([seen + positions, local], dim=-1))


class GroupMixBlock(nn.Module):
    """Position convolution, attention, feed-forward network."""

    def __init__(self, dim: int, *, mlp_ratio: float | int, qkv_bias: bool, drop_path: float) -> None:
        super().__init__()
        self.cpe = PositionConv(dim)
        self.norm1 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.att = GroupMixAttention(dim, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.mlp = FeedForward(dim=dim, hidden=int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Map) -> Map:
        """The map after the attention half."""
        x = self.cpe(x)
        return x + self.drop_path(self.att(self.norm1(x)))

    def feed_forward(self, x: Map) -> Map:
        """The map after the feed-forward half."""
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def forward(self, x: Map) -> Map:
        return self.feed_forward(self.attend(x))
