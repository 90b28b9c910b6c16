"""Matching of boxes with people, and the figures made of it."""

from __future__ import annotations

import pytest
import torch

from fasthmr.evaluation.detections import DetectionTally

PEOPLE = torch.tensor([[0.0, 0, 10, 20], [30, 0, 40, 20]])
NONE = torch.zeros(0, 4)


def test_each_person_is_found_once_by_the_best_box() -> None:
    tally = DetectionTally()
    boxes = torch.tensor([[0.0, 1, 10, 20], [0, 0, 10, 20], [70, 0, 80, 20]])
    assert tally.add(boxes, torch.tensor([0.5, 0.9, 0.7]), PEOPLE, NONE) == [False, True, False]
    assert tally.recall() == 0.5
    assert tally.precision() == pytest.approx(1 / 3)
    assert tally.precision(0.8) == 1.0
    assert tally.average_precision() == 0.5
    assert tally.best_threshold() == pytest.approx(0.9)
    assert tally.ious == [1.0]


def test_boxes_in_ignored_places_and_small_ones_are_set_apart() -> None:
    tally = DetectionTally()
    boxes = torch.tensor([[100.0, 0, 110, 20], [200, 0, 204, 8], [300, 0, 310, 20]])
    ignored = torch.tensor([[95.0, 0, 115, 20]])
    assert tally.add(boxes, torch.tensor([0.9, 0.8, 0.7]), PEOPLE, ignored, 10.0) == [None, None, False]
    assert tally.apart == 2
    assert tally.precision() == 0.0


def test_nothing_found_and_nobody_there() -> None:
    tally = DetectionTally()
    assert tally.add(NONE, torch.zeros(0), NONE, NONE) == []
    assert tally.add(PEOPLE, torch.tensor([0.5, 0.5]), NONE, NONE) == [False, False]
    assert tally.recall() == 0.0
    assert tally.average_precision() == 0.0


def test_average_precision_is_the_area_under_the_envelope() -> None:
    tally = DetectionTally(people=2, scores=[0.9, 0.8, 0.7], hits=[True, False, True])
    assert tally.average_precision() == pytest.approx((1 + 2 / 3) / 2)
    assert tally.best_threshold() == pytest.approx(0.7)
