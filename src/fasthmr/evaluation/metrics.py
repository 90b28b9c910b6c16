"""Errors of joints, meshes and keypoints, per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fasthmr.geometry.alignment import similarity_align


def mpjpe_mm(
    predicted: Float[Tensor, "samples joints 3"],
    true: Float[Tensor, "samples joints 3"],
    root: int | Sequence[int] | None = 0,
    joints: Sequence[int] | None = None,
) -> Float[Tensor, "samples"]:
    """Mean per-joint position error in millimetres after moving the root of both to the origin.

    Args:
        root: A joint, several whose middle is the root, or None where the points are comparable as they are.
        joints: Those that count; all if None.
    """
    predicted, true = centred(predicted, root), centred(true, root)
    if joints is not None:
        predicted, true = predicted[:, list(joints)], true[:, list(joints)]
    return 1000 * (predicted - true).norm(dim=-1).mean(dim=-1)


def centred(
    points: Float[Tensor, "samples points 3"], root: int | Sequence[int] | None
) -> Float[Tensor, "samples points 3"]:
    """Points relative to one of them, or to the middle of several; unchanged for None."""
    if root is None:
        return points
    indices = [root] if isinstance(root, int) else list(root)
    return points - points[:, indices].mean(dim=1, keepdim=True)


def pa_mpjpe_mm(
    predicted: Float[Tensor, "samples joints 3"],
    true: Float[Tensor, "samples joints 3"],
    *,
    reflection: bool = False,
) -> Float[Tensor, "samples"]:
    """Mean per-joint position error in millimetres after the best similarity transform (float64).

    Args:
        reflection: Let the transform mirror; FreiHAND's evaluation does, those of bodies do not.
    """
    aligned = similarity_align(predicted, true, reflection=reflection)
    return 1000 * (aligned - true).norm(dim=-1).mean(dim=-1)


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


def acceleration_error(
    predicted: Float[Tensor, "frames joints 3"],
    true: Float[Tensor, "frames joints 3"],
    fps: float | None = None,
) -> Float[Tensor, "frames_2"]:
    """Mean error of the joints' accelerations at each inner frame of one sequence (HMMR, arXiv 1812.01601).

    Accelerations are second differences x(t-1) - 2 x(t) + x(t+1).

    Args:
        fps: Frames per second, for m/s^2; None gives millimetres per frame squared. The video tables of WHAM
            and after print m/s^2 at 30 frames per second, where 1 mm/frame^2 is 0.9 m/s^2.
    """
    error = (predicted - true).diff(n=2, dim=0).norm(dim=-1).mean(dim=-1)
    return error * (1000 if fps is None else fps**2)


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
    shares = pck_per_point(predicted, true, valid, size, threshold)
    return float(100 * shares[shares >= 0].mean())


def pck_per_point(
    predicted: Float[Tensor, "samples points 2"],
    true: Float[Tensor, "samples points 2"],
    valid: Bool[Tensor, "samples points"],
    size: Float[Tensor, "samples"],
    threshold: float,
) -> Float[Tensor, "points"]:
    """Share of each point's valid samples within `threshold` sizes, 0..1; -1 where it has none."""
    correct = ((predicted - true).norm(dim=-1) < threshold * size[:, None]) & valid
    count = valid.sum(dim=0)
    return torch.where(count > 0, correct.sum(dim=0).double() / count.clamp(min=1), -1.0)


def keypoint_l2(
    predicted: Float[Tensor, "samples points 2"],
    true: Float[Tensor, "samples points 2"],
    confidence: Float[Tensor, "samples points"],
) -> Float[Tensor, "samples"]:
    """Mean over points of confidence times squared 2D distance (`kpl2` of HMR 2.0's evaluator)."""
    return (confidence * (predicted - true).square().sum(dim=-1)).mean(dim=-1)


def pck_curve(
    distances: Float[Tensor, "samples points"], thresholds: Float[Tensor, "thresholds"]
) -> Float[Tensor, "thresholds"]:
    """Share of all points whose error is at most each threshold, 0..1."""
    errors = distances.flatten().sort().values
    return torch.searchsorted(errors, thresholds.to(errors.dtype), right=True) / max(len(errors), 1)


def auc(curve: Float[Tensor, "thresholds"], thresholds: Float[Tensor, "thresholds"]) -> float:
    """Area under a PCK curve by trapezoids over the width of the thresholds, 0..1 (FreiHAND)."""
    return float(torch.trapezoid(curve.double(), thresholds.double()) / (thresholds[-1] - thresholds[0]))


def f_scores(
    predicted: Float[Tensor, "samples points 3"],
    true: Float[Tensor, "samples vertices 3"],
    thresholds_mm: Sequence[float] = (5.0, 15.0),
) -> Float[Tensor, "samples thresholds"]:
    """Harmonic mean of precision and recall of surface points, 0 where both are 0; see `precision_recall`."""
    shares = precision_recall(predicted, true, thresholds_mm)
    total = shares.sum(dim=-1)
    return torch.where(total > 0, 2 * shares.prod(dim=-1) / total.clamp(min=1e-300), 0.0)


def precision_recall(
    predicted: Float[Tensor, "samples points 3"],
    true: Float[Tensor, "samples vertices 3"],
    thresholds_mm: Sequence[float] = (5.0, 15.0),
) -> Float[Tensor, "samples thresholds 2"]:
    """Shares of the predicted points near a true one, and of the true points near a predicted one.

    As in FreiHAND's evaluation (arXiv 1909.04349): vertices stand for the surface, distances are strictly
    smaller than the threshold; align first for the published numbers. (Its code calls the two by the other's
    name.)
    """
    limits = torch.tensor(thresholds_mm, dtype=torch.float64, device=true.device) / 1000
    rows = [
        torch.stack(
            [(_nearest(a, b)[:, None] < limits).double().mean(dim=0) for a, b in ((p, t), (t, p))], dim=1
        )
        for p, t in zip(predicted.double(), true.double(), strict=True)
    ]
    return torch.stack(rows) if rows else limits.new_zeros(0, len(limits), 2)


def _nearest(points: Float[Tensor, "n 3"], others: Float[Tensor, "m 3"]) -> Float[Tensor, "n"]:
    """Distance of each point to the nearest of the others; exact differences, in pieces of bounded memory."""
    pieces = [
        torch.cdist(piece, others, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1).values
        for piece in points.split(1024)
    ]
    return torch.cat(pieces)


def bootstrap_interval(
    values: Float[Tensor, "samples"], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Interval of the mean when the samples are drawn again with replacement."""
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, 2**22 // max(len(values), 1))
    means = torch.cat(
        [
            values[torch.randint(len(values), (count, len(values)), generator=generator)].mean(dim=1)
            for count in [at_once] * (draws // at_once) + [draws % at_once] * (draws % at_once > 0)
        ]
    )
    return interval_of(means, level)


def interval_of(draws: Float[Tensor, "draws"], level: float = 0.95) -> tuple[float, float]:
    """The middle part of a bootstrap distribution that holds this share of it."""
    low, high = torch.quantile(draws, draws.new_tensor([(1 - level) / 2, (1 + level) / 2]))
    return float(low), float(high)
