"""One training example of a heat-map network: a person's crop, its heat maps and their weights.

Half body, scale, rotation, flip and jitter as ViTPose (arXiv 2204.12484) is trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fasthmr.geometry.boxes import require_boxes
from fasthmr.geometry.crops import normalize
from fasthmr.geometry.heatmaps import COCO_FLIP_PAIRS, TargetKind, heatmap_targets, swap_index
from fasthmr.geometry.pose_crops import fit_aspect, grow_to_aspect, transform_points, warp, warp_matrix


@dataclass(frozen=True, kw_only=True)
class PoseAugment:
    """Strength of each change, as released; `PoseAugment.none()` only cuts the crop.

    Attributes:
        flip: Share of mirrored examples.
        half_body: Share of examples cut to the upper or lower body, of those with more than
            `half_body_points` visible points.
        half_body_padding: Growth of the box of the chosen half.
        upper_body: The points of the upper body; all others are the lower.
        upper: The upper body is chosen when a normal number lies below this.
        scale: Standard deviation, and largest change, of the factor of the box.
        rotation_deg: Standard deviation, and half of the largest turn, of `rotate` of the examples.
        jitter: Shift of the box centre in box sides, up to half of this, of `jittered` of the examples. The
            released code draws it once for a whole training; here each example draws its own.
    """

    flip: float = 0.5
    half_body: float = 0.3
    half_body_points: int = 8
    half_body_padding: float = 1.5
    upper_body: tuple[int, ...] = tuple(range(11))
    upper: float = 0.5
    scale: float = 0.5
    rotation_deg: float = 40.0
    rotate: float = 0.6
    jitter: float = 0.4
    jittered: float = 0.3

    @classmethod
    def none(cls) -> PoseAugment:
        """No change."""
        return cls(flip=0.0, half_body=0.0, scale=0.0, rotate=0.0, jittered=0.0)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a crop is cut.

    Attributes:
        center: Pixels of the picture, before it is mirrored.
        size: Width and height in pixels.
        flip: Whether the picture is mirrored before it is turned.
    """

    center: Float[Tensor, "2"]
    size: Float[Tensor, "2"]
    rotation_deg: float
    flip: bool


@dataclass(frozen=True, kw_only=True)
class PoseExample:
    """Network input and what it is to answer.

    Attributes:
        pixels: Normalised RGB.
        target: One heat map per key point.
        weight: 0 for key points that are not labelled or lie far outside.
        keypoints: x and y in pixels of the crop, and visibility.
    """

    pixels: Float[Tensor, "3 height width"]
    target: Float[Tensor, "keypoints rows columns"]
    weight: Float[Tensor, "keypoints"]
    keypoints: Float[Tensor, "keypoints 3"]


def draw_placement(
    box_xyxy: Float[Tensor, "4"],
    keypoints: Float[Tensor, "keypoints 3"],
    image_size: tuple[int, int],
    augment: PoseAugment,
    generator: torch.Generator,
) -> Placement:
    """Draw where to cut a person; always the same number of draws.

    Args:
        keypoints: x and y in pixels and visibility (above 0 where labelled).
        image_size: Height and width of the crop.

    Raises:
        InputError: The box is empty or not finite.
    """
    require_boxes(box_xyxy[None])
    chance = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    normal = torch.randn(3, generator=generator, dtype=torch.float64).tolist()
    box = box_xyxy.double()
    center, size = (value[0] for value in grow_to_aspect(box[None], image_size))
    if chance[0] < augment.jittered:
        shift = box.new_tensor([chance[1] - 0.5, chance[2] - 0.5])
        center = center + augment.jitter * shift * (box[2:] - box[:2])
    if chance[3] < augment.half_body and int((keypoints[:, 2] > 0).sum()) > augment.half_body_points:
        half = _half_body(keypoints.double(), image_size, augment, upper=normal[0] < augment.upper)
        center, size = half or (center, size)
    factor = min(max(1 + augment.scale * normal[1], 1 - augment.scale), 1 + augment.scale)
    turn = min(max(augment.rotation_deg * normal[2], -2 * augment.rotation_deg), 2 * augment.rotation_deg)
    return Placement(
        center=center,
        size=size * factor,
        rotation_deg=turn if chance[4] < augment.rotate else 0.0,
        flip=chance[5] < augment.flip,
    )


def make_pose_example(
    picture: UInt8[Tensor, "height width 3"],
    keypoints: Float[Tensor, "keypoints 3"],
    placement: Placement,
    image_size: tuple[int, int] = (256, 192),
    heatmap_size: tuple[int, int] = (64, 48),
    flip_pairs: Sequence[tuple[int, int]] = COCO_FLIP_PAIRS,
    sigma: float = 2.0,
    kind: TargetKind = "udp",
) -> PoseExample:
    """Cut the crop and draw its heat maps.

    Args:
        keypoints: x and y in pixels and visibility (above 0 where labelled).
        heatmap_size: Rows and columns of the heat maps.
        sigma: Standard deviation of the heat maps in cells.
    """
    points, visible = keypoints[:, :2].double(), keypoints[:, 2].clamp(0, 1)
    matrix = placement_matrix(placement, picture.shape[1], image_size)
    if placement.flip:
        swapped = swap_index(flip_pairs, len(keypoints))
        points, visible = points[swapped], visible[swapped]
    points = transform_points(matrix, points).float()
    target, weight = heatmap_targets(points, visible, image_size, heatmap_size, sigma, kind)
    return PoseExample(
        pixels=normalize(warp(picture, matrix, image_size).permute(2, 0, 1).contiguous()),
        target=target,
        weight=weight,
        keypoints=torch.cat([points, visible[:, None]], dim=1),
    )


def placement_matrix(
    placement: Placement, picture_width: int, image_size: tuple[int, int]
) -> Float[Tensor, "2 3"]:
    """From pixels of the picture as it is to pixels of the crop of (height, width) `image_size`."""
    center = placement.center.double().clone()
    if placement.flip:
        center[0] = picture_width - 1 - center[0]
    turn = center.new_tensor([placement.rotation_deg])
    matrix = warp_matrix(center[None], placement.size.double()[None], image_size, turn)[0]
    if placement.flip:  # x becomes width - 1 - x first
        matrix[:, 2] += (picture_width - 1) * matrix[:, 0]
        matrix[:, 0] = -matrix[:, 0]
    return matrix


def _half_body(
    keypoints: Float[Tensor, "keypoints 3"],
    image_size: tuple[int, int],
    augment: PoseAugment,
    *,
    upper: bool,
) -> tuple[Float[Tensor, "2"], Float[Tensor, "2"]] | None:
    """Centre and size of the box around one half's visible points; the other half if too few are."""
    visible = keypoints[:, 2] > 0
    of_upper = torch.zeros_like(visible)
    of_upper[list(augment.upper_body)] = True
    halves = keypoints[visible & of_upper, :2], keypoints[visible & ~of_upper, :2]
    points = halves[0] if (upper and len(halves[0]) > 2) or len(halves[1]) <= 2 else halves[1]
    if len(points) < 2:
        return None
    extent = points.amax(0) - points.amin(0)
    if not bool((extent > 0).any()):
        return None
    return points.mean(0), fit_aspect(extent, image_size) * augment.half_body_padding
