"""Running averages of weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def follow_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and running statistics towards the model's."""
    for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)
