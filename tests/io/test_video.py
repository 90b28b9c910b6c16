from __future__ import annotations

import http.server
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from fasthmr.errors import InputError, ResourceError, UsageError
from fasthmr.io.decoded_video import sample_frames
from fasthmr.io.video import VideoFrame, VideoReader, VideoWriter, open_video

FRAMES, SIZE = 40, (64, 48)  # width, height


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Red at the top left, green at the top right, and a white bar that moves down."""
    width, height = size
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[: height // 2, : width // 2] = (255, 0, 0)
    rgb[: height // 2, width // 2 :] = (0, 255, 0)
    rgb[index % height] = 255
    return rgb


def write(
    path: Path, times: Sequence[float] | None = None, size: tuple[int, int] = SIZE, fps: float = 30.0
) -> Path:
    times = np.arange(FRAMES) / fps if times is None else times
    with VideoWriter(path, fps, size) as writer:
        for index, time in enumerate(times):
            writer.write(picture(index, size), time)
    return path


def noisy(path: Path, options: dict[str, str] | None = None) -> Path:
    """Frames of noise, so that damage meets picture data; one key frame, at the start."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w", container_options=options or {}) as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "g": "250"})
        stream.width, stream.height = SIZE
        for _ in range(FRAMES):
            rgb = random.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb)))
        container.mux(stream.encode(None))
    return path


