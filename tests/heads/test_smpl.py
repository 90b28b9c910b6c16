from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.geometry.rotations import axis_angle_to_rotmat, rotmat_to_rot6d
from fasthmr.heads.smpl import SMPLHead, SMPLHeadConfig

TINY = SMPLHeadConfig(context_dim=10, dim=16, depth=2, heads=2, head_dim=4, mlp_dim=12)


def head_of(config: SMPLHeadConfig = TINY) -> SMPLHead:
    torch.manual_seed(0)
    return config.build().eval()


def features(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 10, 4, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("token_input", ["zero", "mean_shape"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_outputs(token_input, iterations):
    config = replace(TINY, token_input=token_input, iterations=iterations, joints=16, num_betas=7)
    with torch.no_grad():
        output = head_of(config)(features())
    assert output.params.global_orient.shape == (3, 1, 3, 3)
    assert output.params.body_pose.shape == (3, 15, 3, 3)
    assert output.params.betas.shape == (3, 7)
    assert output.camera.shape == (3, 3)
    assert output.features is not None and output.features.shape == (3, TINY.dim)
    eye = output.params.body_pose @ output.params.body_pose.mT
    assert torch.allclose(eye, torch.eye(3).expand_as(eye), atol=1e-5)


@pytest.mark.parametrize(("token_input", "numbers"), [("camera", 160), ("bbox", 3)])
def test_the_place_of_the_crop_enters_the_token(token_input, numbers):
    head = head_of(replace(TINY, token_input=token_input))
    assert head.decoder.to_token_embedding.in_features == numbers
    places = torch.tensor([[0.1, -0.2, 0.3], [0.1, -0.2, 0.3], [0.4, 0.0, 0.1]])
    tokens: list[torch.Tensor] = []
    head.decoder.register_forward_pre_hook(lambda module, inputs: tokens.append(inputs[1]))
    with torch.no_grad():
        output = head(features()[:1].expand(3, -1, -1, -1), places)
    assert torch.equal(tokens[0][:, :3], places)
    if token_input == "camera":
        mean = torch.cat([head.init_body_pose, head.init_betas, head.init_cam], dim=-1)
        assert torch.equal(tokens[0][:, 3:], mean.expand(3, -1))
    assert torch.allclose(output.camera[0], output.camera[1])
    assert (output.camera[0] - output.camera[2]).abs().max() > 1e-4


def test_the_camera_is_asked_for_and_refused():
    with pytest.raises(ValueError, match="needs bbox_info"):
        head_of(replace(TINY, token_input="camera"))(features())
    with pytest.raises(ValueError, match="has no use for bbox_info"):
        head_of()(features(), torch.zeros(3, 3))


def test_auxiliary_keypoints():
    with torch.no_grad():
        assert head_of()(features()).aux_keypoints_2d is None
        points = head_of(replace(TINY, aux_keypoints=5))(features()).aux_keypoints_2d
    assert points is not None and points.shape == (3, 5, 2)


def test_readouts_are_added_to_the_mean_estimate():
    head = head_of()
    pose = axis_angle_to_rotmat(torch.randn(24, 3, generator=torch.Generator().manual_seed(2)))
    for readout in (head.decpose, head.decshape, head.deccam):
        torch.nn.init.zeros_(readout.weight)
        torch.nn.init.zeros_(readout.bias)
    head.init_body_pose.copy_(rotmat_to_rot6d(pose, "columns").flatten()[None])
    head.init_betas.fill_(0.5)
    with torch.no_grad():
        output = head(features())
    assert torch.allclose(output.params.body_pose[0], pose[1:], atol=1e-6)
    assert (output.params.betas == 0.5).all()
    assert torch.allclose(output.camera, torch.tensor([0.9, 0.0, 0.0]))


@pytest.mark.parametrize("token_input", ["zero", "mean_shape"])
def test_gradients_reach_all_parameters(token_input):
    head = head_of(replace(TINY, token_input=token_input)).train()
    output = head(features())
    parts = (output.params.global_orient, output.params.body_pose, output.params.betas, output.camera)
    torch.stack([part.square().sum() * (1 + i) + part.sum() for i, part in enumerate(parts)]).sum().backward()
    without_effect = {"decoder.to_token_embedding.weight"} if token_input == "zero" else set()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or name in without_effect, name


def test_a_batch_equals_its_samples_and_token_order_does_not_matter():
    head, maps = head_of(), features()
    with torch.no_grad():
        together = head(maps)
        alone = torch.cat([head(sample[None]).params.body_pose for sample in maps])
        shuffled = head.from_tokens(maps.flatten(2).mT.flip(1))
    assert torch.allclose(together.params.body_pose, alone, atol=1e-5)
    assert torch.allclose(together.params.body_pose, shuffled.params.body_pose, atol=1e-5)


@pytest.mark.parametrize(
    ("context_dim", "params"),
    [(384, 34_042_013), (768, 36_401_309), (1024, 37_974_173), (1280, 39_547_037)],
)
def test_published_sizes(context_dim, params):
    with torch.device("meta"):
        head = SMPLHeadConfig(context_dim=context_dim).build()
    assert sum(parameter.numel() for parameter in head.parameters()) == params


def test_the_head_of_camerahmr_has_its_published_size():
    with torch.device("meta"):
        head = SMPLHeadConfig(context_dim=1280, token_input="camera", aux_keypoints=44).build()
    assert sum(parameter.numel() for parameter in head.parameters()) == 39_800_053


def test_the_small_decoder_has_its_published_size():
    with torch.device("meta"):
        head = SMPLHeadConfig(context_dim=384, depth=3, heads=4, head_dim=16, mlp_dim=128).build()
    assert sum(parameter.numel() for parameter in head.parameters()) == 2_305_565


def test_unusable_configs():
    with pytest.raises(ValueError, match="at least 1"):
        replace(TINY, iterations=0)
    with pytest.raises(ValueError, match="at least 1"):
        replace(TINY, depth=0)
