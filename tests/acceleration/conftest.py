from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.encoders.vit import ViTConfig
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.heads.keypoint_smpl import KeypointSMPLConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.io.images import write_image
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.hmr import HMR, HMRConfig
from fasthmr.models.keypoint_hmr import KeypointHMR, KeypointHMRConfig

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
    torch.manual_seed(0)
    channels = (8, 12, 16)
    encoder = ConvViTConfig(
        widths=channels, blocks=(1, 1, 1), token_stride=8, depth=5, heads=2, image_size=(64, 48)
    )
    head = KeypointSMPLConfig(channels=channels, token_stride=8, map_channels=8, dim=16, depth=1, heads=2)
    made = KeypointHMRConfig(encoder=encoder, head=head).build().eval()
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
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (RECORDS, 160, 160, 4), dtype=np.uint8)
    pictures[..., 3] = 0
    pictures[:, 30:130, 60:100, 3] = 255
    np.save(folder / "00000.rgbm.npy", pictures)
    rotations = axis_angle_to_rotmat(torch.from_numpy(rng.normal(size=(RECORDS, 24, 3)) * 0.3)).numpy()
    K = np.array([[500.0, 0, 80], [0, 500, 80], [0, 0, 1]], dtype=np.float32)
    np.savez(
        folder / "00000.labels.npz",
        index=np.arange(RECORDS),
        rotations=rotations.astype(np.float32),
        betas=rng.normal(size=(RECORDS, 10)).astype(np.float32),
        joints_3d=rng.normal(size=(RECORDS, 35, 3)).astype(np.float32),
        points_2d=rng.uniform(20, 140, (RECORDS, 35, 2)).astype(np.float32),
        points_inside=np.ones((RECORDS, 35), dtype=bool),
        box_xyxy=np.tile(np.array([50, 20, 110, 140], dtype=np.float32), (RECORDS, 1)),
        K=np.tile(K, (RECORDS, 1, 1)),
    )
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures; with the detector 'full' each is a person."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    for number in range(6):
        write_image(folder / f"{number}.png", rng.integers(0, 255, (60, 48, 3), dtype=np.uint8))
    return folder
