"""Left hands for models that know right ones: shown to them in a mirror, and mirrored back."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fasthmr.body.mirror import mirror_params, mirror_points
from fasthmr.types import Crop, HMROutput

Left = Bool[Tensor, " hands"]
"""Which hands are left ones."""


def mirror_crops(crop: Crop, left: Left) -> Crop:
    """Crops of left hands as they look in a mirror, the middle of the box in the same place.

    Column i lies (i - size / 2) from the middle, so that the mirrored one is column size - i.
    """
    pixels = crop.pixels
    image = torch.cat([pixels[..., :1], pixels[..., 1:].flip(-1)], dim=-1)
    chosen = left.to(pixels.device)[:, None, None, None]
    return replace(crop, pixels=torch.where(chosen, image, pixels))


def mirror_back(output: HMROutput, left: Left) -> HMROutput:
    """What a model says of such crops, with left hands where they are."""
    camera, vertices = output.camera, output.vertices
    chosen = left.to(camera.device)
    turned = torch.where(chosen[:, None], camera * camera.new_tensor([1.0, -1.0, 1.0]), camera)
    if vertices is not None:
        vertices = torch.where(chosen[:, None, None], mirror_points(vertices), vertices)
    params = mirror_params(output.params, left)
    return replace(output, params=params, camera=turned, vertices=vertices)


def joints_of_sides(
    right: Float[Tensor, "hands joints 3"], left: Float[Tensor, "hands joints 3"], rows: Left
) -> Float[Tensor, "hands joints 3"]:
    """Of the right body, and of its mirror image where `rows` says so."""
    return torch.where(rows.to(right.device)[:, None, None], left, right)
