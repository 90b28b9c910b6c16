"""Square picture regions for a network, cut as the released code of HMR 2.0 (arXiv 2305.20091) does."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from fasthmr.geometry.boxes import hmr2_square, require_boxes
from fasthmr.types import Crop

IMAGENET_MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, float, float] = (0.229, 0.224, 0.225)

_BLUR_TRUNCATE = 4.0
"""Half width of the Gaussian kernel in standard deviations."""


def crop_pictures(
    image: UInt8[Tensor, "height width 3"] | UInt8[np.ndarray, "height width 3"],
    boxes_xyxy: Float[Tensor, "n 4"],
    size: int = 256,
    aspect: tuple[int, int] = (192, 256),
    antialias: bool = True,
) -> Crop:
    """Cut the square around each box out of an RGB picture and normalise it.

    Sampling is bilinear with black outside the picture; crop pixel u reads source x = (u - size/2) b / size +
    cx for a square of side b. Boxes more than 2.2 times as large as the crop are blurred first (standard
    deviation (b / size / 2 - 1) / 2 pixels, weaker than a textbook antialias filter).

    Args:
        boxes_xyxy: May reach outside the picture.
        aspect: Width and height that every box is grown to before the square is taken.
        antialias: Blur large boxes; CameraHMR (arXiv 2411.08128) does not.

    Raises:
        InputError: A box is empty or not finite.
    """
    picture = torch.as_tensor(image)
    require_boxes(boxes_xyxy)
    centers, sides = hmr2_square(boxes_xyxy.double(), aspect)
    squares = zip(centers.tolist(), sides.tolist(), strict=True)
    cuts = [_cut(picture, center, side, size, antialias) for center, side in squares]
    stacked = torch.stack(cuts) if cuts else torch.zeros(0, size, size, 3, device=picture.device)
    return Crop(
        pixels=normalize(stacked.permute(0, 3, 1, 2).contiguous()),
        box_center=centers.float(),
        box_size=sides.float(),
        image_size=centers.new_tensor(picture.shape[1::-1]).float().expand(len(centers), 2),
    )


def normalize(rgb: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """Grey levels 0..255 to the range that ImageNet-trained networks take."""
    mean = rgb.new_tensor(IMAGENET_MEAN)[:, None, None] * 255
    std = rgb.new_tensor(IMAGENET_STD)[:, None, None] * 255
    return (rgb - mean) / std


def _cut(
    picture: UInt8[Tensor, "height width 3"], center: list[float], side: float, size: int, antialias: bool
) -> Float[Tensor, "size size 3"]:
    """One crop in grey levels; rows and columns are sampled separately because the square is upright."""
    reduction = side / size / 2
    sigma = (reduction - 1) / 2 if antialias and reduction > 1.1 else 0.0
    margin = math.ceil(_BLUR_TRUNCATE * sigma) + 1
    cx, cy = center
    height, width = picture.shape[:2]
    left, right = _covered(cx, side, width, margin)
    top, bottom = _covered(cy, side, height, margin)
    if left >= right or top >= bottom:
        return torch.zeros(size, size, 3, device=picture.device)
    region = picture[top:bottom, left:right].float()
    if sigma > 0:
        region = _gaussian_blur(region, sigma)
    columns = _sample_positions(cx - left, side, size, snap=sigma > 0, like=region)
    rows = _sample_positions(cy - top, side, size, snap=sigma > 0, like=region)
    return _sample(_sample(region, rows).transpose(0, 1), columns).transpose(0, 1)


def _covered(center: float, side: float, length: int, margin: int) -> tuple[int, int]:
    """Pixels of an axis that a square reads, with a margin, as a half-open range inside the picture."""
    first = math.floor(center - side / 2) - margin
    last = math.ceil(center + side / 2) + margin
    return max(first, 0), min(last + 1, length)


def _sample_positions(
    center: float, side: float, size: int, *, snap: bool, like: Tensor
) -> Float[Tensor, "size"]:
    """Source coordinate of every crop pixel along one axis.

    With `snap` they are multiples of 1/32 pixel, as the released code's warp has them for blurred pictures.
    """
    steps = torch.arange(size, dtype=torch.float64, device=like.device)
    positions = (steps - size / 2) * (side / size) + center
    return (positions * 32).round() / 32 if snap else positions


def _sample(
    pixels: Float[Tensor, "length other 3"], positions: Float[Tensor, "size"]
) -> Float[Tensor, "size other 3"]:
    """Linear interpolation along the first axis, zero outside."""
    below = positions.floor()
    weight_above = positions - below
    result = pixels.new_zeros(len(positions), *pixels.shape[1:])
    for index, weight in ((below, 1 - weight_above), (below + 1, weight_above)):
        inside = (index >= 0) & (index < len(pixels))
        rows = pixels[index.clamp(0, len(pixels) - 1).long()]
        result += rows * (weight * inside).to(pixels.dtype)[:, None, None]
    return result


def _gaussian_blur(pixels: Float[Tensor, "height width 3"], sigma: float) -> Float[Tensor, "height width 3"]:
    """Separable Gaussian with the edge pixels repeated outside."""
    radius = int(_BLUR_TRUNCATE * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device=pixels.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(pixels.dtype)
    channels = pixels.permute(2, 0, 1)[:, None]
    padded = F.pad(channels, (radius, radius, radius, radius), mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None, :])
    return blurred[:, 0].permute(1, 2, 0)
