from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasthmr.geometry.boxes import box_iou, clip_boxes, hmr2_square, nms

side = st.floats(1.0, 500.0, width=32)


def test_iou():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    b = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    expected = torch.tensor([[1 / 3, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(box_iou(a, b), expected)
    assert box_iou(a, torch.zeros(0, 4)).shape == (2, 0)


def test_nms_keeps_the_best_of_each_cluster():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40], [0, 1, 10, 11]])
    scores = torch.tensor([0.5, 0.9, 0.1, 0.8])
    assert nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert nms(boxes, scores, 1.0).tolist() == [1, 3, 0, 2]
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)


def test_clip():
    boxes = torch.tensor([[-5.0, -5.0, 700.0, 20.0], [650.0, 0.0, 700.0, 10.0]])
    clipped = clip_boxes(boxes, (640, 480))
    assert clipped.tolist() == [[0.0, 0.0, 640.0, 20.0], [640.0, 0.0, 640.0, 10.0]]


@given(side, side)
def test_square_contains_the_box_and_has_the_aspect(width, height):
    boxes = torch.tensor([[10.0, 20.0, 10.0 + width, 20.0 + height]], dtype=torch.float64)
    center, size = hmr2_square(boxes)
    assert torch.allclose(center, boxes.view(1, 2, 2).mean(1))
    assert size.item() >= max(width, height) - 1e-4
    assert size.item() == pytest.approx(max(height, width * 4 / 3), rel=1e-4)


def test_square_without_growth_is_the_longer_side():
    _, size = hmr2_square(torch.tensor([[0.0, 0.0, 100.0, 40.0]]), aspect=(1, 1))
    assert size.item() == 100
