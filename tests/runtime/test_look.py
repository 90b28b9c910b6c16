"""Boxes of videos that come from the user."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fasthmr.errors import InputError, UsageError
from fasthmr.io.video import VideoFrame, VideoWriter
from fasthmr.results import Clip
from fasthmr.runtime.follow import Follower
from fasthmr.runtime.look import ListedBoxes
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.runtime.video_options import VideoOptions
from fasthmr.types import Detections

SIZE = (120, 100)  # width, height


def frame(index: int) -> VideoFrame:
    return VideoFrame(index=index, time_s=index / 30, rgb=np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8))


def at(left: float, score: float = 1.0) -> Detections:
    boxes = torch.tensor([[left, 20.0, left + 30, 90.0]])
    return Detections(boxes_xyxy=boxes, scores=torch.tensor([score]))


def test_listed_boxes_are_taken_as_they_are_and_the_others_lie_between() -> None:
    places = {0: 10.0, 4: 13.0, 8: 30.0}
    follower = Follower(ListedBoxes({n: at(x, 0.01) for n, x in places.items()}, 1, "clip.mp4"), wait=True)
    followed = [ready for index in range(10) for ready in follower.push(frame(index))] + follower.flush()
    lefts = [item.people[0].box_xyxy[0] for item in followed[:9]]
    np.testing.assert_allclose(lefts, np.interp(np.arange(9), [0, 4, 8], [10, 13, 30]), atol=1e-4)
    assert {person.track_id for item in followed for person in item.people} == {0}
    assert follower.looks == 0


def test_only_frames_that_are_taken_count() -> None:
    looker = ListedBoxes({3: at(10)}, 3, "clip.mp4")
    assert looker.look(frame(0)) is None and looker.look(frame(3)) is None
    assert looker.look(frame(1)) is not None
    with pytest.raises(InputError, match=r"clip\.mp4, frame 0: box 0 .*outside"):
        ListedBoxes({0: at(200)}, 1, "clip.mp4").look(frame(0))


def test_a_video_with_boxes(stand_in_model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 30.0, SIZE) as writer:
        for index in range(6):
            writer.write(np.full((SIZE[1], SIZE[0], 3), 40 * index, dtype=np.uint8), index / 30)
    listed = {"1": [[10, 20, 40, 90]], "3": [[10, 20, 40, 90], [70, 20, 100, 90]], "5": []}
    (tmp_path / "boxes.json").write_text(json.dumps(listed))
    pipeline = Pipeline(stand_in_model, boxes=tmp_path / "boxes.json", video=VideoOptions(smooth="none"))
    clip = pipeline(path)
    assert isinstance(clip, Clip)
    first, second = clip.persons  # nobody is a mistake, however short
    assert first.frames.tolist() == [1, 2, 3, 4] and second.frames.tolist() == [3, 4]
    assert first.boxes_xyxy.tolist() == [[10, 20, 40, 90]] * 4 and first.side is None
    with pytest.raises(UsageError, match=r"Pipeline\(boxes=FILE\)"):
        pipeline(path, boxes=[[10, 20, 40, 90]])
    with pytest.raises(UsageError, match="cameras and streams"):
        pipeline.stream(path)
