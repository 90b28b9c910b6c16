"""The selective scan of Mamba (arXiv 2312.00752, sec. 3.2) as VMamba (arXiv 2401.10166) uses it.

h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t and y_t = C_t h_t + D u_t for every channel, with h = 0 before
the first token. As in the released code the drive has the plain factor delta, not that of an exact hold.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fasthmr.errors import UsageError
from fasthmr.layers.recurrence import Tokens, chunk_steps, previous, recurrence, recurrence_

Weights = Float[Tensor, "batch chunks steps state"]

_LOG2_E = math.log2(math.e)
"""Powers of 2 take half as long as those of e."""

_STEPS = 24
"""Tokens of a chunk where they have no shape of their own; 16 to 48 are about equally fast."""

_CHOICES = ("auto", "triton", "torch")
_TRITON = importlib.util.find_spec("triton") is not None


def fused_scan(device: torch.device) -> Callable[..., Tensor] | None:
    """The scan of `layers/scan_triton`, or None where the forms of this file are to be taken.

    The environment's FASTHMR_SCAN says which: `auto`, as if it is not set, takes the former on GPUs where
    Triton is installed, `triton` always, `torch` never. Exports never take it either.

    Raises:
        UsageError: Another FASTHMR_SCAN, or `triton` where that cannot run.
    """
    choice = os.environ.get("FASTHMR_SCAN", "auto")
    if choice not in _CHOICES:
        raise UsageError(f"FASTHMR_SCAN={choice}; it is one of {', '.join(_CHOICES)}")
    gpu = device.type == "cuda"
    if choice == "torch" or (choice == "auto" and not (gpu and _TRITON)):
        return None
    if device.type == "meta" or torch.compiler.is_exporting():
        return None
    if not _TRITON:
        raise UsageError(
            "FASTHMR_SCAN=triton, but Triton is not installed; run: pip install triton (Linux alone), "
            "or set FASTHMR_SCAN=auto"
        )
    from fasthmr.layers import scan_triton

    if not (gpu or scan_triton.INTERPRETED):
        raise UsageError(
            f"FASTHMR_SCAN=triton, but the tensors are on {device.type!r}: move them to a GPU, set "
            "FASTHMR_SCAN=auto, or have Triton run on the processor, slowly, with TRITON_INTERPRET=1"
        )
    return scan_triton.scan


def selective_scan_reference(
    u: Float[Tensor, "batch channels tokens"],
    delta: Float[Tensor, "batch channels tokens"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "batch groups state tokens"],
    C: Float[Tensor, "batch groups state tokens"],
    D: Float[Tensor, "channels"] | None = None,
    delta_bias: Float[Tensor, "channels"] | None = None,
    *,
    delta_softplus: bool = True,
) -> Float[Tensor, "batch channels tokens"]:
    """The scan token by token, as it is defined.

    Args:
        delta: Step sizes before bias and softplus.
        A: Negative rates of decay.
        B: Input weights; the channels fall into `groups` equal parts that share them.
        C: Output weights.
        D: Weight of the input itself.
        delta_softplus: Whether the step sizes go through a softplus.
    """
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    per_group = u.shape[1] // B.shape[1]
    decay = torch.exp(torch.einsum("bct,cn->bctn", delta, A))
    drive = torch.einsum("bct,bcnt,bct->bctn", delta, B.repeat_interleave(per_group, 1), u)
    outputs = C.repeat_interleave(per_group, 1)
    h = drive.new_zeros(drive.shape[0], drive.shape[1], drive.shape[3])
    y = []
    for t in range(u.shape[2]):
        h = decay[:, :, t] * h + drive[:, :, t]
        y.append(torch.einsum("bcn,bcn->bc", h, outputs[:, :, :, t]))
    scanned = torch.stack(y, dim=2)
    return scanned if D is None else scanned + u * D[:, None]


def selective_scan(
    u: Float[Tensor, "batch channels tokens"],
    delta: Float[Tensor, "batch channels tokens"],
    A: Float[Tensor, "channels state"],
    B: Float[Tensor, "batch groups state tokens"],
    C: Float[Tensor, "batch groups state tokens"],
    D: Float[Tensor, "channels"] | None = None,
    delta_bias: Float[Tensor, "channels"] | None = None,
    *,
    delta_softplus: bool = True,
) -> Float[Tensor, "batch channels tokens"]:
    """What `selective_scan_reference` computes, many chunks of tokens at once.

    In memory the result lies token by token, all channels beside each other. Where `u` and `delta` do too,
    they are read in place; otherwise they are copied. On a GPU it is one kernel (`fused_scan`).
    """
    if (fused := fused_scan(u.device)) is not None:
        inputs, sizes = (x.mT.unflatten(-1, (B.shape[1], -1)) for x in (u, delta))
        into, out = (x.permute(0, 3, 1, 2) for x in (B, C))
        y = fused(inputs, sizes, A, into, out, D, delta_bias, softplus=delta_softplus)
        return y.flatten(2).mT.to(u.dtype)
    if torch.compiler.is_compiling():
        sizes = delta if delta_bias is None else delta + delta_bias[:, None]
        y = _traced(u, sizes, A, B, C, delta_softplus)
        return y if D is None else y + u * D[:, None]
    (batch, channels, tokens), groups = u.shape, B.shape[1]
    steps, width = min(_STEPS, tokens), channels // groups
    missing = -tokens % steps

    def chunked(x: Float[Tensor, "width tokens"]) -> Tokens:
        x = F.pad(x, (0, missing)) if missing else x
        by_token = x.T if x.stride(0) == 1 else x.T.contiguous()
        return by_token.unflatten(0, (-1, steps))[None]

    scanned = []
    for sample, group in product(range(batch), range(groups)):  # one at a time fits into a processor's cache
        own = slice(group * width, (group + 1) * width)
        inputs, sizes = chunked(u[sample, own]), chunked(delta[sample, own])
        y = add_scan(
            torch.zeros_like(inputs) if D is None else inputs * D[own],
            inputs,
            sizes.clone() if delta_bias is None else sizes + delta_bias[own],
            A[own],
            chunked(B[sample, group]),
            chunked(C[sample, group]),
            softplus=delta_softplus,
        )
        scanned.append(y.flatten(0, 2)[:tokens])
    return torch.cat(scanned, -1).unflatten(-1, (batch, channels)).permute(1, 2, 0)


def add_scan(
    y: Tokens,
    u: Tokens,
    delta: Tokens,
    A: Float[Tensor, "channels state"],
    B: Weights,
    C: Weights,
    *,
    reverse: bool = False,
    softplus: bool = True,
) -> Tokens:
    """`y` and the selective scan along tokens in one direction, without the term D u.

    Where no gradients are recorded, `y` and `delta` are overwritten.

    Args:
        u: Tokens by chunk and step; of a map the rows, or the columns as its transposed view.
        delta: Step sizes, with their bias.
        A: Negative rates of decay.
        B: Input weights, the same for all channels.
        C: Output weights.
        reverse: From the last token to the first.
        softplus: Whether the step sizes go through a softplus.
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (y, u, delta, A, B, C)):
        return y + _Scan.apply(u, delta, A, B, C, reverse, softplus)
    _add_scan_(y, u, delta, A, B, C, reverse, softplus)
    return y


