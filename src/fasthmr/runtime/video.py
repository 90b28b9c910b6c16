"""From a video to the people in it, and to files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fasthmr.io.video import VideoReader, VideoWriter, open_video
from fasthmr.results import Clip, PoseClip
from fasthmr.runtime.draw import draw_video, live_drawing
from fasthmr.runtime.record import Recording, check_stream, record
from fasthmr.runtime.sources import Live
from fasthmr.runtime.stream import Latency, LiveFrame, Stream, StreamRecorder
from fasthmr.runtime.threads import Background, first_interrupt, shared_cores
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.video_clip import as_clip
from fasthmr.runtime.video_options import VideoOptions

if TYPE_CHECKING:
    from fasthmr.runtime.pipeline import Pipeline

_log = logging.getLogger(__name__)

Progress = Callable[[str, int, int | None], object]
"""Told what is being done, how many frames are done, and how many there are if anybody knows."""


@dataclass(frozen=True, kw_only=True)
class VideoOutcome:
    """How it went with one video.

    Attributes:
        frames: That were measured.
        outputs: Files written.
        warning: What is missing from the results, if anything.
        interrupted: The user wanted the end; the files are complete for the frames that were read.
        latency: Of a camera or stream, until frames were drawn and encoded, or without drawings measured.
    """

    persons: int
    frames: int
    outputs: tuple[Path, ...]
    warning: str = ""
    interrupted: bool = False
    latency: Latency | None = None


def recover_video(
    pipeline: Pipeline, source: Path | Live, options: VideoOptions, watch: Stopwatch | None = None
) -> Clip | PoseClip:
    """The people in a video file, a camera's pictures or a stream.

    Raises:
        InputError: It cannot be used at all, or the pipeline has a file of boxes that does not list it.
        ResourceError: Memory is used up even with one person at a time.
        UsageError: The pipeline has a file of boxes and this is a camera or a stream.
    """
    watch = watch or Stopwatch()
    with open_video(_address(source)) as reader:
        if reader.paced:
            stream = Stream(pipeline, reader, options, _name(source), watch)
            recording = _record_stream(stream, None)
        else:
            recording = record(pipeline, reader, options, watch)
    if recording.damage is not None:
        _log.warning("%s: %s", source, recording.damage)
    return as_clip(pipeline, recording, options, watch, _name(source))


def open_stream(pipeline: Pipeline, source: Path | Live, options: VideoOptions) -> Stream:
    """The frames of a camera, a stream or a file with their people, as they come.

    Raises:
        InputError: It cannot be used at all.
        UsageError: The pipeline has a file of boxes.
    """
    check_stream(pipeline)
    return Stream(pipeline, open_video(_address(source)), options, _name(source))


def save_video(
    pipeline: Pipeline,
    source: Path | Live,
    base: Path,
    endings: Mapping[str, str],
    options: VideoOptions,
    watch: Stopwatch,
    progress: Progress | None = None,
) -> VideoOutcome:
    """Runs on a video and writes its results beside each other as `base` with different endings.

    The first Ctrl-C ends the reading; what was read is smoothed and written, and all files play. The second
    ends the writing.

    Args:
        endings: Of the file of each format; "overlay" is the video with people drawn over it.

    Raises:
        InputError, ResourceError, UsageError: As `recover_video`, and where files cannot be written.
    """
    outputs: list[Path] = []
    overlay = base.with_name(base.name + endings["overlay"]) if "overlay" in endings else None
    with first_interrupt() as stop:
        with open_video(_address(source)) as reader, ExitStack() as drawing:
            told = _telling(progress, "frames", reader, options)
            draws_live = overlay is not None and reader.live
            latency = None
            if reader.paced or draws_live:
                stream = Stream(pipeline, reader, options, _name(source), watch, stop)
                latencies_s = stream.latencies_s
                painting = None
                if overlay is not None:
                    latencies_s = []
                    writer = drawing.enter_context(VideoWriter(overlay, stream.fps, stream.size))
                    written = _noting(latencies_s)
                    painting = drawing.enter_context(live_drawing(writer, watch, written))
                    outputs.append(overlay)
                recording = _record_stream(stream, told, painting)
                drawing.close()
                latency = Latency.of(latencies_s, stream.dropped)
            else:
                recording = record(pipeline, reader, options, watch, stop=stop, progress=told)
        if stop.is_set():
            _log.warning(
                "interrupted after %d frames, which are written now; Ctrl-C again ends at once",
                len(recording.times),
            )
        clip = as_clip(pipeline, recording, options, watch, _name(source))
        for name, ending in endings.items():
            if name != "overlay":
                with watch("write"):
                    outputs.append(clip.save(base.with_name(base.name + ending)))
        if overlay is not None and not draws_live:
            with open_video(_address(source)) as reader:
                told = _telling(progress, "overlay", reader, options)
                drawn = draw_video(clip, reader, overlay, options, watch, stop=stop, progress=told)
            outputs += [] if drawn is None else [drawn]
        return VideoOutcome(
            persons=len(clip.persons),
            frames=len(recording.times),
            outputs=tuple(outputs),
            warning=_warning(recording, stop),
            interrupted=stop.is_set(),
            latency=latency,
        )


def _record_stream(
    stream: Stream, progress: Callable[[int], object] | None, painting: Background[LiveFrame] | None = None
) -> Recording:
    """Reads a stream to its end; its frames are drawn as they come, where that is asked for."""
    recorder = StreamRecorder(stream)
    with shared_cores(1 if painting is None else 2), closing(iter(stream)) as frames:
        for live in frames:
            recorder.add(live)
            if painting is not None:
                painting.put(live)
            if progress is not None:
                progress(recorder.frames)
    return recorder.recording()


def _noting(latencies_s: list[float]) -> Callable[[LiveFrame], object]:
    def note(live: LiveFrame) -> None:
        if live.index:
            latencies_s.append(time.monotonic() - live.arrived_s)

    return note


def _warning(recording: Recording, stop: threading.Event) -> str:
    if stop.is_set():
        return f"interrupted after {len(recording.times)} frames"
    return "" if recording.damage is None else str(recording.damage)


def _telling(
    progress: Progress | None, stage: str, reader: VideoReader, options: VideoOptions
) -> Callable[[int], object] | None:
    if progress is None:
        return None
    known = [options.max_frames] if options.max_frames is not None else []
    if reader.expected_frames is not None:
        known.append(-(-reader.expected_frames // options.every))
    total = min(known, default=None)
    return lambda done: progress(stage, done, total)


def _address(source: Path | Live) -> Path | int | str:
    return source.address if isinstance(source, Live) else source


def _name(source: Path | Live) -> str:
    """What results call a video."""
    return str(source) if isinstance(source, Live) else source.name
