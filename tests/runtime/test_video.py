"""Videos end to end with a small stand-in for the model."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from torch import nn

from fasthmr.errors import InputError, UsageError
from fasthmr.io.video import VideoWriter, open_video
from fasthmr.results import Clip, LazyVertices, PoseClip
from fasthmr.runtime import record, video
from fasthmr.runtime.batch import ItemReport
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.runtime.timing import Stopwatch
from fasthmr.runtime.video_options import VideoOptions
from fasthmr.temporal.smoothing import OneEuroFilter
from fasthmr.types import Detections, MotionTrack

FRAMES, SIZE = 13, (96, 64)  # width, height


class BrightBoxes:
    """Finds bright rectangles."""

    def __call__(self, rgb: np.ndarray) -> Detections:
        count, _, stats, _ = cv2.connectedComponentsWithStats((rgb[..., 0] > 128).astype(np.uint8))
        rows = [[x, y, x + w, y + h] for x, y, w, h, area in stats[1:count].tolist() if area > 60]
        return Detections(
            boxes_xyxy=torch.tensor(rows, dtype=torch.float32).reshape(-1, 4),
            scores=torch.full((len(rows),), 0.9),
        )


def scene(index: int, people: int) -> np.ndarray:
    rgb = np.full((SIZE[1], SIZE[0], 3), 20, np.uint8)
    for person in range(people):
        left = 6 + index + 34 * person
        rgb[12:52, left : left + 16] = 235
    return rgb


def write(path: Path, people: list[int] | None = None, fps: float = 30.0) -> Path:
    """A clip with so many people in each frame, who walk to the right."""
    with VideoWriter(path, fps, SIZE) as writer:
        for index, count in enumerate([1] * FRAMES if people is None else people):
            writer.write(scene(index, count), index / fps)
    return path


@pytest.fixture
def make(stand_in_model: nn.Module):
    def build(**options: object) -> Pipeline:
        video = {
            name: options.pop(name)
            for name in ("every", "max_frames", "detect_every", "smooth")
            if name in options
        }
        return Pipeline(stand_in_model, detector=BrightBoxes(), video=VideoOptions(**video), **options)

    return build


def predict(
    pipeline: Pipeline, source: object, out: Path, save: tuple[str, ...] = ("npz", "overlay")
) -> ItemReport:
    (report,) = pipeline.predict_many([source], out, save=save)
    if report.error is not None:
        raise report.error
    return report


def test_a_video_becomes_a_clip(make, tmp_path: Path) -> None:
    clip = make()(write(tmp_path / "a.mp4"))
    assert isinstance(clip, Clip)
    assert (clip.fps, clip.num_frames, clip.image_size, clip.source) == (30, FRAMES, SIZE, "a.mp4")
    np.testing.assert_allclose(clip.times, np.arange(FRAMES) / 30, atol=1e-4)
    (person,) = clip.persons
    assert person.frames.tolist() == list(range(FRAMES))
    lefts = person.boxes_xyxy[:, 0]
    np.testing.assert_allclose(lefts, 6 + np.arange(FRAMES), atol=2)
    assert isinstance(person.vertices, LazyVertices)
    assert person.vertices.shape == (FRAMES, *person.vertices[0].shape)
    assert np.isfinite(person.joints).all() and person.keypoints_2d.shape == (FRAMES, 17, 3)
    inside = (person.keypoints_2d[..., :2] > -10).all() and (person.keypoints_2d[..., 0] < 110).all()
    assert inside
    assert {"read", "detect", "track", "crop", "model", "smooth", "body"} <= set(clip.timings)


def test_the_same_as_pictures_where_nothing_is_smoothed(make, tmp_path: Path) -> None:
    """Frame by frame, with the boxes of the tracker, a picture gives the same person."""
    path = write(tmp_path / "a.mp4")
    pipeline = make(smooth="none", focal=100.0)
    clip = pipeline(path)
    with open_video(path) as reader:
        frames = [frame.rgb for frame in reader]
    for index in (0, 4, 12):
        box = clip.persons[0].boxes_xyxy[index : index + 1]
        (alone,) = pipeline(frames[index], boxes=box).persons
        for name in ("global_orient", "body_pose", "betas", "transl", "joints", "keypoints_2d"):
            np.testing.assert_allclose(
                getattr(clip.persons[0], name)[index, ..., :2],
                getattr(alone, name)[0, ..., :2],
                atol=2e-4,
                rtol=1e-4,
            )
        np.testing.assert_allclose(clip.persons[0].vertices[index], alone.vertices[0], atol=2e-4)


def test_crops_of_several_frames_pass_the_model_at_once(
    make, stand_in_model: nn.Module, tmp_path: Path
) -> None:
    make(batch_size=5, detect_every=1)(write(tmp_path / "a.mp4"))
    assert stand_in_model.batches == [5, 5, 3]


def test_people_come_and_go(make, tmp_path: Path) -> None:
    people = [0] * 4 + [1] * 20 + [2] * 10 + [0] * 30
    clip = make(detect_every=1)(write(tmp_path / "a.mp4", [min(count, 2) for count in people][:64]))
    first, second = clip.persons
    assert (first.track_id, second.track_id) == (0, 1)
    assert first.frames.tolist() == list(range(4, 34))
    assert second.frames.tolist() == list(range(24, 34))
    assert clip.num_frames == 64


def test_a_short_gap_is_filled_and_a_long_one_is_not(make, tmp_path: Path) -> None:
    people = [1] * 15 + [0] * 10 + [1] * 10
    clip = make(detect_every=1)(write(tmp_path / "a.mp4", people))
    (person,) = clip.persons
    assert person.frames.tolist() == list(range(35))
    assert (person.scores[15:25] == 0).all() and (person.scores[:15] > 0.5).all()
    people = [1] * 15 + [0] * 25 + [1] * 10
    (person,) = make(detect_every=1)(write(tmp_path / "b.mp4", people)).persons
    assert set(range(15)) < set(person.frames.tolist())
    assert not set(person.frames.tolist()) & set(range(31, 40))
    assert np.isfinite(person.joints).all()


def test_a_mistake_in_one_frame_is_nobody(make, tmp_path: Path) -> None:
    clip = make(detect_every=1)(write(tmp_path / "a.mp4", [1] * 9 + [2] + [1] * 20))
    assert len(clip.persons) == 1


def test_every_and_max_frames(make, tmp_path: Path) -> None:
    clip = make(every=3, max_frames=4)(write(tmp_path / "a.mp4"))
    assert (clip.num_frames, clip.fps) == (4, 10)
    np.testing.assert_allclose(clip.times, np.arange(4) / 10, atol=1e-4)
    np.testing.assert_allclose(clip.persons[0].boxes_xyxy[:, 0], 6 + 3 * np.arange(4), atol=2)


@pytest.mark.parametrize(
    ("name", "value"), [("every", 0), ("max_frames", 0), ("detect_every", -1), ("smooth", "one-euros")]
)
def test_wrong_options(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=r"1 or more|did you mean 'one-euro'"):
        VideoOptions(**{name: value})


def test_any_motion_filter_may_smooth(make, tmp_path: Path) -> None:
    given = []

    def still(track: MotionTrack) -> MotionTrack:
        given.append(track)
        return OneEuroFilter()(track)

    clip = make(smooth=still, detect_every=1)(write(tmp_path / "a.mp4", [1] * 15 + [0] * 40 + [1] * 10))
    (person,) = clip.persons
    runs = np.split(person.frames, np.flatnonzero(np.diff(person.frames) > 1) + 1)
    assert [len(run) for run in runs] == [30, 10], "half a second is filled after the last detection"
    assert [len(track.times) for track in given] == [len(run) for run in runs]
    for track, run in zip(given, runs, strict=True):
        np.testing.assert_allclose(track.times, run / 30, atol=1e-4)


def test_every_format_is_written(make, tmp_path: Path) -> None:
    report = predict(
        make(), write(tmp_path / "a.mp4"), tmp_path / "out", ("overlay", "npz", "glb", "bvh", "json")
    )
    assert (report.status, report.persons, report.frames) == ("ok", 1, FRAMES)
    assert {path.name.split(".", 1)[1] for path in report.outputs} >= {"overlay.mp4", "npz", "glb", "json"}
    assert {"read", "read again", "render", "encode", "write", "model"} <= set(report.timings)
    clip = Clip.load(tmp_path / "out" / "a.npz")
    assert clip.persons[0].frames.tolist() == list(range(FRAMES))
    assert clip.persons[0].vertices[3].shape == clip.persons[0].vertices.shape[1:]
    with open_video(tmp_path / "out" / "a.overlay.mp4") as reader:
        frames = list(reader)
        assert reader.size == SIZE
    assert len(frames) == FRAMES
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(FRAMES) / 30, atol=1e-4)
    assert np.abs(frames[5].rgb.astype(int) - scene(5, 1)).max() > 60, "somebody is drawn"


def test_r9_nobody_gives_complete_files(make, tmp_path: Path) -> None:
    report = predict(
        make(), write(tmp_path / "a.mp4", [0] * 5), tmp_path / "out", ("overlay", "npz", "glb", "json")
    )
    assert (report.status, report.persons) == ("ok", 0)
    assert Clip.load(tmp_path / "out" / "a.npz").num_frames == 5
    with open_video(tmp_path / "out" / "a.overlay.mp4") as reader:
        assert np.abs(next(iter(reader)).rgb.astype(int) - scene(0, 0)).mean() < 3


def test_one_frame_is_enough(make, tmp_path: Path) -> None:
    report = predict(make(), write(tmp_path / "a.mp4", [1]), tmp_path / "out")
    assert (report.status, report.persons, report.frames) == ("ok", 1, 1)


def test_a_variable_frame_rate_is_kept(make, tmp_path: Path) -> None:
    times = [0.0, 0.03, 0.1, 0.13, 0.3, 0.33, 0.5]
    with VideoWriter(tmp_path / "a.mp4", 30.0, SIZE) as writer:
        for index, time in enumerate(times):
            writer.write(scene(index, 1), time)
    predict(make(), tmp_path / "a.mp4", tmp_path / "out")
    np.testing.assert_allclose(Clip.load(tmp_path / "out" / "a.npz").times, times, atol=1e-4)
    with open_video(tmp_path / "out" / "a.overlay.mp4") as reader:
        np.testing.assert_allclose([frame.time_s for frame in reader], times, atol=1e-4)


def cut(path: Path, frames: int) -> Path:
    """Leaves so many frames of a file."""
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: sorted(places)[frames] + 2])
    return path


def test_r7_a_damaged_video_gives_what_there_is(make, tmp_path: Path) -> None:
    path = cut(write(tmp_path / "a.mp4"), 7)
    report = predict(make(), path, tmp_path / "out")
    assert report.status == "partial"
    with open_video(path) as reader:
        decoded = len(list(reader))
    assert 3 <= decoded <= 7
    assert report.warning.startswith(f"{decoded} of {FRAMES} frames could be decoded")
    assert Clip.load(tmp_path / "out" / "a.npz").num_frames == decoded
    with open_video(tmp_path / "out" / "a.overlay.mp4") as reader:
        assert len(list(reader)) == decoded
        assert reader.damage is None
    (again,) = make().predict_many([path], tmp_path / "out", save=("npz",), resume=True)
    assert again.status == "partial", "a damaged video is done again"


def test_pipeline_calls_warn_of_damage(make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = make()(cut(write(tmp_path / "a.mp4"), 7))
    assert clip.num_frames <= 7
    assert f"of {FRAMES} frames could be decoded" in caplog.text


def test_a_file_that_is_no_video(make, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    (report,) = make().predict_many([tmp_path / "a.mp4"], tmp_path / "out")
    assert report.status == "failed"
    assert isinstance(report.error, InputError)


def test_videos_and_pictures_mix_and_are_taken_up_again(make, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "a.mp4")
    cv2.imwrite(str(folder / "b.png"), scene(0, 1))
    reports = list(make().predict_many([folder], tmp_path / "out"))
    assert [(report.status, report.frames) for report in reports] == [("ok", FRAMES), ("ok", 1)]
    again = list(make().predict_many([folder], tmp_path / "out", resume=True))
    assert [report.status for report in again] == ["skipped", "skipped"]
    other = list(make(every=2).predict_many([folder], tmp_path / "out", resume=True))
    assert [report.status for report in other] == ["ok", "ok"]


def test_boxes_of_a_video_name_its_frames(make, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4")
    with pytest.raises(UsageError, match="come in a file"):
        make()(path, boxes=[[0, 0, 10, 10]])
    (tmp_path / "boxes.json").write_text('{"a.mp4": [[0, 0, 10, 10]]}')
    with pytest.raises(InputError, match=r"a\.mp4: no boxes in .*name frames 'a\.mp4#0'"):
        make(boxes=tmp_path / "boxes.json")(path)


def test_keypoints_of_videos(make, tmp_path: Path) -> None:
    report = predict(
        make(task="pose"), write(tmp_path / "a.mp4"), tmp_path / "out", ("npz", "overlay", "json")
    )
    assert report.persons == 1
    clip = PoseClip.load(tmp_path / "out" / "a.npz")
    assert clip.persons[0].keypoints_2d.shape == (FRAMES, 17, 3)
    with open_video(tmp_path / "out" / "a.overlay.mp4") as reader:
        assert len(list(reader)) == FRAMES


def stop_after(frames: int, monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
    """Presses Ctrl-C when a function is called for so many times."""
    function = getattr(module, name)
    calls = []

    def counted(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == frames:
            os.kill(os.getpid(), signal.SIGINT)
        return function(*args, **options)

    monkeypatch.setattr(module, name, counted)


def test_r16_one_interrupt_closes_the_files_playable(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads_before = threading.active_count()
    pipeline = make(detect_every=1)
    stop_after(20, monkeypatch, BrightBoxes, "__call__")
    reports = []
    with pytest.raises(KeyboardInterrupt):
        for report in pipeline.predict_many([write(tmp_path / "a.mp4", [1] * 200)], tmp_path / "out"):
            reports.append(report)
    assert [report.status for report in reports] == ["partial"]
    assert "interrupted after" in reports[0].warning
    frames = Clip.load(tmp_path / "out" / "a.npz").num_frames
    assert 18 <= frames < 60
    with open_video(tmp_path / "out" / "a.overlay.mp4") as reader:
        assert 1 <= len(list(reader)) <= frames
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    assert threading.active_count() <= threads_before


def test_r16_an_interrupt_while_drawing_keeps_what_is_drawn(
    make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fasthmr.runtime import draw

    stop_after(5, monkeypatch, draw, "draw")
    with pytest.raises(KeyboardInterrupt):
        list(make().predict_many([write(tmp_path / "a.mp4", [1] * 60)], tmp_path / "out"))
    assert Clip.load(tmp_path / "out" / "a.npz").num_frames == 60
    with open_video(tmp_path / "out" / "a.overlay.mp4") as reader:
        assert 1 <= len(list(reader)) < 60


def test_r8_only_parameters_are_kept(make, tmp_path: Path) -> None:
    """Rows of measurements take about 1 kB for each person and frame."""
    pipeline = make()
    with open_video(write(tmp_path / "a.mp4")) as reader:
        recording = record.record(pipeline, reader, VideoOptions(), Stopwatch())
    (rows,) = recording.table.people(recording.looks)
    assert sum(array[:1].nbytes for array in rows.values()) < 1300


def test_r10_hundreds_of_people(make, stand_in_model: nn.Module, tmp_path: Path) -> None:
    class Crowd:
        def __call__(self, rgb: np.ndarray) -> Detections:
            x, y = np.meshgrid(np.arange(20) * 16.0, np.arange(15) * 16.0)
            boxes = np.stack([x, y, x + 12, y + 15], -1).reshape(-1, 4)
            return Detections(boxes_xyxy=torch.tensor(boxes).float(), scores=torch.ones(300))

    with VideoWriter(tmp_path / "a.mp4", 30.0, (320, 240)) as writer:
        for index in range(2):
            writer.write(np.zeros((240, 320, 3), np.uint8), index / 30)
    pipeline = Pipeline(stand_in_model, detector=Crowd(), video=VideoOptions(detect_every=1))
    clip = video.recover_video(pipeline, tmp_path / "a.mp4", pipeline.video)
    assert [person.track_id for person in clip.persons] == list(range(300))
    assert all(len(person.frames) == 2 for person in clip.persons)
    assert max(stand_in_model.batches) <= 16
