"""Linear layers that follow from data in closed form."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def fit_ridge(linear: nn.Linear, batches: Iterable[tuple[Tensor, Tensor]], strength: float) -> None:
    """Set weight and bias by ridge regression.

    Args:
        batches: Inputs (..., in) and wanted outputs (..., out).
        strength: Of the ridge, beside the mean square of inputs.
    """
    size = linear.in_features + 1
    squares, products = (
        torch.zeros(size, columns, dtype=torch.float64) for columns in (size, linear.out_features)
    )
    for given, wanted in batches:
        rows = F.pad(given, (0, 1), value=1.0).flatten(0, -2).double()
        squares += rows.mT @ rows
        products += rows.mT @ wanted.flatten(0, -2).double()
    ridge = strength * squares.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    solved = torch.linalg.solve(squares + ridge, products)
    linear.weight.copy_(solved[:-1].mT)
    linear.bias.copy_(solved[-1])
