"""Focal lengths from EXIF data, and the data that are not believed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import IFDRational

from fasthmr.io.exif import read_focal

WIDTH, HEIGHT = 80, 60  # diagonal 100


def picture(path: Path, tags: dict[int, object], orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    exif.get_ifd(IFD.Exif).update(tags)
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_focal_length_on_film(orientation: int, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", {Base.FocalLengthIn35mmFilm: 50}, orientation)
    assert read_focal(path) == pytest.approx(50 / math.hypot(36, 24) * 100)


def test_focal_length_and_sensor(tmp_path: Path) -> None:
    tags = {
        Base.FocalLength: IFDRational(8, 1),
        Base.FocalPlaneXResolution: IFDRational(100, 1),  # pixels per centimetre: a sensor of 10 mm
        Base.FocalPlaneResolutionUnit: 3,
    }
    assert read_focal(picture(tmp_path / "a.jpg", tags)) == pytest.approx(80)
    # Noted for a picture twice as large, scaled down later.
    tags |= {Base.ExifImageWidth: 2 * WIDTH, Base.ExifImageHeight: 2 * HEIGHT}
    tags[Base.FocalPlaneXResolution] = IFDRational(200, 1)
    assert read_focal(picture(tmp_path / "b.jpg", tags)) == pytest.approx(80)
    tags[Base.FocalPlaneXResolution] = IFDRational(2_000_000, 1)
    assert read_focal(picture(tmp_path / "c.jpg", tags)) is None


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {Base.FocalLengthIn35mmFilm: 0},
        {Base.FocalLengthIn35mmFilm: 5},
        {Base.FocalLengthIn35mmFilm: 50_000},
        {Base.FocalLengthIn35mmFilm: 50, Base.DigitalZoomRatio: IFDRational(2, 1)},
        {Base.FocalLengthIn35mmFilm: 50, Base.ExifImageWidth: 80, Base.ExifImageHeight: 80},
        {Base.FocalLength: IFDRational(8, 1)},
        {Base.FocalLength: IFDRational(8, 0), Base.FocalPlaneXResolution: IFDRational(100, 0)},
    ],
)
def test_what_is_not_believed(tags: dict[int, object], tmp_path: Path) -> None:
    assert read_focal(picture(tmp_path / "a.jpg", tags)) is None


def test_files_without(tmp_path: Path, make_picture) -> None:
    assert read_focal(make_picture(tmp_path / "a.png")) is None
    assert read_focal(tmp_path / "missing.jpg") is None
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    assert read_focal(tmp_path / "b.jpg") is None


def test_damaged_exif_data(tmp_path: Path) -> None:
    content = picture(tmp_path / "a.jpg", {Base.FocalLengthIn35mmFilm: 50}).read_bytes()
    start = content.index(b"Exif")
    rng = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(content)
        for place in rng.integers(start, start + 80, 3):
            changed[place] = rng.integers(256)
        (tmp_path / "b.jpg").write_bytes(bytes(changed))
        focal = read_focal(tmp_path / "b.jpg")
        assert focal is None or 0 < focal < 1e4
