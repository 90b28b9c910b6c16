"""Records to train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fasthmr.geometry.rotations import axis_angle_to_rotmat


@pytest.fixture
def write_records() -> Callable[[Path, int], None]:
    """Writes a shard as the picture engine does, with noise for pictures."""

    def write(directory: Path, count: int) -> None:
        rng = np.random.default_rng(0)
        directory.mkdir()
        np.save(directory / "00000.rgbm.npy", rng.integers(0, 255, (count, 160, 160, 4), dtype=np.uint8))
        rotations = axis_angle_to_rotmat(torch.from_numpy(rng.normal(size=(count, 24, 3)) * 0.3)).numpy()
        np.savez(
            directory / "00000.labels.npz",
            index=np.arange(count),
            rotations=rotations.astype(np.float32),
            betas=rng.normal(size=(count, 10)).astype(np.float32),
            joints_3d=rng.normal(size=(count, 35, 3)).astype(np.float32),
            points_2d=rng.uniform(20, 140, (count, 35, 2)).astype(np.float32),
            points_inside=np.ones((count, 35), dtype=bool),
        )

    return write
