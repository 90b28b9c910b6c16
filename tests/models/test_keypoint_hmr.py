from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.heads.keypoint_smpl import BodyPoints, KeypointSMPLConfig
from fasthmr.models.keypoint_hmr import KeypointHMR, KeypointHMRConfig

CHANNELS = (8, 12, 16)
TINY = KeypointHMRConfig(
    encoder=ConvViTConfig(widths=CHANNELS, blocks=(1, 1, 1), depth=2, heads=2, image_size=(64, 48)),
    head=KeypointSMPLConfig(channels=CHANNELS, map_channels=8, dim=16, depth=1, heads=2),
)


def tiny() -> KeypointHMR:
    torch.manual_seed(0)
    return TINY.build().eval()


def crops(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 128, 128, generator=torch.Generator().manual_seed(seed))


def values(model: KeypointHMR, pixels: torch.Tensor) -> torch.Tensor:
    output = model(pixels)
    assert output.keypoints is not None
    params = output.params
    parts = (params.global_orient, params.body_pose, params.betas, output.camera, output.keypoints.xy)
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def test_features_are_the_token_and_the_points():
    model = tiny()
    output = model(crops(2))
    assert output.features is not None and output.keypoints is not None
    assert output.features.shape == (2, 16 + 4 * 35)
    points = output.features[:, 16:].unflatten(1, (35, 4))
    assert torch.equal(points[..., :2], output.keypoints.xy)
    assert torch.equal(points[..., 3], output.keypoints.score)
    decoder = model.head.decoder
    assert torch.allclose(decoder.betas(output.features[:, :16]), output.params.betas, atol=1e-6)


def test_rotations_are_rotations_and_points_lie_in_the_columns_seen():
    output = tiny()(crops(2))
    rotations = torch.cat((output.params.global_orient, output.params.body_pose), dim=1)
    assert rotations.shape == (2, 24, 3, 3)
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand_as(rotations), atol=1e-5, rtol=0)
    assert output.keypoints is not None
    assert output.keypoints.xy[..., 0].abs().max() <= 0.375
    assert output.keypoints.xy[..., 1].abs().max() <= 0.5
    assert output.keypoints.score.min() >= 0 and output.keypoints.score.max() <= 1


def test_an_untrained_model_sees_somebody_upright_facing_the_camera():
    root = tiny()(crops(1)).params.global_orient[0, 0]
    torch.testing.assert_close(root, torch.diag(torch.tensor([1.0, -1.0, -1.0])), atol=0.2, rtol=0)


def test_a_batch_equals_its_samples():
    model, pixels = tiny(), crops(3)
    with torch.no_grad():
        alone = torch.cat([values(model, sample[None]) for sample in pixels])
        torch.testing.assert_close(values(model, pixels), alone, atol=1e-5, rtol=0)


def test_gradients_reach_all_parameters():
    model = tiny().train()
    for module in model.modules():  # residual branches start at zero and pass no gradient until they move
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.weight, 0.7)
    output = model.estimate(torch.randn(4, 3, 64, 48, generator=torch.Generator().manual_seed(1)))
    parts = (output.heat_logits, output.mask_logits, output.points.z, output.pose.rotmats, output.pose.betas)
    loss = sum(
        part.float().square().mul(torch.linspace(0.5, 2, part.numel()).view_as(part)).sum() for part in parts
    )
    (loss + output.pose.camera.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_heat_on_one_cell_puts_the_point_at_its_centre():
    head = tiny().head
    maps = [torch.zeros(1, c, 16 // s, 12 // s) for c, s in zip(CHANNELS, (1, 2, 4), strict=True)]
    row, column = 5, 7
    heat = torch.full((1, 35, 16 * 12 + 1), -50.0)
    heat[:, :, row * 12 + column] = 50.0
    head.maps.forward = lambda maps: (heat, torch.ones(1, 35, 192), torch.zeros(1, 16, 12), maps[0][:, :8])
    points = head(maps).points
    # 16 rows: the cell covers pixels 16 j .. 16 j + 15 of a 256-pixel crop, whose middle starts at column 32.
    expected = torch.tensor([(16 * column + 7.5 + 32) / 256 - 0.5, (16 * row + 7.5) / 256 - 0.5])
    torch.testing.assert_close(points.xy, expected.expand(1, 35, 2))
    torch.testing.assert_close(points.z, torch.ones(1, 35))


def test_a_point_outside_the_crop_has_no_say_in_the_lifter():
    decoder = tiny().head.decoder
    generator = torch.Generator().manual_seed(2)
    xy, z = torch.randn(1, 35, 2, generator=generator), torch.randn(1, 35, generator=generator)
    score = torch.ones(1, 35)
    score[:, 20] = 0
    moved = xy.clone()
    moved[:, 20] += 3
    first = decoder(BodyPoints(xy=xy, z=z, score=score))
    second = decoder(BodyPoints(xy=moved, z=z, score=score))
    torch.testing.assert_close(first.rotmats, second.rotmats)
    third = decoder(BodyPoints(xy=moved, z=z, score=torch.ones(1, 35)))
    assert not torch.allclose(first.rotmats, third.rotmats)


def test_configuration_survives_json():
    assert config_from_json(config_to_json(TINY)) == TINY


def test_smaller_pictures_of_the_same_proportions_pass():
    model = tiny()
    output = model.estimate(torch.randn(2, 3, 128, 96, generator=torch.Generator().manual_seed(4)))
    assert output.mask_logits.shape == (2, 32, 24) and output.heat_logits.shape == (2, 35, 32 * 24 + 1)
    with pytest.raises(ValueError, match="proportions"):
        model.estimate(torch.zeros(1, 3, 64, 64))


def test_tokens_of_stride_8():
    config = KeypointHMRConfig(
        encoder=replace(TINY.encoder, token_stride=8), head=replace(TINY.head, token_stride=8)
    )
    model = config.build().eval()
    maps = model.encoder(torch.zeros(1, 3, 64, 48))
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 12), (8, 6), (8, 6)]
    assert model(crops(2)).params.body_pose.shape == (2, 23, 3, 3)
    assert config_from_json(config_to_json(config)) == config


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="128 x 128"):
        tiny()(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="multiple of 16"):
        ConvViTConfig(image_size=(100, 96))
    with pytest.raises(ValueError, match="channels"):
        KeypointHMRConfig(encoder=TINY.encoder, head=KeypointSMPLConfig())
    with pytest.raises(ValueError, match="stride 8"):
        KeypointHMRConfig(encoder=replace(TINY.encoder, token_stride=8), head=TINY.head)


@pytest.mark.compile
def test_compiled_and_exported_models_agree_with_eager():
    model, pixels = tiny(), crops(2)
    expected = values(model, pixels)
    with torch.no_grad():
        torch.testing.assert_close(
            values(torch.compile(model, backend="aot_eager"), pixels), expected, atol=1e-4, rtol=1e-4
        )
        exported = torch.export.export(model.encoder, (torch.randn(2, 3, 64, 48),)).module()
        picture = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(exported(picture), model.encoder(picture), atol=1e-5, rtol=1e-5)
