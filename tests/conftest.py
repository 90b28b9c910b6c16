"""Shape checks for the whole package, no network for any test, and a stand-in for a trained model."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest

if os.environ.get("FASTHMR_SHAPE_CHECKS", "1") != "0":
    from jaxtyping import install_import_hook

    install_import_hook("fasthmr", "beartype.beartype")


_connect = socket.socket.connect


def _loopback_only(self: socket.socket, address: object) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        host = address[0] if isinstance(address, tuple) else address
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {host!r}; tests run without a network")
    _connect(self, address)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections beyond this machine fail the test."""
    monkeypatch.setattr(socket.socket, "connect", _loopback_only)


@pytest.fixture
def stand_in_model():
    """A model that sees an upright person at rest whose first shape coefficient is the crop's mean."""
    import torch
    from torch import nn

    from fasthmr.types import BodyParams, HMROutput

    class StandIn(nn.Module):
        crop_size = 64

        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(0.1))
            self.batches: list[int] = []

        def forward(self, pixels: torch.Tensor) -> HMROutput:
            persons = len(pixels)
            self.batches.append(persons)
            upright = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
            betas = torch.zeros(persons, 10)
            betas[:, 0] = self.gain * pixels.mean((1, 2, 3))
            return HMROutput(
                params=BodyParams(
                    global_orient=upright.expand(persons, 1, 3, 3),
                    body_pose=torch.eye(3).expand(persons, 23, 3, 3),
                    betas=betas,
                ),
                camera=torch.tensor([[0.9, 0.0, 0.3]]).expand(persons, 3),
            )

    return StandIn()


@pytest.fixture
def make_picture():
    """Writes a small random picture and returns its path."""
    from PIL import Image

    def make(path: Path, width: int = 48, height: int = 64, seed: int = 0, **options: object) -> Path:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)
        return path

    return make


_FEATURES = 5


@pytest.fixture(scope="session")
def motion_track():
    """Makes tracks of a pose that hardly moves, four metres away, read with errors."""
    import torch

    from fasthmr.geometry.rotations import axis_angle_to_rotmat
    from fasthmr.types import BodyParams, MotionTrack

    def track(frames: int, seed: int = 0, jitter: float = 0.0, fps: float = 30.0) -> MotionTrack:
        generator = torch.Generator().manual_seed(seed)
        pose = 0.3 * torch.randn(1, 24, 3, generator=generator)
        pose = pose + 0.1 * torch.sin(torch.arange(frames)[:, None, None] / 20)
        rotmats = axis_angle_to_rotmat(pose + jitter * torch.randn(frames, 24, 3, generator=generator))
        return MotionTrack(
            params=BodyParams(
                global_orient=rotmats[:, :1],
                body_pose=rotmats[:, 1:],
                betas=torch.randn(1, 10, generator=generator).expand(frames, -1),
                transl=torch.tensor([0.2, 0.1, 4.0]).expand(frames, -1)
                + 0.1 * jitter * torch.randn(frames, 3, generator=generator),
            ),
            times=torch.arange(frames) / fps,
            boxes_xyxy=torch.tensor([10.0, 10.0, 90.0, 190.0]).expand(frames, -1),
            scores=torch.ones(frames),
            features=torch.randn(frames, _FEATURES, generator=generator),
        )

    return track
