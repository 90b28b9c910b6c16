"""Training crops from stored records: cut, turn, mirror, mix with neighbours and degrade, as a batch.

Records hold a square of 1.25 box sides around a person. A crop is cut with a random similarity transform,
and every label follows it. All randomness comes from one generator, so a batch is a function of its seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fasthmr.body.skeletons import SMPL_FLIP, mirror_permutation
from fasthmr.data.records import POINT_NAMES
from fasthmr.data.shards import Shard
from fasthmr.geometry.crops import normalize

_POINT_FLIP = list(mirror_permutation(POINT_NAMES))
_JOINT_FLIP = list(SMPL_FLIP)
_MIRROR = torch.tensor([-1.0, 1.0, 1.0])
_MASK_STRIDE = 4
RECORD_MARGIN = 1.25
"""Side of a stored picture over the side of the box square (fasthmr.data.framing)."""


@dataclass(frozen=True, kw_only=True)
class RawBatch:
    """Records as stored, stacked.

    Attributes:
        points: Pixels of `POINT_NAMES` in the stored picture.
        points_3d: The same points in the camera frame, metres.
    """

    rgbm: UInt8[Tensor, "batch side side 4"]
    rotations: Float[Tensor, "batch 24 3 3"]
    betas: Float[Tensor, "batch betas"]
    points: Float[Tensor, "batch 35 2"]
    points_3d: Float[Tensor, "batch 35 3"]
    inside: Bool[Tensor, "batch 35"]


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """Network input and its labels.

    Attributes:
        pixels: Normalised RGB of the middle columns of the square crop.
        mask: Share of each stride-4 cell that shows the person.
        points: `POINT_NAMES` in crop units (pixel / crop side - 0.5).
        points_3d: The same relative to the root joint, camera axes, metres.
        inside: Points that lie in the columns the network sees.
    """

    pixels: Float[Tensor, "batch 3 height width"]
    mask: Float[Tensor, "batch rows columns"]
    rotations: Float[Tensor, "batch 24 3 3"]
    betas: Float[Tensor, "batch betas"]
    points: Float[Tensor, "batch 35 2"]
    points_3d: Float[Tensor, "batch 35 3"]
    inside: Bool[Tensor, "batch 35"]

    def pixel_mask(self) -> Float[Tensor, "batch height width"]:
        """`mask` with the share of its cell at every pixel."""
        cells = self.mask.repeat_interleave(_MASK_STRIDE, dim=1)
        return cells.repeat_interleave(_MASK_STRIDE, dim=2)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Strength of each change; `none()` only cuts the crop.

    Attributes:
        scale: Half range of the logarithm of the zoom.
        rotation_deg: Standard deviation of the picture rotation, applied to `rotate` of the crops.
        shift: Half range of the shift in box sides.
        zoom: Share of crops that show only a part of what the record shows.
        neighbour: Share of crops into which another record's person is pasted.
    """

    scale: float = 0.18
    rotation_deg: float = 18.0
    rotate: float = 0.35
    shift: float = 0.06
    mirror: float = 0.5
    zoom: float = 0.06
    neighbour: float = 0.1
    occluder: float = 0.12
    color: float = 0.7
    blur: float = 0.2
    noise: float = 0.25

    @classmethod
    def none(cls) -> AugmentConfig:
        return cls(
            scale=0.0,
            rotate=0.0,
            shift=0.0,
            mirror=0.0,
            zoom=0.0,
            neighbour=0.0,
            occluder=0.0,
            color=0.0,
            blur=0.0,
            noise=0.0,
        )


class RecordStore:
    """All records of a folder of shards, read by global index."""

    def __init__(self, shards: list[Shard]) -> None:
        self._shards = shards
        self._ends = np.cumsum([len(shard.rgbm) for shard in shards])
        self._labels = {
            key: torch.from_numpy(np.concatenate([shard.labels[key] for shard in shards]))
            for key in ("rotations", "betas", "points_2d", "joints_3d", "points_inside")
        }

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def side(self) -> int:
        """Of the stored squares, pixels."""
        return self._shards[0].rgbm.shape[1]

    def labels(self, name: str) -> np.ndarray:
        """One label array over all records, named as in `SyntheticRecord`."""
        return np.concatenate([shard.labels[name] for shard in self._shards])

    def batch(self, indices: Tensor) -> RawBatch:
        """Read records; the picture bytes are copied, labels are views gathered by index."""
        pictures = []
        for index in indices.tolist():
            shard = int(np.searchsorted(self._ends, index, side="right"))
            first = 0 if shard == 0 else int(self._ends[shard - 1])
            pictures.append(torch.from_numpy(np.array(self._shards[shard].rgbm[index - first])))
        labels = {key: value[indices] for key, value in self._labels.items()}
        return RawBatch(
            rgbm=torch.stack(pictures),
            rotations=labels["rotations"],
            betas=labels["betas"],
            points=labels["points_2d"],
            points_3d=labels["joints_3d"],
            inside=labels["points_inside"],
        )


