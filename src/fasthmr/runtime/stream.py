"""Cameras and streams: every frame answered soon after it arrives, and some left out where that is too soon.

One thread takes frames as they arrive and keeps the newest only. The other follows, measures and smooths the
people of one frame before it asks for the next, so that a frame is never older than the work on the last one.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8

from fasthmr.io.video import VideoDamage, VideoFrame, VideoReader
from fasthmr.results import Clip, Person, PoseClip, PosePerson
from fasthmr.runtime.draw import draw
from fasthmr.runtime.follow import FollowedFrame, Follower
from fasthmr.runtime.intrinsics import PictureCamera
from fasthmr.runtime.look import EveryNth
from fasthmr.runtime.measure import Measure
from fasthmr.runtime.record import Recording, check_stream, make_measure, video_camera, watched
from fasthmr.runtime.threads import Newest, prefetch
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.tracks import PARAMS, Measured, TrackTable
from fasthmr.runtime.video_clip import ClipMaker
from fasthmr.runtime.video_options import VideoOptions
from fasthmr.temporal.live import LiveFilter
from fasthmr.types import BodyParams, MotionTrack

if TYPE_CHECKING:
    from fasthmr.runtime.pipeline import Pipeline

_GAP_S = 0.5  # without somebody, after which his or her motion begins anew
_ROUNDING_S = 1e-3


@dataclass(frozen=True, kw_only=True)
class LiveFrame:
    """A frame of a camera or stream, and the people in it.

    Attributes:
        index: Frames that were given before it.
        time_s: Seconds since the first frame of the source.
        rgb: The picture.
        clip: The people, as in the clip of a picture; `track_id` says who is who from frame to frame.
        measured: What was measured of them, not smoothed.
        arrived_s: When the frame arrived, by `time.monotonic`.
        latency_s: From then until it was given.
    """

    index: int
    time_s: float
    rgb: UInt8[np.ndarray, "height width 3"]
    clip: Clip | PoseClip
    measured: tuple[Measured, ...]
    arrived_s: float
    latency_s: float

    @property
    def persons(self) -> tuple[Person, ...] | tuple[PosePerson, ...]:
        """The people of the clip, with one frame each."""
        return self.clip.persons

    def overlay(self) -> UInt8[np.ndarray, "height width 3"]:
        """The picture with its people drawn over it."""
        return draw(self.clip, self.rgb, quick=True)


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A frame whose people were measured, with the filters that they wait in."""

    frame: VideoFrame
    arrived_s: float
    measured: tuple[Measured, ...]
    filters: tuple[LiveFilter | None, ...]


