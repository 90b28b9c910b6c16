"""Video files and streams, decoded by FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from fasthmr.errors import InputError
from fasthmr.io.nal_units import is_damaged, length_size
from fasthmr.io.video import FPS_RANGE, MAX_PIXELS, VideoDamage, VideoFrame, VideoReader, check_size
from fasthmr.results import DEFAULT_FPS

if TYPE_CHECKING:
    import av

# Containers with an index of their own; none that names other files, as playlists do.
_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,asf,flv,gif,ogg,mxf,h264,hevc,ivf,obu,dv,nut,rm"
)
_STREAM_PROTOCOLS = "http,https,httpproxy,tcp,tls,udp,udplite,rtp,rtsp,rtsps,rtmp,rtmps,srt,crypto"
_STREAM_TIMEOUT = 10.0  # seconds without data
_ESTIMATE_TOLERANCE = (3, 0.05)  # frames, and of the frames: how far off a count from the duration may be


class DecodedVideo(VideoReader):
    """A file or stream, decoded by FFmpeg."""

    def __init__(self, url: str, name: str, *, live: bool, max_pixels: int) -> None:
        from av.video.reformatter import VideoReformatter

        self.name, self.live = name, live
        self._problem = ""
        self._packets = self._discarded = self._damaged = self._decoded = 0
        self._container = _open(url, name, live)
        with ExitStack() as unless_opened:
            unless_opened.callback(self._container.close)
            self._stream = _video_stream(self._container, name)
            context = self._stream.codec_context
            # With threads in a frame the decoder hides the errors that it covers up.
            context.thread_count = 1
            context.options = {"max_pixels": str(max_pixels)}
            check_size(name, context.width, context.height, max_pixels)
            self.fps = _frame_rate(self._stream)
            self.expected_frames, self._exact = _count(self._container, self._stream, self.fps)
            # A server of files waits for its reader.
            self.paced = live and not (url.startswith("http") and self.expected_frames is not None)
            frames = self._decode()
            first = next(frames, None)
            if first is None:
                raise InputError(
                    f"{name}: the video holds no frame that can be decoded {self._problem}".rstrip()
                )
            self._converter = VideoReformatter()
            self._shape = _square_pixels(self._stream, first)
            self._quarter_turns = round(first.rotation / 90) % 4
            width, height = self._shape
            self.size = (height, width) if self._quarter_turns % 2 else (width, height)
            check_size(name, *self.size, max_pixels)
            unless_opened.pop_all()
        self._frames = chain((first,), frames)

    def __iter__(self) -> Iterator[VideoFrame]:
        step = 1 / self.fps
        last, shift = -step, None
        for index, frame in enumerate(self._frames):
            stamp = frame.dts if self._container.format.name == "avi" else frame.pts  # AVI has no other
            now = last + step
            if stamp is not None:
                seconds = float(stamp * self._stream.time_base)
                if shift is None or seconds + shift <= last:  # the first, or the clock was set back
                    shift = now - seconds
                now = seconds + shift
            last = now
            self._decoded = index + 1
            yield VideoFrame(index=index, time_s=now, rgb=self._upright(frame))
        self.damage = self._judge()

    def close(self) -> None:
        self._container.close()

    def seek(self, share: float) -> UInt8[np.ndarray, "height width 3"] | None:
        """The key frame at or before a share of the length, 0..1; iterating afterwards is not possible."""
        length = self._container.duration
        if length:
            self._container.seek(int(length * share) + (self._container.start_time or 0))
        frame = next(self._decode(), None)
        return None if frame is None else self._upright(frame)

    def _decode(self) -> Iterator[av.VideoFrame]:
        """All frames that decode; after an error goes on from the next key frame."""
        from av.error import FFmpegError

        packets = self._container.demux(self._stream)
        context = self._stream.codec_context
        units = length_size(context.name, context.extradata)
        flawed: set[int | None] = set()  # times of frames whose data break the rules
        lost = False
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:
                self._note(f"reading stopped ({_reason(error)})")
                packet = None
            if packet is None:
                return
            self._packets += packet.size > 0
            self._discarded += packet.is_discard
            if lost and packet.size and not packet.is_keyframe:
                continue
            if units is not None and packet.size and is_damaged(bytes(packet), units):
                flawed.add(packet.pts)
            try:
                frames = packet.decode()
                lost = False
            except FFmpegError as error:
                self._note(f"the data are damaged ({error.strerror})")
                frames = self._drain()
                lost = True
            for frame in frames:
                if frame.is_corrupt or frame.pts in flawed:
                    self._damaged += 1
                    self._note("the data are damaged (errors were covered up)")
                yield frame

    def _drain(self) -> list[av.VideoFrame]:
        """What the decoder still holds from before an error."""
        from av.error import FFmpegError

        context = self._stream.codec_context
        try:
            frames = context.decode(None)
        except FFmpegError:
            frames = []
        context.flush_buffers()
        return frames

    def _upright(self, frame: av.VideoFrame) -> np.ndarray:
        width, height = self._shape
        # One thread and one converter for all frames: setting them up costs more than the conversion.
        rgb = self._converter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        return np.ascontiguousarray(np.rot90(rgb, self._quarter_turns))

    def _note(self, problem: str) -> None:
        self._problem = self._problem or problem

    def _judge(self) -> VideoDamage | None:
        expected = self.expected_frames
        if expected is not None and not self._problem:
            frames, share = _ESTIMATE_TOLERANCE
            short = (
                self._packets < expected
                if self._exact
                else self._decoded + max(frames, share * expected) < expected
            )
            if short:
                self._note("the file is cut off")
        if not self._problem:
            return None
        return VideoDamage(
            decoded=self._decoded,
            expected=None if expected is None else max(expected - self._discarded, self._decoded),
            damaged=self._damaged,
            reason=self._problem,
        )


def sample_frames(path: str, count: int) -> list[UInt8[np.ndarray, "height width 3"]]:
    """Frames spread over a file, from its start on; fewer where the file cannot be searched."""
    from av.error import FFmpegError

    frames = []
    with closing(DecodedVideo(f"file:{path}", path, live=False, max_pixels=MAX_PIXELS)) as reader:
        for index in range(count):
            try:
                found = reader.seek(index / count)
            except FFmpegError:
                found = None
            if found is not None:
                frames.append(found)
    return frames


def _open(url: str, name: str, live: bool) -> Any:
    import av
    from av.error import ArgumentError, FFmpegError, InvalidDataError

    options = {"protocol_whitelist": _STREAM_PROTOCOLS}
    if not live:
        options = {"protocol_whitelist": "file", "format_whitelist": _CONTAINERS}
    try:
        return av.open(
            url,
            container_options=options,
            metadata_errors="replace",
            timeout=(_STREAM_TIMEOUT, _STREAM_TIMEOUT) if live else None,
        )
    except (FFmpegError, ValueError) as error:
        # A container that is not wanted counts as an invalid argument.
        if isinstance(error, InvalidDataError) or (isinstance(error, ArgumentError) and not live):
            raise InputError(
                f"{name}: not a video, or its index is missing because the file is cut off; copy it anew"
            ) from error
        raise InputError(f"{name}: cannot be opened ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    from av.error import ExitError

    if isinstance(error, ExitError):
        return f"no data for {_STREAM_TIMEOUT:g} s"
    return str(getattr(error, "strerror", None) or error)


def _video_stream(container: Any, name: str) -> Any:
    from av.stream import Disposition

    for stream in container.streams.video:
        cover = stream.disposition & Disposition.attached_pic
        if not cover and stream.codec_context is not None:
            return stream
    raise InputError(f"{name}: holds no video, only sound or other data")


def _frame_rate(stream: Any) -> float:
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and FPS_RANGE[0] < rate < FPS_RANGE[1]:
            return float(rate)
    return DEFAULT_FPS


def _count(container: Any, stream: Any, fps: float) -> tuple[int | None, bool]:
    """How many frames there should be, and whether the file knows exactly."""
    if stream.frames:
        return stream.frames, container.format.name.startswith("mov")
    if stream.duration:
        return round(float(stream.duration * stream.time_base) * fps), False
    if container.duration and len(container.streams) == 1:
        return round(container.duration / 1e6 * fps), False
    return None, False


def _square_pixels(stream: Any, frame: av.VideoFrame) -> tuple[int, int]:
    ratio = stream.sample_aspect_ratio or Fraction(1)
    if not Fraction(1, 4) <= ratio <= 4:
        ratio = Fraction(1)
    return round(frame.width * ratio), frame.height
