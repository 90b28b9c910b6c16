from __future__ import annotations

import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.geometry.rotations import axis_angle_to_rotmat, geodesic_angle
from fasthmr.models.motion_prior import CHANNELS, MotionPriorConfig
from fasthmr.temporal.motion_vae import MotionVAEConfig
from fasthmr.temporal.patch_vae import PatchVAEConfig
from fasthmr.types import BodyParams

SIZES = {"latents": 3, "width": 8, "layers": 1, "heads": 2, "mlp_dim": 8, "max_tokens": 20}


def clips(count: int = 4, frames: int = 6) -> BodyParams:
    generator = torch.Generator().manual_seed(0)
    vector = 0.4 * torch.randn(count, 1, 24, 3, generator=generator)
    rotations = axis_angle_to_rotmat(vector * torch.linspace(0.5, 1, frames)[:, None, None])
    betas = torch.randn(count, 1, 10, generator=generator).expand(-1, frames, -1)
    return BodyParams(global_orient=rotations[:, :, :1], body_pose=rotations[:, :, 1:], betas=betas)


@pytest.mark.parametrize("representation", ["points", "rotations"])
def test_poses_to_numbers_and_back(representation):
    channels = CHANNELS[representation]
    config = MotionPriorConfig(
        vae=PatchVAEConfig(channels=channels, patch=2, **SIZES), representation=representation
    )
    prior = config.build()
    prior.take_skeleton(load_default_body())
    params = clips()
    prior.fit(prior.representation.encode(params))
    numbers = prior.numbers(params)
    assert numbers.shape == (4, 6, channels) and numbers.mean().abs() < 0.1
    rotations = prior.rotations(numbers, params.betas)
    true = torch.cat([params.global_orient, params.body_pose], dim=-3)
    assert geodesic_angle(rotations, true).max() < 0.02
    assert torch.allclose(prior.joints(rotations, params.betas), prior.joints(true, params.betas), atol=1e-3)
    rebuilt, latent = prior(numbers)
    assert rebuilt.shape == numbers.shape and latent.mean.shape == (4, 3, 8)


def test_rare_twists_are_not_blown_up():
    prior = MotionPriorConfig(vae=PatchVAEConfig(patch=2, **SIZES)).build()
    prior.take_skeleton(load_default_body())
    prior.fit(prior.representation.encode(clips()))
    assert prior.standardiser.std[87:].min() >= 0.2 > prior.standardiser.std[:87].min()


def test_published_form_and_errors():
    prior = MotionPriorConfig(vae=MotionVAEConfig(frames=6, **SIZES)).build()
    assert prior(torch.zeros(1, 6, 133))[0].shape == (1, 6, 133)
    with pytest.raises(ValueError, match="133"):
        MotionPriorConfig(vae=MotionVAEConfig(frames=6, channels=7, **SIZES))
    with pytest.raises(ValueError, match="shape coefficients"):
        MotionPriorConfig(vae=PatchVAEConfig(patch=2, **SIZES), num_betas=99).build().take_skeleton(
            load_default_body()
        )
