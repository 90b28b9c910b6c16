"""One pass over a video: people followed and measured.

Frames are decoded ahead in a thread of their own; people are looked for in some frames and followed through
all; crops of several frames pass the model at once. What is kept of a frame is about 1 kB for each person,
whatever its size, so long videos need little more memory than short ones.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from fasthmr.errors import UsageError
from fasthmr.io.decoded_video import sample_frames
from fasthmr.io.video import VideoDamage, VideoFrame, VideoReader
from fasthmr.models.pose import PoseModel
from fasthmr.runtime.follow import FollowedFrame, Follower
from fasthmr.runtime.intrinsics import TRACK_SAMPLES, Picture, PictureCamera
from fasthmr.runtime.measure import Measure, Measured, MeshMeasure, PoseMeasure
from fasthmr.runtime.threads import prefetch
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.tracks import TrackTable
from fasthmr.runtime.video_options import VideoOptions

if TYPE_CHECKING:
    from fasthmr.runtime.pipeline import Pipeline

Item = TypeVar("Item")

DECODE_AHEAD = 4
"""Frames that are decoded before they are needed, at most."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What one pass over a video gives, before any smoothing.

    Attributes:
        times: Of the frames that were taken, seconds.
        looks: Frames in which people were looked for.
        damage: What the video did not give.
    """

    table: TrackTable
    times: Float[np.ndarray, "frames"]
    looks: int
    camera: PictureCamera
    size: tuple[int, int]
    fps: float
    damage: VideoDamage | None


Seen = Callable[[FollowedFrame, Sequence[Measured], PictureCamera], object]
"""Told about every frame as soon as it is measured."""


def record(
    pipeline: Pipeline,
    reader: VideoReader,
    options: VideoOptions,
    watch: Stopwatch,
    *,
    stop: threading.Event | None = None,
    seen: Seen | None = None,
    progress: Callable[[int], object] | None = None,
) -> Recording:
    """One pass over a video.

    Args:
        stop: Ends the pass early once it is set.
        seen: Told about every frame at once, instead of waiting for the next detection and for a full batch.
        progress: Told how many frames are done.

    Raises:
        ResourceError, UsageError: As `recover_video`.
    """
    if pipeline.boxes_file is not None:
        raise UsageError("a boxes file is for pictures; leave it out for videos, where people are tracked")
    follower = Follower(
        pipeline.detector,
        every=options.looks_every(reader.fps),
        wait=seen is None,
        max_persons=pipeline.max_persons,
        watch=watch,
    )
    table, times = TrackTable(), []
    frames = prefetch(watched(taken_frames(reader, options), watch, "read"), DECODE_AHEAD, stop)
    measure, camera = None, None

    def keep(measured: Sequence[Measured]) -> None:
        for part in measured:
            table.add(part.frames, part.people, part.values)

    with torch.inference_mode():
        for frame in frames:
            if measure is None or camera is None:
                with watch("camera"):
                    camera = _camera(pipeline, reader, frame)
                measure = _measure(pipeline, camera, options, watch, at_once=seen is not None)
            times.append(frame.time_s)
            for followed in follower.push(frame):
                parts = measure.push(followed)
                keep(parts)
                if seen is not None:
                    seen(followed, parts, camera)
            if progress is not None:
                progress(len(times))
        if measure is None or camera is None:
            raise KeyboardInterrupt  # stopped before the first frame
        for followed in follower.flush():
            keep(measure.push(followed))
        keep(measure.flush())
    return Recording(
        table=table,
        times=np.array(times),
        looks=follower.looks,
        camera=camera,
        size=reader.size,
        fps=reader.fps / options.every,
        damage=reader.damage,
    )


def taken_frames(reader: Iterable[VideoFrame], options: VideoOptions) -> Iterator[VideoFrame]:
    """The frames that the options ask for, numbered anew."""
    taken = 0
    for frame in reader:
        if frame.index % options.every:
            continue
        yield dataclasses.replace(frame, index=taken)
        taken += 1
        if taken == options.max_frames:
            return


def watched(items: Iterable[Item], watch: Stopwatch, stage: str) -> Iterator[Item]:
    """The same items; the time to get each counts for a stage."""
    rest = iter(items)
    while True:
        with watch(stage):
            item = next(rest, None)
        if item is None:
            return
        yield item


def _camera(pipeline: Pipeline, reader: VideoReader, first: VideoFrame) -> PictureCamera:
    """One for the whole video; where a network estimates it, from frames throughout."""
    frames: list[Picture] = [first.rgb]
    if pipeline.cameras.network is not None and not reader.live:
        frames = sample_frames(reader.name, TRACK_SAMPLES) or frames
    return pipeline.cameras.estimate_for_track(frames)


def _measure(
    pipeline: Pipeline, camera: PictureCamera, options: VideoOptions, watch: Stopwatch, at_once: bool
) -> Measure:
    if isinstance(pipeline.model, PoseModel):
        return PoseMeasure(
            pipeline.model, batch_size=pipeline.batch_size, device=pipeline.device, watch=watch
        )
    return MeshMeasure(
        pipeline.meshes,
        camera,
        batch_size=1 if at_once else pipeline.batch_size,
        features=bool(getattr(options.smooth, "takes_features", False)),
        watch=watch,
    )