def make_batch(
    raw: RawBatch,
    config: AugmentConfig,
    generator: torch.Generator,
    crop_size: int,
    image_size: tuple[int, int],
) -> TrainBatch:
    """Cut, turn, mirror, paste and degrade; labels follow.

    Args:
        crop_size: Side of the square crop in pixels.
        image_size: Height and width of its middle part that the network sees.
    """
    count, side = raw.rgbm.shape[0], raw.rgbm.shape[1]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    per_pixel = side / RECORD_MARGIN / crop_size  # stored pixels for one crop pixel
    zoom = torch.exp((uniform(count) * 2 - 1) * config.scale)
    center = torch.full((count, 2), side / 2)
    part = uniform(count) < config.zoom
    joint = (uniform(count) * 24).long()
    center = torch.where(part[:, None], raw.points[torch.arange(count), joint].clamp(0, side), center)
    zoom = torch.where(part, zoom * (0.45 + 0.4 * uniform(count)), zoom)
    angle = torch.randn(count, generator=generator).clamp(-2, 2) * np.deg2rad(config.rotation_deg)
    angle = torch.where(uniform(count) < config.rotate, angle, torch.zeros(()))
    shift = (uniform(count, 2) * 2 - 1) * config.shift * crop_size
    sign = torch.where(uniform(count) < config.mirror, -1.0, 1.0)

    # stored = center + matrix (crop - crop_size / 2 + shift)
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), dim=-2)
    flip = torch.stack((sign, torch.ones_like(sign)), dim=-1)
    matrix = (zoom * per_pixel)[:, None, None] * turn * flip[:, None, :]

    height, width = image_size
    # The network averages a 256-pixel crop down by k: its pixel u covers pixels k u .. k u + k - 1 there.
    middle = 0.5 - 0.5 * crop_size / 256
    rows = torch.arange(height, dtype=torch.float32) + middle - crop_size / 2
    columns = torch.arange(width, dtype=torch.float32) + middle - width / 2
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    source = (grid + shift[:, None, None]) @ matrix[:, None].mT + center[:, None, None]
    picture = raw.rgbm.permute(0, 3, 1, 2).float() / 255
    cut = F.grid_sample(
        picture, source * (2 / (side - 1)) - 1, mode="bilinear", padding_mode="reflection", align_corners=True
    )
    pixels, mask = cut[:, :3].contiguous(), cut[:, 3:].contiguous()

    points = (torch.linalg.inv(matrix)[:, None] @ (raw.points - center[:, None])[..., None])[..., 0]
    points = (points - shift[:, None]) / crop_size
    inside = raw.inside & (points[..., 1].abs() < 0.5) & (points[..., 0].abs() < 0.5 * width / height)
    turn_back = torch.zeros(count, 3, 3)
    turn_back[:, :2, :2] = turn.mT
    turn_back[:, 2, 2] = 1
    points_3d = (raw.points_3d - raw.points_3d[:, :1]) @ turn_back.mT
    rotations = torch.cat((turn_back[:, None] @ raw.rotations[:, :1], raw.rotations[:, 1:]), dim=1)
    batch = TrainBatch(
        pixels=pixels,
        mask=mask[:, 0],
        rotations=rotations,
        betas=raw.betas,
        points=points,
        points_3d=points_3d,
        inside=inside,
    )
    batch = _mirror_labels(batch, sign < 0)
    pixels, mask = _paste_neighbours(batch.pixels, mask, config.neighbour, generator)
    pixels, mask = _paste_boxes(pixels, mask, config.occluder, generator)
    pixels = _degrade(pixels, config, generator)
    return replace(batch, pixels=normalize(pixels * 255), mask=F.avg_pool2d(mask, _MASK_STRIDE)[:, 0])