class Stream:
    """The frames of a camera or stream with their people, one by one; closes when they end or nobody asks.

    Args:
        reader: Closed with the stream.
        source: What results call it.
        stop: Ends the frames early once it is set.

    Attributes:
        latencies_s: Of all frames that were given but the first.
        damage: What went wrong with the source, known at the end.

    Raises:
        UsageError: The pipeline has a file of boxes.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        reader: VideoReader,
        options: VideoOptions,
        source: str,
        watch: Stopwatch | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        check_stream(pipeline)
        self._pipeline, self._reader, self._options = pipeline, reader, options
        self._source, self._watch, self._stop = source, watch or Stopwatch(), stop
        self._open = ExitStack()
        self._open.callback(reader.close)
        self._newest: Newest[tuple[VideoFrame, float]] | None = None
        self._filters: dict[int, tuple[LiveFilter, float]] = {}
        self._given = 0
        self.latencies_s: list[float] = []
        self.looks = 0
        self.damage: VideoDamage | None = None
        self.camera: PictureCamera | None = None

    @property
    def fps(self) -> float:
        """Frames per second that are asked for; fewer come where they cannot be kept up with."""
        return self._reader.fps / self._options.every

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames in pixels."""
        return self._reader.size

    @property
    def dropped(self) -> int:
        """Frames that were left out because newer ones had arrived."""
        return 0 if self._newest is None else self._newest.dropped

    def close(self) -> None:
        """Frees the source; the frames that still wait are lost."""
        self._open.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Generator[LiveFrame, None, None]:
        options = self._options
        waiting: deque[_Waiting] = deque()
        taken = 0
        with self:
            for frame, arrived_s in watched(self._arrivals(), self._watch, "read"):
                waiting.append(self._take(frame, arrived_s, taken))
                taken += 1
                while waiting and frame.time_s - waiting[0].frame.time_s >= options.delay - _ROUNDING_S:
                    yield self._give(waiting.popleft())
                if taken == options.max_frames:
                    break
            while waiting:
                yield self._give(waiting.popleft())
        self.damage = self._reader.damage

    def _arrivals(self) -> Iterator[tuple[VideoFrame, float]]:
        every = self._options.every
        frames = ((frame, time.monotonic()) for frame in self._reader if frame.index % every == 0)
        yield from islice(frames, 1)  # everything is made ready with it, which takes longer than any other
        if self._reader.paced:
            self._newest = self._open.enter_context(closing(Newest(frames, self._stop)))
            yield from self._newest
        else:
            yield from self._open.enter_context(closing(prefetch(frames, 1, self._stop)))

    @torch.inference_mode()
    def _take(self, frame: VideoFrame, arrived_s: float, index: int) -> _Waiting:
        if self.camera is None:
            with self._watch("camera"):
                self.camera = video_camera(self._pipeline, self._reader, frame)
            self._follower, self._measure = self._stages(self.camera)
            self._make = ClipMaker(self._pipeline, self.camera, self.size, self._source)
        (followed,) = self._follower.push(frame)
        self.looks = self._follower.looks
        frame = dataclasses.replace(frame, index=index)
        measured = tuple(self._measure.push(FollowedFrame(frame=frame, people=followed.people)))
        with self._watch("smooth"):
            filters = tuple(self._filtered(part, row, frame.time_s) for part, row in _rows(measured))
        return _Waiting(frame=frame, arrived_s=arrived_s, measured=measured, filters=filters)

    def _stages(self, camera: PictureCamera) -> tuple[Follower, Measure]:
        pipeline, options = self._pipeline, self._options
        every = options.looks_every(self._reader.fps) * options.every
        looker = EveryNth(pipeline.detector, every, left=pipeline.left)
        follower = Follower(looker, wait=False, max_persons=pipeline.max_persons, watch=self._watch)
        return follower, make_measure(pipeline, camera, options, self._watch, batch_size=1)

    def _filtered(self, part: Measured, row: int, time_s: float) -> LiveFilter | None:
        """Hands what was measured to the person's filter, where there are poses to filter."""
        if not self._make.poses:
            return None
        person, values = part.people[row], part.values
        known, last_s = self._filters.get(person.track_id, (None, -np.inf))
        if known is None or time_s - last_s > _GAP_S:
            known = self._options.live_filter()
        self._filters[person.track_id] = known, time_s
        features = values.get("features")
        known.push(
            MotionTrack(
                params=BodyParams(**{name: torch.from_numpy(values[name][row : row + 1]) for name in PARAMS}),
                times=torch.tensor([time_s], dtype=torch.float64),
                boxes_xyxy=torch.tensor([person.box_xyxy]),
                scores=torch.tensor([person.score]),
                features=None if features is None else torch.from_numpy(features[row : row + 1]).float(),
            )
        )
        return known

    @torch.inference_mode()
    def _give(self, ready: _Waiting) -> LiveFrame:
        persons = []
        for (part, row), live in zip(_rows(ready.measured), ready.filters, strict=True):
            with self._watch("smooth"):
                params = None if live is None else live.take()
            with self._watch("body"):
                persons.append(self._make.person(part.people[row].track_id, _person_rows(part, row), params))
        gone = ready.frame.time_s - _GAP_S
        self._filters = {who: entry for who, entry in self._filters.items() if entry[1] > gone}
        latency_s = time.monotonic() - ready.arrived_s
        if ready.frame.index:
            self.latencies_s.append(latency_s)
        return LiveFrame(
            index=ready.frame.index,
            time_s=ready.frame.time_s,
            rgb=ready.frame.rgb,
            clip=self._make.clip(persons, self._watch),
            measured=ready.measured,
            arrived_s=ready.arrived_s,
            latency_s=latency_s,
        )


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How late frames came, from their arrival on; the first, which all is made ready with, does not count.

    Attributes:
        median_s, p95_s: Half of the frames, and 95 % of them, were not later; 0 where there was one at most.
        dropped: Frames that were left out because newer ones had arrived.
    """

    median_s: float
    p95_s: float
    dropped: int

    @classmethod
    def of(cls, seconds: Sequence[float], dropped: int) -> Latency:
        """From the latencies of single frames."""
        median, p95 = np.percentile(seconds or (0.0,), (50, 95)).tolist()
        return cls(median_s=median, p95_s=p95, dropped=dropped)

    def __str__(self) -> str:
        left_out = f", {self.dropped} frames left out" if self.dropped else ""
        return (
            f"latency {1000 * self.median_s:.0f} ms in the median, {1000 * self.p95_s:.0f} ms at the "
            f"95th percentile{left_out}"
        )


class StreamRecorder:
    """What is kept of a stream, so that its people can be smoothed and saved at the end."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._table, self._times = TrackTable(), []

    @property
    def frames(self) -> int:
        return len(self._times)

    def add(self, live: LiveFrame) -> None:
        """Keeps about 1 kB of each person in a frame."""
        self._table.add(live.measured)
        self._times.append(live.time_s)

    def recording(self) -> Recording:
        """As of a video that was read once; after at least one frame."""
        stream = self._stream
        assert stream.camera is not None
        return Recording(
            table=self._table,
            times=np.array(self._times),
            looks=stream.looks,
            camera=stream.camera,
            size=stream.size,
            fps=stream.fps,
            damage=stream.damage,
        )


def _rows(measured: Sequence[Measured]) -> list[tuple[Measured, int]]:
    return [(part, row) for part in measured for row in range(len(part.people))]


def _person_rows(part: Measured, row: int) -> Mapping[str, np.ndarray]:
    """The measurements of one person in one frame, as `TrackTable.people` gives them."""
    person = part.people[row]
    return {
        **{name: values[row : row + 1] for name, values in part.values.items()},
        "frames": np.zeros(1, dtype=np.int64),
        "boxes_xyxy": np.array([person.box_xyxy], dtype=np.float32),
        "scores": np.array([person.score], dtype=np.float32),
        **({} if person.left is None else {"left": np.array([person.left])}),
    }