def _add_scan_(
    y: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, reverse: bool, softplus: bool
) -> None:
    """Adds the scan to `y`; `delta` is used up."""
    scratch = torch.empty_like(delta)
    if softplus:
        torch.clamp(delta, max=20, out=scratch).mul_(_LOG2_E).exp2_().log1p_()
        torch.maximum(scratch, delta, out=delta)  # a softplus is never less; beyond 20 it is delta
    if A.shape[1] == 1:
        decay = torch.mul(delta, A[:, 0] * _LOG2_E, out=scratch).exp2_()
        state = delta.mul_(u).mul_(B)
        recurrence_(decay, state, reverse=reverse)
        y.addcmul_(state, C)
    else:
        decay = (delta.unsqueeze(-1) * (A * _LOG2_E)).exp2_()
        state = delta.mul_(u).unsqueeze(-1) * B.unsqueeze(-2)
        recurrence_(decay.flatten(-2), state.flatten(-2), reverse=reverse)
        y.add_(state.mul_(C.unsqueeze(-2)).sum(-1))


def _traced(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, softplus: bool
) -> Float[Tensor, "batch channels tokens"]:
    """The scan in few operations without side effects."""
    groups = (B.shape[1], -1)
    delta = (F.softplus(delta) if softplus else delta).unsqueeze(-1)
    decay = (delta * A.unsqueeze(1)).exp()
    drive = (delta * u.unsqueeze(-1)).unflatten(1, groups) * B.mT.unsqueeze(2)
    chunks = (-1, chunk_steps(u.shape[2]))
    rows = (x.flatten(0, -3).unflatten(1, chunks) for x in (decay, drive))
    states = recurrence(*rows).view_as(drive)
    return (states * C.mT.unsqueeze(2)).sum(-1).flatten(1, 2)


class _Scan(torch.autograd.Function):
    """The scan in place. Its gradient is a recurrence of the same kind in the other direction.

    What that needs of the forward pass is computed again: training keeps nothing of the size of the states.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        reverse: bool,
        softplus: bool,
    ) -> Tensor:
        ctx.save_for_backward(u, delta, A, B, C)
        ctx.reverse, ctx.softplus = reverse, softplus
        y = torch.zeros_like(u)
        _add_scan_(y, u, delta.clone(), A, B, C, reverse, softplus)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        u, raw, A, B, C = ctx.saved_tensors
        (dy,) = (gradient.unsqueeze(-1) for gradient in gradients)
        delta = (F.softplus(raw) if ctx.softplus else raw).unsqueeze(-1)
        u, B, C = u.unsqueeze(-1), B.unsqueeze(-2), C.unsqueeze(-2)
        decay = (delta * (A * _LOG2_E)).exp2_()
        scratch, drive = decay.clone(), delta * u
        h = drive * B
        recurrence_(scratch.flatten(-2), h.flatten(-2), reverse=ctx.reverse)
        d_C = torch.mul(dy, h, out=scratch).sum(-2)
        g = dy * C  # of the drives, once what later tokens make of them is added
        following = previous(decay, reverse=not ctx.reverse)
        recurrence_(following.flatten(-2), g.flatten(-2), reverse=not ctx.reverse)
        d_log_decay = previous(h, reverse=ctx.reverse).mul_(decay).mul_(g)
        d_B = torch.mul(g, drive, out=scratch).sum(-2)
        d_A = torch.mul(d_log_decay, delta, out=scratch).sum((0, 1, 2))
        into = _sum_states(g.mul_(B))
        d_delta = _sum_states(d_log_decay.mul_(A)).addcmul_(u.squeeze(-1), into)
        if ctx.softplus:
            d_delta.mul_(raw.sigmoid())
        return into.mul_(delta.squeeze(-1)), d_delta, d_A, d_B, d_C, None, None


def _sum_states(x: Tensor) -> Tensor:
    """The sum over the last axis, without a copy where it has one number."""
    return x.squeeze(-1) if x.shape[-1] == 1 else x.sum(-1)
