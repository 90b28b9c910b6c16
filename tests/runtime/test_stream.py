"""Cameras and streams in real time, with a small stand-in for the model."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from torch import nn

from fasthmr.errors import InputError, ResourceError, UsageError
from fasthmr.io import decoded_video
from fasthmr.io.video import VideoWriter, open_video
from fasthmr.results import Clip, PoseClip
from fasthmr.runtime.batch import ItemReport
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.runtime.stream import Latency
from fasthmr.runtime.video_options import VideoOptions
from fasthmr.types import Detections

SIZE = (96, 64)  # width, height
FPS = 20.0


def scene(index: int) -> np.ndarray:
    rgb = np.full((SIZE[1], SIZE[0], 3), 20, np.uint8)
    left = 4 + index % 70
    rgb[12:52, left : left + 16] = 235
    return rgb


class BrightBox:
    """Finds the bright rectangle, after a while."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self, rgb: np.ndarray) -> Detections:
        time.sleep(self.seconds)
        columns = np.flatnonzero(rgb[30, :, 0] > 128)
        rows = [[columns[0], 12.0, columns[-1] + 1, 52.0]] if len(columns) else []
        boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
        return Detections(boxes_xyxy=boxes, scores=torch.full((len(rows),), 0.9))


class FakeCamera:
    """A camera that shows so many frames, none before its time has come, and goes away."""

    def __init__(self, frames: int, on_frame: Callable[[int], object] = lambda index: None) -> None:
        self.frames, self.on_frame = frames, on_frame
        self.index, self.last = 0, 0.0
        self.released = False

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.index == self.frames:
            return False, None
        time.sleep(max(self.last + 1 / FPS - time.monotonic(), 0))
        self.last = time.monotonic()
        self.on_frame(self.index)
        self.index += 1
        return True, np.ascontiguousarray(scene(self.index - 1)[..., ::-1])

    def get(self, what: int) -> float:
        return FPS

    def release(self) -> None:
        self.released = True


@pytest.fixture
def plug(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeCamera]:
    """Makes a fake camera the one with every number."""

    def connect(*args: object) -> FakeCamera:
        camera = FakeCamera(*args)
        monkeypatch.setattr(cv2, "VideoCapture", lambda number: camera)
        return camera

    return connect


@pytest.fixture
def make(stand_in_model: nn.Module) -> Callable[..., Pipeline]:
    def build(seconds: float = 0.0, task: str = "mesh", **video: object) -> Pipeline:
        options = VideoOptions(detect_every=1, **video)
        return Pipeline(stand_in_model, task=task, detector=BrightBox(seconds), video=options)

    return build


def predict(pipeline: Pipeline, source: object, out: Path, save: tuple[str, ...]) -> ItemReport:
    (report,) = pipeline.predict_many([source], out, save=save)
    if report.error is not None:
        raise report.error
    return report


def test_frames_come_one_by_one_with_their_people(make, plug) -> None:
    camera = plug(12)
    threads_before = threading.active_count()
    frames = []
    stream = make().stream(0)
    for frame in stream:
        frames.append(frame)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert len(frames) + stream.dropped == 12 and len(frames) >= 3
    for frame in frames:
        assert isinstance(frame.clip, Clip) and frame.clip.num_frames == 1
        (person,) = frame.persons
        assert (person.track_id, person.frames.tolist()) == (0, [0])
        left = np.flatnonzero(frame.rgb[30, :, 0] > 128)[0]
        assert abs(person.boxes_xyxy[0, 0] - left) < 3
        assert np.isfinite(person.vertices[0]).all()
        assert frame.latency_s > 0
    assert (np.diff([frame.time_s for frame in frames]) > 0).all()
    assert np.abs(frames[-1].overlay().astype(int) - frames[-1].rgb).max() > 60
    assert stream.damage is not None and "camera went away" in str(stream.damage)
    assert camera.released and threading.active_count() <= threads_before


def test_what_cannot_be_kept_up_with_is_left_out(make, plug) -> None:
    """Three times slower than the camera: a third of the frames, none of them old."""
    plug(30)
    stream = make(seconds=3 / FPS).stream(0)
    frames = list(stream)
    assert 15 <= stream.dropped == 30 - len(frames)
    assert len(frames) >= 5
    assert np.median(stream.latencies_s) < 6 / FPS
    shown = [round(frame.time_s * FPS) for frame in frames]
    assert len(set(shown)) == len(shown)


def test_whoever_stops_asking_frees_the_camera(make, plug) -> None:
    camera = plug(1000)
    threads_before = threading.active_count()
    for frame in make().stream(0):
        if frame.index == 2:
            break
    assert camera.released and camera.index < 20
    with make().stream(0) as stream:
        assert stream.size == SIZE and stream.fps == FPS
    assert threading.active_count() <= threads_before


def test_files_lose_no_frame(make, plug, tmp_path: Path) -> None:
    plug(8)
    predict(make(max_frames=5), 0, tmp_path, ("overlay",))
    stream = make().stream(tmp_path / "camera0.overlay.mp4")
    assert [frame.index for frame in stream] == list(range(5)) and stream.dropped == 0


@pytest.mark.parametrize("smooth", ["savgol", "one-euro", "none"])
def test_a_delay_holds_frames_back(make, plug, smooth: str) -> None:
    plug(12)
    stream = make(smooth=smooth, delay=0.2).stream(0)
    frames = list(stream)
    assert len(frames) + stream.dropped == 12
    early = stream.latencies_s[: len(frames) - 6]
    assert min(early) > 0.15
    assert all(len(frame.persons) == 1 for frame in frames)


