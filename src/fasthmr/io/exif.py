"""The focal length that a camera wrote into its picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from PIL.ExifTags import Base

from fasthmr.io.images import read_exif

_FILM_DIAGONAL_MM = math.hypot(36, 24)
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # of FocalPlaneResolutionUnit; 4 and 5 are customary
_PLAUSIBLE = (0.25, 30.0)  # focal length over picture diagonal: 127 degrees of view to a 1300 mm lens
_SENSOR_MM = (3.0, 70.0)  # diagonal


def read_focal(path: str | Path) -> float | None:
    """Focal length in pixels by the EXIF data of a picture, or None where they do not say it.

    From `FocalLengthIn35mmFilm`, which compares diagonals (CIPA DCG-001), else from `FocalLength` and the
    pixels per millimetre of the sensor. Square pixels are meant, so turning the picture changes nothing.
    Numbers are not believed when the picture was zoomed digitally, when its sides have another ratio than
    the camera noted (cropped later), or when the lens or sensor would be out of the ordinary.
    """
    tags, size = read_exif(path)
    if not tags or min(size) < 1 or _number(tags, Base.DigitalZoomRatio, 1.0) not in (0.0, 1.0):
        return None
    noted = (_number(tags, Base.ExifImageWidth), _number(tags, Base.ExifImageHeight))
    if min(noted) > 0 and abs(_ratio(noted) / _ratio(size) - 1) > 0.02:
        return None
    focal = _from_film(tags, size) or _from_sensor(tags, size, max(noted))
    low, high = (limit * math.hypot(*size) for limit in _PLAUSIBLE)
    return focal if low <= focal <= high else None


def _from_film(tags: Mapping[int, object], size: tuple[int, int]) -> float:
    return _number(tags, Base.FocalLengthIn35mmFilm) / _FILM_DIAGONAL_MM * math.hypot(*size)


def _from_sensor(tags: Mapping[int, object], size: tuple[int, int], noted_side: float) -> float:
    unit = _MM_PER_UNIT.get(int(_number(tags, Base.FocalPlaneResolutionUnit, 2.0)))
    pixels_per_unit = _number(tags, Base.FocalPlaneXResolution)
    if unit is None or pixels_per_unit <= 0:
        return 0.0
    pixels_per_mm = pixels_per_unit / unit * (max(size) / noted_side if noted_side > 0 else 1.0)
    if not _SENSOR_MM[0] <= math.hypot(*size) / pixels_per_mm <= _SENSOR_MM[1]:
        return 0.0
    return _number(tags, Base.FocalLength) * pixels_per_mm


def _number(tags: Mapping[int, object], tag: int, otherwise: float = 0.0) -> float:
    try:
        value = float(tags.get(tag, otherwise))  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return otherwise
    return value if math.isfinite(value) else otherwise


def _ratio(size: tuple[int | float, int | float]) -> float:
    """Longer over shorter side."""
    return max(size) / min(size)
