from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fasthmr.encoders.vit import ViTConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.io.images import write_image
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.hmr import HMR, HMRConfig
from fasthmr.models.keypoint_hmr import KeypointHMR
from tests.rendered_records import write_records
from tests.small_models import small_keypoint_hmr

RECORDS = 36


def _quiet(blocks: torch.nn.ModuleList, which: tuple[int, ...]) -> None:
    """Blocks that do next to nothing, so that there is something to merge."""
    for i in which:
        for name in ("attn.proj", "mlp.fc2"):
            layer = blocks[i].get_submodule(name)
            layer.weight.data.mul_(1e-3)
            layer.bias.data.mul_(1e-3)


@pytest.fixture(scope="session")
def model() -> KeypointHMR:
    """48 tokens, 5 blocks, two of which are redundant."""
    made = small_keypoint_hmr(depth=5)
    _quiet(made.encoder.blocks, (2, 3))
    return made


_VIT = ViTConfig(dim=16, depth=4, heads=2, image_size=(128, 96))


@pytest.fixture(scope="session")
def hmr() -> HMR:
    """A head that reads a set of tokens."""
    torch.manual_seed(0)
    head = SMPLHeadConfig(context_dim=16, dim=24, depth=1, heads=2, head_dim=8, mlp_dim=16)
    made = HMRConfig(encoder=_VIT, head=head).build().eval()
    _quiet(made.encoder.blocks, (1, 2))
    return made


@pytest.fixture(scope="session")
def camera_hmr() -> torch.nn.Module:
    torch.manual_seed(0)
    head = SMPLHeadConfig(
        context_dim=16, dim=24, depth=1, heads=2, head_dim=8, mlp_dim=16, token_input="camera"
    )
    return CameraHMRConfig(encoder=_VIT, head=head).build().eval()


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with a person-shaped mask, and labels."""
    folder = tmp_path_factory.mktemp("records")
    write_records(folder, RECORDS)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures; with the detector 'full' each is a person."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for number in range(6):
        write_image(folder / f"{number}.png", rng.integers(0, 255, (60, 48, 3), dtype=np.uint8))
    return folder
