"""The command line: exit codes, one line per error, and what is left on the disk."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import struct
import sys
import types
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import fasthmr
from fasthmr import cli
from fasthmr.io.video import VideoWriter, open_video
from fasthmr.results import Clip
from fasthmr.runtime import pipeline as pipeline_module
from fasthmr.runtime.detect import FullFrame
from fasthmr.runtime.loading import DEFAULT_MODEL
from fasthmr.runtime.manifest import FILE_NAME
from fasthmr.types import Detections


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Exit code and what was written to the two streams."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.err.splitlines()[-1]


Run = Callable[..., Outcome]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    stand_in_model: nn.Module,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Runs the command line in this process, with the stand-in as default model, in an empty folder."""
    load = pipeline_module.load_model
    monkeypatch.setattr(
        pipeline_module,
        "load_model",
        lambda model, *options: stand_in_model if model == DEFAULT_MODEL else load(model, *options),
    )
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outcome:
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err or "--debug" in arguments
        return Outcome(code=code, out=captured.out, err=captured.err)

    return call


def results(folder: Path) -> set[str]:
    """Everything in the folder but the manifest, hidden files included."""
    return {path.name for path in folder.iterdir()} - {FILE_NAME} if folder.exists() else set()


def test_predict_writes_keypoints(run: Run, make_picture, tmp_path: Path) -> None:
    make_picture(tmp_path / "in" / "000000000785.png")
    make_picture(tmp_path / "in" / "b.jpg")
    done = run("predict", "in", "--detector", "full", "--task", "pose")
    assert done.code == 0
    rows = json.loads((tmp_path / "out" / "keypoints.json").read_text())
    assert [(row["image_id"], len(row["keypoints"])) for row in rows] == [(785, 51), (1, 51)]
    assert (tmp_path / "out" / "b.overlay.png").exists()
    assert run("convert", "out/b.npz", "--to", "json", "--out", "again").code == 0
    assert json.loads((tmp_path / "again" / "b.json").read_text()) == rows[1:]


