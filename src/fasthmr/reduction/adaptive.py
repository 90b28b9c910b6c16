"""Token merging with a budget for each picture: crowded crops keep more tokens, empty ones fewer.

FastHMR (arXiv 2510.10868) keeps as many tokens of every picture, since different numbers would force it to
run pictures one by one. Here the tokens of all pictures lie behind each other: norms, projections and
feed-forward run over them as they are, which is most of the work, and only attention looks at where pictures
begin. Pictures lie in order of length, so that those of one length attend as one batch, without padding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fasthmr.layers.attention import proportional_attention
from fasthmr.layers.block import TransformerBlock
from fasthmr.layers.tokens import TokenState
from fasthmr.reduction.mask_tome import Source, halves, rank_sources
from fasthmr.reduction.tome_schedule import TokenMergePlan


@dataclass(frozen=True, kw_only=True)
class TokenBudget:
    """How many tokens a picture keeps: those on the person and some of the background.

    Attributes:
        spare: Tokens to keep beside those on the person.
        least: No picture keeps fewer.
        most: A budget is no larger, None for no limit; tokens on the person never merge all the same.
        step: Budgets are rounded up to a multiple of it, so that more pictures share a length.
    """

    spare: int = 24
    least: int = 64
    most: int | None = None
    step: int = 8

    def __post_init__(self) -> None:
        if self.spare < 0 or min(self.least, self.step, self.most or 1) < 1:
            raise ValueError(f"{self}: numbers of tokens are at least 1")
        if self.most is not None and self.most < self.least:
            raise ValueError(f"TokenBudget: least={self.least} is more than most={self.most}")

    def __call__(self, person: Bool[Tensor, "batch patches"]) -> Int[Tensor, "batch"]:
        """Tokens to keep of each picture."""
        wanted = person.sum(1) + self.spare
        wanted = (wanted + self.step - 1) // self.step * self.step
        return wanted.clamp(self.least, self.most).clamp(max=person.shape[1])


def run_adaptive(
    blocks: Iterable[nn.Module],
    state: TokenState,
    person: Bool[Tensor, "batch patches"],
    budgets: Int[Tensor, "batch"],
    plan: TokenMergePlan,
    *,
    first: int = 0,
) -> TokenState:
    """Blocks in a row; each picture gives up tokens until its budget is reached.

    Block i of the plan takes at most `plan.counts[i]` tokens from a picture, and never one on the person: a
    picture with too little background keeps more than its budget. Every picture gets what it would get alone.

    Args:
        state: What enters the first block; nothing is merged yet.
        person: Patches on the person.
        budgets: Tokens to keep, for example what a `TokenBudget` says.
        first: Number of the first block in the plan.

    Returns:
        Tokens in the order of the given pictures, shorter ones filled up with tokens of size 0, for which no
        patch stands.

    Raises:
        ValueError: Tokens are merged already, or the plan wants them in raster order.
    """
    if state.merged:
        raise ValueError("run_adaptive starts before any token is merged")
    if plan.reducer.order != "tome":
        raise ValueError("run_adaptive keeps tokens in the order 'tome' only")
    packed = _Packed.of(state, person, budgets)
    merged = False
    for index, block in enumerate(blocks, start=first):
        assert isinstance(block, TransformerBlock)
        keys = packed.attend(block, by_size=plan.prop_attn and merged)
        limit = plan.counts[index] if index < len(plan.counts) else 0
        if limit:
            packed = packed.merge(keys.mean(1), limit, plan.reducer.source, plan.reducer.size_weighted)
            merged = True
        packed.tokens = block.feed_forward(packed.tokens[None])[0]
    return packed.unpack()


@dataclass(kw_only=True)
class _Packed:
    """Tokens of all pictures behind each other, longest picture first.

    Attributes:
        group: For every patch of the grid the token of its own picture that stands for it.
        lengths: Tokens of each picture.
        origin: Where each picture stood in the batch.
    """

    tokens: Float[Tensor, "total dim"]
    size: Float[Tensor, "total"]
    positions: Float[Tensor, "total 2"]
    group: Int[Tensor, "batch patches"]
    person: Bool[Tensor, "batch patches"]
    budgets: Int[Tensor, "batch"]
    lengths: Int[Tensor, "batch"]
    origin: Int[Tensor, "batch"]

    @staticmethod
    def of(state: TokenState, person: Tensor, budgets: Tensor) -> _Packed:
        batch, count, _ = state.tokens.shape
        return _Packed(
            tokens=state.tokens.flatten(0, 1),
            size=state.size.flatten(),
            positions=state.positions.flatten(0, 1),
            group=state.group,
            person=person,
            budgets=budgets,
            lengths=torch.full_like(budgets, count),
            origin=torch.arange(batch, device=budgets.device),
        )

    @property
    def starts(self) -> Int[Tensor, "batch"]:
        """Where the tokens of each picture begin."""
        return self.lengths.cumsum(0) - self.lengths

    def attend(self, block: TransformerBlock, *, by_size: bool) -> Float[Tensor, "total heads head_dim"]:
        """The attention half of a block, in place; returns the keys."""
        attention = block.attn
        qkv = attention.qkv(block.norm1(self.tokens)).unflatten(-1, (3, attention.heads, -1))
        mixed = torch.empty_like(qkv[:, 0])
        begin = 0
        for length, pictures in groupby(self.lengths.tolist()):
            count = sum(1 for _ in pictures)
            rows = slice(begin, begin + count * length)
            begin = rows.stop
            q, k, v = qkv[rows].unflatten(0, (count, length)).permute(2, 0, 3, 1, 4).unbind(0)
            if by_size:
                seen = proportional_attention(q, k, v, self.size[rows].unflatten(0, (count, length)))
            else:
                seen = F.scaled_dot_product_attention(q, k, v)
            mixed[rows] = seen.transpose(1, 2).flatten(0, 1)
        self.tokens = self.tokens + block.drop_path(attention.proj(mixed.flatten(1)))
        return qkv[:, 1]

    def merge(
        self, metric: Float[Tensor, "total channels"], limit: int, source: Source, size_weighted: bool
    ) -> _Packed:
        """Up to `limit` tokens of each picture fewer, as `mask_tome` chooses them; sorted by length again."""
        steps = torch.arange(int(self.lengths.max()), device=metric.device)
        valid = steps < self.lengths[:, None]
        protected = torch.zeros_like(valid, dtype=torch.int64).scatter_add(1, self.group, self.person.long())
        padded = self._padded(metric, valid)
        ranking = rank_sources(padded, protected > 0, source=source, valid=valid)
        spare = torch.minimum(self.lengths - self.budgets, self.lengths // 2).clamp(0, limit)
        count = torch.minimum(spare, ranking.background)

        # The slot of each token: sources that stay, in order of rank, then the destinations.
        first, second = halves(source)
        places = torch.arange(ranking.order.shape[1], device=metric.device)
        place = torch.zeros_like(ranking.order).scatter(1, ranking.order, places.expand_as(ranking.order))
        staying = valid[:, first::2].sum(1) - count
        destination = staying[:, None] + torch.arange(valid[:, second::2].shape[1], device=metric.device)
        slot = torch.empty_like(protected)
        slot[:, first::2] = torch.where(
            place < count[:, None], destination.gather(1, ranking.destination), place - count[:, None]
        )
        slot[:, second::2] = destination
        slot = torch.where(count[:, None] > 0, slot, steps)

        order = (self.lengths - count).argsort(descending=True, stable=True)
        lengths = (self.lengths - count)[order]
        starts = torch.empty_like(lengths).scatter(0, order, lengths.cumsum(0) - lengths)
        target = (starts[:, None] + slot)[valid]
        left = int(lengths.sum())

        def total(values: Float[Tensor, "total channels"]) -> Float[Tensor, "left channels"]:
            return values.new_zeros(left, values.shape[1]).index_add(0, target, values)

        def share(weight: Float[Tensor, "total 1"]) -> Float[Tensor, "total 1"]:
            return weight / total(weight)[target]

        dtype = torch.promote_types(self.tokens.dtype, torch.float32)  # half precision is too coarse for sums
        size = self.size.to(dtype)[:, None]
        by_size = share(size)
        weight = by_size if size_weighted else share(torch.ones_like(size))
        return _Packed(
            tokens=total(self.tokens * weight).to(self.tokens.dtype),
            size=total(size)[:, 0].to(self.size.dtype),
            positions=total(self.positions * by_size).to(self.positions.dtype),
            group=slot.gather(1, self.group)[order],
            person=self.person[order],
            budgets=self.budgets[order],
            lengths=lengths,
            origin=self.origin[order],
        )

    def unpack(self) -> TokenState:
        """Tokens picture by picture in the order of the batch, filled up with tokens of size 0."""
        back = self.origin.argsort()
        valid = torch.arange(int(self.lengths.max()), device=self.tokens.device) < self.lengths[:, None]
        return TokenState(
            tokens=self._padded(self.tokens, valid)[back],
            size=self._padded(self.size[:, None], valid)[back, :, 0],
            positions=self._padded(self.positions, valid)[back],
            group=self.group[back],
        )

    def _padded(
        self, values: Float[Tensor, "total channels"], valid: Bool[Tensor, "batch longest"]
    ) -> Float[Tensor, "batch longest channels"]:
        padded = values.new_zeros(*valid.shape, values.shape[1])
        padded[valid] = values
        return padded