def _mirror_labels(batch: TrainBatch, mirrored: Bool[Tensor, "batch"]) -> TrainBatch:
    """Labels of the chosen crops under x -> -x; their 2D points are already mirrored but keep their side."""

    def pick(yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(mirrored.view(-1, *(1,) * (yes.dim() - 1)), yes, no)

    outer = _MIRROR[:, None] * _MIRROR
    return replace(
        batch,
        rotations=pick(batch.rotations[:, _JOINT_FLIP] * outer, batch.rotations),
        points=pick(batch.points[:, _POINT_FLIP], batch.points),
        points_3d=pick(batch.points_3d[:, _POINT_FLIP] * _MIRROR, batch.points_3d),
        inside=pick(batch.inside[:, _POINT_FLIP], batch.inside),
    )


def _paste_neighbours(
    pixels: Tensor, mask: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut the person of the next record out and put it beside this one, before or behind."""
    count = len(pixels)
    chosen = torch.rand(count, generator=generator) < share
    if not chosen.any():
        return pixels, mask
    rows = chosen.nonzero()[:, 0]
    draw = torch.rand(len(rows), 5, generator=generator)
    scale = 0.7 + 0.6 * draw[:, 0]
    offset = torch.where(draw[:, 1] < 0.5, -1.0, 1.0) * (0.45 + 0.6 * draw[:, 2])
    theta = torch.zeros(len(rows), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, 0, 2], theta[:, 1, 2] = offset / scale, (draw[:, 3] - 0.5) * 0.4 / scale
    donors = (rows - 1) % count
    other = torch.cat((pixels[donors], mask[donors]), dim=1)
    grid = F.affine_grid(theta, list(other.shape), align_corners=False)
    other = F.grid_sample(other, grid, align_corners=False)
    front = (draw[:, 4] < 0.4).view(-1, 1, 1, 1)
    coverage = torch.where(front, other[:, 3:], other[:, 3:] * (1 - mask[rows]))
    pixels[rows] = pixels[rows] * (1 - coverage) + other[:, :3] * coverage
    mask[rows] = mask[rows] * (1 - coverage)
    return pixels, mask


def _paste_boxes(
    pixels: Tensor, mask: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cover a rectangle with a piece of the next picture."""
    count, _, height, width = pixels.shape
    draw = torch.rand(count, 5, generator=generator)
    half_h, half_w = (0.06 + 0.2 * draw[:, 0]) * height, (0.06 + 0.25 * draw[:, 1]) * width
    rows = (torch.arange(height) - (draw[:, 2] * height)[:, None]).abs() < half_h[:, None]
    columns = (torch.arange(width) - (draw[:, 3] * width)[:, None]).abs() < half_w[:, None]
    box = rows[:, :, None] & columns[:, None] & (draw[:, 4] < share)[:, None, None]
    rows_on = (draw[:, 4] < share).nonzero()[:, 0]
    patch = pixels[(rows_on + 2) % count].roll(height // 3, dims=2)
    pixels[rows_on] = torch.where(box[rows_on, None], patch, pixels[rows_on])
    return pixels, mask * ~box[:, None]


def _degrade(pixels: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Exposure, contrast, colour cast, gamma, grey, lower resolution, blur and noise."""
    count, _, height, width = pixels.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    kind = torch.rand(count, generator=generator) / max(config.blur, 1e-9)
    for low, high, step in ((0.0, 0.4, 1), (0.4, 0.8, 2), (0.8, 1.0, 4)):
        chosen = ((kind >= low) & (kind < high)).nonzero()[:, 0]
        if len(chosen):
            picked = pixels[chosen]
            small = F.avg_pool2d(picked, 3, 1, 1) if step == 1 else F.avg_pool2d(picked, step)
            pixels[chosen] = F.interpolate(small, (height, width), mode="bilinear", align_corners=False)
    if config.color:
        gain = torch.exp(
            (draw(1, 1, 1) - 0.5) * 0.7 * config.color + (draw(3, 1, 1) - 0.5) * 0.3 * config.color
        )
        contrast = torch.exp((draw(1, 1, 1) - 0.6) * 0.7 * config.color)
        saturation = torch.where(draw(1, 1, 1) < 0.06, 0.05, 0.5 + draw(1, 1, 1))
        # One colour matrix and offset per crop: contrast about the mean, gain per channel, saturation.
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        linear = gain[:, :, 0, 0] * contrast[:, 0, 0]
        desaturate = (torch.eye(3) * saturation[:, 0] + (1 - saturation[:, 0]) / 3) * linear[:, None]
        offset = (desaturate @ (mean * (1 / contrast - 1))[:, :, 0].expand(-1, 3, 1))[..., 0]
        pixels = (desaturate @ pixels.flatten(2) + offset[..., None]).view_as(pixels).clamp_(1e-3, 1)
        # A curve through 0 and 1 that brightens or darkens the middle, cheaper than a power.
        pixels = pixels + ((draw(1, 1, 1) - 0.5) * config.color) * pixels * (1 - pixels)
    if config.noise:
        noisy = (torch.rand(count, generator=generator) < config.noise).nonzero()[:, 0]
        if len(noisy):
            sigma = 0.06 * torch.rand(len(noisy), 1, 1, 1, generator=generator)
            pixels[noisy] += sigma * torch.randn(len(noisy), 3, height, width, generator=generator)
    return pixels.clamp(0, 1)
