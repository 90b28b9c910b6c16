"""People drawn over the pictures and videos they were found in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import UInt8

from fasthmr.geometry.palette import person_color
from fasthmr.io.video import VideoFrame, VideoReader, VideoWriter
from fasthmr.render.overlay import overlay
from fasthmr.render.skeleton import draw_keypoints
from fasthmr.results import Clip, Person, PoseClip, PosePerson
from fasthmr.runtime.intrinsics import Picture
from fasthmr.runtime.record import DECODE_AHEAD, taken_frames, watched
from fasthmr.runtime.threads import Background, in_turn, prefetch, shared_cores
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.video_options import VideoOptions
from fasthmr.types import Mesh

if TYPE_CHECKING:
    from fasthmr.runtime.stream import LiveFrame

_ENCODE_BEHIND = 4  # frames
_PAINTERS = 2  # threads
_QUICK = {"cull": True, "samples": 1}  # 2.3 times as fast
_HURRY_S = 5.0  # spent on a video after the run was interrupted


def draw(
    clip: Clip | PoseClip, rgb: Picture, frame: int = 0, quick: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """The people of a frame drawn over it, as meshes or as skeletons.

    Args:
        quick: Meshes without smooth edges, for videos.
    """
    if isinstance(clip, PoseClip):
        seen = [(person, row) for person in clip.persons for row in _rows(person, frame)]
        points = [person.keypoints_2d[row] for person, row in seen]
        return draw_keypoints(rgb, points, [person.boxes_xyxy[row] for person, row in seen])
    meshes = [_mesh(clip, person, row) for person in clip.persons for row in _rows(person, frame)]
    return overlay(rgb, meshes, torch.from_numpy(clip.intrinsics[frame]), **(_QUICK if quick else {}))


def draw_video(
    clip: Clip | PoseClip,
    reader: VideoReader,
    path: Path,
    options: VideoOptions,
    watch: Stopwatch,
    *,
    stop: threading.Event,
    progress: Callable[[int], object] | None = None,
) -> Path | None:
    """Reads a video again and writes it with its people drawn over it.

    Args:
        stop: When it is set from the beginning, only a few seconds are spent; when it is set later, the file
            ends there. It plays in both cases.
        progress: Told how many frames are done.

    Returns:
        The file; None where no frame was drawn.

    Raises:
        ResourceError: The disk is full or the place cannot be written.
    """
    hurry = time.monotonic() + _HURRY_S if stop.is_set() else -np.inf
    assert clip.fps is not None

    def drawn(frame: VideoFrame) -> tuple[np.ndarray, float]:
        with watch("render"):
            return draw(clip, frame.rgb, frame.index, quick=True), frame.time_s

    taken = watched(taken_frames(reader, options), watch, "read again")
    known = takewhile(lambda frame: frame.index < clip.num_frames, taken)
    with (
        shared_cores(_PAINTERS),
        VideoWriter(path, clip.fps, reader.size) as writer,
        encoding(writer, watch) as encode,
        closing(prefetch(known, DECODE_AHEAD)) as frames,
        closing(in_turn(drawn, frames, _PAINTERS)) as pictures,
    ):
        for done, picture in enumerate(pictures, start=1):
            encode.put(picture)
            if progress is not None:
                progress(done)
            if stop.is_set() and time.monotonic() > hurry:
                break
    return path if writer.frames else None


@contextmanager
def live_drawing(
    writer: VideoWriter, watch: Stopwatch, written: Callable[[LiveFrame], object]
) -> Iterator[Background[LiveFrame]]:
    """Draws frames of a stream with their people and writes them, in two threads that wait for no frame long.

    Args:
        written: Told about every frame once it is.
    """

    def encode(item: tuple[LiveFrame, Picture]) -> None:
        live, drawn = item
        with watch("encode"):
            writer.write(drawn, live.time_s)
        written(live)

    def paint(live: LiveFrame) -> None:
        with watch("render"):
            drawn = live.overlay()
        encoding.put((live, drawn))

    with Background(encode, 1) as encoding, Background(paint, 1) as painting:
        yield painting


def encoding(writer: VideoWriter, watch: Stopwatch) -> Background[tuple[np.ndarray, float]]:
    """Writes frames with their times in a thread of its own."""

    def write(item: tuple[np.ndarray, float]) -> None:
        with watch("encode"):
            writer.write(*item)

    return Background(write, _ENCODE_BEHIND)


def _rows(person: Person | PosePerson, frame: int) -> list[int]:
    """The row of a person in a frame, if any."""
    row = int(np.searchsorted(person.frames, frame))
    return [row] if row < len(person.frames) and person.frames[row] == frame else []


def _mesh(clip: Clip, person: Person, row: int) -> Mesh:
    """In the colour of a person, the same in every frame."""
    vertices = torch.from_numpy(person.vertices[row])
    faces = torch.from_numpy(np.ascontiguousarray(clip.faces_of(person)))
    color = vertices.new_tensor(person_color(person.track_id))
    return Mesh(vertices=vertices, faces=faces, vertex_colors=color.expand_as(vertices))
