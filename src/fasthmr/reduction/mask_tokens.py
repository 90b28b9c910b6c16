"""From a person mask of the crop to marks on the tokens of its grid."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor


def mask_coverage(
    mask: Shaped[Tensor, "batch height width"],
    *,
    patch_size: int = 16,
    padding: int = 2,
    stride: int | None = None,
    pooling: Literal["max", "mean"] = "mean",
) -> Float[Tensor, "batch rows columns"]:
    """The mask as the patch embedding sees it: the same windows, the same zeros around the picture.

    With the padding of 2 of the ViTPose family, token (i, j) sees rows 16 i - 2 to 16 i + 13.

    Args:
        mask: 0 to 1, or boolean, for the part of the crop that the encoder sees.
        stride: Pixels between patches; `patch_size` if None.
        pooling: Share of a patch that the mask covers, or the largest value in it.
    """
    values = (mask if mask.is_floating_point() else mask.float())[:, None]
    if pooling == "max":
        return F.max_pool2d(values, patch_size, stride, padding)[:, 0]
    return F.avg_pool2d(values, patch_size, stride, padding)[:, 0]


def person_patches(
    mask: Shaped[Tensor, "batch height width"],
    *,
    patch_size: int = 16,
    padding: int = 2,
    min_share: float | None = None,
    dilate: int = 0,
) -> Bool[Tensor, "batch patches"]:
    """Patches on the person, row-major.

    Args:
        mask: See `mask_coverage`.
        min_share: Share of a patch that must be covered; None marks every patch that the mask touches
            (a value of at least 0.5 anywhere in it). The paper leaves this open; 0.05 to 0.25 are sensible.
        dilate: Rings of neighbouring patches to mark as well; protects thin limbs and costs budget.

    Raises:
        ValueError: `min_share` is not in 0..1, or `dilate` is negative.
    """
    if min_share is not None and not 0 < min_share <= 1:
        raise ValueError(f"min_share={min_share} is not a share between 0 and 1")
    if dilate < 0:
        raise ValueError(f"dilate={dilate} is negative")
    pooling, threshold = ("max", 0.5) if min_share is None else ("mean", min_share)
    covered = mask_coverage(mask, patch_size=patch_size, padding=padding, pooling=pooling)
    marks = covered >= threshold
    if dilate:
        marks = F.max_pool2d(marks.float()[:, None], 2 * dilate + 1, 1, dilate)[:, 0] > 0
    return marks.flatten(1)


def ellipse_mask(
    boxes_xyxy: Float[Tensor, "batch 4"], picture_size: tuple[int, int]
) -> Bool[Tensor, "batch height width"]:
    """The ellipse inscribed in each box: the person where nothing better is known.

    Args:
        boxes_xyxy: Detection boxes in pixels of the picture that the encoder sees; pixel i spans i to i + 1.
        picture_size: Its height and width.
    """
    height, width = picture_size
    low, high = boxes_xyxy[:, None, :2], boxes_xyxy[:, None, 2:]
    center, half = (low + high) / 2, (high - low).clamp(min=1e-6) / 2
    y = (
        torch.arange(height, device=boxes_xyxy.device, dtype=boxes_xyxy.dtype) + 0.5 - center[..., 1]
    ) / half[..., 1]
    x = (torch.arange(width, device=boxes_xyxy.device, dtype=boxes_xyxy.dtype) + 0.5 - center[..., 0]) / half[
        ..., 0
    ]
    return y[:, :, None].square() + x[:, None, :].square() <= 1


def ellipse_in_crop(
    boxes_xyxy: Float[Tensor, "people 4"],
    box_center: Float[Tensor, "people 2"],
    box_size: Float[Tensor, "people"],
    crop_size: int,
) -> Bool[Tensor, "people size size"]:
    """The ellipses in detection boxes, as masks of the square crops around them.

    Args:
        boxes_xyxy: Pixels of the picture.
        box_center, box_size: Of the squares, as in `types.Crop`.
    """
    corner = (box_center - box_size[:, None] / 2).repeat(1, 2)
    return ellipse_mask((boxes_xyxy - corner) * (crop_size / box_size)[:, None], (crop_size, crop_size))