def test_a_camera_becomes_files_and_its_latency_is_told(make, plug, tmp_path: Path) -> None:
    plug(20)
    report = predict(make(), 0, tmp_path, ("overlay", "npz"))
    assert report.status == "partial"
    assert report.warning == "20 frames could be decoded: the camera went away"
    assert isinstance(report.latency, Latency)
    assert report.frames + report.latency.dropped == 20
    assert 0 < report.latency.median_s <= report.latency.p95_s < 5
    assert "ms in the median" in str(report.latency)
    clip = Clip.load(tmp_path / "camera0.npz")
    assert clip.num_frames == report.frames and len(clip.persons) == 1
    with open_video(tmp_path / "camera0.overlay.mp4") as reader:
        drawn = [frame.time_s for frame in reader]
    np.testing.assert_allclose(drawn, clip.times - clip.times[0], atol=2e-3)


def test_keypoints_of_a_camera(make, plug, tmp_path: Path) -> None:
    plug(30)
    frames = list(make(task="pose", max_frames=4).stream(0))
    assert len(frames) == 4
    assert all(isinstance(frame.clip, PoseClip) for frame in frames)
    assert frames[0].persons[0].keypoints_2d.shape == (1, 17, 3)
    plug(30)
    report = predict(make(task="pose", max_frames=4), 0, tmp_path, ("overlay", "json", "npz"))
    assert (report.status, report.frames) == ("ok", 4)


def test_r16_one_interrupt_closes_the_files_of_a_camera(make, plug, tmp_path: Path) -> None:
    plug(1000, lambda index: index == 15 and os.kill(os.getpid(), signal.SIGINT))
    reports = []
    with pytest.raises(KeyboardInterrupt):
        for report in make().predict_many([0], tmp_path, save=("overlay", "npz")):
            reports.append(report)
    (report,) = reports
    assert report.status == "partial" and "interrupted after" in report.warning
    assert report.latency is not None
    assert Clip.load(tmp_path / "camera0.npz").num_frames == report.frames
    with open_video(tmp_path / "camera0.overlay.mp4") as reader:
        assert len(list(reader)) == report.frames


def test_boxes_and_delays_that_make_no_sense(make, plug, tmp_path: Path) -> None:
    plug(3)
    (tmp_path / "boxes.json").write_text("{}")
    pipeline = make()
    pipeline.boxes_file = object()
    with pytest.raises(UsageError, match="cameras and streams"):
        pipeline.stream(0)
    for delay in (-0.1, 9.0, float("nan")):
        with pytest.raises(UsageError, match="delay"):
            VideoOptions(delay=delay)
    plug(0)
    with pytest.raises(InputError, match="gives no picture"):
        make().stream(0)


@pytest.fixture
def broadcast(tmp_path: Path) -> Iterator[Callable[[int, int], str]]:
    """An http server that sends frames as MPEG-TS in real time, says nothing of their number, and hangs
    where it is told to send fewer than there are."""
    servers, hang_up = [], threading.Event()

    def start(frames: int, sent: int) -> str:
        path = tmp_path / "live.ts"
        with av.open(str(path), "w") as container:
            options = {"preset": "ultrafast", "tune": "zerolatency", "g": "5"}
            stream = container.add_stream("libx264", rate=int(FPS), options=options)
            stream.width, stream.height = SIZE
            for index in range(frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(index))))
            container.mux(stream.encode(None))
        data = path.read_bytes()
        step = -(-len(data) // frames)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                begin = time.monotonic()
                for index in range(sent):
                    time.sleep(max(begin + index / FPS - time.monotonic(), 0))
                    part = data[index * step : (index + 1) * step]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                if sent < frames:
                    hang_up.wait(5)
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/live.ts"

    yield start
    hang_up.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_stream_in_real_time(make, broadcast, tmp_path: Path) -> None:
    url = broadcast(60, 60)
    report = predict(make(), url, tmp_path / "out", ("overlay", "npz"))
    assert (report.status, report.warning) == ("ok", "")
    assert 10 <= report.frames <= 60
    clip = Clip.load(tmp_path / "out" / "live.npz")
    assert clip.num_frames == report.frames
    assert clip.times[-1] == pytest.approx(59 / FPS, abs=0.01)


def test_a_stream_that_falls_silent(make, broadcast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_video, "_STREAM_TIMEOUT", 1.0)
    stream = make().stream(broadcast(60, 40))
    frames = list(stream)
    assert 3 <= len(frames) < 60
    assert stream.damage is not None and stream.damage.reason == "reading stopped (no data for 1 s)"


def test_an_empty_stream(make, broadcast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded_video, "_STREAM_TIMEOUT", 1.0)
    with pytest.raises(InputError, match="no data for 1 s"):
        make().stream(broadcast(3, 0))


def test_a_file_on_a_server_waits_for_its_reader(make, plug, tmp_path: Path) -> None:
    plug(20)
    predict(make(max_frames=6), 0, tmp_path, ("overlay",))
    data = (tmp_path / "camera0.overlay.mp4").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        stream = make(seconds=0.1).stream(f"http://127.0.0.1:{server.server_port}/clip.mp4")
        assert [frame.index for frame in stream] == list(range(6)) and stream.dropped == 0
        server.shutdown()


def test_r14_a_drawing_that_cannot_be_written_ends_the_camera(
    make, plug, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: VideoWriter, rgb: np.ndarray, time_s: float) -> None:
        raise ResourceError("the disk is full")

    monkeypatch.setattr(VideoWriter, "write", full)
    camera, threads_before = plug(1000), threading.active_count()
    with pytest.raises(ResourceError):
        predict(make(), 0, tmp_path, ("overlay",))
    assert camera.released and threading.active_count() <= threads_before
    assert not list(tmp_path.glob("*.mp4"))
