"""Square picture regions for a network, cut as the released code of HMR 2.0 (arXiv 2305.20091) does."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
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
    pixels = torch.empty(len(boxes_xyxy), 3, size, size, device=picture.device)
    for place, (center, side) in zip(pixels, squares, strict=True):
        place.copy_(normalize(_cut(picture, center, side, size, antialias).permute(2, 0, 1)))
    return Crop(
        pixels=pixels,
        box_center=centers.float(),
        box_size=sides.float(),
        image_size=centers.new_tensor(picture.shape[1::-1]).float().expand(len(centers), 2),
    )


def normalize(rgb: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """Grey levels 0..255 to the range that ImageNet-trained networks take."""
    mean = rgb.new_tensor(IMAGENET_MEAN)[:, None, None] * 255
    std = rgb.new_tensor(IMAGENET_STD)[:, None, None] * 255
    return (rgb - mean) / std


def denormalize(pixels: Float[Tensor, "*batch 3 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """RGB of 0..255 from what `normalize` gave."""
    mean = pixels.new_tensor(IMAGENET_MEAN)[:, None, None]
    std = pixels.new_tensor(IMAGENET_STD)[:, None, None]
    return (pixels * std + mean) * 255


def _cut(
    picture: UInt8[Tensor, "height width 3"], center: list[float], side: float, size: int, antialias: bool
) -> Float[Tensor, "size size 3"]:
    """One crop in grey levels.

    Blur and sampling are one weighted sum along each axis, so that only pixels that the crop needs are read.
    """
    reduction = side / size / 2
    sigma = (reduction - 1) / 2 if antialias and reduction > 1.1 else 0.0
    height, width = picture.shape[:2]
    (rows, row_weights), (columns, column_weights) = (
        _taps(middle, side, size, length, sigma, picture.device)
        for middle, length in zip(reversed(center), (height, width), strict=True)
    )
    left, right = int(columns.min()), int(columns.max()) + 1
    narrow = _weighted_sum(picture[:, left:right], 0, rows, row_weights)
    return _weighted_sum(narrow, 1, columns - left, column_weights)


def _taps(
    center: float, side: float, size: int, length: int, sigma: float, device: torch.device
) -> tuple[Int[Tensor, "taps size"], Float[Tensor, "taps size"]]:
    """Source pixels along one axis that each crop pixel is made of, and their weights.

    Linear interpolation, zero outside, in a picture that a Gaussian blurred, its edge pixels repeated.
    Positions of blurred pictures are multiples of 1/32 pixel, as the released code's warp has them.
    """
    steps = torch.arange(size, dtype=torch.float64, device=device)
    positions = (steps - size / 2) * (side / size) + center
    kernel = steps.new_ones(1)
    if sigma > 0:
        positions = (positions * 32).round() / 32
        radius = int(_BLUR_TRUNCATE * sigma + 0.5)
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).to(steps) / sigma) ** 2)
        kernel = kernel / kernel.sum()
    below = positions.floor()
    above_weight = positions - below
    below_weight = (1 - above_weight) * ((below >= 0) & (below < length))
    above_weight = above_weight * ((below >= -1) & (below < length - 1))
    nothing = kernel.new_zeros(1)
    weights = torch.outer(torch.cat((kernel, nothing)), below_weight)
    weights += torch.outer(torch.cat((nothing, kernel)), above_weight)
    offsets = torch.arange(len(kernel) + 1, device=device) - len(kernel) // 2
    return (below + offsets[:, None]).clamp(0, length - 1).long(), weights.float()


def _weighted_sum(
    pixels: Shaped[Tensor, "rows columns 3"],
    axis: Literal[0, 1],
    index: Int[Tensor, "taps size"],
    weights: Float[Tensor, "taps size"],
) -> Float[Tensor, "new_rows new_columns 3"]:
    """Along one axis. Whole rows or pixels are copied, which plain indexing would do number by number."""
    weights = weights[:, :, None, None] if axis == 0 else weights[:, None, :, None]
    total = pixels.index_select(axis, index[0]) * weights[0]
    for place, weight in zip(index[1:], weights[1:], strict=True):
        total.addcmul_(pixels.index_select(axis, place).to(total), weight)
    return total
