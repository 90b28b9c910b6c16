"""Videos in and out: files, cameras and streams to upright RGB frames with their true times, and back.

Damage does not stop a run: what can be decoded is given, and `VideoReader.damage` says what is missing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fasthmr.errors import InputError, UsageError
from fasthmr.io.atomic import atomic_path
from fasthmr.io.files import require_file

MAX_PIXELS = 100_000_000
"""Of a frame that is read."""

FPS_RANGE = (0.01, 1000.0)
"""Frame rates that are believed."""

_TICKS = 90_000  # of the clock of written files, a second
_LARGEST_SIDE = 16_384
_ENCODER = {"preset": "veryfast", "crf": "21"}
_BT709 = 1  # the colours of high-definition video, ITU-T H.273


@dataclass(frozen=True, kw_only=True)
class VideoFrame:
    """One frame as it is meant to be seen.

    Attributes:
        index: Frames before it.
        time_s: Seconds since the first frame, increasing.
        rgb: Upright, with square pixels.
    """

    index: int
    time_s: float
    rgb: UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, kw_only=True)
class VideoDamage:
    """What a video did not give.

    Attributes:
        decoded: Frames that could be decoded.
        expected: Frames that there should be, None if nobody knows.
        damaged: Frames among the decoded ones that show errors.
        reason: The first thing that went wrong.
    """

    decoded: int
    expected: int | None
    damaged: int
    reason: str

    def __str__(self) -> str:
        total = "" if self.expected is None else f" of {self.expected}"
        flawed = f", {self.damaged} of them damaged" if self.damaged else ""
        return f"{self.decoded}{total} frames could be decoded{flawed}: {self.reason}"


class VideoReader(ABC):
    """Frames of a video in order; to be iterated once and closed.

    Attributes:
        name: What the video is called in messages.
        fps: Frames per second, on average.
        size: Width and height of the upright frames in pixels.
        expected_frames: How many there should be, None if nobody knows.
        live: The frames come once and cannot be read again.
        paced: They come at their own pace and wait for nobody; who is late had better leave some out.
        damage: What is missing, known once all frames have been read.
    """

    name: str
    fps: float
    size: tuple[int, int]
    expected_frames: int | None = None
    live: bool = False
    paced: bool = False
    damage: VideoDamage | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[VideoFrame]: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_video(source: str | Path | int, max_pixels: int = MAX_PIXELS) -> VideoReader:
    """Opens a video and decodes its first frame.

    Args:
        source: A file, the number of a camera, or the URL of a stream (http, rtsp, rtmp, srt, udp ...).
        max_pixels: Limit on width times height, checked before anything is decoded.

    Raises:
        InputError: It is missing, no video, too large, or not one frame can be decoded.
    """
    from fasthmr.io.camera import Camera
    from fasthmr.io.decoded_video import DecodedVideo

    if isinstance(source, int):
        return Camera(source, max_pixels)
    if isinstance(source, str) and "://" in source:
        return DecodedVideo(source, source, live=True, max_pixels=max_pixels)
    path = Path(source)
    require_file(path, "video")
    return DecodedVideo(f"file:{path}", str(path), live=False, max_pixels=max_pixels)


def check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    """Refuses frames that are too large.

    Raises:
        InputError: As said.
    """
    if width * height > max_pixels:
        raise InputError(
            f"{name}: frames of {width}x{height} pixels are more than the limit of "
            f"{max_pixels / 1e6:g} million; scale the video down first"
        )


class VideoWriter:
    """Writes H.264 in .mp4 that every browser plays; the file appears when it is closed, or not at all.

    Each frame keeps its time, so variable frame rates stay. Odd sizes are padded by a row or column, as the
    format asks for. As a context manager it closes the file also when the user interrupts, and leaves no file
    after other exceptions.

    Args:
        fps: Frames per second to expect.
        size: Width and height of the frames in pixels.

    Raises:
        UsageError: The suffix is not .mp4, or the frames are too large for the format.
        ResourceError: The disk is full, or the place cannot be written; also raised while writing.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int]) -> None:
        self.path, self.size = Path(path), size
        if self.path.suffix.lower() != ".mp4":
            raise UsageError(f"{path}: videos are written as .mp4")
        if max(size) > _LARGEST_SIDE:
            raise UsageError(
                f"{path}: H.264 holds frames of at most {_LARGEST_SIDE} pixels a side, got {size}"
            )
        self.frames = 0
        self._fps = fps
        self._last = -1
        self._resources = ExitStack()
        temporary = self._resources.enter_context(atomic_path(self.path))
        with self._failures():
            self._open(temporary)

    def write(self, rgb: UInt8[np.ndarray, "height width 3"], time_s: float) -> None:
        """Adds a frame; one whose time is not after the last one's is put right behind it."""
        import av
        from av.video.reformatter import Colorspace

        width, height = self.size
        if rgb.shape != (height, width, 3):
            raise ValueError(f"frame of shape {rgb.shape}, the video has {(height, width, 3)}")
        padded = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        frame = self._converter.reformat(frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, threads=1)
        self._last = max(round(time_s * _TICKS), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        with self._failures():
            self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> Path | None:
        """Finishes the file; None where no frame was written, and no file then."""
        if not self.frames:
            self.discard()
            return None
        with self._failures():
            self._container.mux(self._stream.encode(None))
            self._container.close()
        self._resources.close()
        return self.path

    def discard(self) -> None:
        """Gives up what was written."""
        with suppress(_Discarded), self._resources:
            self._release()
            raise _Discarded

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
        else:
            self.discard()

    def _open(self, temporary: Path) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        width, height = self.size
        self._converter = VideoReformatter()
        self._container = av.open(
            f"file:{temporary}", "w", format="mp4", container_options={"movflags": "faststart"}
        )
        rate = Fraction(self._fps).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=rate, options=_ENCODER)
        context = self._stream.codec_context
        context.width, context.height = width + width % 2, height + height % 2
        context.pix_fmt = "yuv420p"
        context.time_base = Fraction(1, _TICKS)
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        self._container.start_encoding()

    def _release(self) -> None:
        with suppress(OSError, ValueError):  # FFmpeg's errors are both
            self._container.close()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Clears up after an error of the disk and says what to do."""
        try:
            yield
        except OSError:
            with self._resources:
                self._release()
                raise


class _Discarded(Exception):
    """Tells the temporary file that it is not wanted."""
