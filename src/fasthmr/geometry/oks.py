"""Object keypoint similarity (OKS) of COCO, and the suppression of doubled poses by it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

COCO_SIGMAS: tuple[float, ...] = (
    *(0.026, 0.025, 0.025, 0.035, 0.035),
    *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
    *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
"""Spread of human annotators at each of the 17 COCO points, in square roots of the object's area."""


def oks(
    points: Float[Tensor, "*batch points 2"],
    others: Float[Tensor, "*batch points 2"],
    area: Float[Tensor, "*batch"],
    visible: Bool[Tensor, "*batch points"] | None = None,
    sigmas: Sequence[float] = COCO_SIGMAS,
) -> Float[Tensor, "*batch"]:
    """Similarity 0..1 of two poses: the mean over points of exp(-d^2 / (2 area (2 sigma)^2)), float64 inside.

    Args:
        area: Of the object, pixels squared; of two detections the mean of their areas.
        visible: Points that count; all if None. Without any the similarity is 0.
    """
    spread = (2 * torch.tensor(sigmas, dtype=torch.float64, device=points.device)).square()
    squared = (points.double() - others.double()).square().sum(dim=-1)
    tiny = torch.finfo(torch.float64).eps
    likeness = torch.exp(-squared / (2 * spread * (area.double()[..., None] + tiny)))
    if visible is None:
        return likeness.mean(dim=-1).to(points.dtype)
    return ((likeness * visible).sum(dim=-1) / visible.sum(dim=-1).clamp(min=1)).to(points.dtype)


def oks_nms(
    points: Float[Tensor, "poses points 2"],
    area: Float[Tensor, "poses"],
    scores: Float[Tensor, "poses"],
    threshold: float = 0.9,
    sigmas: Sequence[float] = COCO_SIGMAS,
) -> Int[Tensor, "kept"]:
    """Indices of the poses that resemble no better one by more than `threshold` OKS, best first."""
    waiting = torch.argsort(scores, descending=True, stable=True)
    kept: list[int] = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(int(best))
        likeness = oks(
            points[best].expand(len(waiting), -1, -1),
            points[waiting],
            (area[best] + area[waiting]) / 2,
            sigmas=sigmas,
        )
        waiting = waiting[likeness <= threshold]
    return torch.tensor(kept, dtype=torch.long, device=scores.device)
