from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fasthmr.io.video import VideoFrame
from fasthmr.runtime.follow import FollowedFrame, Follower
from fasthmr.runtime.look import EveryNth
from fasthmr.types import Detections

SIZE = (200, 120)  # width, height
Boxes = dict[int, list[float]]


class Planned:
    """Finds in each frame what a plan says; the frame's first pixel is its number."""

    def __init__(self, plan: Callable[[int], list[list[float]]]) -> None:
        self._plan = plan
        self.looked: list[int] = []

    def __call__(self, rgb: np.ndarray) -> Detections:
        self.looked.append(int(rgb[0, 0, 0]))
        boxes = torch.tensor(self._plan(self.looked[-1]), dtype=torch.float32).reshape(-1, 4)
        return Detections(boxes_xyxy=boxes, scores=torch.full((len(boxes),), 0.9))


def frame(index: int) -> VideoFrame:
    rgb = np.full((SIZE[1], SIZE[0], 3), index, dtype=np.uint8)
    return VideoFrame(index=index, time_s=index / 30, rgb=rgb)


def follow(follower: Follower, frames: int) -> list[FollowedFrame]:
    followed = [ready for index in range(frames) for ready in follower.push(frame(index))]
    return followed + follower.flush()


def walking(index: int) -> list[list[float]]:
    return [[20.0 + index, 20.0, 50.0 + index, 100.0]]


def test_boxes_between_detections_lie_on_the_straight_way() -> None:
    detector = Planned(walking)
    followed = follow(Follower(EveryNth(detector, 4), wait=True), 13)
    assert detector.looked == [0, 4, 8, 12]
    assert [item.frame.index for item in followed] == list(range(13))
    sights = [item.people[0].sight for item in followed]
    assert sights == ["detected" if index % 4 == 0 else "between" for index in range(13)]
    lefts = np.array([item.people[0].box_xyxy[0] for item in followed])
    np.testing.assert_allclose(np.diff(lefts)[4:], 1, atol=0.25)
    assert {round(item.people[0].score, 3) for item in followed} == {0.9}


def test_frames_after_the_last_detection_are_given_at_the_end() -> None:
    followed = follow(Follower(EveryNth(Planned(walking), 5), wait=True), 8)
    assert [item.frame.index for item in followed] == list(range(8))
    assert [item.people[0].sight for item in followed[5:]] == ["detected", "between", "between"]


def test_without_a_wait_every_frame_is_answered_at_once() -> None:
    follower = Follower(EveryNth(Planned(walking), 4), wait=False)
    for index in range(10):
        (now,) = follower.push(frame(index))
        assert now.frame.index == index
        assert len(now.people) == 1
    assert follower.flush() == []


def test_somebody_who_is_not_found_again_is_expected_for_a_while() -> None:
    followed = follow(Follower(EveryNth(Planned(lambda i: walking(i) if i <= 12 else []), 3), wait=True), 40)
    sights = [item.people[0].sight if item.people else None for item in followed]
    assert sights[12:16] == ["detected", "between", "between", "expected"]
    assert sights[16:27] == ["expected"] * 11
    assert sights[29:] == [None] * 11
    assert all(not item.people or item.people[0].score == 0 for item in followed[15:])


def test_boxes_end_at_the_edges_of_the_picture() -> None:
    def leaving(index: int) -> list[list[float]]:
        return [[150.0 + 3 * index, 20.0, 180.0 + 3 * index, 100.0]] if index < 14 else []

    followed = follow(Follower(EveryNth(Planned(leaving), 1), wait=True), 30)
    for item in followed:
        for person in item.people:
            x1, y1, x2, y2 = person.box_xyxy
            assert 0 <= x1 < x2 <= SIZE[0] and 0 <= y1 < y2 <= SIZE[1]
    assert not followed[-1].people


def test_the_most_important_people_are_followed_without_changes() -> None:
    def two(index: int) -> list[list[float]]:
        first, second = walking(index)[0], [120.0, 10.0, 160.0, 110.0]
        return [second, first] if index > 3 else [first]

    followed = follow(Follower(EveryNth(Planned(two), 1), wait=True, max_persons=1), 12)
    assert {person.track_id for item in followed for person in item.people} == {0}
    assert all(len(item.people) == 1 for item in followed)


@pytest.mark.parametrize("wait", [True, False])
def test_an_empty_scene(wait: bool) -> None:
    followed = follow(Follower(EveryNth(Planned(lambda index: []), 2), wait=wait), 7)
    assert [item.people for item in followed] == [()] * 7
