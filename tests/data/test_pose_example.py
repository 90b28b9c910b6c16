from __future__ import annotations

import pytest
import torch

from fasthmr.data.pose_example import PoseAugment, draw_placement, make_pose_example, placement_matrix
from fasthmr.errors import InputError
from fasthmr.geometry.heatmaps import COCO_FLIP_PAIRS, decode_heatmaps, swap_index
from fasthmr.geometry.pose_crops import crop_pose

BOX = torch.tensor([40.0, 20.0, 100.0, 140.0])
SIZE = (256, 192)


def person(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randint(0, 256, (160, 150, 3), generator=generator).byte()
    points = BOX[:2] + torch.rand(17, 2, generator=generator) * (BOX[2:] - BOX[:2])
    return picture, torch.cat([points, torch.ones(17, 1)], dim=1)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_changes_it_is_the_crop_of_inference():
    picture, keypoints = person()
    placement = draw_placement(BOX, keypoints, SIZE, PoseAugment.none(), generator(0))
    example = make_pose_example(picture, keypoints, placement)
    crop = crop_pose(picture, BOX[None])
    assert torch.allclose(example.pixels, crop.pixels[0], atol=1e-4)
    cells, _ = decode_heatmaps(example.target[None])
    back = cells[0] * crop.size / torch.tensor([47.0, 63.0]) + crop.center - crop.size / 2
    assert torch.allclose(back, keypoints[:, :2], atol=0.1)


def test_points_move_with_the_picture():
    dot = torch.zeros(160, 150, 3, dtype=torch.uint8)
    dot[80, 60] = 255
    keypoints = torch.zeros(17, 3)
    keypoints[5] = torch.tensor([60.0, 80.0, 2.0])
    seen = set()
    for seed in range(12):
        placement = draw_placement(BOX, keypoints, SIZE, PoseAugment(), generator(seed))
        example = make_pose_example(dot, keypoints, placement)
        index = 6 if placement.flip else 5
        x, y, visible = example.keypoints[index].tolist()
        assert visible == 1 and example.keypoints[11 - index, 2] == 0
        if 2 < x < 189 and 2 < y < 253:
            brightest = example.pixels[0].argmax().item()
            assert abs(brightest % 192 - x) < 2 and abs(brightest // 192 - y) < 2
            assert example.weight[index] == 1 and example.target[index].max() > 0.9
            seen.add((placement.flip, placement.rotation_deg != 0))
    assert len(seen) == 4


def test_mirrored_crops_mirror():
    picture, keypoints = person(1)
    placement = draw_placement(BOX, keypoints, SIZE, PoseAugment.none(), generator(0))
    mirrored = draw_placement(
        BOX,
        keypoints,
        SIZE,
        PoseAugment(flip=1.0, half_body=0.0, scale=0.0, rotate=0.0, jittered=0.0),
        generator(0),
    )
    plain, other = (make_pose_example(picture, keypoints, place) for place in (placement, mirrored))
    assert torch.allclose(plain.pixels.flip(-1), other.pixels, atol=1e-4)
    swapped = swap_index(COCO_FLIP_PAIRS, 17)
    assert torch.allclose(191 - plain.keypoints[swapped, 0], other.keypoints[:, 0], atol=1e-3)
    assert torch.linalg.det(placement_matrix(mirrored, 150, SIZE)[:, :2]) < 0


def test_half_bodies():
    _, keypoints = person(2)
    only = PoseAugment(flip=0.0, half_body=1.0, scale=0.0, rotate=0.0, jittered=0.0)
    placements = [draw_placement(BOX, keypoints, SIZE, only, generator(seed)) for seed in range(20)]
    upper = keypoints[:11, :2]
    centers = torch.stack([placement.center for placement in placements]).float()
    is_upper = (centers - upper.mean(0)).abs().amax(1) < 1e-3
    assert 8 <= is_upper.sum() < 20  # a normal draw below 0.5
    assert torch.allclose(centers[~is_upper], keypoints[11:, :2].mean(0), atol=1e-3)
    few = keypoints.clone()
    few[8:, 2] = 0
    whole = draw_placement(BOX, few, SIZE, only, generator(0))
    assert whole.center.tolist() == [70.0, 80.0]


def test_draws_stay_in_range():
    _, keypoints = person(3)
    for seed in range(60):
        place = draw_placement(BOX, keypoints, SIZE, PoseAugment(half_body=0.0), generator(seed))
        assert abs(place.rotation_deg) <= 80
        assert 0.5 <= place.size[1].item() / 150 <= 1.5
        assert (place.center - torch.tensor([70.0, 80.0])).abs().tolist() <= [12.0, 24.0]
    again = draw_placement(BOX, keypoints, SIZE, PoseAugment(half_body=0.0), generator(59))
    assert torch.equal(again.center, place.center)


def test_empty_boxes():
    with pytest.raises(InputError, match="box 0"):
        draw_placement(torch.zeros(4), torch.zeros(17, 3), SIZE, PoseAugment(), generator(0))