def test_a_camera_file_is_used_or_refused(run: Run, make_picture, tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    (tmp_path / "c.json").write_text('{"fx": 90, "fy": 90, "cx": 20, "cy": 30}')
    assert run("predict", "a.png", "--detector", "full", "--calib", "c.json", "--save", "npz").code == 0
    clip = Clip.load(tmp_path / "out" / "a.npz")
    assert clip.camera_source == "calib"
    assert clip.intrinsics[0].tolist() == [[90, 0, 20], [0, 90, 30], [0, 0, 1]]
    (tmp_path / "c.json").write_text('{"fx": -90, "fy": 90, "cx": 20, "cy": 30}')
    done = run("predict", "a.png", "--detector", "full", "--calib", "c.json")
    assert done.code == 3
    assert "c.json: K is no camera matrix" in done.last
    done = run("predict", "a.png", "--detector", "full", "--intrinsics", "exif")
    assert done.code == 3
    assert "EXIF data tell no focal length" in done.last


def test_predict_writes_results_and_stage_times(run: Run, make_picture, tmp_path: Path) -> None:
    make_picture(tmp_path / "in" / "a.png")
    make_picture(tmp_path / "in" / "b.jpg")
    done = run("predict", "in", "--detector", "full", "--save", "overlay,glb,npz,obj,json")
    assert done.code == 0, done.err
    assert len(results(tmp_path / "out")) == 10
    for stage in ("read", "detect", "crop", "model", "body", "render", "write"):
        assert f"{stage} " in done.err
    assert "median" in done.err and "total" in done.err
    assert done.out == ""
    assert "[2/2] in/b.jpg: 1 person" in done.err


def test_json_goes_to_stdout(run: Run, make_picture, tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    done = run("predict", "a.png", "b.png", "--detector", "full", "--json", "--save", "npz")
    assert done.code == 6
    told = json.loads(done.out)
    assert [item["status"] for item in told["items"]] == ["ok", "failed"]
    assert told["items"][0]["outputs"] == [str(Path("out") / "a.npz")]
    assert told["failed"] == 1
    assert told["timings"]["model"]["total"] > 0


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds one black row at most."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


BAD_PICTURES = {
    "missing.jpg": (None, "no such file"),
    "empty.png": (b"", "empty"),
    "text.jpg": (b"this is no picture", "not a JPEG"),
    "video.jpg": (b"\0\0\0\x20ftypisom", "not a JPEG"),
    "huge.png": (png_header(40_000, 40_000), "too large|limit"),
    "notes.xyz": (b"something", "not a JPEG"),
}


@pytest.mark.parametrize("name", list(BAD_PICTURES))
def test_a_bad_picture_is_one_line_and_exit_3(run: Run, tmp_path: Path, name: str) -> None:
    content, message = BAD_PICTURES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run("predict", name, "--detector", "full")
    assert done.code == 3
    assert name in done.last
    assert any(part in done.last for part in message.split("|"))
    assert not results(tmp_path / "out")


def test_a_truncated_picture_is_exit_3(run: Run, make_picture, tmp_path: Path) -> None:
    whole = make_picture(tmp_path / "cut.jpg", width=300, height=300).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    done = run("predict", "cut.jpg", "--detector", "full")
    assert done.code == 3
    assert "cut.jpg" in done.last and "truncated" in done.last
    assert not results(tmp_path / "out")


def test_in_a_folder_the_other_pictures_finish_and_the_code_is_6(
    run: Run, make_picture, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    make_picture(folder / "good1.png")
    make_picture(folder / "good2.webp")
    for name, (content, _) in BAD_PICTURES.items():
        if content is not None:
            (folder / name).write_bytes(content)
    done = run("predict", "in", "--detector", "full", "--save", "glb")
    assert done.code == 6
    assert results(tmp_path / "out") == {"good1.glb", "good2.glb"}
    assert "4 of 6 pictures failed" in done.last
    for name in ("empty.png", "text.jpg", "video.jpg", "huge.png"):
        assert sum(name in line for line in done.err.splitlines()) == 1


def odd_pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """Pictures of unusual kinds that are fine, and the size of their overlay (width, height)."""
    random = np.random.default_rng(0)
    rgb = Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    folder.mkdir()
    Image.fromarray(random.integers(0, 65536, (40, 30), dtype=np.uint16)).save(folder / "deep.png")
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("RGBA").save(folder / "alpha.png")
    rgb.convert("L").save(folder / "grey.png")
    rgb.convert("P").save(folder / "palette.png")
    exif = Image.Exif()
    exif[274] = 6
    rgb.save(folder / "turned.jpg", exif=exif)
    rgb.save(folder / "really_a_png.jpg", format="PNG")
    rgb.resize((1, 200)).save(folder / "thin.png")
    rgb.resize((200, 1)).save(folder / "flat.png")
    rgb.resize((1, 1)).save(folder / "dot.png")
    sizes = dict.fromkeys(("deep", "cmyk", "alpha", "grey", "palette", "really_a_png"), (30, 40))
    return sizes | {"turned": (40, 30), "thin": (1, 200), "flat": (200, 1), "dot": (1, 1)}


def test_pictures_of_unusual_kinds_are_handled(run: Run, tmp_path: Path) -> None:
    sizes = odd_pictures(tmp_path / "in")
    done = run("predict", "in", "--detector", "full", "--save", "overlay,npz")
    assert done.code == 0, done.err
    for stem, size in sizes.items():
        with Image.open(tmp_path / "out" / f"{stem}.overlay.png") as overlay:
            assert overlay.size == size
        assert Clip.load(tmp_path / "out" / f"{stem}.npz").image_size == size


def test_boxes_outside_the_picture(run: Run, make_picture, tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    (tmp_path / "boxes.json").write_text('{"a.png": [[500, 500, 600, 600]]}')
    done = run("predict", "a.png", "--boxes", "boxes.json")
    assert done.code == 3
    assert "a.png: box 0" in done.last and "outside the picture of 48x64" in done.last
    (tmp_path / "boxes.json").write_text('{"a.png": [[-50, -50, 600, 600]]}')
    assert run("predict", "a.png", "--boxes", "boxes.json", "--save", "npz").code == 0
    assert Clip.load(tmp_path / "out" / "a.npz").persons[0].boxes_xyxy.tolist() == [[0, 0, 48, 64]]
    (tmp_path / "boxes.json").write_text("[[0, 0, 1")
    done = run("predict", "a.png", "--boxes", "boxes.json")
    assert done.code == 3
    assert "boxes.json: not valid JSON" in done.last


def test_unknown_preset_suggests_the_nearest(run: Run, make_picture, tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    done = run("predict", "a.png", "--model", "hmr2_vit_hh")
    assert done.code == 2
    assert "did you mean 'hmr2_vit_h'" in done.last
    assert not (tmp_path / "out").exists()


class _Gadget:
    """Runs a command when it is unpickled carelessly."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        import os

        return os.system, (self.command,)


@pytest.mark.parametrize("kind", ["malicious", "nan", "shape", "garbage"])
def test_bad_body_files_are_exit_4_and_never_run(run: Run, make_picture, tmp_path: Path, kind: str) -> None:
    make_picture(tmp_path / "a.png")
    vertices, joints = 6890, 24
    arrays = {
        "v_template": np.zeros((vertices, 3)),
        "shapedirs": np.zeros((vertices, 3, 10)),
        "posedirs": np.zeros((vertices, 3, 207)),
        "J_regressor": np.full((joints, vertices), 1 / vertices),
        "weights": np.full((vertices, joints), 1 / joints),
        "f": np.zeros((13776, 3), dtype=np.uint32),
        "kintree_table": np.stack([np.arange(joints) - 1, np.arange(joints)]),
    }
    body = tmp_path / ("body.pkl" if kind in ("malicious", "garbage") else "body.npz")
    if kind == "malicious":
        body.write_bytes(pickle.dumps({"v_template": _Gadget(f"touch {tmp_path}/canary")}))
    elif kind == "garbage":
        body.write_bytes(b"\x80\x04garbage")
    elif kind == "nan":
        arrays["v_template"][7, 1] = np.nan
        np.savez(body, **arrays)
    else:
        np.savez(body, **(arrays | {"weights": np.zeros((12, 3))}))
    done = run("predict", "a.png", "--body", body)
    assert done.code == 4, done.err
    assert body.name in done.last
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "no sources given"),
        (["predict", "clip.mp4", "--smooth", "one-eura"], "did you mean 'one-euro'"),
        (["predict", "clip.mp4", "--every", "0"], "every is 0; needed: 1 or more"),
        (["predict", "clip.mp4", "--max-frames", "0"], "max_frames is 0"),
        (["predict", "a.png", "--save", "overly"], "did you mean 'overlay'"),
        (["predict", "a.png", "--save", ","], "nothing to save"),
        (["predict", "a.png", "--detector", "ful"], "did you mean 'full'"),
        (["predict", "a.png", "--focal", "-1"], "positive"),
        (["predict", "a.png", "--focal", "5", "--fov", "5"], "not both"),
        (["predict", "a.png", "--calib", "c.json", "--fov", "5"], "not both fov and calib"),
        (["predict", "a.png", "--intrinsics", "exiv"], "did you mean 'exif'"),
        (["predict", "a.png", "--intrinsics", "model"], "no intrinsics network"),
        (["predict", "a.png", "--task", "poze"], "did you mean 'pose'"),
        (["predict", "a.png", "--task", "pose", "--save", "glb"], "for the task 'pose'"),
        (["predict", "a.png", "--model", "vitpose_vit_s"], "gives 2D keypoints and no mesh"),
        (["predict", "a.png", "--device", "abacus"], "not available"),
        (["predcit", "a.png"], "did you mean 'predict'"),
        (["convert", "a.npz", "--to", "gbl"], "did you mean 'glb'"),
        (["models", "nothing*"], "no model matches"),
        (["train"], "needs a name"),
        (["train", "first_lite"], "did you mean 'first_light'"),
        (["report", "nonsense"], "unknown report"),
        ([], "no command"),
    ],
)
def test_wrong_usage_is_exit_2(
    run: Run, make_picture, tmp_path: Path, arguments: list[str], message: str
) -> None:
    make_picture(tmp_path / "a.png")
    done = run(*arguments)
    assert done.code == 2
    assert message in done.last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["predict", "a.png", "--nonsense"], ["predict", "a.png", "--focal", "far"]]
)
def test_options_that_do_not_parse_are_exit_2(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).code == 2


def test_an_empty_folder_is_exit_3(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    done = run("predict", "in")
    assert done.code == 3
    assert "holds no pictures" in done.last


def test_a_place_that_cannot_be_written_is_exit_5(run: Run, make_picture, tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    (tmp_path / "out").write_text("a file")
    done = run("predict", "a.png", "--detector", "full")
    assert done.code == 5
    assert "out" in done.last


def test_resume_skips_what_is_done(run: Run, make_picture, tmp_path: Path) -> None:
    make_picture(tmp_path / "in" / "a.png")
    assert run("predict", "in", "--detector", "full").code == 0
    make_picture(tmp_path / "in" / "b.png")
    done = run("predict", "in", "--detector", "full", "--resume")
    assert "a.png: done before" in done.err
    assert "b.png: 1 person" in done.err
    again = run("predict", "in", "--detector", "full", "--resume")
    assert again.code == 0
    assert "b.png: done before" in again.err


def write_video(path: Path, frames: int = 12) -> Path:
    """Noise of 48 x 64 pixels, its index in front."""
    random = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, 30.0, (48, 64)) as writer:
        for index in range(frames):
            writer.write(random.integers(0, 256, (64, 48, 3), dtype=np.uint8), index / 30)
    return path


def test_videos_and_pictures_of_a_folder(run: Run, make_picture, tmp_path: Path) -> None:
    make_picture(tmp_path / "in" / "a.png")
    write_video(tmp_path / "in" / "clip.mp4")
    done = run("predict", "in", "--detector", "full", "--save", "overlay,npz", "--max-frames", "9", "--json")
    assert done.code == 0, done.err
    assert results(tmp_path / "out") == {"a.overlay.png", "a.npz", "clip.overlay.mp4", "clip.npz"}
    assert "[2/2] in/clip.mp4: 1 person in 9 frames, " in done.err
    assert [item["frames"] for item in json.loads(done.out)["items"]] == [1, 9]
    assert Clip.load(tmp_path / "out" / "clip.npz").num_frames == 9
    for stage in ("track", "smooth", "encode"):
        assert f"{stage} " in done.err


def test_r7_a_damaged_video_is_exit_6_and_both_counts_are_told(run: Run, tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    done = run("predict", "clip.mp4", "--detector", "full")
    assert done.code == 6
    decoded = Clip.load(tmp_path / "out" / "clip.npz").num_frames
    assert 1 <= decoded < 12
    assert f"clip.mp4: {decoded} of 12 frames could be decoded" in done.last
    assert results(tmp_path / "out") == {"clip.overlay.mp4", "clip.npz", "clip.glb"}
    with open_video(tmp_path / "out" / "clip.overlay.mp4") as reader:
        assert len(list(reader)) == decoded


@pytest.mark.parametrize(
    ("name", "content"), [("text.mp4", b"no video"), ("empty.avi", b""), ("none.mp4", None)]
)
def test_r7_what_is_no_video_is_exit_3(run: Run, tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run("predict", name, "--detector", "full")
    assert done.code == 3
    assert name in done.last
    assert not results(tmp_path / "out")


def test_a_camera_that_is_not_there_is_exit_3(run: Run) -> None:
    done = run("predict", "97", "--detector", "full")
    assert done.code == 3
    assert "camera 97: gives no picture" in done.last


def test_a_camera_tells_its_latency(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    capture, path = cv2.VideoCapture, write_video(tmp_path / "clip.mp4", frames=30)
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: capture(str(path)))
    done = run("predict", "0", "--detector", "full", "--save", "overlay", "--delay", "0.1", "--json")
    assert done.code == 6  # the camera went away
    (item,) = json.loads(done.out)["items"]
    assert set(item["latency"]) == {"median_s", "p95_s", "dropped"}
    assert item["frames"] + item["latency"]["dropped"] == 30
    assert "ms in the median" in done.err and "ms at the 95th percentile" in done.err
    assert results(tmp_path / "out") == {"camera0.overlay.mp4"}
    assert run("predict", "0", "--delay", "-1").code == 2


def test_r16_an_interrupt_is_exit_130_and_the_files_play(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def press(self: FullFrame, rgb: np.ndarray) -> Detections:
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return find(self, rgb)

    find = FullFrame.__call__
    monkeypatch.setattr(FullFrame, "__call__", press)
    write_video(tmp_path / "clip.mp4", frames=90)
    done = run("predict", "clip.mp4", "--detector", "full", "--detect-every", "1")
    assert done.code == 130
    assert "interrupted" in done.last
    frames = Clip.load(tmp_path / "out" / "clip.npz").num_frames
    assert 5 <= frames < 30
    with open_video(tmp_path / "out" / "clip.overlay.mp4") as reader:
        assert 1 <= len(list(reader)) <= frames


def test_r30_file_names_cannot_act_on_the_terminal(run: Run, make_picture, tmp_path: Path) -> None:
    name = "[red]x\x1b[2J\u202e.png"
    make_picture(tmp_path / "in" / name)
    (tmp_path / "in" / ("bad" + name)).write_bytes(b"")
    done = run("predict", "in", "--detector", "full", "--save", "npz")
    assert done.code == 6
    assert "\x1b" not in done.err and "\u202e" not in done.err
    assert r"[red]x\x1b[2J\u202e.png: 1 person" in done.err
    assert r"bad[red]x\x1b[2J\u202e.png" in done.err


def test_debug_shows_the_traceback(run: Run, tmp_path: Path) -> None:
    done = run("predict", "missing.png", "--detector", "full", "--debug")
    assert done.code == 3
    assert "Traceback" in done.err
    assert "missing.png: no such file" in done.last


def test_interruption_is_exit_130(
    run: Run, make_picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    make_picture(tmp_path / "a.png")
    monkeypatch.setattr("fasthmr.runtime.batch.write_image", interrupt)
    assert run("predict", "a.png", "--detector", "full").code == 130
    assert not results(tmp_path / "out")


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), 5), (ZeroDivisionError("a defect"), 1)])
def test_other_errors_are_one_line_too(
    run: Run, make_picture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, code: int
) -> None:
    def fail(self: object) -> None:
        raise error

    make_picture(tmp_path / "a.png")
    monkeypatch.setattr(pipeline_module.Pipeline, "prepare", fail)
    done = run("predict", "a.png")
    assert done.code == code
    assert len(done.err.splitlines()) == 1


def test_convert(run: Run, make_picture, tmp_path: Path) -> None:
    make_picture(tmp_path / "a.png")
    assert run("predict", "a.png", "--detector", "full", "--save", "npz").code == 0
    done = run("convert", "out/a.npz", "--to", "glb,bvh,npz,obj,json", "--out", "other")
    assert done.code == 0
    assert {path.suffix for path in (tmp_path / "other").iterdir()} == {
        ".glb",
        ".bvh",
        ".npz",
        ".obj",
        ".json",
    }
    assert "wrote other/a.glb" in done.err
    assert run("convert", "out/a.npz", "--to", "glb").code == 0
    assert (tmp_path / "out" / "a.glb").exists()
    shutil.copy(tmp_path / "a.png", tmp_path / "no_result.npz")
    done = run("convert", "no_result.npz", "--to", "glb")
    assert done.code == 3
    assert "no_result.npz" in done.last
    assert run("convert", "missing.npz", "--to", "glb").code == 3


def test_models(run: Run) -> None:
    done = run("models", "hmr2_vit_[sb]", "--json")
    assert done.code == 0
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert set(rows) == {"hmr2_vit_s", "hmr2_vit_b"}
    assert rows["hmr2_vit_s"]["parameters"] == 23_969_309
    assert rows["hmr2_vit_s"]["weights"] is False
    shown = run("models", "hmr2_vit_b").out
    assert "hmr2_vit_b" in shown
    assert "17.159" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_doctor(run: Run) -> None:
    done = run("doctor", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert told["fasthmr"]["version"] == fasthmr.__version__
    assert "body.safetensors" in told["assets"]
    assert set(told["packages"]) >= {"torch", "numpy", "opencv-python-headless"}
    assert "Apache-2.0" in told["licences"]["fasthmr"]
    assert "licences" in run("doctor").out


def test_demo(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasthmr.runtime.pipeline.load_detector", lambda choice: choice_full())
    done = run("demo")
    assert done.code == 0, done.err
    assert "fasthmr-demo" in done.last
    made = results(tmp_path / "fasthmr-demo")
    wanted = {f"{stem}.{end}" for stem in ("skier", "synthetic", "walk") for end in ("glb", "npz", "bvh")}
    assert made == wanted | {"skier.overlay.png", "synthetic.overlay.png", "walk.overlay.mp4"}


def choice_full() -> object:
    from fasthmr.runtime.detect import FullFrame

    return FullFrame()


def test_help_and_version(run: Run) -> None:
    assert "predict" in run("--help").out
    assert run("--version").out == f"fasthmr {fasthmr.__version__}\n"
    for command in ("predict", "train", "report"):
        assert f"fasthmr {command}" in run(command, "--help").out


def test_options_of_benchmarks_and_exports_are_checked_first(run: Run, make_picture) -> None:
    make_picture(Path("a.png"))
    for command in ("bench", "export"):
        assert f"fasthmr {command}" in run(command, "--help").out
    outcome = run("bench", "fasthmr_s", "--batch", "one")
    assert outcome.code == 2 and "--batch one: whole numbers" in outcome.last
    assert run("bench", "fasthmr_s", "--engine", "tensorflow").code == 2
    assert "cannot export to 'onx'" in run("export", "fasthmr_s", "--to", "onx").last
    outcome = run("export", "hmr2_vit_h")
    assert outcome.code == 2 and "no weights for 'hmr2_vit_h'" in outcome.last
    assert "unknown engine 'x'" in run("predict", "a.png", "--engine", "x", "--model", "hmr2_vit_h").last
    assert "is exported already" in run("export", "x.onnx").last
    assert "no such exported model" in run("predict", "a.png", "--model", "x.onnx").last


def test_a_short_benchmark(run: Run) -> None:
    outcome = run("bench", "default", "--batch", "1", "--seconds", "0", "--rounds", "1", "--json")
    (row,) = json.loads(outcome.out)["rows"]
    assert (row["model"], row["engine"], row["precision"], row["batch"]) == (
        DEFAULT_MODEL,
        "torch",
        "float32",
        1,
    )


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """A recipe.

    Attributes:
        steps: How long.
    """

    steps: int = 3


def test_recipes_take_their_own_options(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[_Settings] = []

    def train(config: _Settings) -> None:
        seen.append(config)

    module = types.ModuleType("fasthmr.training.first_light")
    module.train = train
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert run("train", "first_light", "--steps", "7", "--debug").code == 0
    assert seen == [_Settings(steps=7)]
    assert "How long" in run("train", "first_light", "--help").out
    assert run("train", "first_light", "--steps", "many").code == 2
