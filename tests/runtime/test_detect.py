from __future__ import annotations

import numpy as np
import pytest
import torch

from fasthmr.errors import InputError, UsageError
from fasthmr.runtime.detect import FullFrame, check_boxes, load_detector
from fasthmr.types import Detections


def test_full_frame_is_one_box() -> None:
    found = FullFrame()(np.zeros((30, 40, 3), dtype=np.uint8))
    assert found.boxes_xyxy.tolist() == [[0, 0, 40, 30]]
    assert found.scores.tolist() == [1]


def test_detectors_by_name() -> None:
    assert isinstance(load_detector("full"), FullFrame)
    own = FullFrame()
    assert load_detector(own) is own
    with pytest.raises(UsageError, match="did you mean 'full'"):
        load_detector("fulll")
    with pytest.raises(InputError, match="no such file"):
        load_detector("missing.onnx")


def test_boxes_are_clipped_and_sorted() -> None:
    boxes = torch.tensor([[-5.0, -5, 20, 20], [10, 10, 90, 90]])
    found = check_boxes(Detections(boxes_xyxy=boxes, scores=torch.tensor([0.5, 0.9])), (40, 30), "a.jpg")
    assert found.boxes_xyxy.tolist() == [[10, 10, 40, 30], [0, 0, 20, 20]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((50, 0, 60, 10), "outside the picture of 40x30"),
        ((-20, 0, -1, 10), "outside"),
        ((0, 31, 10, 40), "outside"),
        ((20, 0, 10, 10), "empty"),
        ((0, 5, 10, 5), "empty"),
        ((float("nan"), 0, 10, 10), "empty"),
    ],
)
def test_impossible_boxes_are_refused(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.jpg: box 0 .*{message}"):
        check_boxes(
            Detections(boxes_xyxy=torch.tensor([box], dtype=torch.float32), scores=torch.ones(1)),
            (40, 30),
            "a.jpg",
        )
