from __future__ import annotations

import numpy as np
import pytest

from fasthmr.geometry.letterbox import WHITE, letterbox


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (height, width, 3), dtype=np.uint8)


def test_half_size_is_the_mean_of_four_pixels():
    rgb = picture(32, 64)
    square = letterbox(rgb, 32)
    means = rgb.reshape(16, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(square[8:24] - means).max() <= 0.5
    assert (square[:8] == WHITE).all() and (square[24:] == WHITE).all()


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [(150, 260, 36, 64), (260, 150, 64, 36), (40, 40, 64, 64), (20, 30, 42, 64), (1, 900, 1, 64)],
)
def test_sizes_are_rounded_down_and_centred(height, width, rows, columns):
    square = letterbox(picture(height, width), 64)
    inside = np.argwhere((square != WHITE).any(-1))
    top, left = (64 - rows) // 2, (64 - columns) // 2
    assert square.shape == (64, 64, 3) and square.dtype == np.uint8
    assert inside.min(0).tolist() == [top, left]
    assert inside.max(0).tolist() == [top + rows - 1, left + columns - 1]
