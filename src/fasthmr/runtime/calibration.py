"""Camera matrices that the user brings along, as JSON, NPZ or plain text.

JSON: `{"K": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]}` (also `camera_matrix`, also OpenCV's `{"rows", "cols",
"data"}`), or `{"fx", "fy", "cx", "cy"}`; and, so that pictures of another size can use it, `"image_size":
[width, height]` or `"width"` and `"height"`. NPZ: the same names. Text: the nine numbers of K, or fx fy cx
cy, followed by width and height if wanted; `#` starts a comment.

Axes are OpenCV's: x right, y down, z forward, (0, 0) in the centre of the top left pixel. Lens distortion is
refused: undistort the pictures first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from fasthmr.errors import InputError
from fasthmr.io.safe_npz import read_npz

_MAX_BYTES = 1 << 20
_MATRIX_NAMES = ("K", "camera_matrix", "intrinsics", "mtx")
_SIZE_NAMES = ("image_size", "img_size", "size")
_WIDTH_NAMES = ("width", "image_width", "w")
_HEIGHT_NAMES = ("height", "image_height", "h")
_DISTORTION_NAMES = ("distortion_coefficients", "dist_coeffs", "distortion", "dist", "d", "k1", "k2", "k3")
_DISTORTION_NAMES += ("p1", "p2")
_NEEDED = "needed: a 3x3 matrix K, or fx, fy, cx, cy"
_SQUARE_RANGE = (0.5, 2.0)  # fx / fy


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A checked camera matrix.

    Attributes:
        K: Pinhole matrix in pixels without skew.
        image_size: Width and height of the pictures it was measured on, where known.
        path: Where it comes from.
    """

    K: Float[np.ndarray, "3 3"]
    image_size: tuple[int, int] | None
    path: Path

    def for_size(self, image_size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
        """The matrix for pictures of another size with the same view.

        Raises:
            InputError: The picture has another ratio of sides, or the principal point lies outside of it.
        """
        K = self.K.copy()
        width, height = image_size
        if self.image_size is not None and self.image_size != image_size:
            scale_x, scale_y = width / self.image_size[0], height / self.image_size[1]
            if abs(scale_x / scale_y - 1) > 0.01:
                measured = "x".join(map(str, self.image_size))
                raise InputError(
                    f"{self.path}: measured on pictures of {measured} pixels, this one has {width}x{height}; "
                    "give the camera of the picture as it is, cropped or turned"
                )
            scale = np.array([scale_x, scale_y])
            K[[0, 1], [0, 1]] *= scale
            K[:2, 2] = (K[:2, 2] + 0.5) * scale - 0.5
        if not (0 < K[0, 2] < width and 0 < K[1, 2] < height):
            raise InputError(
                f"{self.path}: the principal point ({K[0, 2]:g}, {K[1, 2]:g}) lies outside the picture of "
                f"{width}x{height} pixels; give the camera of this picture size"
            )
        return K


def read_calibration(path: str | Path) -> Calibration:
    """Reads and checks a camera file.

    Raises:
        InputError: The file is missing, damaged or in another form; or the matrix is not that of a camera
            without distortion and skew.
    """
    path = Path(path)
    _check_file(path)
    if path.suffix.lower() == ".npz":
        arrays = read_npz(path, error=InputError)
        matrix, size = _from_mapping(path, arrays)
    else:
        matrix, size = _parse_text(path)
    return Calibration(K=_checked(path, matrix), image_size=_checked_size(path, size), path=path)


def _check_file(path: Path) -> None:
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such camera file")
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: more than 1 MB, so not a camera file; {_NEEDED}")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: the camera file cannot be read ({error})") from error


def _parse_text(path: Path) -> tuple[object, object]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: the camera file cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8; give the camera as JSON, NPZ or text") from error
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("{", "[")):
        return _from_numbers(path, text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); {_NEEDED}") from error
    return _from_mapping(path, content) if isinstance(content, dict) else (content, None)


