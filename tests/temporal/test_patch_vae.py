from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.temporal.patch_vae import PatchVAE, PatchVAEConfig

TINY = PatchVAEConfig(channels=4, patch=3, latents=5, width=6, layers=1, heads=2, mlp_dim=8, max_tokens=5)


def waves(clips: int, frames: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    phase = 6 * torch.rand(clips, 1, 4, generator=generator)
    return (torch.arange(frames)[:, None] * torch.tensor([0.3, 0.5, 0.2, 0.4]) + phase).sin()


@pytest.fixture
def vae() -> PatchVAE:
    torch.manual_seed(0)
    return TINY.build().eval()


@torch.no_grad()
def test_linear_parts_reconstruct_before_training(vae):
    motion = waves(200, 15)
    lost = vae.fit_linear(motion)
    assert lost < 0.1
    unseen = waves(20, 15, seed=1)
    rebuilt, latent = vae(unseen)
    assert (rebuilt - unseen).square().mean() < 0.02
    assert latent.mean.shape == latent.log_variance.shape == (20, 5, 6)
    scale = vae.encode(motion).mean.square().mean()
    assert 0.5 < scale < 2  # as the KL term and the denoiser like them
    around = rebuilt.diff(dim=1).abs().mean()
    assert (rebuilt - unseen)[:, 2:4].diff(dim=1).abs().mean() < around  # stretches meet


@torch.no_grad()
def test_latents_stand_for_their_own_frames(vae):
    vae.fit_linear(waves(200, 15))
    motion = waves(1, 15, seed=2)
    other = motion.clone()
    other[:, 9:12] += 1
    changed = (vae.encode(other).mean - vae.encode(motion).mean).abs().amax(-1)[0]
    assert changed.argmax() == 3


def test_gradients_reach_everything(vae):
    for readout in (vae.encoder.readout, vae.decoder.readout):
        torch.nn.init.normal_(readout.weight)
    motion = waves(2, 15)
    rebuilt, latent = vae(motion, torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0)))
    (rebuilt.square().mean() + latent.log_variance.square().mean()).backward()
    assert all(parameter.grad is not None for parameter in vae.parameters())


@torch.no_grad()
def test_batch_equals_singles_and_shorter_clips(vae):
    vae.fit_linear(waves(200, 15))
    motion = waves(3, 15)
    singles = torch.cat([vae(one[None])[0] for one in motion])
    assert torch.allclose(vae(motion)[0], singles, atol=1e-5)
    assert vae(motion[:, :9])[0].shape == (3, 9, 4)


def test_config_round_trip():
    assert config_from_json(config_to_json(TINY)) == TINY
    assert TINY.frames == 15 and TINY.build_decoder().config == TINY


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 13, "heads": 1}, "principal components"),
        ({"latents": 6}, "max_tokens"),
        ({"patch": 0}, "at least 1"),
    ],
)
def test_bad_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        PatchVAEConfig(**{**{f: getattr(TINY, f) for f in TINY.__dataclass_fields__}, **sizes})


def test_bad_input(vae):
    with pytest.raises(ValueError, match="no multiple of 3"):
        vae.encode(waves(1, 14))
    with pytest.raises(ValueError, match="stand for 15 frames, not 14"):
        vae.decode(torch.zeros(1, 5, 6), 14)
    with pytest.raises(ValueError, match="principal components"):
        vae.fit_linear(waves(1, 15))
