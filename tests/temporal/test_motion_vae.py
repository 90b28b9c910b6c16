from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.errors import UnsafeFileError
from fasthmr.temporal.motion_vae import MotionLatent, MotionVAE, MotionVAEConfig

TINY = MotionVAEConfig(
    channels=7, frames=10, latents=3, width=12, layers=3, heads=2, mlp_dim=16, max_tokens=20, dropout=0.0
)
KINDS = pytest.mark.parametrize(
    "config", [TINY, replace(TINY, decoder="all_encoder")], ids=lambda c: c.decoder
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model_of(config: MotionVAEConfig) -> MotionVAE:
    torch.manual_seed(1)
    return config.build().double().eval()


@KINDS
@torch.no_grad()
def test_shapes_and_batch(config):
    model, motion = model_of(config), randn(4, 10, 7)
    motion_again, latent = model(motion)
    assert latent.mean.shape == latent.log_variance.shape == (4, 3, 12)
    assert motion_again.shape == (4, 10, 7)
    for i in range(4):
        alone, lone_latent = model(motion[i : i + 1])
        assert torch.allclose(alone[0], motion_again[i], atol=1e-10)
        assert torch.allclose(lone_latent.mean[0], latent.mean[i], atol=1e-10)
    assert model.decode(latent.mean, 6).shape == (4, 6, 7)  # another length than it is made for
    assert torch.equal(model.decode(latent.mean, 10), motion_again)


@KINDS
@torch.no_grad()
def test_padding_changes_nothing(config):
    model, motion, lengths = model_of(config), randn(3, 10, 7), torch.tensor([10, 4, 1])
    padded, latent = model(motion, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone, lone_latent = model(motion[i : i + 1, :length])
        assert torch.allclose(latent.mean[i], lone_latent.mean[0], atol=1e-10)
        assert torch.allclose(latent.log_variance[i], lone_latent.log_variance[0], atol=1e-10)
        assert torch.allclose(padded[i, :length], alone[0], atol=1e-10)
        assert not padded[i, length:].any()


@KINDS
def test_gradients_reach_all_parameters(config):
    model, motion = model_of(config).train(), randn(2, 10, 7)
    again, latent = model(motion, noise=randn(2, 3, 12, seed=5))
    ((again - motion).square().mean() + latent.log_variance.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_samples():
    latent = MotionLatent(mean=torch.full((1, 400, 50), 2.0), log_variance=torch.full((1, 400, 50), -2.0))
    drawn = latent.sample(torch.Generator().manual_seed(0))
    assert torch.equal(drawn, latent.sample(torch.Generator().manual_seed(0)))
    assert drawn.mean() == pytest.approx(2, abs=0.01)
    assert drawn.std() == pytest.approx(float(latent.std[0, 0, 0]), abs=0.01)
    assert latent.std[0, 0, 0] == pytest.approx(torch.e**-1)


@torch.no_grad()
def test_noise_chooses_a_sample():
    model, motion, noise = model_of(TINY), randn(2, 10, 7), randn(2, 3, 12, seed=5)
    again, latent = model(motion, noise=noise)
    assert torch.equal(again, model.decode(latent.mean + latent.std * noise, 10))
    assert torch.equal(model(motion, noise=torch.zeros_like(noise))[0], model(motion)[0])


@torch.no_grad()
def test_too_long_clips():
    with pytest.raises(ValueError, match="21 tokens in a sequence, but positions for 20"):
        model_of(TINY).encode(randn(1, 15, 7))


def test_example_inputs():
    (motion,) = model_of(TINY).example_inputs()
    assert motion.shape == (1, 10, 7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": 2}, "MotionVAEConfig: layers=2; long skips need an odd number"),
        ({"heads": 5}, "width=12 is not a multiple of heads=5"),
        ({"frames": 15}, "15 frames and 6 tokens for the latents need max_tokens of 21, not 20"),
        ({"latents": 0}, "at least 1"),
    ],
)
def test_wrong_configurations(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **wrong)


@KINDS
def test_configuration_as_json(config):
    assert config_from_json(config_to_json(config)) == config


def test_unknown_words_in_a_file():
    text = config_to_json(TINY)
    with pytest.raises(UnsafeFileError, match="not a model configuration"):
        config_from_json(text.replace('"encoder_decoder"', '"all_decoder"'))
