"""Upright or turned rectangles around people, cut as UDP (arXiv 1911.07524) and ViTPose do for 2D pose.

The centres of the outermost crop pixels lie on the sides of the box, so a crop W pixels wide has W - 1 steps:
x' = (W - 1) / w (x - cx + w / 2) for a box of width w around cx, and the same down.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fasthmr.geometry.boxes import require_boxes
from fasthmr.geometry.crops import normalize
from fasthmr.types import PoseCrop

PADDING = 1.25
"""Growth of a box before it is cut out."""


def crop_pose(
    image: UInt8[Tensor, "height width 3"] | UInt8[np.ndarray, "height width 3"],
    boxes_xyxy: Float[Tensor, "n 4"],
    image_size: tuple[int, int] = (256, 192),
) -> PoseCrop:
    """Cut each box, grown by `grow_to_aspect`, out of an RGB picture; black outside the picture.

    Args:
        boxes_xyxy: Pixels; may reach outside the picture.
        image_size: Height and width of the crops.

    Raises:
        InputError: A box is empty or not finite.
    """
    require_boxes(boxes_xyxy)
    picture = torch.as_tensor(image)
    center, size = grow_to_aspect(boxes_xyxy.double(), image_size)
    matrices = warp_matrix(center, size, image_size)
    cuts = [warp(picture, matrix, image_size) for matrix in matrices]
    stacked = torch.stack(cuts) if cuts else torch.zeros(0, *image_size, 3, device=picture.device)
    return PoseCrop(
        pixels=normalize(stacked.permute(0, 3, 1, 2).contiguous()), center=center.float(), size=size.float()
    )


def grow_to_aspect(
    boxes_xyxy: Float[Tensor, "n 4"], image_size: tuple[int, int], padding: float = PADDING
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """Centre, and width and height grown to the aspect of (height, width) `image_size`, then by `padding`."""
    center = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    return center, fit_aspect(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], image_size) * padding


def fit_aspect(size: Float[Tensor, "*n 2"], image_size: tuple[int, int]) -> Float[Tensor, "*n 2"]:
    """The smallest (width, height) of the aspect of (height, width) `image_size` that covers `size`."""
    aspect = image_size[1] / image_size[0]
    width, height = size.unbind(-1)
    return torch.stack([torch.maximum(width, height * aspect), torch.maximum(height, width / aspect)], dim=-1)


def warp_matrix(
    center: Float[Tensor, "n 2"],
    size: Float[Tensor, "n 2"],
    image_size: tuple[int, int],
    rotation_deg: Float[Tensor, "n"] | None = None,
) -> Float[Tensor, "n 2 3"]:
    """Affine map from picture to crop pixels: S (R (x - center) + size / 2), S = ((W - 1) / w, (H - 1) / h).

    Args:
        size: Width and height of the boxes.
        image_size: Height and width of the crop.
        rotation_deg: Turn of the content from the x axis toward the y axis (clockwise in the picture).
    """
    angle = torch.zeros_like(center[:, 0]) if rotation_deg is None else torch.deg2rad(rotation_deg)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))
    steps = center.new_tensor([image_size[1] - 1, image_size[0] - 1])
    shift = size / 2 - (turn @ center[..., None])[..., 0]
    return torch.cat([turn, shift[..., None]], dim=-1) * (steps / size)[..., None]


def invert_affine(matrix: Float[Tensor, "*n 2 3"]) -> Float[Tensor, "*n 2 3"]:
    """The map back."""
    linear = torch.linalg.inv(matrix[..., :2])
    return torch.cat([linear, -linear @ matrix[..., 2:]], dim=-1)


def transform_points(
    matrix: Float[Tensor, "*n 2 3"], points: Float[Tensor, "*n points 2"]
) -> Float[Tensor, "*n points 2"]:
    """Points through an affine map."""
    return points @ matrix[..., :2].mT + matrix[..., None, :, 2]


def warp(
    picture: UInt8[Tensor, "height width 3"], matrix: Float[Tensor, "2 3"], image_size: tuple[int, int]
) -> Float[Tensor, "rows columns 3"]:
    """Grey levels of a crop, bilinear with black outside, not rounded; positions are computed in float64.

    Args:
        matrix: From picture to crop pixels, as `warp_matrix` gives it.
        image_size: Height and width of the crop.
    """
    height, width = picture.shape[:2]
    rows, columns = (
        torch.arange(length, dtype=torch.float64, device=picture.device) for length in image_size
    )
    a, b = invert_affine(matrix.double().to(picture.device))
    x = a[0] * columns + (a[1] * rows + a[2])[:, None]
    y = b[0] * columns + (b[1] * rows + b[2])[:, None]
    left, top = x.floor(), y.floor()
    right_share, lower_share = (x - left).float(), (y - top).float()
    flat = picture.reshape(-1, 3)
    result = torch.zeros(*image_size, 3, device=picture.device)
    for dx, across in ((0, 1 - right_share), (1, right_share)):
        for dy, down in ((0, 1 - lower_share), (1, lower_share)):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
            result += flat[index].float() * (across * down * inside)[..., None]
    return result
