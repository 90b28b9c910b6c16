"""The equations, each from its own derivation, and sampling with a network that knows the answer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.errors import UnsafeFileError
from fasthmr.temporal.diffusion import DiffusionSchedule

VELOCITY = DiffusionSchedule()
NOISE = DiffusionSchedule(prediction="noise", zero_terminal_snr=False)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_scaled_linear_variances():
    schedule = DiffusionSchedule(steps=3, beta_start=0.01, beta_end=0.09, zero_terminal_snr=False)
    assert schedule.betas.tolist() == pytest.approx([0.01, 0.04, 0.09])
    assert schedule.alphas_cumprod.tolist() == pytest.approx([0.99, 0.99 * 0.96, 0.99 * 0.96 * 0.91])


def test_zero_terminal_snr():
    plain = replace(VELOCITY, zero_terminal_snr=False)
    before, after = plain.alphas_cumprod.sqrt(), VELOCITY.alphas_cumprod.sqrt()
    assert VELOCITY.betas[-1] == 1 and after[-1] == 0  # exactly
    assert after[0] == pytest.approx(float(before[0]), abs=1e-12)
    steps, steps_before = after.diff(), before.diff()
    assert torch.allclose(steps / steps_before, steps[0] / steps_before[0])  # shifted and scaled, no more
    assert (VELOCITY.betas > 0).all() and (steps < 0).all()


@given(step=st.integers(0, 999), scale=st.floats(-5, 5), spread=st.floats(-5, 5))
def test_velocity_is_inverted(step, scale, spread):
    clean, noise, at = scale * randn(1, 4), spread * randn(1, 4, seed=1), torch.tensor([step])
    noisy = VELOCITY.add_noise(clean, noise, at)
    back, noise_back = VELOCITY.from_velocity(noisy, VELOCITY.velocity(clean, noise, at), at)
    assert torch.allclose(back, clean, atol=1e-12) and torch.allclose(noise_back, noise, atol=1e-12)


def test_velocity_is_the_derivative_along_the_circle():
    """With √ᾱ = cos φ, z(φ) = cos φ z₀ + sin φ ε; v = dz/dφ."""
    clean, noise, at = randn(1, 4), randn(1, 4, seed=1), torch.tensor([400])
    angle = math.acos(math.sqrt(float(VELOCITY.alphas_cumprod[400])))
    near = [math.cos(a) * clean + math.sin(a) * noise for a in (angle - 1e-5, angle + 1e-5)]
    assert torch.allclose(VELOCITY.velocity(clean, noise, at), (near[1] - near[0]) / 2e-5, atol=1e-8)


@given(step=st.integers(0, 999))
def test_weight_adds_the_error_of_the_noise(step):
    at, noisy, true, predicted = torch.tensor([step]), randn(1, 6), randn(1, 6, seed=1), randn(1, 6, seed=2)
    errors = (predicted - true).square().sum()
    noise_errors = torch.stack([VELOCITY.from_velocity(noisy, v, at)[1] for v in (predicted, true)])
    errors = errors + (noise_errors[0] - noise_errors[1]).square().sum()
    weighted = VELOCITY.loss_weight(at).double() * (predicted - true).square().sum()
    assert weighted.item() == pytest.approx(errors.item(), rel=1e-6)


def test_weight_of_noise():
    assert NOISE.loss_weight(torch.tensor([0, 999])).tolist() == [1, 1]
    assert VELOCITY.loss_weight(torch.tensor([999])).item() == 1


def test_trailing_time_steps():
    assert VELOCITY.timesteps(1) == [999]
    assert VELOCITY.timesteps(2) == [999, 499]
    assert VELOCITY.timesteps(3) == [999, 666, 332]
    assert VELOCITY.timesteps(1000) == list(range(999, -1, -1))
    for count in (0, 1001):
        with pytest.raises(ValueError, match=f"{count} time steps of 1000 cannot be visited"):
            VELOCITY.timesteps(count)


def test_one_step_is_minus_the_velocity():
    noise, velocity = randn(2, 3, 4).float(), randn(2, 3, 4, seed=1).float()
    seen: list[list[int]] = []

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        assert torch.equal(latents, noise)
        seen.append(timesteps.tolist())
        return velocity

    assert torch.equal(VELOCITY.one_step(predict, noise), -velocity)
    assert seen == [[999, 999]]


@pytest.mark.parametrize("schedule", [VELOCITY, NOISE], ids=["velocity", "noise"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_network_that_knows_the_answer_is_believed(schedule, steps):
    """Whatever the start, a network that always points at the same clean latents leads there."""
    clean, start = randn(2, 5), randn(2, 5, seed=1)

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        kept = schedule.alphas_cumprod[timesteps][:, None]
        noise = (latents - kept.sqrt() * clean) / (1 - kept).sqrt()
        return schedule.target(clean, noise, timesteps)

    assert torch.allclose(schedule.ddim(predict, start, steps), clean, atol=1e-9)


def test_a_middle_step_keeps_the_noise():
    clean, noise = randn(1, 5), randn(1, 5, seed=1)
    visited: list[Tensor] = []

    def predict(latents: Tensor, timesteps: Tensor) -> Tensor:
        visited.append(latents)
        return VELOCITY.velocity(clean, noise, timesteps)

    VELOCITY.ddim(predict, noise, 4)
    for latents, step in zip(visited, VELOCITY.timesteps(4), strict=True):
        assert torch.allclose(latents, VELOCITY.add_noise(clean, noise, torch.tensor([step])), atol=1e-12)


def test_noise_says_nothing_where_there_is_no_signal():
    with pytest.raises(ValueError, match="use zero_terminal_snr=False"):
        DiffusionSchedule(prediction="noise")


def test_number_types_and_devices_follow_the_input():
    at = torch.tensor([5, 999])
    assert VELOCITY.add_noise(randn(2, 3).half(), randn(2, 3).half(), at).dtype == torch.float16
    with torch.device("meta"):
        schedule = DiffusionSchedule(steps=10)
        schedule.betas  # noqa: B018 - computed here, and still with contents
    assert schedule.alphas_cumprod[-1].item() == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 1}, "at least 2"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "do not rise"),
    ],
)
def test_wrong_configurations(wrong, message):
    with pytest.raises(ValueError, match=message):
        DiffusionSchedule(**wrong)


def test_configuration_as_json():
    VELOCITY.alphas_cumprod  # noqa: B018 - what is kept is not part of it
    assert config_from_json(config_to_json(VELOCITY)) == VELOCITY == DiffusionSchedule()
    assert hash(VELOCITY) == hash(DiffusionSchedule())


def test_unknown_words_in_a_file():
    text = config_to_json(VELOCITY)
    with pytest.raises(UnsafeFileError, match="not a model configuration"):
        config_from_json(text.replace('"velocity"', '"sample"'))
