from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.data.augment import AugmentConfig, RawBatch, RecordStore, make_batch
from fasthmr.data.records import POINT_NAMES
from fasthmr.data.shards import Shard
from fasthmr.geometry.rotations import axis_angle_to_rotmat

SIDE, CROP, SIZE = 160, 128, (128, 96)
STRONG = AugmentConfig(
    zoom=0.0, neighbour=0.0, occluder=0.0, color=0.0, blur=0.0, noise=0.0, rotate=1.0, mirror=0.5
)


def records(count: int, seed: int = 0) -> RawBatch:
    """Pictures with one bright blob at the left wrist of the labels."""
    generator = torch.Generator().manual_seed(seed)
    points = 40 + 80 * torch.rand(count, 35, 2, generator=generator)
    rows = torch.arange(SIDE, dtype=torch.float32)
    wrist = points[:, POINT_NAMES.index("left_wrist")]
    squared = (rows[None, None, :] - wrist[:, 0, None, None]) ** 2 + (
        rows[None, :, None] - wrist[:, 1, None, None]
    ) ** 2
    blob = (255 * torch.exp(squared / -18)).to(torch.uint8)
    return RawBatch(
        rgbm=blob[..., None].repeat(1, 1, 1, 4),
        rotations=axis_angle_to_rotmat(torch.randn(count, 24, 3, generator=generator)),
        betas=torch.randn(count, 10, generator=generator),
        points=points,
        points_3d=torch.randn(count, 35, 3, generator=generator),
        inside=torch.ones(count, 35, dtype=torch.bool),
    )


def batch(raw: RawBatch, config: AugmentConfig, seed: int = 0):
    return make_batch(raw, config, torch.Generator().manual_seed(seed), CROP, SIZE)


@pytest.mark.parametrize("config", [AugmentConfig.none(), STRONG])
def test_labels_follow_the_picture(config: AugmentConfig):
    raw = records(24)
    result = batch(raw, config)
    light = result.pixels.mean(1)
    light = (light - light.amin((1, 2), keepdim=True)).clamp(min=0)
    rows, columns = torch.arange(128.0), torch.arange(96.0)
    x = (light.sum(1) * columns).sum(1) / light.sum((1, 2))
    y = (light.sum(2) * rows).sum(1) / light.sum((1, 2))
    seen = torch.stack(((x + 0.25 + 16) / 128 - 0.5, (y + 0.25) / 128 - 0.5), dim=-1)
    # A mirrored picture shows a left wrist as a right one.
    distances = [
        (seen - result.points[:, POINT_NAMES.index(name)]).norm(dim=-1)
        for name in ("left_wrist", "right_wrist")
    ]
    well_inside = (seen[:, 0].abs() < 0.3) & (seen[:, 1].abs() < 0.42)
    nearest = torch.stack(distances).amin(0)[well_inside]
    assert len(nearest) > 8
    assert nearest.max() < 1.0 / 128
    mirrored = (distances[1] < distances[0]).any()
    assert bool(mirrored) == (config.mirror > 0)


def test_without_augmentation_only_the_middle_is_cut():
    raw = records(3)
    result = batch(raw, AugmentConfig.none())
    torch.testing.assert_close(result.points, (raw.points - SIDE / 2) / CROP)
    torch.testing.assert_close(result.rotations, raw.rotations)
    torch.testing.assert_close(result.points_3d, raw.points_3d - raw.points_3d[:, :1])


def test_rotations_turn_and_mirror_with_the_3d_points():
    """A bone that points along its joint's x axis keeps doing so, mirrored bones along minus x."""
    raw = records(32)
    bone = raw.rotations[:, 0, :, 0]
    raw.points_3d[:, 1] = raw.points_3d[:, 0] + bone
    raw.points_3d[:, 2] = raw.points_3d[:, 0] + bone
    result = batch(raw, STRONG)
    moved = result.points_3d[:, 1]
    along = (moved * result.rotations[:, 0, :, 0]).sum(-1)
    torch.testing.assert_close(along.abs(), torch.ones(32), atol=1e-5, rtol=0)
    assert (along < 0).any() and (along > 0).any()
    torch.testing.assert_close(torch.linalg.det(result.rotations), torch.ones(32, 24), atol=1e-4, rtol=0)


def test_a_batch_is_a_function_of_its_seed():
    raw = records(6)
    first, second, third = (batch(raw, AugmentConfig(), seed) for seed in (5, 5, 6))
    assert torch.equal(first.pixels, second.pixels) and torch.equal(first.points, second.points)
    assert not torch.equal(first.points, third.points)


def test_all_changes_together_stay_finite():
    result = batch(records(32), AugmentConfig(zoom=1.0, neighbour=1.0, occluder=1.0, blur=1.0, noise=1.0))
    assert torch.isfinite(result.pixels).all() and torch.isfinite(result.points).all()
    assert result.mask.shape == (32, 32, 24)
    assert result.mask.min() >= 0 and result.mask.max() <= 1


def test_store_reads_across_shards():
    raw = records(5)
    labels = {
        "rotations": raw.rotations, "betas": raw.betas, "points_2d": raw.points, "joints_3d": raw.points_3d,
        "points_inside": raw.inside,
    }  # fmt: skip
    shards = [
        Shard(rgbm=raw.rgbm[part].numpy(), labels={key: value[part].numpy() for key, value in labels.items()})
        for part in (slice(0, 2), slice(2, 5))
    ]
    store = RecordStore(shards)
    picked = store.batch(torch.tensor([4, 0, 2]))
    assert len(store) == 5
    assert np.array_equal(picked.rgbm.numpy(), raw.rgbm[[4, 0, 2]].numpy())
    torch.testing.assert_close(picked.points, raw.points[[4, 0, 2]])
