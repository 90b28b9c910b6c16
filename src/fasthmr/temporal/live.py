"""Motion filters for people who are seen live: frames come one by one, and go on a little later or at once.

A frame that may wait has a future to look at. `LiveWindow` makes use of it with any motion filter; the
One-Euro filter needs none.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fasthmr.types import BodyParams, MotionTrack

WINDOW_FRAMES = 61


@runtime_checkable
class LiveFilter(Protocol):
    """One person's motion as it comes; what was put in comes out in its order."""

    def push(self, frame: MotionTrack) -> None:
        """Takes the next frame, a track of one."""
        ...

    def take(self) -> BodyParams:
        """The oldest frame that was not taken yet, from what is known by now."""
        ...


class LiveStep:
    """A filter that answers each frame at once, such as a `OneEuroStepper`; or none at all."""

    def __init__(self, step: Callable[[MotionTrack], MotionTrack] | None) -> None:
        self._step = step
        self._waiting: deque[BodyParams] = deque()

    def push(self, frame: MotionTrack) -> None:
        self._waiting.append((frame if self._step is None else self._step(frame)).params)

    def take(self) -> BodyParams:
        return self._waiting.popleft()


class LiveWindow:
    """A filter of whole tracks, run on the latest frames each time that one is taken.

    Args:
        smooth: A motion filter.
        frames: That it sees at once, beside those that wait.
    """

    def __init__(self, smooth: Callable[[MotionTrack], MotionTrack], frames: int = WINDOW_FRAMES) -> None:
        self._smooth, self._frames = smooth, frames
        self._seen: deque[MotionTrack] = deque()
        self._waiting = 0

    def push(self, frame: MotionTrack) -> None:
        self._seen.append(frame)
        self._waiting += 1
        while len(self._seen) > self._frames + self._waiting:
            self._seen.popleft()

    def take(self) -> BodyParams:
        place = len(self._seen) - self._waiting
        self._waiting -= 1
        track = join_tracks(self._seen)
        since = (track.times - track.times[0]).to(track.scores)  # small numbers, also after hours
        return pick_frame(self._smooth(dataclasses.replace(track, times=since)).params, place)


def join_tracks(tracks: Sequence[MotionTrack]) -> MotionTrack:
    """Consecutive pieces of one track as one; at least one, and all with features or none."""

    def joined(of: Callable[[MotionTrack], Tensor | None]) -> Tensor:
        return torch.cat([value for track in tracks if (value := of(track)) is not None])

    params = {
        field.name: joined(lambda track, name=field.name: getattr(track.params, name))
        for field in dataclasses.fields(BodyParams)
    }
    return MotionTrack(
        params=BodyParams(**params),
        times=joined(lambda track: track.times),
        boxes_xyxy=joined(lambda track: track.boxes_xyxy),
        scores=joined(lambda track: track.scores),
        features=None if tracks[0].features is None else joined(lambda track: track.features),
    )


def pick_frame(params: BodyParams, frame: int) -> BodyParams:
    """One frame of a motion with places, still with the dimension of frames."""
    return BodyParams(
        **{
            field.name: getattr(params, field.name)[frame : frame + 1]
            for field in dataclasses.fields(BodyParams)
        }
    )
