"""Linear recurrences h_t = a_t h_(t-1) + b_t along tokens that lie in chunks, in far fewer steps than tokens.

Every chunk runs for itself first, all of them at once; then the ends of the chunks are carried onwards; then
each chunk is corrected by what reached it. All factors are products of decays, so that nothing grows where
decays are at most 1 (`docs/design/029`).

A map is its own chunks: its rows for an order along rows, its columns (the map transposed, as a view) for one
along columns. The other direction is the same with `reverse`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, "batch chunks steps channels"]
"""In the order of the chunks and, inside a chunk, of its steps."""

_FEW = 8
"""So many tokens are run through one by one; chunks of them cost more operations."""


def recurrence(decay: Tokens, drive: Tokens, *, reverse: bool = False) -> Tokens:
    """All h_t, from zero before the first token, in few operations; for tracing and where launches are dear.

    Args:
        decay: a.
        drive: b.
        reverse: From the last token to the first.
    """
    decay, state = _doubling(decay, drive, 2, reverse)
    end = 0 if reverse else -1
    _, ends = _doubling(decay[:, :, end], state[:, :, end], 1, reverse)
    return torch.addcmul(state, decay, _from_before(ends, reverse).unsqueeze(2))


def recurrence_(decay: Tokens, drive: Tokens, *, reverse: bool = False) -> None:
    """The same in place of `drive`; `decay` is used up. Neither may require gradients."""
    if drive.is_meta:
        return  # shapes have no contents
    if drive.device.type != "cpu":
        drive.copy_(recurrence(decay, drive, reverse=reverse))
        return
    states, decays = drive.unbind(2), decay.unbind(2)
    order = range(len(states))[:: -1 if reverse else 1]
    for before, now in pairwise(order):
        states[now].addcmul_(decays[now], states[before])
        decays[now].mul_(decays[before])
    if drive.shape[1] == 1:
        return
    groups = (-1, chunk_steps(drive.shape[1]))
    ends, end_decays = states[order[-1]].unflatten(1, groups), decays[order[-1]].unflatten(1, groups)
    recurrence_(end_decays, ends, reverse=reverse)
    if reverse:
        drive[:, :-1, 1:].addcmul_(decay[:, :-1, 1:], drive[:, 1:, :1])
    else:
        drive[:, 1:, :-1].addcmul_(decay[:, 1:, :-1], drive[:, :-1, -1:])


def chunk_steps(tokens: int) -> int:
    """Steps of a chunk that cut tokens evenly into about as many chunks; all of them if they are few."""
    most = math.isqrt(tokens) if tokens > _FEW else 1
    steps = next(steps for steps in range(most, 0, -1) if tokens % steps == 0)
    return steps if steps > 1 else tokens


def previous(states: Float[Tensor, "batch chunks steps *rest"], *, reverse: bool = False) -> Tensor:
    """For each token the value of the one before it, zero for the first."""
    end = 0 if reverse else -1
    first = _from_before(states[:, :, end], reverse).unsqueeze(2)
    rest = states[:, :, 1:] if reverse else states[:, :, :-1]
    return _joined(rest, first, 2, reverse)


def _from_before(ends: Tensor, reverse: bool) -> Tensor:
    """What each chunk takes over from the one before it, zero for the first."""
    taken = ends[:, 1:] if reverse else ends[:, :-1]
    return _joined(taken, torch.zeros_like(ends[:, :1]), 1, reverse)


def _doubling(decay: Tensor, state: Tensor, dim: int, reverse: bool) -> tuple[Tensor, Tensor]:
    """Products of decays, and states, up to each place along `dim`, in log2(size) rounds."""
    size, reach = state.shape[dim], 1
    while reach < size:
        # what lies `reach` places on; what is there already; the places that nothing reaches
        spans = ((0, size - reach), (reach, size - reach), (size - reach, reach))
        to, source, rest = spans if reverse else (spans[1], spans[0], (0, reach))
        on = decay.narrow(dim, *to)
        reached = torch.addcmul(state.narrow(dim, *to), on, state.narrow(dim, *source))
        state = _joined(reached, state.narrow(dim, *rest), dim, reverse)
        decay = _joined(on * decay.narrow(dim, *source), decay.narrow(dim, *rest), dim, reverse)
        reach *= 2
    return decay, state


def _joined(later: Tensor, earlier: Tensor, dim: int, reverse: bool) -> Tensor:
    """Two parts, in the order of memory."""
    return torch.cat((later, earlier) if reverse else (earlier, later), dim)
