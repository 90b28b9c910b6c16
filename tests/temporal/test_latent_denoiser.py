from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.errors import UnsafeFileError
from fasthmr.temporal.latent_denoiser import LatentDenoiser, LatentDenoiserConfig, sinusoid

TINY = LatentDenoiserConfig(
    latents=3, condition_dim=8, frames=6, width=12, layers=3, heads=2, mlp_dim=16, max_tokens=12, dropout=0.0
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model_of(config: LatentDenoiserConfig) -> LatentDenoiser:
    torch.manual_seed(1)
    return config.build().double().eval()


@torch.no_grad()
def test_shapes_and_batch():
    model, latents, condition = model_of(TINY), randn(3, 3, 12), randn(3, 6, 8, seed=2)
    steps = torch.tensor([0, 500, 999])
    predicted = model(latents, steps, condition)
    assert predicted.shape == latents.shape
    for i in range(3):
        alone = model(latents[i : i + 1], steps[i : i + 1], condition[i : i + 1])
        assert torch.allclose(alone[0], predicted[i], atol=1e-10)
    assert model(latents, steps, condition[:, :4]).shape == latents.shape
    tokens = model.condition_tokens(condition)
    assert torch.equal(model.predict(latents, steps, tokens), predicted)


@torch.no_grad()
def test_everything_that_is_read_matters():
    model, latents, condition = model_of(TINY), randn(1, 3, 12), randn(1, 6, 8, seed=2)
    steps = torch.tensor([10])
    predicted = model(latents, steps, condition)
    others = (
        model(latents + randn(1, 3, 12, seed=7), steps, condition),
        model(latents, steps + 300, condition),
        model(latents, steps, condition.flip(1)),
    )
    assert all((predicted - other).abs().max() > 1e-3 for other in others)


@torch.no_grad()
def test_masked_frames_are_as_if_they_were_not_there():
    model, latents, condition = model_of(TINY), randn(2, 3, 12), randn(2, 6, 8, seed=2)
    steps, mask = torch.tensor([7, 800]), torch.ones(2, 6, dtype=torch.bool)
    assert torch.allclose(
        model(latents, steps, condition, mask), model(latents, steps, condition), atol=1e-10
    )
    mask[:, 4:] = False
    predicted = model(latents, steps, condition, mask)
    assert torch.allclose(predicted, model(latents, steps, condition[:, :4]), atol=1e-10)
    mask[:] = False  # no frame at all
    assert torch.isfinite(model(latents, steps, condition, mask)).all()


@pytest.mark.parametrize("kind", ["linear", "relu_linear", "none"])
def test_kinds_of_condition(kind):
    config = replace(TINY, condition=kind, condition_dim=12 if kind == "none" else 8)
    model, condition = model_of(config), randn(2, 6, config.condition_dim, seed=2)
    tokens = model.condition_tokens(condition)
    if kind == "none":
        assert torch.equal(tokens, condition) and not any("condition" in key for key in model.state_dict())
    else:
        shown = condition.relu() if kind == "relu_linear" else condition
        assert torch.allclose(tokens, shown @ model.condition.weight.mT + model.condition.bias)
    model(randn(2, 3, 12), torch.tensor([3, 5]), condition).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_sinusoid():
    row = sinusoid(torch.tensor([0, 3]), 8)
    rates = [math.exp(-math.log(10000) * k / 4) for k in range(4)]
    expected = [math.cos(3 * rate) for rate in rates] + [math.sin(3 * rate) for rate in rates]
    assert row[1].tolist() == pytest.approx(expected, abs=1e-6)
    assert row[0].tolist() == [1] * 4 + [0] * 4
    assert sinusoid(torch.tensor([3]), 9).tolist()[0] == pytest.approx([*expected, 0], abs=1e-6)


@torch.no_grad()
def test_number_of_time_numbers():
    config = replace(TINY, time_dim=10)
    assert config.build().time.fc1.in_features == 10 and config.time_numbers == 10
    assert TINY.time_numbers == TINY.width


def test_example_inputs():
    latents, steps, condition = model_of(TINY).example_inputs()
    assert (latents.shape, steps.shape, condition.shape) == ((1, 3, 12), (1,), (1, 6, 8))
    assert steps.dtype == torch.int64


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": 4}, "LatentDenoiserConfig: layers=4; long skips need an odd number"),
        ({"condition": "none"}, "features of 8 numbers are no tokens of 12"),
        ({"frames": 9}, "3 latents, a time token and 9 frames need max_tokens of 13, not 12"),
        ({"time_dim": 0}, "at least 1"),
    ],
)
def test_wrong_configurations(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **wrong)


def test_configuration_as_json():
    assert config_from_json(config_to_json(TINY)) == TINY


def test_unknown_words_in_a_file():
    text = config_to_json(TINY)
    with pytest.raises(UnsafeFileError, match="not a model configuration"):
        config_from_json(text.replace('"linear"', '"relu"'))
