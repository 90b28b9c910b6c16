from __future__ import annotations

import numpy as np
import pytest

from fasthmr.io.images import read_image
from fasthmr.training.motion_plot import draw_curves


def test_curves_lie_where_their_values_are(tmp_path):
    path = tmp_path / "curves.png"
    line = np.linspace(0, 10, 50)
    draw_curves({"up": line, "down": 10 - line}, path, seconds=2.0, unit="mm", size=(300, 200))
    picture = read_image(path).astype(int)
    assert picture.shape == (200, 300, 3)
    dark = (picture.sum(axis=2) < 250)[40:164]
    assert dark[-10:, 64:74].any() and not dark[:10, 64:74].any()
    assert dark[:10, -24:-14].any() and not dark[-10:, -24:-14].any()


def test_too_many_curves_are_refused(tmp_path):
    with pytest.raises(ValueError, match="colours"):
        draw_curves({str(k): np.zeros(2) for k in range(9)}, tmp_path / "x.png", seconds=1.0, unit="m")
