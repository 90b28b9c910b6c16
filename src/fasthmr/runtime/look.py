"""Who is looked for in which frames of a video, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch

from fasthmr.io.video import VideoFrame
from fasthmr.runtime.detect import Detector, check_boxes
from fasthmr.runtime.person_detector import BuiltInPersonDetector
from fasthmr.runtime.track import TrackerConfig
from fasthmr.types import Detections

_DOUBTFUL = 0.5  # of the detector's own threshold: boxes that only continue tracks
_NEW = 1.25  # the same for boxes that start one
_GIVEN = TrackerConfig(new_score=0.0, high_score=0.0, low_score=0.0, exact=True)


@runtime_checkable
class Looker(Protocol):
    """Says where people are in some frames.

    Attributes:
        config: What its boxes mean to a tracker.
        given: The boxes come from the user: everybody in them is there.
        sides: Which hands are followed, left ones or not; (None,) for people.
    """

    config: TrackerConfig
    given: bool
    sides: tuple[bool | None, ...]

    def look(self, frame: VideoFrame) -> Detections | None:
        """The people in a frame; None where nobody looks."""
        ...


class EveryNth:
    """Detects people in every n-th frame.

    Args:
        every: Of so many frames, by their numbers; some of these may be missing.
        left: For hands, whether they are left ones where the detector does not say it.
    """

    given = False

    def __init__(self, detector: Detector, every: int, left: bool | None = None) -> None:
        self._detector, self.config = _for_tracking(detector)
        self._every, self._left = every, left
        self.sides: tuple[bool | None, ...] = (None,) if left is None else (False, True)
        self._next_look = 0  # number of the frame

    def look(self, frame: VideoFrame) -> Detections | None:
        if frame.index < self._next_look:
            return None
        self._next_look = frame.index + self._every
        return of_side(self._detector(frame.rgb), self._left)


class ListedBoxes:
    """Takes boxes of some frames from a list.

    Args:
        frames: Boxes by the number of the frame in the video.
        every: Frames of the video to one of those that are taken and looked at.
        source: Name of the video, for messages.
    """

    given = True
    config = _GIVEN

    def __init__(self, frames: Mapping[int, Detections], every: int, source: str) -> None:
        self._frames, self._every, self._source = frames, every, source
        hands = any(people.left is not None for people in frames.values())
        self.sides: tuple[bool | None, ...] = (False, True) if hands else (None,)

    def look(self, frame: VideoFrame) -> Detections | None:
        """As the protocol has it.

        Raises:
            InputError: A box is empty or lies outside the picture.
        """
        number = frame.index * self._every
        listed = self._frames.get(number)
        if listed is None:
            return None
        height, width = frame.rgb.shape[:2]
        return check_boxes(listed, (width, height), f"{self._source}, frame {number}")


def of_side(found: Detections, left: bool | None) -> Detections:
    """Detections as hands, left or right ones where the detector does not say it, or as people."""
    if left is None:
        return replace(found, left=None)
    return (
        found
        if found.left is not None
        else replace(found, left=torch.full(found.scores.shape, left, device=found.scores.device))
    )


def _for_tracking(detector: Detector) -> tuple[Detector, TrackerConfig]:
    """A detector that also gives doubtful boxes, where it can, and what is certain with it."""
    if not isinstance(detector, BuiltInPersonDetector):
        return detector, TrackerConfig()
    certain = detector.score_threshold
    doubtful = BuiltInPersonDetector(
        detector.model,
        sides=detector.sides,
        score_threshold=_DOUBTFUL * certain,
        nms_threshold=detector.nms_threshold,
    )
    return doubtful, TrackerConfig(
        new_score=min(_NEW * certain, 1.0), high_score=certain, low_score=_DOUBTFUL * certain
    )
