"""People followed through the frames of a video, looked for in some of the frames only."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fasthmr.io.video import VideoFrame
from fasthmr.runtime.detect import Detector
from fasthmr.runtime.person_detector import BuiltInPersonDetector
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.track import TrackedBox, Tracker, TrackerConfig

Sight = Literal["detected", "between", "expected"]
"""Found in this frame; nobody looked in this frame, but in one before; or looked for in vain."""

_DOUBTFUL = 0.5  # of the detector's own threshold: boxes that only continue tracks
_NEW = 1.25  # the same for boxes that start one
_LEAST_SIDE = 4.0  # pixels
_LEAST_SEEN = 0.2  # of a box within the picture


@dataclass(frozen=True, kw_only=True)
class PersonInFrame:
    """Where somebody is.

    Attributes:
        box_xyxy: Pixels, cut at the edges of the picture.
        score: Of the detection, 0..1; in between, that of the detections around; 0 where looked for in vain.
    """

    track_id: int
    box_xyxy: tuple[float, float, float, float]
    score: float
    sight: Sight


@dataclass(frozen=True, kw_only=True)
class FollowedFrame:
    """A frame and who is in it."""

    frame: VideoFrame
    people: tuple[PersonInFrame, ...]


class Follower:
    """Detects people in every n-th frame and tracks them in all.

    Args:
        every: Detect in one of so many frames, by their numbers; some of these may be missing.
        wait: Hold frames back until the next detection, so that boxes in between lie on the way there;
            otherwise every frame is answered at once with the boxes that are expected.
        max_persons: Follow so many at once; those who have been followed for longest come first.
        watch: For the stages "detect" and "track".
    """

    def __init__(
        self,
        detector: Detector,
        *,
        every: int,
        wait: bool,
        max_persons: int | None = None,
        watch: Stopwatch | None = None,
    ) -> None:
        self._detector, config = _for_tracking(detector)
        self._tracker = Tracker(config)
        self._every, self._wait, self._max_persons = every, wait, max_persons
        self._watch = watch or Stopwatch()
        self._next_look = 0  # number of the frame
        self._last: dict[int, TrackedBox] = {}  # at the last detection
        self._last_s = 0.0
        self._held: list[tuple[VideoFrame, list[TrackedBox]]] = []
        self._followed: Counter[int] = Counter()
        self.looks = 0

    def push(self, frame: VideoFrame) -> list[FollowedFrame]:
        """Takes the next frame; gives the frames, this and former ones, in which people are known now."""
        looks = frame.index >= self._next_look
        detections = None
        if looks:
            self._next_look = frame.index + self._every
            self.looks += 1
            with self._watch("detect"):
                detections = self._detector(frame.rgb)
        with self._watch("track"):
            tracked = self._tracker.update(detections, frame.time_s)
            if not looks:
                if not self._wait:
                    return [self._as_followed(frame, tracked)]
                self._held.append((frame, tracked))
                return []
            ready = self._release(tracked, frame.time_s)
            self._last, self._last_s = {track.track_id: track for track in tracked}, frame.time_s
            return [*ready, self._as_followed(frame, tracked, looks=True)]

    def flush(self) -> list[FollowedFrame]:
        """The frames that are held back after the last detection."""
        return self._release([], self._last_s)

    def _release(self, found: Sequence[TrackedBox], now: float) -> list[FollowedFrame]:
        """Held frames; people who are found now were on the straight way there."""
        ends = {track.track_id: track for track in found if track.detected}
        ready = []
        for frame, expected in self._held:
            boxes = []
            for track in expected:
                start, end = self._last.get(track.track_id), ends.get(track.track_id)
                if start is not None and end is not None:
                    share = (frame.time_s - self._last_s) / (now - self._last_s)
                    way = np.subtract(end.box_xyxy, start.box_xyxy)
                    box = tuple(np.add(start.box_xyxy, share * way).tolist())
                    track = dataclasses.replace(track, box_xyxy=box)
                boxes.append(track)
            ready.append(self._as_followed(frame, boxes))
        self._held = []
        return ready

    def _as_followed(
        self, frame: VideoFrame, tracks: Sequence[TrackedBox], looks: bool = False
    ) -> FollowedFrame:
        people = []
        for track in tracks:
            box = _within(track.box_xyxy, frame.rgb.shape[1::-1])
            if box is None:
                continue
            last = self._last.get(track.track_id)
            sight: Sight = "expected"
            score = track.score
            if track.detected:
                sight = "detected"
            elif not looks and last is not None and last.detected:
                sight, score = "between", last.score
            people.append(PersonInFrame(track_id=track.track_id, box_xyxy=box, score=score, sight=sight))
        if self._max_persons is not None:
            people.sort(key=lambda person: (-self._followed[person.track_id], -person.score))
            people = sorted(people[: self._max_persons], key=lambda person: person.track_id)
        self._followed.update(person.track_id for person in people)
        return FollowedFrame(frame=frame, people=tuple(people))


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


def _within(
    box_xyxy: tuple[float, float, float, float], size: tuple[int, ...]
) -> tuple[float, float, float, float] | None:
    """A box cut at the edges of the picture; None where too little is left to see."""
    x1, y1, x2, y2 = box_xyxy
    width, height = size
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    seen = max(right - left, 0.0) * max(bottom - top, 0.0)
    if min(right - left, bottom - top) < min(_LEAST_SIDE, width, height):
        return None
    return (left, top, right, bottom) if seen >= _LEAST_SEEN * (x2 - x1) * (y2 - y1) else None
