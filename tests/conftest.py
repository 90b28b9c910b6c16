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
