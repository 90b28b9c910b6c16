from __future__ import annotations

import pytest
import torch

from fasthmr.temporal.patch_denoiser import PatchDenoiserConfig

TINY = PatchDenoiserConfig(
    latents=3, patch=2, latent_dim=5, condition_dim=7, frame_dim=4, width=8, layers=3, mlp_dim=8, max_tokens=4
)


def test_begins_with_zeros_and_learns_everywhere():
    torch.manual_seed(0)
    denoiser = TINY.build()
    inputs = denoiser.example_inputs()
    assert not denoiser(*inputs).any()
    torch.nn.init.normal_(denoiser.readout.weight)
    latents, condition = torch.randn(2, 3, 5), torch.randn(2, 6, 7)
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    out = denoiser(latents, torch.tensor([3, 999]), condition, torch.randn(2, 3, 5), mask)
    assert out.shape == (2, 3, 5)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.parameters())


def test_batch_equals_singles():
    torch.manual_seed(0)
    denoiser = TINY.build()
    torch.nn.init.normal_(denoiser.readout.weight)
    latents, condition, times = torch.randn(2, 3, 5), torch.randn(2, 6, 7), torch.tensor([3, 999])
    both = denoiser(latents, times, condition)
    single = denoiser(latents[1:], times[1:], condition[1:])
    assert torch.allclose(both[1:], single, atol=1e-5)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="max_tokens"):
        PatchDenoiserConfig(latents=30)
    with pytest.raises(ValueError, match="at least 1"):
        PatchDenoiserConfig(frame_dim=0)
