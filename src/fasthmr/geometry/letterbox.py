"""A whole picture made square, as the field-of-view network of CameraHMR (arXiv 2411.08128) takes it."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

WHITE = 255


def letterbox(rgb: UInt8[np.ndarray, "height width 3"], size: int = 256) -> UInt8[np.ndarray, "size size 3"]:
    """Shrink or enlarge a picture until its longer side is `size` pixels, and centre it on white.

    Resampled by pixel areas; the shorter side is rounded down, but not to nothing.
    """
    import cv2

    height, width = rgb.shape[:2]
    # int(size / aspect), not int(size * height / width): the two differ in the last pixel as released.
    aspect = width / height
    new_width, new_height = (size, int(size / aspect)) if aspect > 1 else (int(size * aspect), size)
    new_width, new_height = max(new_width, 1), max(new_height, 1)
    square = np.full((size, size, 3), WHITE, dtype=np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    resized = cv2.resize(rgb, (new_width, new_height), interpolation=cv2.INTER_AREA)
    square[top : top + new_height, left : left + new_width] = resized
    return square
