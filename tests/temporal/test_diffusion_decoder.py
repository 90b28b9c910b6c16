from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.temporal.diffusion_decoder import DiffusionDecoder, DiffusionDecoderConfig
from fasthmr.temporal.latent_denoiser import LatentDenoiserConfig
from fasthmr.temporal.motion_vae import MotionVAEConfig
from fasthmr.zoo import load_model

SIZES = {"latents": 3, "frames": 6, "width": 12, "layers": 3, "heads": 2, "mlp_dim": 16, "max_tokens": 12}
TINY = DiffusionDecoderConfig(
    vae=MotionVAEConfig(channels=7, **SIZES), denoiser=LatentDenoiserConfig(condition_dim=8, **SIZES)
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> DiffusionDecoder:
    torch.manual_seed(1)
    return TINY.build().eval()


@torch.no_grad()
def test_one_step_is_denoiser_and_decoder(model):
    features = randn(2, 6, 8)
    model.fit_latents(2 + 3 * randn(50, 3, 12, seed=4))
    start = model.start.expand(2, -1, -1)
    clean = -model.denoiser(start, torch.tensor([999, 999]), features)
    expected = model.decoder(model.restore(clean), 6)
    assert torch.allclose(model(features), expected, atol=1e-5)
    assert model(features).shape == (2, 6, 7)
    assert torch.equal(model(features), model(features))  # no chance in it
    assert torch.equal(model.start, TINY.build().start) and model.start.std() > 0.5


@torch.no_grad()
def test_batch_equals_singles(model):
    features = randn(3, 6, 8)
    singles = torch.cat([model(one[None]) for one in features])
    assert torch.allclose(model(features), singles, atol=1e-5)
    assert model(features[:, :4]).shape == (3, 4, 7)


@torch.no_grad()
def test_noise_is_chosen_and_averaged(model):
    features, noise = randn(2, 6, 8), randn(4, 2, 3, 12, seed=3)
    each = torch.stack([model.denoise(features, noise=draw) for draw in noise])
    assert not torch.allclose(each[0], each[1], atol=1e-3)
    assert torch.allclose(model.denoise(features, noise=noise), each.mean(0), atol=1e-5)
    assert torch.allclose(model(features, noise=noise[0]), model.decoder(each[0], 6), atol=1e-5)


@torch.no_grad()
def test_steps_and_hidden_frames(model):
    features = randn(2, 6, 8)
    assert not torch.allclose(model(features, steps=3), model(features), atol=1e-4)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    other = torch.where(mask[..., None], features, 9.0)
    assert torch.allclose(model(features, mask), model(other, mask), atol=1e-5)
    assert not torch.allclose(model(features), model(other), atol=1e-2)


@pytest.mark.parametrize("each_channel", [False, True])
@torch.no_grad()
def test_latents_are_standardised(model, each_channel):
    spread = torch.linspace(0.5, 3, 12)
    latents = randn(3, 12, seed=5) + spread * randn(400, 3, 12, seed=4)
    model.fit_latents(latents, each_channel)
    normal = model.normalise(latents)
    assert torch.allclose(normal.mean(0), torch.zeros(3, 12), atol=1e-5)
    assert normal.std() == pytest.approx(1, abs=0.01)
    assert torch.allclose(model.restore(normal), latents, atol=1e-5)
    widest = normal.std(0)
    assert (widest.max() / widest.min() < 1.2) == each_channel


def test_decoder_of_a_trained_vae(model):
    torch.manual_seed(7)
    vae = TINY.vae.build().eval()
    model.take_vae(vae)
    latents = randn(2, 3, 12)
    assert torch.equal(model.decoder(latents, 6), vae.decode(latents, 6))
    with pytest.raises(ValueError, match="the decoder was made for"):
        model.take_vae(replace(TINY.vae, layers=5).build())


def test_gradients_reach_all_parameters(model):
    model.train()(randn(2, 6, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("vae", "message"),
    [
        ({"width": 16}, "makes 3 latents of 12 numbers, the VAE reads 3 of 16"),
        ({"latents": 2}, "the VAE reads 2 of 12"),
        ({"frames": 5}, "clips of 6 frames for the denoiser, of 5 for the VAE"),
    ],
)
def test_parts_that_do_not_fit(vae, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, vae=replace(TINY.vae, **vae))


@torch.no_grad()
def test_weights_come_back_from_their_file(model, tmp_path):
    model.fit_latents(randn(50, 3, 12, seed=4))
    text = config_to_json(TINY)
    assert config_from_json(text) == TINY
    save_weights(model, tmp_path / "w.safetensors", dtype=torch.float32, metadata={"config": text})
    again = load_model(tmp_path / "w.safetensors")
    assert isinstance(again, DiffusionDecoder) and again.config == TINY
    assert torch.equal(again(randn(1, 6, 8)), model(randn(1, 6, 8)))


@pytest.mark.compile
@torch.no_grad()
def test_compiled_and_exported(model):
    features = randn(2, 6, 8)
    expected = model(features)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(features), expected, atol=1e-5)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (features,), dynamic_shapes=({0: batch},))
    assert torch.allclose(program.module()(features[:1]), expected[:1], atol=1e-5)
