"""People followed through the frames of a video, looked for in some of the frames only."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fasthmr.io.video import VideoFrame
from fasthmr.runtime.look import Looker
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.track import TrackedBox, Tracker
from fasthmr.types import Detections

Sight = Literal["detected", "between", "expected"]
"""Found in this frame; nobody looked in this frame, but in one before; or looked for in vain."""

_LEAST_SIDE = 4.0  # pixels
_LEAST_SEEN = 0.2  # of a box within the picture


@dataclass(frozen=True, kw_only=True)
class PersonInFrame:
    """Where somebody is.

    Attributes:
        box_xyxy: Pixels, cut at the edges of the picture.
        score: Of the detection, 0..1; in between, that of the detections around; 0 where looked for in vain.
        left: Of a hand, whether it is a left one.
    """

    track_id: int
    box_xyxy: tuple[float, float, float, float]
    score: float
    sight: Sight
    left: bool | None = None


@dataclass(frozen=True, kw_only=True)
class FollowedFrame:
    """A frame and who is in it."""

    frame: VideoFrame
    people: tuple[PersonInFrame, ...]


class Follower:
    """Looks for people in some frames and tracks them in all.

    Args:
        wait: Hold frames back until the next look, so that boxes in between lie on the way there; otherwise
            every frame is answered at once with the boxes that are expected.
        max_persons: Follow so many at once; those who have been followed for longest come first.
        watch: For the stages "detect" and "track".

    Attributes:
        looks: Frames in which people were looked for, and might have been seen by mistake.
    """

    def __init__(
        self, looker: Looker, *, wait: bool, max_persons: int | None = None, watch: Stopwatch | None = None
    ) -> None:
        self._looker = looker
        self._trackers = {side: Tracker(looker.config) for side in looker.sides}
        self._numbers: dict[tuple[bool | None, int], int] = {}  # of people, by side and number of the track
        self._sides: dict[int, bool | None] = {}
        self._wait, self._max_persons = wait, max_persons
        self._watch = watch or Stopwatch()
        self._last: dict[int, TrackedBox] = {}  # at the last look
        self._last_s = 0.0
        self._held: list[tuple[VideoFrame, list[TrackedBox]]] = []
        self._followed: Counter[int] = Counter()
        self.looks = 0

    def push(self, frame: VideoFrame) -> list[FollowedFrame]:
        """Takes the next frame; gives the frames, this and former ones, in which people are known now."""
        with self._watch("detect"):
            detections = self._looker.look(frame)
        with self._watch("track"):
            tracked = self._track(detections, frame.time_s)
            if detections is None:
                if not self._wait:
                    return [self._as_followed(frame, tracked)]
                self._held.append((frame, tracked))
                return []
            self.looks += not self._looker.given
            ready = self._release(tracked, frame.time_s)
            self._last, self._last_s = {track.track_id: track for track in tracked}, frame.time_s
            return [*ready, self._as_followed(frame, tracked, looks=True)]

    def _track(self, detections: Detections | None, time_s: float) -> list[TrackedBox]:
        """The tracks of both sides, where there are sides, under numbers of their own."""
        tracked = []
        for side, tracker in self._trackers.items():
            seen = detections
            if seen is not None and side is not None:
                assert seen.left is not None
                rows = seen.left == side
                seen = Detections(boxes_xyxy=seen.boxes_xyxy[rows], scores=seen.scores[rows])
            for track in tracker.update(seen, time_s):
                number = self._numbers.setdefault((side, track.track_id), len(self._numbers))
                self._sides[number] = side
                tracked.append(dataclasses.replace(track, track_id=number))
        return sorted(tracked, key=lambda track: track.track_id)

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
            left = self._sides[track.track_id]
            people.append(
                PersonInFrame(track_id=track.track_id, box_xyxy=box, score=score, sight=sight, left=left)
            )
        if self._max_persons is not None:
            people.sort(key=lambda person: (-self._followed[person.track_id], -person.score))
            people = sorted(people[: self._max_persons], key=lambda person: person.track_id)
        self._followed.update(person.track_id for person in people)
        return FollowedFrame(frame=frame, people=tuple(people))


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