def packets(path: Path) -> list[tuple[int, int]]:
    """Place and length of each frame in the file."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def spoil(path: Path, start: int, values: bytes) -> Path:
    data = bytearray(path.read_bytes())
    data[start : start + len(values)] = values
    path.write_bytes(data)
    return path


def read(source: str | Path | int) -> tuple[VideoReader, list[VideoFrame]]:
    with open_video(source) as reader:
        return reader, list(reader)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    reader, frames = read(write(tmp_path / "a.mp4"))
    assert (reader.fps, reader.size, reader.expected_frames, reader.damage) == (30, SIZE, FRAMES, None)
    assert [frame.index for frame in frames] == list(range(FRAMES))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(FRAMES) / 30, atol=1e-4)
    for index in (0, 20):
        assert np.abs(frames[index].rgb.astype(int) - picture(index)).mean() < 8
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("h264", "yuv420p", 1)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat"), "browsers start to play when the index comes first"


@pytest.mark.parametrize("size", [(33, 21), (1, 1), (3, 200)])
def test_odd_sizes_are_padded(tmp_path: Path, size: tuple[int, int]) -> None:
    reader, frames = read(write(tmp_path / "a.mp4", times=[0.0, 0.1], size=size))
    assert reader.size == tuple(side + side % 2 for side in size)
    assert len(frames) == 2


def test_a_variable_frame_rate_stays(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.4, 0.41, 0.8, 1.0, 1.01, 1.02, 2.0]
    _, frames = read(write(tmp_path / "a.mp4", times=times))
    np.testing.assert_allclose([frame.time_s for frame in frames], times, atol=1e-4)


def test_times_always_increase(tmp_path: Path) -> None:
    _, frames = read(write(tmp_path / "a.mp4", times=[0.0, 0.2, 0.2, 0.1, 0.5]))
    assert (np.diff([frame.time_s for frame in frames]) > 0).all()
    assert frames[-1].time_s == pytest.approx(0.5)


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".ts", ".mov"])
def test_other_containers(tmp_path: Path, suffix: str) -> None:
    reader, frames = read(noisy(tmp_path / f"a{suffix}"))
    assert reader.damage is None
    assert reader.expected_frames == FRAMES
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(FRAMES) / 30, atol=2e-3)


def test_phones_turn_their_frames(tmp_path: Path) -> None:
    """The display matrix of an upright phone: a quarter turn clockwise."""
    path = write(tmp_path / "a.mp4")
    matrix = path.read_bytes().find(b"tkhd") + 4 + 40
    turned = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, SIZE[1] << 16, 0, 1 << 30], dtype=">i4")
    reader, frames = read(spoil(path, matrix, turned.tobytes()))
    assert reader.size == (SIZE[1], SIZE[0])
    assert frames[10].rgb.shape == (SIZE[0], SIZE[1], 3)
    expected = np.rot90(picture(10), -1)
    assert np.abs(frames[10].rgb.astype(int) - expected).mean() < 8


def test_pixels_become_square(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height = SIZE
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0))))
        container.mux(stream.encode(None))
    reader, frames = read(tmp_path / "a.mp4")
    assert reader.size == (96, 48)
    assert frames[0].rgb.shape == (48, 96, 3)


def test_r7_half_a_file_with_its_index_in_front(tmp_path: Path) -> None:
    path = noisy(tmp_path / "a.mp4", {"movflags": "faststart"})
    start, size = packets(path)[25]
    path.write_bytes(path.read_bytes()[: start + size // 2])
    reader, frames = read(path)
    assert len(frames) == 25
    assert reader.damage is not None
    assert str(reader.damage).startswith(f"25 of {FRAMES} frames could be decoded")


def test_r7_a_cut_between_two_frames_shows(tmp_path: Path) -> None:
    path = noisy(tmp_path / "a.mp4", {"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: packets(path)[25][0]])
    reader, frames = read(path)
    assert len(frames) == 25
    assert "25 of 40" in str(reader.damage)


def test_r7_half_a_file_with_its_index_at_the_end(tmp_path: Path) -> None:
    path = noisy(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a\.mp4: not a video, or its index is missing"):
        open_video(path)


def test_r7_a_file_without_an_index_that_ends_early(tmp_path: Path) -> None:
    path = noisy(tmp_path / "a.mkv")
    path.write_bytes(path.read_bytes()[: packets(path)[25][0]])
    reader, frames = read(path)
    assert 20 <= len(frames) <= 26
    assert "of 40 frames could be decoded: the file is cut off" in str(reader.damage)


def test_r7_frames_before_a_broken_one_are_kept(tmp_path: Path) -> None:
    path = noisy(tmp_path / "a.mp4")
    spoil(path, packets(path)[25][0], b"\xff" * 8)
    reader, frames = read(path)
    assert len(frames) == 25
    assert "25 of 40 frames could be decoded: the data are damaged" in str(reader.damage)


def test_r7_after_a_broken_frame_the_next_key_frame_goes_on(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "10", "keyint_min": "10", "bf": "0"})
        stream.width, stream.height = SIZE
        for index in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index))))
        container.mux(stream.encode(None))
    spoil(tmp_path / "a.mp4", packets(tmp_path / "a.mp4")[13][0], b"\xff" * 8)
    reader, frames = read(tmp_path / "a.mp4")
    assert [round(frame.time_s * 30) for frame in frames] == [*range(13), *range(20, 40)]
    assert "33 of 40" in str(reader.damage)


def test_r7_covered_up_errors_are_told(tmp_path: Path) -> None:
    path = noisy(tmp_path / "a.mp4")
    start, size = packets(path)[25]
    spoil(path, start + size // 2, b"\xff" * 40)
    reader, frames = read(path)
    assert reader.damage is not None
    assert len(frames) == reader.damage.decoded == FRAMES
    assert reader.damage.damaged >= 1
    assert f"{FRAMES} of {FRAMES} frames could be decoded, {reader.damage.damaged} of them" in str(
        reader.damage
    )


def test_r7_a_sector_of_zeros_is_told(tmp_path: Path) -> None:
    """Decoders take it for picture data and say nothing."""
    path = noisy(tmp_path / "a.mp4")
    start, size = packets(path)[0]
    spoil(path, start + size // 2, bytes(min(512, size // 4)))
    reader, frames = read(path)
    assert reader.damage is not None and reader.damage.damaged >= 1
    assert len(frames) == FRAMES


def test_bytes_changed_at_random_end_in_frames_or_a_refusal(tmp_path: Path) -> None:
    whole = noisy(tmp_path / "a.mp4", {"movflags": "faststart"}).read_bytes()
    random = np.random.default_rng(1)
    for _ in range(40):
        data = bytearray(whole)
        for place in random.integers(0, len(data) if random.random() < 0.5 else 1500, 8):
            data[place] = int(random.integers(256))
        (tmp_path / "b.mp4").write_bytes(data)
        try:
            reader, frames = read(tmp_path / "b.mp4")
        except InputError:
            continue
        assert len(frames) >= 1 and {frame.rgb.shape[1::-1] for frame in frames} == {reader.size}


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_frame(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height = SIZE
        container.start_encoding()


def picture_file(path: Path) -> None:
    path.write_bytes(cv2.imencode(".png", picture(0))[1].tobytes())


def playlist(path: Path) -> None:
    noisy(path.with_name("other.mp4"))
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("sound.mp4", sound_only, "holds no video"),
        ("none.mkv", no_frame, r"no frame|End of file"),
        ("none.mp4", no_frame, r"no video|no frame"),
        ("empty.mp4", lambda path: path.write_bytes(b""), "empty"),
        ("text.mp4", lambda path: path.write_bytes(b"this is no video"), "not a video"),
        ("picture.mp4", picture_file, "not a video"),
        ("list.mp4", playlist, "not a video"),
        ("missing.mp4", lambda path: None, "no such file"),
        ("concat:a.mp4", lambda path: None, "no such file"),
        ("folder.mp4", lambda path: path.mkdir(), "is a folder"),
    ],
)
def test_r7_what_is_no_video(tmp_path: Path, name: str, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / name)
    with pytest.raises(InputError, match=message):
        open_video(tmp_path / name)


def test_one_frame(tmp_path: Path) -> None:
    reader, frames = read(write(tmp_path / "a.mp4", times=[0.0]))
    assert len(frames) == reader.expected_frames == 1
    assert frames[0].time_s == 0


def test_r6_large_frames_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="64x48 pixels are more than the limit"):
        open_video(write(tmp_path / "a.mp4"), max_pixels=3000)


def test_unusual_names(tmp_path: Path) -> None:
    for name in ("a b.mp4", "%d.mp4", "ä'\"?.mp4", "-i.mp4", "pipe:1.mp4", "[x].mp4"):
        assert len(read(write(tmp_path / name, times=[0.0, 0.1]))[1]) == 2
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def serve() -> Iterator[Callable[[bytes, int], str]]:
    """A local server that promises more bytes than it sends."""
    servers = []

    def start(data: bytes, promised: int) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(promised))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.05), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/clip"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_stream_ends_or_breaks_off(tmp_path: Path, serve: Callable[[bytes, int], str]) -> None:
    data = noisy(tmp_path / "a.ts").read_bytes()
    reader, frames = read(serve(data, len(data)))
    assert (reader.live, len(frames), reader.damage) == (True, FRAMES, None)
    reader, frames = read(serve(data[: len(data) // 2], len(data)))
    assert 10 < len(frames) < FRAMES
    assert reader.damage is not None


def test_an_empty_stream_and_one_that_is_not_there(serve: Callable[[bytes, int], str]) -> None:
    with pytest.raises(InputError, match=r"not a video|cannot be opened"):
        open_video(serve(b"", 0))
    with pytest.raises(InputError, match="cannot be opened"):
        open_video("http://127.0.0.1:9/clip")
    with pytest.raises(InputError, match="cannot be opened"):
        open_video("file:///etc/passwd")


def test_a_camera_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4")
    capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: capture(str(path)))
    reader, frames = read(0)
    assert (reader.name, reader.live, reader.size) == ("camera 0", True, SIZE)
    assert len(frames) == FRAMES
    assert np.abs(frames[5].rgb.astype(int) - picture(5)).mean() < 8
    assert (np.diff([frame.time_s for frame in frames]) > 0).all()
    assert str(reader.damage) == f"{FRAMES} frames could be decoded: the camera went away"


def test_a_camera_that_is_not_there() -> None:
    with pytest.raises(InputError, match="camera 97: gives no picture"):
        open_video(97)


def test_r16_an_interrupted_file_plays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 30.0, SIZE) as writer:
        for index in range(7):
            writer.write(picture(index), index / 30)
        raise KeyboardInterrupt
    assert len(read(tmp_path / "a.mp4")[1]) == 7


def test_after_an_error_there_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"a former file")
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "a.mp4", 30.0, SIZE) as writer:
        writer.write(picture(0), 0.0)
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"a former file"


def test_no_frames_make_no_file(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4", 30.0, SIZE)
    assert writer.close() is None
    assert not list(tmp_path.iterdir())


def test_samples_are_spread_over_a_file(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 30.0, SIZE) as writer:
        for index in range(600):  # more than one key frame
            writer.write(np.full((SIZE[1], SIZE[0], 3), index * 255 // 600, np.uint8), index / 30)
    levels = [int(rgb.mean()) for rgb in sample_frames(str(tmp_path / "a.mp4"), 5)]
    assert len(levels) == 5
    assert levels == sorted(levels) and levels[0] < 5 and levels[-1] > 90
    (tmp_path / "b.mkv").write_bytes(noisy(tmp_path / "b.mkv").read_bytes()[:20_000])
    assert len(sample_frames(str(tmp_path / "b.mkv"), 3)) >= 1


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mp4"):
        VideoWriter(tmp_path / "a.webm", 30.0, SIZE)
    with pytest.raises(UsageError, match="at most 16384"):
        VideoWriter(tmp_path / "a.mp4", 30.0, (20_000, 10))
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="a part of the path is a file"):
        VideoWriter(tmp_path / "file" / "a.mp4", 30.0, SIZE)
    with VideoWriter(tmp_path / "a.mp4", 30.0, SIZE) as writer:
        with pytest.raises(ValueError, match="the video has"):
            writer.write(picture(0, (10, 10)), 0.0)
        writer.write(picture(0), 0.0)


def test_r14_a_full_disk(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with (
            pytest.raises(ResourceError, match="full"),
            VideoWriter(tmp_path / "a.mp4", 30.0, (320, 240)) as writer,
        ):
            for index in range(60):
                writer.write(random.integers(0, 255, (240, 320, 3), dtype=np.uint8), index / 30)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())
