"""Key points as heat maps: targets to train with, and points read back from the maps.

Two conventions map cells to crop pixels. UDP (arXiv 1911.07524, sec. 3.2), which ViTPose uses, counts the
steps between pixel centres: stride (W - 1) / (columns - 1). The older one ("MSRA", arXiv 1804.06208) counts
pixels: stride W / columns. Points are (x, y), in cells here, where integers are cell centres.

Maps of any float dtype are decoded in float32; targets are computed in float64 and returned as float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Decoding = Literal["argmax", "shift", "dark", "dark_udp"]
TargetKind = Literal["udp", "msra", "msra_unbiased"]

COCO_FLIP_PAIRS: tuple[tuple[int, int], ...] = tuple((i, i + 1) for i in range(1, 17, 2))
"""Left and right of the 17 COCO key points."""

_SMALL_KERNELS: dict[int, tuple[int, ...]] = {
    1: (1,),
    3: (1, 2, 1),
    5: (1, 4, 6, 4, 1),
    7: (2, 7, 14, 18, 14, 7, 2),
    9: (4, 13, 30, 51, 60, 51, 30, 13, 4),
}
"""What OpenCV takes for a Gaussian of these widths when no standard deviation is given."""


def heatmap_targets(
    joints: Float[Tensor, "*batch keypoints 2"],
    visible: Float[Tensor, "*batch keypoints"],
    image_size: tuple[int, int],
    heatmap_size: tuple[int, int],
    sigma: float = 2.0,
    kind: TargetKind = "udp",
) -> tuple[Float[Tensor, "*batch keypoints rows columns"], Float[Tensor, "*batch keypoints"]]:
    """Maps exp(-|cell - joint|² / 2 sigma²), and the weight of each.

    "udp" has its peak at the joint itself, "msra" at the nearest cell; both are cut off 3 sigma to each
    side of that cell. "msra_unbiased" (DARK, arXiv 1910.06278, sec. 3.3) has its peak at the joint, uncut.
    A joint whose window lies outside the map has weight 0; a joint of visibility <= 0.5 has an empty map.
    As in the released code the nearest cell is x + 0.5 rounded toward zero.

    Args:
        joints: Pixels of the crop.
        visible: 0 where a joint is not labelled; otherwise its weight.
        image_size: Height and width of the crop.
        heatmap_size: Rows and columns.
        sigma: Standard deviation in cells.
    """
    sizes = [(image_size[axis], heatmap_size[axis]) for axis in (1, 0)]
    strides = [(p - 1) / (c - 1) if kind == "udp" else p / c for p, c in sizes]
    at = joints.double() / joints.new_tensor(strides, dtype=torch.float64)
    window = 3 * sigma
    cell = at if kind == "msra_unbiased" else (at + 0.5).trunc()
    low, high = cell - window, cell + window + 1
    limits = joints.new_tensor([columns for _, columns in sizes], dtype=torch.float64)
    outside = (low >= limits).any(-1) | (high < 0).any(-1)
    weight = torch.where(outside, 0.0, visible)
    peak = cell if kind == "msra" else at
    profiles = []
    for axis, (_, cells) in enumerate(sizes):
        steps = torch.arange(cells, device=joints.device, dtype=torch.float64)
        profile = torch.exp(-((steps - peak[..., axis, None]) ** 2) / (2 * sigma**2))
        if kind != "msra_unbiased":
            profile = profile * ((steps - cell[..., axis, None]).abs() <= window)
        profiles.append(profile)
    across, down = profiles
    maps = down[..., :, None] * across[..., None, :] * (weight > 0.5)[..., None, None]
    return maps.float(), weight.float()


def peaks(
    heatmaps: Float[Tensor, "batch keypoints rows columns"],
) -> tuple[Float[Tensor, "batch keypoints 2"], Float[Tensor, "batch keypoints"]]:
    """Cell and value of each map's maximum, the first of equals; (-1, -1) where no value is positive."""
    scores, index = heatmaps.float().flatten(2).max(-1)
    columns = heatmaps.shape[-1]
    points = torch.stack([index % columns, index // columns], dim=-1).float()
    return torch.where(scores[..., None] > 0, points, -1.0), scores


def decode_heatmaps(
    heatmaps: Float[Tensor, "batch keypoints rows columns"],
    method: Decoding = "dark_udp",
    kernel: int = 11,
) -> tuple[Float[Tensor, "batch keypoints 2"], Float[Tensor, "batch keypoints"]]:
    """Points in cells and their scores (the maximum of each map).

    "argmax" is the maximum's cell. "shift" moves it by a quarter cell along each axis toward the higher
    neighbour, away from the border only. The others blur the map, take its logarithm and make one Newton step
    from the cell toward the maximum of the parabola through its neighbours:

    - "dark" (DARK, arXiv 1910.06278, eq. 6-9): border of zeros, logarithm of values >= 1e-10, derivatives
      over +-2 cells; cells within two of the border stay.
    - "dark_udp" (released code of arXiv 1911.07524): mirrored border, values within [0.001, 50], derivatives
      over +-1 cell with the edge repeated, machine epsilon added to the diagonal of the Hessian; the step has
      no limit.

    A map without a positive value gives (-1, -1), where "dark_udp", as released, still makes its step from
    cells that belong to the map before. Such a point means nothing; its score is <= 0.

    Args:
        kernel: Width of the blur in cells, odd; its standard deviation is 0.3 ((kernel - 1) / 2 - 1) + 0.8.
    """
    points, scores = peaks(heatmaps)
    if method == "shift":
        points = points + _quarter_shift(heatmaps.float(), points)
    elif method == "dark":
        points = points + _dark_step(heatmaps.float(), points, kernel)
    elif method == "dark_udp":
        points = points + _dark_udp_step(heatmaps.float(), points, kernel)
    return points, scores


def cells_to_picture(
    points: Float[Tensor, "batch keypoints 2"],
    center: Float[Tensor, "batch 2"],
    size: Float[Tensor, "batch 2"],
    heatmap_size: tuple[int, int],
    udp: bool = True,
) -> Float[Tensor, "batch keypoints 2"]:
    """Pixels of the full picture from cells.

    Args:
        center: Centre of the box that was cut out.
        size: Its width and height.
        heatmap_size: Rows and columns.
        udp: Whether the box spans the centres of the outermost cells, or the cells.
    """
    rows, columns = heatmap_size
    steps = points.new_tensor([columns - 1, rows - 1] if udp else [columns, rows])
    return points * (size / steps)[:, None] + (center - size / 2)[:, None]


def flip_back(
    heatmaps: Float[Tensor, "batch keypoints rows columns"],
    pairs: Sequence[tuple[int, int]] = COCO_FLIP_PAIRS,
    shift: bool = False,
) -> Float[Tensor, "batch keypoints rows columns"]:
    """Maps of a mirrored picture as if it had not been mirrored.

    Args:
        pairs: Key points that change places.
        shift: Move the maps one column to the right, which aligns them when the crop is not of the UDP kind.
    """
    mirrored = heatmaps.flip(-1)[:, swap_index(pairs, heatmaps.shape[1])]
    return torch.cat([mirrored[..., :1], mirrored[..., :-1]], dim=-1) if shift else mirrored


def swap_index(pairs: Sequence[tuple[int, int]], keypoints: int) -> list[int]:
    """For each key point the one that takes its place in a mirrored picture."""
    index = list(range(keypoints))
    for left, right in pairs:
        index[left], index[right] = right, left
    return index


def blur_heatmaps(
    heatmaps: Float[Tensor, "batch keypoints rows columns"],
    kernel: int,
    border: Literal["mirror", "zero"] = "mirror",
) -> Float[Tensor, "batch keypoints rows columns"]:
    """Gaussian blur as OpenCV's with a standard deviation of 0; "mirror" leaves out the edge cell itself.

    Raises:
        ValueError: The kernel is even.
    """
    if kernel % 2 == 0:
        raise ValueError(f"blur kernel must be odd, got {kernel}")
    down, across = (_blur_matrix(cells, kernel, border, heatmaps) for cells in heatmaps.shape[-2:])
    return down @ heatmaps @ across.T


def _blur_matrix(cells: int, kernel: int, border: str, like: Tensor) -> Float[Tensor, "cells cells"]:
    """The blur along one axis as a matrix."""
    half = kernel // 2
    if kernel in _SMALL_KERNELS:
        taps = torch.tensor(_SMALL_KERNELS[kernel], dtype=torch.float64)
    else:
        sigma = 0.3 * (half - 1) + 0.8
        taps = torch.exp(-(torch.arange(-half, half + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
    taps = taps / taps.sum()
    rows = torch.arange(cells)[:, None].expand(cells, kernel)
    source = rows + torch.arange(-half, half + 1)
    weights = taps.expand(cells, kernel)
    if border == "zero":
        weights = weights * ((source >= 0) & (source < cells))
        source = source.clamp(0, cells - 1)
    else:
        period = max(2 * (cells - 1), 1)
        source = source % period
        source = torch.minimum(source, period - source) if cells > 1 else torch.zeros_like(source)
    matrix = torch.zeros(cells, cells, dtype=torch.float64)
    matrix.index_put_((rows, source), weights, accumulate=True)
    return matrix.to(device=like.device, dtype=like.dtype)


def _at(
    flat: Float[Tensor, "batch keypoints cells"], index: Int[Tensor, "batch keypoints"]
) -> Float[Tensor, "batch keypoints"]:
    return flat.gather(-1, index[..., None])[..., 0]


def _inside(
    points: Float[Tensor, "batch keypoints 2"], heatmaps: Tensor, margin: int
) -> tuple[Tensor, Int[Tensor, "batch keypoints"]]:
    """Which points lie further than one cell from the first and `margin` from the last row and column, and
    where each is in the flattened map (those others at a place that has all neighbours, if any place has)."""
    rows, columns = heatmaps.shape[-2:]
    x, y = points.long().unbind(-1)
    inside = (x > 1) & (x < columns - margin) & (y > 1) & (y < rows - margin)
    return inside, torch.where(inside, y * columns + x, 2 * columns + 2)


def _quarter_shift(heatmaps: Tensor, points: Tensor) -> Float[Tensor, "batch keypoints 2"]:
    inside, index = _inside(points, heatmaps, margin=1)
    if min(heatmaps.shape[-2:]) < 4:
        return torch.zeros_like(points)
    flat, columns = heatmaps.flatten(2), heatmaps.shape[-1]
    slopes = [_at(flat, index + step) - _at(flat, index - step) for step in (1, columns)]
    return torch.where(inside[..., None], 0.25 * torch.stack(slopes, dim=-1).sign(), 0.0)


def _dark_step(heatmaps: Tensor, points: Tensor, kernel: int) -> Float[Tensor, "batch keypoints 2"]:
    inside, index = _inside(points, heatmaps, margin=2)
    if min(heatmaps.shape[-2:]) < 5:
        return torch.zeros_like(points)
    blurred = blur_heatmaps(heatmaps, kernel, border="zero")
    # The maximum stays what it was before the blur; of the logarithm only the floor sees it.
    scale = heatmaps.amax((-2, -1), keepdim=True) / blurred.amax((-2, -1), keepdim=True)
    flat, row = (blurred * scale.nan_to_num()).flatten(2), heatmaps.shape[-1]

    def f(dx: int, dy: int) -> Tensor:
        return _at(flat, index + dx + dy * row).clamp(min=1e-10).log()

    slope_x, slope_y = (f(1, 0) - f(-1, 0)) / 2, (f(0, 1) - f(0, -1)) / 2
    here = f(0, 0)
    xx, yy = (f(2, 0) - 2 * here + f(-2, 0)) / 4, (f(0, 2) - 2 * here + f(0, -2)) / 4
    xy = (f(1, 1) - f(1, -1) - f(-1, 1) + f(-1, -1)) / 4
    return torch.where(inside[..., None], _newton_step(slope_x, slope_y, xx, yy, xy), 0.0)


def _dark_udp_step(heatmaps: Tensor, points: Tensor, kernel: int) -> Float[Tensor, "batch keypoints 2"]:
    padded = F.pad(blur_heatmaps(heatmaps, kernel), (1, 1, 1, 1), mode="replicate")
    keypoints, rows, columns = padded.shape[1:]
    flat = padded.flatten(1)
    x, y = (points.long() + 1).unbind(-1)
    first = torch.arange(keypoints, device=points.device) * (rows * columns)
    index = first + y * columns + x

    def f(dx: int, dy: int) -> Tensor:
        # Steps from (-1, -1) leave the map; the released code then reads the one before.
        return flat.gather(-1, (index + dx + dy * columns) % flat.shape[-1]).clamp(0.001, 50).log()

    here, right, below, left, above = f(0, 0), f(1, 0), f(0, 1), f(-1, 0), f(0, -1)
    epsilon = torch.finfo(torch.float32).eps
    xx, yy = right - 2 * here + left + epsilon, below - 2 * here + above + epsilon
    xy = (f(1, 1) - right - below + 2 * here - left - above + f(-1, -1)) / 2
    return _newton_step((right - left) / 2, (below - above) / 2, xx, yy, xy)


def _newton_step(
    slope_x: Float[Tensor, "*batch"],
    slope_y: Float[Tensor, "*batch"],
    xx: Float[Tensor, "*batch"],
    yy: Float[Tensor, "*batch"],
    xy: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 2"]:
    """-H⁻¹ g for gradient g and symmetric Hessian H; zero where H cannot be inverted."""
    determinant = xx * yy - xy * xy
    step = torch.stack([xy * slope_y - yy * slope_x, xy * slope_x - xx * slope_y], dim=-1)
    usable = determinant[..., None] != 0
    return torch.where(usable, step / torch.where(usable, determinant[..., None], 1.0), 0.0)