def _from_numbers(path: Path, text: str) -> tuple[object, object]:
    words = " ".join(line.split("#")[0] for line in text.splitlines()).replace(",", " ").split()
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise InputError(f"{path}: not a list of numbers ({error}); {_NEEDED}") from error
    if len(numbers) in (9, 11):
        return np.array(numbers[:9]).reshape(3, 3), numbers[9:] or None
    if len(numbers) in (4, 6):
        return _matrix(*numbers[:4]), numbers[4:] or None
    raise InputError(f"{path}: holds {len(numbers)} numbers; {_NEEDED}, then width and height if known")


def _from_mapping(path: Path, content: Mapping[str, object]) -> tuple[object, object]:
    named = {name.lower(): value for name, value in content.items()}
    for name in _DISTORTION_NAMES:
        if name in named and np.any(_numbers(path, name, named[name]) != 0):
            raise InputError(
                f"{path}: '{name}' says that the lens distorts; undistort the pictures first "
                "(cv2.undistort) and give the camera of the result"
            )
    width, height = _first(named, _WIDTH_NAMES), _first(named, _HEIGHT_NAMES)
    size = _first(named, _SIZE_NAMES)
    if size is None and width is not None and height is not None:
        size = [_numbers(path, "width", width).reshape(-1), _numbers(path, "height", height).reshape(-1)]
    matrix = _first(named, tuple(name.lower() for name in _MATRIX_NAMES))
    if matrix is not None:
        return (matrix["data"] if isinstance(matrix, dict) and "data" in matrix else matrix), size
    focal = named.get("focal", named.get("f"))
    entries = [named.get("fx", focal), named.get("fy", focal), named.get("cx"), named.get("cy")]
    if any(entry is None for entry in entries):
        raise InputError(f"{path}: has {', '.join(sorted(content)[:8]) or 'nothing'}; {_NEEDED}")
    values = [
        _numbers(path, name, entry) for name, entry in zip(("fx", "fy", "cx", "cy"), entries, strict=True)
    ]
    if any(value.size != 1 for value in values):
        raise InputError(f"{path}: fx, fy, cx and cy are one number each; {_NEEDED}")
    return _matrix(*(float(value.reshape(())) for value in values)), size


def _checked(path: Path, matrix: object) -> Float[np.ndarray, "3 3"]:
    K = _numbers(path, "K", matrix)
    if K.size != 9 or (K.ndim == 2 and K.shape != (3, 3)):
        raise InputError(f"{path}: K has the shape {K.shape}; {_NEEDED}")
    K = K.reshape(3, 3)
    fx, fy = K[0, 0], K[1, 1]
    if not np.isfinite(K).all():
        raise InputError(f"{path}: K holds numbers that are not finite")
    if fx <= 0 or fy <= 0 or not np.allclose(K[2], (0, 0, 1)):
        raise InputError(f"{path}: K is no camera matrix; needed: fx, fy > 0 and the last row 0 0 1")
    if abs(K[0, 1]) > 1e-3 * fx or abs(K[1, 0]) > 1e-3 * fy:
        raise InputError(f"{path}: K has skew ({K[0, 1]:g}); give the camera of upright, unsheared pixels")
    if not _SQUARE_RANGE[0] <= fx / fy <= _SQUARE_RANGE[1]:
        raise InputError(f"{path}: fx {fx:g} and fy {fy:g} differ more than twofold; {_NEEDED} in pixels")
    if fx < 10:
        raise InputError(f"{path}: fx is {fx:g}; needed: focal lengths in pixels, not in metres or sides")
    return _matrix(fx, fy, K[0, 2], K[1, 2])


def _checked_size(path: Path, size: object) -> tuple[int, int] | None:
    if size is None:
        return None
    values = _numbers(path, "image_size", size).reshape(-1)
    if len(values) != 2 or not np.isfinite(values).all() or values.min() < 1 or values.max() > 1e6:
        raise InputError(
            f"{path}: the image size is {values.tolist()[:4]}; needed: width and height in pixels"
        )
    return int(values[0]), int(values[1])


def _numbers(path: Path, name: str, value: object) -> Float[np.ndarray, "..."]:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: '{name}' is not made of numbers; {_NEEDED}") from error


def _matrix(fx: float, fy: float, cx: float, cy: float) -> Float[np.ndarray, "3 3"]:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def _first(named: Mapping[str, object], names: tuple[str, ...]) -> object:
    return next((named[name] for name in names if named.get(name) is not None), None)
