"""The two-dimensional selective scan of VMamba (arXiv 2401.10166, sec. 4.2): a map read in four directions.

Directions are numbered as published: 0 row by row, 1 column by column, 2 and 3 the same backwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fasthmr.layers.scan import add_scan, fused_scan, selective_scan, selective_scan_reference

DIRECTIONS = 4

_DELTA_RANGE = (1e-3, 0.1)
_DELTA_FLOOR = 1e-4
_SCAN_PARAMETERS = ("A_logs", "Ds", "dt_projs_bias")
"""Parameters that stay in single precision when a model is cast to half."""

_TOGETHER = 2**18
"""Numbers of a map, or of several, that are scanned together on a processor: what its cache holds."""

Map = Float[Tensor, "batch rows columns dim"]
Inner = Float[Tensor, "batch rows columns inner"]


def cross_scan(x: Map) -> Float[Tensor, "batch 4 dim tokens"]:
    """The tokens of a map in the order of each direction."""
    rows, columns = x.flatten(1, 2).mT, x.transpose(1, 2).flatten(1, 2).mT
    return torch.stack([rows, columns, rows.flip(-1), columns.flip(-1)], 1)


def cross_merge(y: Float[Tensor, "batch 4 dim tokens"], size: tuple[int, int]) -> Map:
    """The sum of four directions, every token back at its place.

    Args:
        size: Rows and columns.
    """
    both = y[:, :2] + y[:, 2:].flip(-1)
    return both[:, 0].mT.unflatten(1, size) + both[:, 1].mT.unflatten(1, size[::-1]).transpose(1, 2)


class SS2D(nn.Module):
    """Linear, depthwise convolution, SiLU, the scan in four directions, LayerNorm, linear; no gate.

    The parameters of the scan stay in single precision, and so does its arithmetic, whatever the type of the
    rest. Key names are the published ones.

    Args:
        ratio: Inner channels over `dim`.
        state: Numbers of the state for each channel and direction.
        rank: Inner width of the step sizes; None for a sixteenth of `dim`, rounded up.
        kernel: Side of the convolution.
    """

    def __init__(
        self,
        dim: int,
        *,
        ratio: float | int = 2,
        state: int = 1,
        rank: int | None = None,
        kernel: int = 3,
        conv_bias: bool = False,
    ) -> None:
        super().__init__()
        self.inner = inner = int(ratio * dim)
        self.state, self.rank = state, rank or math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, kernel, padding=kernel // 2, groups=inner, bias=conv_bias)
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, self.rank + 2 * state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, self.rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.A_logs = nn.Parameter(torch.empty(DIRECTIONS * inner, state))
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Published start: small linear layers, step sizes between 0.001 and 0.1, A = -1, -2, ..."""
        for linear in (self.in_proj, self.out_proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.kaiming_uniform_(self.x_proj_weight.flatten(0, 1), a=math.sqrt(5))
        nn.init.uniform_(self.dt_projs_weight, -(self.rank**-0.5), self.rank**-0.5)
        low, high = (math.log(bound) for bound in _DELTA_RANGE)
        delta = nn.init.uniform_(self.dt_projs_bias, low, high).exp().clamp(min=_DELTA_FLOOR)
        self.dt_projs_bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # softplus backwards
        self.A_logs.copy_(torch.arange(1, self.state + 1).log().expand_as(self.A_logs))

    def forward(self, x: Map) -> Map:
        u = self.filtered(x)
        traced = torch.compiler.is_compiling() and fused_scan(u.device) is None
        return self._projected(self.scan_orders(u, selective_scan) if traced else self.scan_map(u))

    def plain(self, x: Map) -> Map:
        """`forward` as it is published: tokens copied in four orders, scanned one by one, and put back."""
        return self._projected(self.scan_orders(self.filtered(x), selective_scan_reference))

    def filtered(self, x: Map) -> Inner:
        """What is scanned."""
        maps = self.conv2d(self.in_proj(x).permute(0, 3, 1, 2))
        return F.silu(maps.permute(0, 2, 3, 1).contiguous())

    def scan_orders(self, u: Inner, form: Callable[..., Tensor]) -> Inner:
        """The sum of the four scans of a map whose tokens are copied in four orders.

        Args:
            form: Of the selective scan.
        """
        tokens = cross_scan(u).to(self.Ds.dtype)
        weights = torch.einsum("bkdl,kcd->bkcl", tokens, self.x_proj_weight.to(tokens.dtype))
        rank, B, C = weights.split((self.rank, self.state, self.state), 2)
        delta = torch.einsum("bkrl,kdr->bkdl", rank, self.dt_projs_weight.to(tokens.dtype))
        rates, bias = -self.A_logs.exp(), self.dt_projs_bias.flatten()
        y = form(tokens.flatten(1, 2), delta.flatten(1, 2), rates, B, C, self.Ds, bias)
        return cross_merge(y.view_as(tokens), (u.shape[1], u.shape[2])).to(u.dtype)

    def scan_map(self, u: Inner) -> Inner:
        """The sum of the four scans of maps, which stay as they are: directions are ways through them."""
        if (fused := fused_scan(u.device)) is not None:
            return self._scan_together(u, fused)
        together = max(1, _TOGETHER // max(1, u.shape[1:].numel()))
        if u.device.type == "cpu" and len(u) > together:
            return torch.cat([self.scan_map(some) for some in u.split(together)])
        precise = self.Ds.dtype
        weights = F.linear(u, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (DIRECTIONS, -1))
        rates = -self.A_logs.exp().unflatten(0, (DIRECTIONS, -1))
        inputs = u.to(precise)
        y = inputs * self.Ds.view(DIRECTIONS, -1).sum(0)
        for direction in range(DIRECTIONS):
            rank, B, C = weights[:, :, :, direction].split((self.rank, self.state, self.state), -1)
            delta = F.linear(rank, self.dt_projs_weight[direction]).to(precise)
            delta = delta.add_(self.dt_projs_bias[direction])
            columns = direction % 2 == 1
            y, *tensors = (
                t.transpose(1, 2) if columns else t for t in (y, inputs, delta, B.to(precise), C.to(precise))
            )
            own, sizes, into, out = tensors
            y = add_scan(y, own, sizes, rates[direction], into, out, reverse=direction >= 2)
            y = y.transpose(1, 2) if columns else y
        return y.to(u.dtype)

    def _scan_together(self, u: Inner, fused: Callable[..., Tensor]) -> Inner:
        """`scan_map` with all directions at once."""
        tokens = u.flatten(1, 2)
        weights = F.linear(tokens, self.x_proj_weight.flatten(0, 1)).unflatten(-1, (DIRECTIONS, -1))
        rank, B, C = weights.split((self.rank, self.state, self.state), -1)
        delta = torch.einsum("btkr,kdr->btkd", rank, self.dt_projs_weight)
        every = tokens.unsqueeze(2).expand(-1, -1, DIRECTIONS, -1)
        rates, bias = -self.A_logs.exp(), self.dt_projs_bias.flatten()
        y = fused(every, delta, rates, B, C, self.Ds, bias, size=(u.shape[1], u.shape[2]))
        return y.sum(2).view_as(u).to(u.dtype)

    def _projected(self, y: Inner) -> Map:
        return self.out_proj(self.out_norm(y))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SS2D:
        """Casts and moves all but leaves single precision where it is needed."""
        kept = {name: getattr(self, name).data for name in _SCAN_PARAMETERS}
        super()._apply(fn, recurse)
        for name, value in kept.items():
            moved = getattr(self, name)
            if moved.dtype in (torch.float16, torch.bfloat16):
                moved.data = value.to(moved.device, torch.float32)
        return self
