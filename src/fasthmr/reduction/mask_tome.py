"""Mask-guided token merging (FastHMR, arXiv 2510.10868) on the matching of ToMe (arXiv 2210.09461).

Every second token is a source, the others are destinations. The sources most similar to a destination merge
into it; tokens on the person take no part while background pairs remain. Without a mask this is plain ToMe.

Only operations that exporters translate exactly are used: comparison, gather, scatter of sums, division.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fasthmr.layers.tokens import TokenState

Source = Literal["even", "odd"]
Overflow = Literal["force", "stop"]
Order = Literal["tome", "raster"]


@dataclass(frozen=True, kw_only=True)
class TokenMatch:
    """Which tokens of a sequence become one.

    Attributes:
        group: New token of each token.
        anchor: The token that gives each new token its place.
        edges: Merged (source, destination) pairs, most similar first.
    """

    group: Int[Tensor, "batch tokens"]
    anchor: Int[Tensor, "batch new_tokens"]
    edges: Int[Tensor, "batch pairs 2"]


@dataclass(frozen=True, kw_only=True)
class SourceRanking:
    """Sources in the order in which they would merge.

    Attributes:
        order: Indices into the list of sources.
        destination: For each source, in its own order, an index into the list of destinations.
        background: Sources that can merge before any person token must; they come first in `order`.
    """

    order: Int[Tensor, "batch sources"]
    destination: Int[Tensor, "batch sources"]
    background: Int[Tensor, "batch"]


def rank_sources(
    metric: Float[Tensor, "batch tokens channels"],
    person: Bool[Tensor, "batch tokens"] | None = None,
    *,
    source: Source = "even",
    valid: Bool[Tensor, "batch tokens"] | None = None,
) -> SourceRanking:
    """Best destination of every source by cosine similarity, and the sources from best to worst.

    Background sources with a background destination come first. The others follow by their similarity to any
    destination. Ties go to the lower position.

    Args:
        metric: What tokens are compared by: attention keys, averaged over heads.
        person: Tokens to protect; None for plain ToMe.
        valid: Tokens that exist, in a batch of sequences filled up to one length; the others neither merge
            nor are merged into, and come last.
    """
    half = metric.dtype in (torch.float16, torch.bfloat16)  # too coarse: neighbours would tie
    metric = F.normalize(metric.float() if half else metric, dim=-1)
    first, second = halves(source)
    similarity = metric[:, first::2] @ metric[:, second::2].mT
    if valid is not None:
        exists = valid[:, first::2, None] & valid[:, None, second::2]
        similarity = similarity.masked_fill(~exists, -torch.inf)
        person = ~valid if person is None else person | ~valid
    best, destination = similarity.max(-1)
    if person is None:
        allowed = torch.ones_like(best, dtype=torch.bool)
        return SourceRanking(order=_rank(best, allowed), destination=destination, background=allowed.sum(1))

    protected = person[:, first::2, None] | person[:, None, second::2]
    best_allowed, allowed_destination = similarity.masked_fill(protected, -torch.inf).max(-1)
    # Not `best_allowed > -inf`: to OpenVINO, the maximum of a row of -inf is the lowest finite number.
    allowed = ~person[:, first::2] & (~person[:, second::2]).any(1, keepdim=True)
    return SourceRanking(
        order=_rank(torch.where(allowed, best_allowed, best), allowed),
        destination=torch.where(allowed, allowed_destination, destination),
        background=allowed.sum(1),
    )


def match_tokens(
    metric: Float[Tensor, "batch tokens channels"],
    person: Bool[Tensor, "batch tokens"] | None,
    count: int,
    *,
    source: Source = "even",
    overflow: Overflow = "force",
    order: Order = "tome",
) -> TokenMatch:
    """Choose `count` sources, at most half of the tokens, and the destinations they merge into.

    Args:
        overflow: What happens when fewer than `count` background pairs exist. "force" goes on with person
            tokens; "stop" merges fewer.
        order: Order of the new tokens. "tome": remaining sources, best ranked first, then all destinations,
            as in the released ToMe; "raster": as before. The next block's split into sources and destinations
            depends on it.

    Raises:
        ValueError: `count` is negative, or with "stop" the pictures would keep different numbers of tokens.
    """
    if count < 0:
        raise ValueError(f"count={count} tokens cannot be merged away")
    batch, tokens, _ = metric.shape
    count = min(count, tokens // 2)
    index = torch.arange(tokens, device=metric.device)
    if count > 0:
        ranking = rank_sources(metric, person, source=source)
        if overflow == "stop":
            count = _common_count(ranking.background, count)
    if count == 0:
        identity = index.expand(batch, tokens)
        return TokenMatch(group=identity, anchor=identity, edges=index.new_zeros(batch, 0, 2))

    first, second = halves(source)
    sources, destinations = index[first::2], index[second::2]
    merging = ranking.order[:, :count]
    merging_sources = sources[merging]
    merging_destinations = destinations[ranking.destination.gather(1, merging)]
    anchor = torch.cat((sources[ranking.order[:, count:]], destinations.expand(batch, -1)), dim=1)
    if order == "raster":
        anchor = anchor.sort(dim=1).values
    slots = index[: tokens - count].expand(batch, -1)
    group = torch.zeros_like(index).expand(batch, -1).scatter(1, anchor, slots)
    group = group.scatter(1, merging_sources, group.gather(1, merging_destinations))
    edges = torch.stack((merging_sources, merging_destinations), dim=-1)
    return TokenMatch(group=group, anchor=anchor, edges=edges)


def merge_tokens(state: TokenState, match: TokenMatch, *, size_weighted: bool = True) -> TokenState:
    """Average the members of every group.

    Args:
        size_weighted: A token counts as the patches it stands for, else as one. Positions always do.
    """
    slots = match.anchor.shape[1]

    def total(values: Float[Tensor, "batch tokens channels"]) -> Float[Tensor, "batch slots channels"]:
        return _sum_groups(values, match.group, slots)

    def share(weight: Float[Tensor, "batch tokens 1"]) -> Float[Tensor, "batch tokens 1"]:
        """Of each member in its group; exactly 1 for a token that stays alone."""
        return weight / total(weight).gather(1, match.group[..., None])

    dtype = torch.promote_types(state.tokens.dtype, torch.float32)  # half precision is too coarse for sums
    size = state.size.to(dtype)[..., None]
    by_size = share(size)
    weight = by_size if size_weighted else share(torch.ones_like(size))
    return TokenState(
        tokens=total(state.tokens * weight).to(state.tokens.dtype),
        size=total(size)[..., 0].to(state.size.dtype),
        positions=total(state.positions * by_size).to(state.positions.dtype),
        group=match.group.gather(1, state.group),
    )


@dataclass(frozen=True, kw_only=True)
class MaskToMe:
    """A token reducer: match, then merge. The defaults are the published Mask-ToMe.

    Attributes:
        source: Positions that may merge away.
        overflow: See `match_tokens`.
        order: See `match_tokens`.
        size_weighted: See `merge_tokens`.
    """

    source: Source = "even"
    overflow: Overflow = "force"
    order: Order = "tome"
    size_weighted: bool = True

    def __call__(
        self,
        state: TokenState,
        metric: Float[Tensor, "batch tokens channels"],
        person: Bool[Tensor, "batch patches"] | None,
        count: int,
    ) -> TokenState:
        """Make `count` tokens fewer.

        Args:
            metric: Attention keys of the current tokens, averaged over heads.
            person: Patches of the grid on the person, which protect their token; None for plain ToMe.
        """
        protected = None if person is None else state.any_patch(person)
        match = match_tokens(
            metric, protected, count, source=self.source, overflow=self.overflow, order=self.order
        )
        if match.edges.shape[1] == 0:
            return replace(state)
        return merge_tokens(state, match, size_weighted=self.size_weighted)


MASK_TOME = MaskToMe()


def halves(source: Source) -> tuple[int, int]:
    """First position of the sources and of the destinations."""
    return (0, 1) if source == "even" else (1, 0)


def _rank(
    value: Float[Tensor, "batch items"], first: Bool[Tensor, "batch items"]
) -> Int[Tensor, "batch items"]:
    """Items by whether they go first, then by descending value, then by position."""
    if torch.compiler.is_exporting():
        return _rank_by_counting(value, first)
    order = value.argsort(descending=True, stable=True)
    return order.gather(1, first.gather(1, order).byte().argsort(descending=True, stable=True))


def _rank_by_counting(
    value: Float[Tensor, "batch items"], first: Bool[Tensor, "batch items"]
) -> Int[Tensor, "batch items"]:
    """The same from the number of items before each. Slower, but exporters know no stable sort."""
    positions = torch.arange(value.shape[1], device=value.device)
    mine, other = value[:, :, None], value[:, None, :]
    mine_first, other_first = first[:, :, None], first[:, None, :]
    earlier = (other > mine) | ((other == mine) & (positions < positions[:, None]))
    before = (other_first & ~mine_first) | ((other_first == mine_first) & earlier)
    place = before.sum(2)
    return torch.zeros_like(place).scatter(1, place, positions.expand(value.shape[0], -1))


def _sum_groups(
    values: Float[Tensor, "batch tokens channels"], group: Int[Tensor, "batch tokens"], slots: int
) -> Float[Tensor, "batch slots channels"]:
    """Sums over the tokens of each slot; one scatter over all pictures, whose rows stay contiguous."""
    batch, tokens, channels = values.shape
    offset = slots * torch.arange(batch, device=values.device)[:, None]
    rows = (group + offset).reshape(batch * tokens, 1).expand(-1, channels)
    sums = values.new_zeros(batch * slots, channels)
    sums.scatter_add_(0, rows, values.reshape(batch * tokens, channels))
    return sums.reshape(batch, slots, channels)


def _common_count(background: Int[Tensor, "batch"], count: int) -> int:
    """How many sources merge in every picture of the batch when person tokens must not."""
    counts = sorted({min(count, possible) for possible in background.tolist()})
    if len(counts) > 1:
        raise ValueError(
            f"with overflow='stop' the pictures of this batch lose {counts[0]} to {counts[-1]} tokens, "
            "which is no batch any more; sort them by that number first, or use overflow='force'"
        )
    return counts[0]
