"""Boxes as (x1, y1, x2, y2) in pixels, any float dtype."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fasthmr.errors import InputError


def require_boxes(boxes_xyxy: Float[Tensor, "n 4"]) -> None:
    """Refuse boxes that nothing can be cut out by.

    Raises:
        InputError: A box is empty or not finite.
    """
    bad = ~(torch.isfinite(boxes_xyxy).all(-1) & (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(-1))
    if bad.any():
        index = int(bad.nonzero()[0])
        raise InputError(
            f"box {index} is {boxes_xyxy[index].tolist()}; needed: finite x1 < x2 and y1 < y2 in pixels"
        )


def box_iou(a: Float[Tensor, "n 4"], b: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Intersection over union of every pair; 0 where both boxes are empty."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (a, b))
    union = area_a[:, None] + area_b[None, :] - intersection
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def nms(boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n"], threshold: float) -> Int[Tensor, "kept"]:
    """Indices of the boxes that overlap no better one by more than `threshold` IoU, best first."""
    order = torch.argsort(scores, descending=True, stable=True)
    overlaps = box_iou(boxes[order], boxes[order]) > threshold
    open_ = torch.ones(len(order), dtype=torch.bool, device=order.device)
    kept: list[int] = []
    while bool(open_.any()):
        best = int(open_.to(torch.uint8).argmax())
        kept.append(best)
        open_ &= ~overlaps[best]
        open_[best] = False
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


def clip_boxes(boxes: Float[Tensor, "n 4"], image_size: tuple[int, int]) -> Float[Tensor, "n 4"]:
    """Boxes cut at the edges of a picture of (width, height) pixels; those outside become empty."""
    limit = boxes.new_tensor([*image_size, *image_size])
    return torch.minimum(boxes.clamp(min=0), limit)


def hmr2_square(
    boxes_xyxy: Float[Tensor, "n 4"], aspect: tuple[int, int] = (192, 256)
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n"]]:
    """Centre and side of the square around each box, grown to width:height `aspect` first, never shrunk.

    As HMR 2.0 crops at inference: the grown box is not padded further. `aspect=(1, 1)` gives the longer side.
    """
    center = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    width, height = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).unbind(-1)
    aspect_width, aspect_height = aspect
    grown_width = torch.maximum(width, height * (aspect_width / aspect_height))
    grown_height = torch.maximum(height, width * (aspect_height / aspect_width))
    return center, torch.maximum(grown_width, grown_height)
