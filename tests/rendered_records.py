"""Records to train and to calibrate on, without a picture engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fasthmr.geometry.rotations import axis_angle_to_rotmat


def write_records(folder: Path, count: int) -> None:
    """Write a shard as the picture engine does, with noise for pictures and a person-shaped mask."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    pictures = rng.integers(0, 255, (count, 160, 160, 4), dtype=np.uint8)
    pictures[..., 3] = 0
    pictures[:, 30:130, 60:100, 3] = 255
    np.save(folder / "00000.rgbm.npy", pictures)
    rotations = axis_angle_to_rotmat(torch.from_numpy(rng.normal(size=(count, 24, 3)) * 0.3)).numpy()
    K = np.array([[500.0, 0, 80], [0, 500, 80], [0, 0, 1]], dtype=np.float32)
    np.savez(
        folder / "00000.labels.npz",
        index=np.arange(count),
        rotations=rotations.astype(np.float32),
        betas=rng.normal(size=(count, 10)).astype(np.float32),
        joints_3d=rng.normal(size=(count, 35, 3)).astype(np.float32),
        points_2d=rng.uniform(20, 140, (count, 35, 2)).astype(np.float32),
        points_inside=np.ones((count, 35), dtype=bool),
        box_xyxy=np.tile(np.array([50, 20, 110, 140], dtype=np.float32), (count, 1)),
        K=np.tile(K, (count, 1, 1)),
    )
