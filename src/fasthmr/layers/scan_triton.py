"""The selective scan on a GPU, with gradients (`docs/design/029`).

Tokens are cut into chunks. All chunks run first from zero, which gives what they pass on; then the states
between the chunks are joined; then the chunks run once more from those, with outputs. The gradient is a
recurrence of the same kind in the other direction. It keeps the states between chunks and computes those
within again.

All tensors are read where they lie. Of a map, groups are the four directions of `layers/ss2d`, as ways
through the same memory. Only `layers/scan` imports this module, when it is needed: Triton is for Linux alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from fasthmr.layers.scan_kernels import join, run, run_back

_LANES = 32
"""Channels of a program: the threads of a warp."""

_STEPS = 48
"""Tokens of a chunk. At 64x48 that is 48 steps, 64 between the chunks, and 48 again."""

_TERMS = {torch.float32: 8, torch.float64: 17}
"""Of the series of a softplus, by the type it is computed in."""

INTERPRETED = not isinstance(run, triton.JITFunction)
"""Whether Triton runs kernels on the processor, as it does where TRITON_INTERPRET=1 when it is imported."""


class _Sizes(NamedTuple):
    """Of one scan, and how it is cut."""

    batch: int
    tokens: int
    groups: int
    width: int
    state: int
    chunks: int
    blocks: int

    @classmethod
    def of(cls, u: Tensor, A: Tensor) -> _Sizes:
        batch, tokens, groups, width = u.shape
        return cls(batch, tokens, groups, width, A.shape[1], -(-tokens // _STEPS), -(-width // _LANES))

    @property
    def programs(self) -> tuple[int, int, int]:
        return self.batch * self.groups, self.chunks, self.blocks

    @property
    def between(self) -> tuple[int, ...]:
        """Of the states between chunks."""
        return self.batch, self.groups, self.chunks, self.width, self.state

    def join(self, states: Tensor, decays: Tensor, *, reverse: bool) -> None:
        cells = self.width * self.state
        programs = (self.batch * self.groups, -(-cells // _LANES))
        options = {"LANES": _LANES, "REVERSE": reverse, "num_warps": 1}
        join[programs](states, decays, cells, self.chunks, **options)

    def options(self, size: Sequence[int] | None, kind: torch.dtype, softplus: bool) -> dict[str, Any]:
        rows, columns = size or (1, 1)
        return {
            "tokens": self.tokens,
            "groups": self.groups,
            "width": self.width,
            "rows": rows,
            "columns": columns,
            "steps": _STEPS,
            "STATE": self.state,
            "PAD": 1 << (self.state - 1).bit_length(),
            "LANES": _LANES,
            "TERMS": _TERMS[kind] if softplus else 0,
            "MAP": size is not None,
            "num_warps": 1,
        }


def _strides(**tensors: Tensor) -> dict[str, int]:
    axes = ("sample", "token", "group")
    return {f"{name}_{axis}": x.stride(i) for name, x in tensors.items() for i, axis in enumerate(axes)}


def _readable(x: Tensor) -> Tensor:
    """Channels, or numbers of the state, side by side."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _precise(x: Tensor | None, kind: torch.dtype) -> Tensor | None:
    return None if x is None else x.to(kind).contiguous()


def _kind(A: Tensor) -> torch.dtype:
    """What is computed in: at least single precision."""
    return torch.promote_types(A.dtype, torch.float32)


_ARGUMENTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? bias, bool softplus"


@torch.library.custom_op(
    "fasthmr::selective_scan",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, SymInt[]? size) -> (Tensor, Tensor)",
)
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    size: Sequence[int] | None,
) -> tuple[Tensor, Tensor]:
    kind, sizes = _kind(A), _Sizes.of(u, A)
    u, delta, B, C = (_readable(x) for x in (u, delta, B, C))
    A, D, bias = A.to(kind).contiguous(), _precise(D, kind), _precise(bias, kind)
    y = u.new_empty(u.shape, dtype=kind)
    states = u.new_empty(sizes.between, dtype=kind)
    strides = _strides(u=u, delta=delta, B=B, C=C)
    options = sizes.options(size, kind, softplus)
    with torch.cuda.device_of(u):
        if sizes.chunks > 1:
            decays = torch.empty_like(states)
            run[sizes.programs](u, delta, A, B, C, D, bias, states, decays, None, **strides, **options)
            sizes.join(states, decays, reverse=False)
        run[sizes.programs](u, delta, A, B, C, D, bias, states, None, y, **strides, **options)
    return y, states


