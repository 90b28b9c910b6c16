"""Rigid alignment of point sets."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def similarity_transform(
    source: Float[Tensor, "*batch points 3"],
    target: Float[Tensor, "*batch points 3"],
    *,
    reflection: bool = False,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """Scale s, rotation R (det +1) and translation t with the least squared error of s R x + t.

    Umeyama 1991, "Least-squares estimation of transformation parameters", eq. 40-42; float64 inside.
    All source points in one place give scale 0.

    Args:
        reflection: Let R mirror the points where that fits better, as FreiHAND's evaluation does.
    """
    source64, target64 = source.double(), target.double()
    source_mean, target_mean = source64.mean(-2, keepdim=True), target64.mean(-2, keepdim=True)
    centred = source64 - source_mean
    covariance = (target64 - target_mean).mT @ centred
    u, singular, vh = torch.linalg.svd(covariance)
    signs = torch.ones_like(singular)
    if not reflection:
        signs[..., -1] = torch.where(torch.linalg.det(u @ vh) < 0, -1.0, 1.0)
    rotation = (u * signs[..., None, :]) @ vh
    variance = centred.square().sum((-2, -1))
    scale = (singular * signs).sum(-1) / variance.clamp(min=torch.finfo(variance.dtype).tiny)
    translation = target_mean[..., 0, :] - scale[..., None] * (rotation @ source_mean.mT)[..., 0]
    dtype = source.dtype
    return scale.to(dtype), rotation.to(dtype), translation.to(dtype)


def similarity_align(
    source: Float[Tensor, "*batch points 3"],
    target: Float[Tensor, "*batch points 3"],
    *,
    reflection: bool = False,
) -> Float[Tensor, "*batch points 3"]:
    """Source points after the similarity transform that brings them closest to the target."""
    scale, rotation, translation = similarity_transform(
        source.double(), target.double(), reflection=reflection
    )
    aligned = scale[..., None, None] * (source.double() @ rotation.mT) + translation[..., None, :]
    return aligned.to(source.dtype)
