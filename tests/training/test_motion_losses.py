from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from fasthmr.temporal.diffusion import DiffusionSchedule
from fasthmr.temporal.latent_denoiser import LatentDenoiserConfig
from fasthmr.temporal.motion_vae import MotionLatent, MotionVAEConfig
from fasthmr.training.hmr2_losses import weighted_sum
from fasthmr.training.motion_losses import (
    MotionVAELossWeights,
    future_mask,
    kl_loss,
    motion_vae_losses,
    squared_error,
)

SIZES = {"latents": 3, "frames": 8, "width": 16, "layers": 3, "heads": 2, "mlp_dim": 24, "max_tokens": 20}
LATENT = MotionLatent(mean=torch.zeros(2, 3, 4), log_variance=torch.zeros(2, 3, 4))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_divergence_is_that_of_torch():
    latent = MotionLatent(mean=randn(2, 3, 4), log_variance=randn(2, 3, 4, seed=1))
    expected = kl_divergence(Normal(latent.mean, latent.std), Normal(0.0, 1.0)).mean()
    assert kl_loss(latent).item() == pytest.approx(expected.item(), rel=1e-5)
    assert kl_loss(LATENT) == 0


@pytest.mark.parametrize(("error", "expected"), [("smooth_l1", 1.5), ("squared", 4.0)])
def test_reconstruction(error, expected):
    motion = randn(2, 5, 9)
    terms = motion_vae_losses(motion + 2, motion, LATENT, error=error)
    assert set(terms) == {"reconstruction", "kl"}
    assert terms["reconstruction"].item() == pytest.approx(expected)


def test_padding_does_not_count():
    motion, predicted = randn(2, 5, 9), randn(2, 5, 9, seed=1)
    lengths, std = torch.tensor([5, 2]), torch.rand(9, generator=torch.Generator().manual_seed(2))
    terms = motion_vae_losses(predicted, motion, LATENT, lengths=lengths, std=std, joints=2)
    predicted[1, 2:] = 100
    again = motion_vae_losses(predicted, motion, LATENT, lengths=lengths, std=std, joints=2)
    assert all(torch.equal(terms[name], again[name]) for name in terms)
    alone = motion_vae_losses(predicted[:1], motion[:1], LATENT, std=std, joints=2)
    rest = motion_vae_losses(predicted[1:, :2], motion[1:, :2], LATENT, std=std, joints=2)
    for name, steps in (("reconstruction", (5, 2)), ("joints", (5, 2)), ("velocity", (4, 1))):
        mixed = (steps[0] * alone[name] + steps[1] * rest[name]) / sum(steps)
        assert terms[name].item() == pytest.approx(mixed.item(), rel=1e-5)


def test_joints_are_in_metres():
    motion = torch.zeros(1, 3, 8)
    predicted, std = motion.clone(), torch.full((8,), 0.5)
    predicted[0, 1, :3] = torch.tensor([0.06, 0.0, 0.08])  # 5 cm off in one of two joints and one of 3 frames
    terms = motion_vae_losses(predicted, motion, LATENT, std=std, joints=2)
    assert terms["joints"].item() == pytest.approx(0.05 / 6, abs=2e-6)
    assert terms["velocity"].item() == pytest.approx(0.05 / 2, abs=2e-6)  # there and back


def test_exact_predictions_have_a_gradient():
    motion = randn(1, 3, 8)
    predicted = motion.clone().requires_grad_()
    terms = motion_vae_losses(predicted, motion, LATENT, std=torch.ones(8), joints=2)
    weighted_sum(terms, MotionVAELossWeights(joints=1.0, velocity=1.0)).backward()
    assert torch.isfinite(predicted.grad).all()


def test_weights():
    terms = {"reconstruction": torch.tensor(2.0), "kl": torch.tensor(100.0)}
    assert weighted_sum(terms, MotionVAELossWeights()).item() == pytest.approx(2.01)


def test_weight_of_each_sample():
    schedule, timesteps = DiffusionSchedule(), torch.tensor([0, 400, 999])
    predicted, target = randn(3, 2, 5), randn(3, 2, 5, seed=1)
    error = squared_error(schedule, predicted, target, timesteps)
    plain = (predicted - target).square().mean((1, 2))
    kept = schedule.alphas_cumprod[timesteps].float()
    assert torch.allclose(error, (1 + kept) * plain)
    assert error[2] == plain[2] and error[0] > 1.99 * plain[0]


def test_future_mask():
    generator = torch.Generator().manual_seed(0)
    mask = future_mask(400, 10, share=0.5, generator=generator)
    lengths = mask.sum(1)
    assert (mask.int().diff(dim=1) <= 0).all() and lengths.min() == 1  # a start of each clip is read
    assert 0.45 < (lengths == 10).float().mean() < 0.65
    assert sorted(lengths.unique().tolist()) == list(range(1, 11))
    assert future_mask(4, 10, share=0.0).all()


@pytest.mark.parametrize(
    "schedule",
    [DiffusionSchedule(), DiffusionSchedule(prediction="noise", zero_terminal_snr=False)],
    ids=["velocity", "noise"],
)
def test_a_denoiser_learns_what_its_condition_says(schedule):
    """Latents that the features determine are found in one step from velocities, and not from noise."""
    torch.manual_seed(0)
    denoiser = LatentDenoiserConfig(condition_dim=4, dropout=0.0, **SIZES).build()
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3)
    pattern, losses = randn(3, 16, seed=3), []
    for _ in range(220):
        sign = torch.randint(2, (32, 1, 1), generator=generator) * 2.0 - 1
        clean, drawn = sign * pattern, torch.randint(schedule.steps, (32,), generator=generator)
        noise = torch.empty_like(clean).normal_(generator=generator)
        mask = future_mask(32, 8, share=0.5, generator=generator)
        predicted = denoiser(schedule.add_noise(clean, noise, drawn), drawn, sign.expand(-1, 8, 4), mask)
        loss = squared_error(schedule, predicted, schedule.target(clean, noise, drawn), drawn).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    sign = torch.tensor([1.0, -1.0]).view(2, 1, 1)
    with torch.no_grad():
        found = schedule.one_step(
            lambda latents, timesteps: denoiser.eval()(latents, timesteps, sign.expand(-1, 8, 4)),
            randn(2, 3, 16, seed=4),
        )
    error = (found - sign * pattern).square().mean() / pattern.square().mean()
    assert error < 0.8 if schedule.prediction == "velocity" else error > 5


def test_a_vae_learns_a_few_clips():
    torch.manual_seed(0)
    model = MotionVAEConfig(channels=6, dropout=0.0, **SIZES).build()
    generator = torch.Generator().manual_seed(1)
    phase = torch.rand(16, 1, 6, generator=generator) * 6
    motion = torch.sin(torch.arange(8)[:, None] * 0.5 + phase)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(150):
        noise = torch.randn(16, 3, 16, generator=generator)
        predicted, latent = model(motion, noise=noise)
        terms = motion_vae_losses(predicted, motion, latent)
        loss = weighted_sum(terms, MotionVAELossWeights())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
