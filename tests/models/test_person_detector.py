"""The network of the person detector: shapes, gradients, and the choice of boxes."""

from __future__ import annotations

import pytest
import torch

from fasthmr.models.person_detector import PersonDetectorConfig, select_boxes

TINY = PersonDetectorConfig(widths=(4, 4, 8, 8, 8), depths=(1, 1, 1, 1), neck=8)


def test_predicts_one_box_per_cell_around_its_centre() -> None:
    model = TINY.build().eval()
    cells = model(torch.rand(2, 3, 64, 96))
    count = (64 * 96) // 64 + (64 * 96) // 256 + (64 * 96) // 1024
    assert cells.logits.shape == (2, count)
    assert cells.boxes_xyxy.shape == (2, count, 4)
    assert (cells.boxes_xyxy[..., :2] < cells.centers).all()
    assert (cells.boxes_xyxy[..., 2:] > cells.centers).all()
    assert cells.strides.unique().tolist() == [8.0, 16.0, 32.0]
    assert cells.centers[0].tolist() == [4.0, 4.0]
    assert cells.centers[-1].tolist() == [80.0, 48.0]


def test_gradients_reach_all_parameters() -> None:
    torch.manual_seed(0)
    model = TINY.build()
    cells = model(torch.rand(2, 3, 64, 64))
    (cells.logits.square().sum() + cells.boxes_xyxy.square().mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_batch_equals_singles() -> None:
    torch.manual_seed(0)
    model = TINY.build().eval()
    pixels = torch.rand(2, 3, 64, 64)
    together = model(pixels)
    for i in range(2):
        alone = model(pixels[i : i + 1])
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.boxes_xyxy[0], together.boxes_xyxy[i], rtol=1e-4, atol=1e-3)


def test_rejects_sizes_that_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="depths"):
        PersonDetectorConfig(depths=(1, 0, 1, 1))


def test_doubles_and_weak_boxes_go() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 20], [0, 1, 10, 20], [30, 0, 40, 20], [60, 0, 70, 20]])
    logits = torch.tensor([1.0, 2.0, 0.0, -5.0])
    kept, scores = select_boxes(boxes, logits, score_threshold=0.1, nms_threshold=0.5)
    assert kept.tolist() == boxes[[1, 2]].tolist()
    torch.testing.assert_close(scores, logits[[1, 2]].sigmoid())


def test_no_box_passes() -> None:
    kept, scores = select_boxes(
        torch.zeros(3, 4), torch.full((3,), -9.0), score_threshold=0.5, nms_threshold=0.5
    )
    assert kept.shape == (0, 4)
    assert scores.shape == (0,)


def test_only_the_best_candidates_are_compared() -> None:
    corner = 20.0 * torch.arange(50)[:, None].repeat(1, 2)
    boxes = torch.cat([corner, corner + 10], dim=1)
    logits = torch.arange(50.0) / 10
    kept, _ = select_boxes(
        boxes, logits, score_threshold=0.1, nms_threshold=0.5, max_candidates=5, max_boxes=3
    )
    assert kept.tolist() == boxes[[49, 48, 47]].tolist()
