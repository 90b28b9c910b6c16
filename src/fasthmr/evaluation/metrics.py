"""Errors of joints, meshes and keypoints, per sample."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fasthmr.geometry.alignment import similarity_align


def mpjpe_mm(
    predicted: Float[Tensor, "samples joints 3"], true: Float[Tensor, "samples joints 3"], root: int = 0
) -> Float[Tensor, "samples"]:
    """Mean per-joint position error in millimetres after moving joint `root` of both to the origin."""
    predicted, true = predicted - predicted[:, root, None], true - true[:, root, None]
    return 1000 * (predicted - true).norm(dim=-1).mean(dim=-1)


def pa_mpjpe_mm(
    predicted: Float[Tensor, "samples joints 3"], true: Float[Tensor, "samples joints 3"]
) -> Float[Tensor, "samples"]:
    """Mean per-joint position error in millimetres after the best similarity transform."""
    return 1000 * (similarity_align(predicted, true) - true).norm(dim=-1).mean(dim=-1)


def pve_mm(
    predicted: Float[Tensor, "samples vertices 3"],
    true: Float[Tensor, "samples vertices 3"],
    weights: Float[Tensor, "vertices"] | None = None,
) -> Float[Tensor, "samples"]:
    """Per-vertex error in millimetres; move the roots to the origin first.

    Args:
        weights: Share of each vertex, summing to one (its area, say); None counts vertices alike.
    """
    distance = 1000 * (predicted - true).norm(dim=-1)
    return distance.mean(dim=-1) if weights is None else distance @ weights


def vertex_areas(vertices: Float[Tensor, "vertices 3"], faces: Tensor) -> Float[Tensor, "vertices"]:
    """Share of the surface that belongs to each vertex (a third of its faces), summing to one."""
    a, b, c = vertices[faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1)
    total = vertices.new_zeros(len(vertices)).index_add(0, faces.flatten(), area.repeat_interleave(3))
    return total / total.sum()


def pck(
    predicted: Float[Tensor, "samples points 2"],
    true: Float[Tensor, "samples points 2"],
    valid: Bool[Tensor, "samples points"],
    size: Float[Tensor, "samples"],
    threshold: float,
) -> float:
    """Percentage of correct keypoints: the mean over points of the share of samples within `threshold` sizes.

    HMR 2.0's evaluator (arXiv 2305.20091): `size` is the longer side of the annotated box; a point without
    any valid sample is left out of the mean.
    """
    correct = ((predicted - true).norm(dim=-1) < threshold * size[:, None]) & valid
    count = valid.sum(dim=0)
    seen = count > 0
    return float(100 * (correct.sum(dim=0)[seen] / count[seen]).mean())


def bootstrap_interval(
    values: Float[Tensor, "samples"], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean when the samples are drawn again with replacement."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(values), (draws, len(values)), generator=generator)
    means = values[picks].mean(dim=1)
    low, high = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=means.dtype))
    return float(low), float(high)