@_scan.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    kind = _kind(A)
    return u.new_empty(u.shape, dtype=kind), u.new_empty(_Sizes.of(u, A).between, dtype=kind)


@torch.library.custom_op(
    "fasthmr::selective_scan_gradients",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, SymInt[]? size, Tensor states, Tensor dy) -> Tensor[]",
)
def _gradients(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    size: Sequence[int] | None,
    states: Tensor,
    dy: Tensor,
) -> list[Tensor]:
    kind, sizes = _kind(A), _Sizes.of(u, A)
    given = (u, delta, A, B, C, D, bias)
    u, delta, B, C, dy = (_readable(x) for x in (u, delta, B, C, dy))
    A, D, bias = A.to(kind).contiguous(), _precise(D, kind), _precise(bias, kind)

    def room(*shape: int) -> Tensor:
        return u.new_empty(shape, dtype=kind)

    weights = (*u.shape[:3], sizes.blocks, sizes.state)
    rests = room(*sizes.between)
    within = room(sizes.batch, sizes.groups, sizes.tokens, sizes.width, sizes.state)
    d_u, d_delta = u.new_empty(u.shape), delta.new_empty(delta.shape)
    d_A, d_B, d_C = room(*sizes.between), room(*weights), room(*weights)
    d_D, d_bias = (None if x is None else room(*sizes.between[:-1]) for x in (D, bias))
    inputs = (u, delta, A, B, C, D, bias, dy, states)
    outputs = (d_u, d_delta, d_A, d_B, d_C, d_D, d_bias)
    strides = _strides(u=u, delta=delta, B=B, C=C, dy=dy)
    options = sizes.options(size, kind, softplus)
    with torch.cuda.device_of(u):
        if sizes.chunks > 1:
            decays = torch.empty_like(rests)
            nothing = (None,) * (1 + len(outputs))
            run_back[sizes.programs](*inputs, decays, rests, *nothing, **strides, **options)
            sizes.join(rests, decays, reverse=True)
        run_back[sizes.programs](*inputs, None, rests, within, *outputs, **strides, **options)
    summed = [d_u, d_delta, d_A.sum((0, 2)).flatten(0, 1), d_B.sum(3), d_C.sum(3)]
    summed += [x.sum((0, 2)).flatten() for x in (d_D, d_bias) if x is not None]
    wanted = (x.dtype for x in given if x is not None)
    return [x.to(dtype) for x, dtype in zip(summed, wanted, strict=True)]


@_gradients.register_fake
def _(*arguments: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in arguments[:7] if x is not None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.softplus, ctx.size = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    *tensors, states = ctx.saved_tensors
    found = iter(_gradients(*tensors, ctx.softplus, ctx.size, states, dy))
    return *(None if x is None else next(found) for x in tensors), None, None


_scan.register_autograd(_backward, setup_context=_keep)


def scan(
    u: Float[Tensor, "batch tokens groups width"],
    delta: Float[Tensor, "batch tokens groups width"],
    A: Float[Tensor, "groups*width state"],
    B: Float[Tensor, "batch tokens groups state"],
    C: Float[Tensor, "batch tokens groups state"],
    D: Float[Tensor, "groups*width"] | None,
    bias: Float[Tensor, "groups*width"] | None,
    *,
    softplus: bool = True,
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch tokens groups width"]:
    """The selective scan of each group, in single precision, or double where `A` is.

    Args:
        bias: Of the step sizes `delta`.
        softplus: Whether the step sizes go through a softplus.
        size: Rows and columns of a map whose four groups are the directions; None for tokens in their order.
    """
    return _scan(u, delta, A, B, C, D, bias, softplus, size)[0]
