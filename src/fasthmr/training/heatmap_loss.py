"""The loss of heat-map networks (arXiv 1804.06208, sec. 3)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def heatmap_loss(
    heatmaps: Float[Tensor, "batch keypoints rows columns"],
    targets: Float[Tensor, "batch keypoints rows columns"],
    weights: Float[Tensor, "batch keypoints"],
) -> Float[Tensor, ""]:
    """Mean of (w (prediction - target))² over everything; key points without a label count as no error."""
    return ((heatmaps - targets) * weights[..., None, None]).square().mean()
