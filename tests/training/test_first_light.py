from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.body.keypoints import KeypointBody
from fasthmr.checkpoints.files import save_weights
from fasthmr.data.motion import MotionLibrary
from fasthmr.data.records import KEYPOINTS_IN_POINTS, POINT_NAMES
from fasthmr.data.synthetic import package_assets
from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.heads.keypoint_smpl import KeypointSMPLConfig
from fasthmr.models.keypoint_hmr import KeypointHMRConfig
from fasthmr.training.first_light import grow
from fasthmr.training.lifter import LifterConfig, draw_poses, lifter_batches, pretrain_lifter
from fasthmr.training.losses import heat_loss, pose_losses
from fasthmr.zoo import create_model
from tests.rendered_records import write_records


def test_heat_loss_equals_the_cross_entropy_with_the_whole_map():
    generator = torch.Generator().manual_seed(0)
    columns, rows = torch.arange(6) / 8 - 0.3, torch.arange(8) / 8 - 0.45
    logits = torch.randn(2, 5, 49, generator=generator)
    points = torch.rand(2, 5, 2, generator=generator) * 0.6 - 0.3
    inside = torch.rand(2, 5, generator=generator) < 0.7
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    cells = torch.stack((x, y), dim=-1).flatten(0, 1)
    gauss = ((points[:, :, None] - cells).square().sum(-1) / (-2 * 0.1**2)).softmax(-1)
    target = torch.cat((gauss * inside[..., None], (~inside[..., None]).float()), dim=-1)
    expected = -(target * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(heat_loss(logits, points, inside, columns, rows, 0.1), expected)


def test_lifter_learns_and_its_batches_are_consistent():
    library = MotionLibrary.load(package_assets("motion"), "train")
    keypoint_body = KeypointBody(load_default_body(), KEYPOINTS_IN_POINTS)
    config = LifterConfig(steps=60, batch_size=32, poses=400, xy_noise=0.005, z_noise=0.02)
    points, batch = next(lifter_batches(torch.zeros(10, 24, 3), keypoint_body, config))
    left, right = POINT_NAMES.index("left_wrist"), POINT_NAMES.index("right_wrist")
    spread = (batch.points_3d[:, left] - batch.points_3d[:, right]).norm(dim=-1)
    assert (spread > 1.0).all()  # the rest pose spreads the arms
    assert points.xy.shape == (32, 35, 2) and batch.inside.float().mean() > 0.5

    torch.manual_seed(0)
    decoder = (
        KeypointSMPLConfig(channels=(8, 12, 16), map_channels=8, dim=48, depth=1, heads=4).build().decoder
    )
    held_out = LifterConfig(batch_size=128, seed=9, xy_noise=0.005, z_noise=0.02)
    test_points, test_batch = next(lifter_batches(draw_poses(library, 300, 5), keypoint_body, held_out))
    decoder.start_from(axis_angle_to_rotmat(draw_poses(library, 300, 1)).mean(dim=0))
    before = pose_losses(decoder(test_points), test_batch, keypoint_body)["points_3d"]
    pretrain_lifter(decoder, library, keypoint_body, config)
    after = pose_losses(decoder(test_points), test_batch, keypoint_body)["points_3d"]
    assert after < 0.9 * before


def test_a_grown_model_starts_as_the_smaller_one(tmp_path):
    encoder = ConvViTConfig(widths=(8, 12, 16), blocks=(1, 1, 1), depth=1, heads=2, image_size=(64, 48))
    head = KeypointSMPLConfig(channels=(8, 12, 16), map_channels=8, dim=16, depth=1, heads=2)
    torch.manual_seed(0)
    small = KeypointHMRConfig(encoder=encoder, head=head).build().eval()
    save_weights(small, tmp_path / "small.safetensors", dtype=torch.float32)
    deep = KeypointHMRConfig(encoder=replace(encoder, depth=3), head=head).build().eval()
    pixels = torch.randn(2, 3, 128, 128)
    assert not torch.allclose(deep(pixels).camera, small(pixels).camera, atol=1e-4)
    grow(deep, tmp_path / "small.safetensors")
    torch.testing.assert_close(deep(pixels).params.body_pose, small(pixels).params.body_pose)
    torch.testing.assert_close(deep(pixels).camera, small(pixels).camera)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path):
    from fasthmr.training.first_light import FirstLightConfig, train

    write_records(tmp_path / "records", 12)

    def run(out: str, steps: int) -> dict[str, torch.Tensor]:
        config = FirstLightConfig(
            data=tmp_path / "records",
            out=tmp_path / out,
            records=12,
            steps=steps,
            decay_steps=0,
            warmup_steps=2,
            preset="fasthmr_s",
            batch_size=4,
            checkpoint_every=1,
            lifter=LifterConfig(steps=1, batch_size=4, poses=10),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's own, about its loader and its tree utilities
            path = train(config)
        model = create_model("fasthmr_s", checkpoint=path)
        return {key: value.clone() for key, value in model.state_dict().items()}

    whole = run("whole", 4)
    run("pieces", 2)
    pieces = run("pieces", 4)
    assert all(torch.equal(value, pieces[key]) for key, value in whole.items())


def test_missing_directory_is_named(tmp_path: Path):
    from fasthmr.errors import InputError
    from fasthmr.training.first_light import FirstLightConfig, train

    with pytest.raises(InputError, match="nowhere"):
        train(FirstLightConfig(data=tmp_path / "data", out=tmp_path / "out", records=2, render_workers=1,
                               wardrobe=tmp_path / "nowhere"))  # fmt: skip
