"""Which camera a picture gets, and how often it is looked for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import IFD, Base

from fasthmr.errors import InputError, UsageError
from fasthmr.io.images import read_image
from fasthmr.runtime.intrinsics import IntrinsicsEstimator

WIDTH, HEIGHT = 80, 60
RGB = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
LONG_LENS = 5000 / 256 * WIDTH
FILM = 50 / math.hypot(36, 24) * 100


class Counting:
    """An intrinsics network that says a focal length of 90 plus the picture's first value."""

    def __init__(self) -> None:
        self.calls = 0

    def estimate(self, rgb: np.ndarray) -> float:
        self.calls += 1
        return 90.0 + float(rgb[0, 0, 0])


@pytest.fixture
def with_exif(tmp_path: Path) -> Path:
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    exif.get_ifd(IFD.Exif)[Base.FocalLengthIn35mmFilm] = 50
    Image.fromarray(RGB).save(tmp_path / "exif.jpg", exif=exif)
    return tmp_path / "exif.jpg"


def found(path: Path | None = None, **options: object) -> tuple[str, float]:
    rgb = RGB if path is None else read_image(path)
    camera = IntrinsicsEstimator(**options).for_picture(rgb, path)
    return camera.source, float(camera.focal)


def test_the_users_word_comes_first(with_exif: Path, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"fx": 70, "fy": 70, "cx": 31, "cy": 29}))
    for takes_camera in (False, True):
        options = {"network": Counting(), "takes_camera": takes_camera}
        assert found(with_exif, focal=120.0, **options) == ("focal", 120)
        assert found(fov_deg=90.0, **options) == ("fov", pytest.approx(WIDTH / 2))
        assert found(calib=tmp_path / "c.json", **options) == ("calib", pytest.approx(70))
        assert options["network"].calls == 0


def test_auto_for_models_that_take_the_camera(with_exif: Path) -> None:
    network = Counting()
    assert found(with_exif, network=network, takes_camera=True) == ("exif", pytest.approx(FILM))
    assert network.calls == 0
    assert found(network=network, takes_camera=True) == ("network", 90)


def test_auto_for_other_models_is_the_long_lens(with_exif: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = Counting()
    assert found(network=network) == ("hmr2", pytest.approx(LONG_LENS))
    assert found(with_exif) == ("hmr2", pytest.approx(LONG_LENS))
    assert not caplog.records and network.calls == 0


def test_an_unknown_camera_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    cameras = IntrinsicsEstimator(takes_camera=True)
    assert [cameras.for_picture(RGB).source for _ in range(3)] == ["hmr2"] * 3
    assert len(caplog.records) == 1
    assert "the camera is unknown" in caplog.text


def test_choices(with_exif: Path) -> None:
    assert found(with_exif, choice="exif") == ("exif", pytest.approx(FILM))
    with pytest.raises(InputError, match="EXIF data tell no focal length"):
        found(choice="exif")
    for takes_camera in (False, True):
        assert found(with_exif, choice="hmr2", takes_camera=takes_camera, network=Counting())[0] == "hmr2"
        assert found(with_exif, choice="model", takes_camera=takes_camera, network=Counting())[0] == "network"
        assert found(with_exif, choice="network", network=Counting())[0] == "network"


def test_a_senseless_estimate_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    class Mad:
        def estimate(self, rgb: np.ndarray) -> float:
            return math.nan

    assert found(network=Mad(), choice="model")[0] == "hmr2"
    assert "not believed" in caplog.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"focal": 5.0, "fov_deg": 5.0}, "not both focal and fov"),
        ({"calib": "c.json", "fov_deg": 5.0}, "not both fov and calib"),
        ({"focal": 5.0, "choice": "exif"}, "not both focal and intrinsics"),
        ({"focal": 0.0}, "positive"),
        ({"focal": math.inf}, "positive"),
        ({"fov_deg": 180.0}, "between 0 and 180"),
        ({"choice": "exiv"}, "did you mean 'exif'"),
        ({"choice": "model"}, "has no intrinsics network"),
    ],
)
def test_bad_options(options: dict[str, object], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        IntrinsicsEstimator(**options)


def test_the_network_is_asked_once_for_a_picture(tmp_path: Path, make_picture) -> None:
    network = Counting()
    cameras = IntrinsicsEstimator(network=network, takes_camera=True)
    path = make_picture(tmp_path / "a.png", WIDTH, HEIGHT)
    rgb = read_image(path)
    first = cameras.for_picture(rgb, path)
    assert all(cameras.for_picture(rgb, path) is first for _ in range(4))
    assert network.calls == 1
    make_picture(path, WIDTH, HEIGHT + 10)
    cameras.for_picture(read_image(path), path)
    assert network.calls == 2


def test_one_camera_for_a_track() -> None:
    network = Counting()
    cameras = IntrinsicsEstimator(network=network, takes_camera=True)
    frames = [np.full_like(RGB, value) for value in (0, 9, 9, 1, 9, 9, 9, 2, 9, 9, 200)]
    camera = cameras.estimate_for_track(frames, source="clip.mp4", samples=3)
    assert (camera.source, float(camera.focal)) == ("network", 99)  # frames 0, 5 and 10
    assert network.calls == 3
    assert cameras.estimate_for_track(frames, source="clip.mp4") is camera
    assert network.calls == 3
    assert float(cameras.estimate_for_track(frames[:1], samples=5).focal) == 90
    with pytest.raises(InputError, match="without frames"):
        cameras.estimate_for_track([])
    with pytest.raises(InputError, match="differ in size"):
        cameras.estimate_for_track([RGB, RGB[:5]])


def test_a_calibration_holds_for_a_track_with_its_principal_point(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"fx": 70, "fy": 60, "cx": 31, "cy": 29}))
    camera = IntrinsicsEstimator(calib=tmp_path / "c.json").estimate_for_track([RGB, RGB])
    assert torch.equal(camera.principal, torch.tensor([31.0, 29.0], dtype=torch.float64))
    assert float(camera.focal) == pytest.approx(math.sqrt(70 * 60))
