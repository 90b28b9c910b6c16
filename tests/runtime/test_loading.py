"""Weight files as models of a pipeline, and as intrinsics networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fasthmr.body.default_body import load_default_body
from fasthmr.body.transfer import fit_pose
from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.encoders.hrnet import HRNetConfig
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import UnsafeFileError, UsageError
from fasthmr.geometry.cameras import bbox_info
from fasthmr.geometry.crops import crop_pictures
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.camera_hmr import CameraHMR, CameraHMRConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.human_fov import HumanFoV, HumanFoVConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.temporal.motion_vae import MotionVAEConfig

RGB = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
BOX = [30.0, 10.0, 70.0, 90.0]
ENCODER = ViTConfig(dim=32, depth=1, heads=2, image_size=(64, 48))
NETWORK = HumanFoVConfig(
    backbone=HRNetConfig(width=4, modules=(1, 1, 1), blocks=1, bottlenecks=1, stem=8, image_size=(64, 64)),
    hidden=8,
)


def head(**options: Any) -> SMPLHeadConfig:
    return SMPLHeadConfig(context_dim=32, dim=32, depth=1, heads=2, head_dim=16, mlp_dim=32, **options)


def saved(config: Any, path: Path) -> tuple[nn.Module, Path]:
    torch.manual_seed(1)
    model = config.build().eval()
    for module in model.modules():
        if isinstance(module, HumanFoV):  # half a quarter turn up and down
            nn.init.zeros_(module.fc3.weight)
            nn.init.constant_(module.fc3.bias, np.pi / 4)
    save_weights(model, path, dtype=torch.float32, metadata={"config": config_to_json(config)})
    return model, path


def test_a_file_is_a_model(tmp_path: Path) -> None:
    model, path = saved(HMRConfig(encoder=ENCODER, head=head()), tmp_path / "tiny.safetensors")
    clip = Pipeline(path)(RGB, boxes=[BOX])
    same = Pipeline(str(path))(RGB, boxes=[BOX])
    output = model(crop_pictures(RGB, torch.tensor([BOX]), 64).pixels)
    assert clip.model == "tiny.safetensors"
    torch.testing.assert_close(torch.from_numpy(clip.persons[0].betas), output.params.betas.detach())
    np.testing.assert_array_equal(clip.persons[0].vertices, same.persons[0].vertices)
    poses = Pipeline(path, task="pose")(RGB, boxes=[BOX])
    assert poses.persons[0].keypoints_2d.shape == (1, 17, 3)


def test_a_file_of_a_pose_model(tmp_path: Path) -> None:
    config = PoseConfig(encoder=ENCODER, head=HeatmapHeadConfig(context_dim=32, kind="simple"))
    _, path = saved(config, tmp_path / "pose.safetensors")
    assert len(Pipeline(path, task="pose")(RGB, boxes=[BOX]).persons) == 1
    with pytest.raises(UsageError, match=r"'pose\.safetensors' gives 2D keypoints and no mesh"):
        Pipeline(path)


def test_models_of_motion_see_no_pictures(tmp_path: Path) -> None:
    config = MotionVAEConfig(frames=4, latents=1, width=8, layers=1, heads=2, mlp_dim=8, max_tokens=8)
    save_weights(config.build(), tmp_path / "vae.safetensors", metadata={"config": config_to_json(config)})
    for model in ("motion_vae_table12", tmp_path / "vae.safetensors"):
        with pytest.raises(UsageError, match="gives the motion of a clip from features of its frames"):
            Pipeline(model)


def test_a_model_that_takes_the_camera_with_its_network(tmp_path: Path) -> None:
    config = CameraHMRConfig(encoder=ENCODER, head=head(token_input="camera"), intrinsics=NETWORK)
    model, path = saved(config, tmp_path / "camera.safetensors")
    assert isinstance(model, CameraHMR)
    pipeline = Pipeline(path)
    clip = pipeline(RGB, boxes=[BOX])
    focal = 50 / np.tan(np.pi / 8)
    assert clip.camera_source == "network"
    np.testing.assert_allclose(clip.intrinsics[0], [[focal, 0, 60], [0, focal, 50], [0, 0, 1]], rtol=1e-6)
    crop = crop_pictures(RGB, torch.tensor([BOX]), 64, aspect=(1, 1), antialias=False)
    where = bbox_info(
        crop.box_center, crop.box_size, torch.tensor([[60.0, 50.0]]), torch.tensor([focal]).float()
    )
    output = model(crop.pixels, where)
    torch.testing.assert_close(torch.from_numpy(clip.persons[0].betas), output.params.betas.detach())
    given = Pipeline(path, focal=4000.0)(RGB, boxes=[BOX])
    assert given.camera_source == "focal"
    assert (given.persons[0].betas != clip.persons[0].betas).any(), "the pose depends on the camera"


def test_a_network_of_its_own_file(tmp_path: Path, stand_in_model: nn.Module) -> None:
    _, path = saved(NETWORK, tmp_path / "fov.safetensors")
    clip = Pipeline(stand_in_model, intrinsics=path)(RGB, boxes=[BOX])
    assert clip.camera_source == "network"
    assert clip.intrinsics[0, 0, 0] == pytest.approx(50 / np.tan(np.pi / 8))
    with pytest.raises(UsageError, match="gives the field of view of a camera"):
        Pipeline(path)
    _, other = saved(HMRConfig(encoder=ENCODER, head=head()), tmp_path / "tiny.safetensors")
    with pytest.raises(UsageError, match=r"tiny\.safetensors: gives body meshes; needed: an intrinsics"):
        Pipeline(stand_in_model, intrinsics=other)


def test_files_that_are_no_weights(tmp_path: Path, stand_in_model: nn.Module) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(UnsafeFileError):
        Pipeline(tmp_path / "a.safetensors")
    with pytest.raises(UnsafeFileError):
        Pipeline(stand_in_model, intrinsics=tmp_path / "a.safetensors")


def test_a_model_with_more_joints_than_the_body_poses_those_it_has(stand_in_model: nn.Module) -> None:
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0])).expand(2, 54, 3, 3)
    fitted = fit_pose(pose, load_default_body())
    assert fitted.shape == (2, 23, 3, 3)
    torch.testing.assert_close(fitted[:, :21], pose[:, :21])
    torch.testing.assert_close(fitted[:, 21:], torch.eye(3).expand(2, 2, 3, 3))
