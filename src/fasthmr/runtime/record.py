"""One pass over a video: people followed and measured.

One thread decodes; one looks for people in some frames and follows them through all; one cuts them out and
runs the model on crops of several frames at once. What is kept of a frame is about 1 kB for each person,
whatever its size, so long videos need little more memory than short ones.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
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
from fasthmr.runtime.look import EveryNth, ListedBoxes, Looker
from fasthmr.runtime.measure import Measure, MeshMeasure, PoseMeasure
from fasthmr.runtime.threads import Background, prefetch, shared_cores
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.tracks import TrackTable
from fasthmr.runtime.video_options import VideoOptions

if TYPE_CHECKING:
    from fasthmr.runtime.pipeline import Pipeline

Item = TypeVar("Item")

DECODE_AHEAD = 4
"""Frames that are decoded before they are needed, at most."""

_MEASURE_BEHIND = 4  # frames in which people are known and not measured yet, at most


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What one pass over a video gives, before any smoothing.

    Attributes:
        times: Of the frames that were taken, seconds.
        looks: Frames in which people were looked for, and might have been seen by mistake.
        damage: What the video did not give.
    """

    table: TrackTable
    times: Float[np.ndarray, "frames"]
    looks: int
    camera: PictureCamera
    size: tuple[int, int]
    fps: float
    damage: VideoDamage | None


def record(
    pipeline: Pipeline,
    reader: VideoReader,
    options: VideoOptions,
    watch: Stopwatch,
    *,
    stop: threading.Event | None = None,
    progress: Callable[[int], object] | None = None,
) -> Recording:
    """One pass over a video.

    Args:
        stop: Ends the pass early once it is set.
        progress: Told how many frames are done.

    Raises:
        InputError, ResourceError, UsageError: As `recover_video`.
    """
    looker = make_looker(pipeline, reader, options)
    follower = Follower(looker, wait=True, max_persons=pipeline.max_persons, watch=watch)
    table, times = TrackTable(), []
    taken = watched(taken_frames(reader, options), watch, "read")
    with shared_cores(2), closing(prefetch(taken, DECODE_AHEAD, stop)) as frames, torch.inference_mode():
        first = next(frames, None)
        if first is None:
            raise KeyboardInterrupt  # stopped before the first frame
        with watch("camera"):
            camera = video_camera(pipeline, reader, first)
        measure = make_measure(pipeline, camera, options, watch, batch_size=pipeline.batch_size)

        @torch.inference_mode()
        def take(followed: FollowedFrame) -> None:
            table.add(measure.push(followed))

        # People of the next frames are looked for while the model measures those of the last ones.
        with Background(take, _MEASURE_BEHIND) as measuring:
            for frame in chain((first,), frames):
                times.append(frame.time_s)
                for followed in follower.push(frame):
                    measuring.put(followed)
                if progress is not None:
                    progress(len(times))
            for followed in follower.flush():
                measuring.put(followed)
        table.add(measure.flush())
    return Recording(
        table=table,
        times=np.array(times),
        looks=follower.looks,
        camera=camera,
        size=reader.size,
        fps=reader.fps / options.every,
        damage=reader.damage,
    )


def check_stream(pipeline: Pipeline) -> None:
    """Raises `UsageError` where the boxes of people are given, which nobody knows before the frames."""
    if pipeline.boxes_file is not None:
        raise UsageError(
            "a boxes file is for pictures and video files; cameras and streams have no boxes before their "
            "frames come: leave it out"
        )


def make_looker(pipeline: Pipeline, reader: VideoReader, options: VideoOptions) -> Looker:
    """What says where people are in a video: the user's boxes, else the detector.

    Raises:
        InputError: The file of boxes does not list the video.
    """
    if pipeline.boxes_file is None:
        return EveryNth(pipeline.detector, options.looks_every(reader.fps), left=pipeline.left)
    frames = pipeline.boxes_file.frames_of(reader.name, left=pipeline.left)
    return ListedBoxes(frames, options.every, reader.name)


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


def video_camera(pipeline: Pipeline, reader: VideoReader, first: VideoFrame) -> PictureCamera:
    """One for the whole video; where a network estimates it, from frames throughout."""
    frames: list[Picture] = [first.rgb]
    if pipeline.cameras.network is not None and not reader.live:
        frames = sample_frames(reader.name, TRACK_SAMPLES) or frames
    return pipeline.cameras.estimate_for_track(frames)


def make_measure(
    pipeline: Pipeline, camera: PictureCamera, options: VideoOptions, watch: Stopwatch, *, batch_size: int
) -> Measure:
    """What measures the people of a video.

    Args:
        batch_size: People to wait for; 1 for no wait.
    """
    if isinstance(pipeline.model, PoseModel):
        return PoseMeasure(
            pipeline.model, batch_size=pipeline.batch_size, device=pipeline.device, watch=watch
        )
    return MeshMeasure(
        pipeline.meshes,
        camera,
        batch_size=batch_size,
        features=options.takes_features,
        watch=watch,
    )
