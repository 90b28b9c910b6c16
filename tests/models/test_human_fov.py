from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fasthmr.encoders.hrnet import HRNetConfig
from fasthmr.models.human_fov import HumanFoV, HumanFoVConfig

TINY = HumanFoVConfig(
    backbone=HRNetConfig(width=4, modules=(1, 1, 1), blocks=1, bottlenecks=1, stem=8, image_size=(64, 64)),
    hidden=12,
)


def tiny() -> HumanFoV:
    torch.manual_seed(0)
    return TINY.build().eval()


def pictures(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_batch_equals_its_samples_and_repeats_exactly():
    model = tiny()
    with torch.no_grad():
        together = model(pictures(8))
        alone = torch.cat([model(sample[None]) for sample in pictures(8)])
        assert torch.equal(model(pictures(8)), together)
    assert together.shape == (8, 2)
    assert torch.allclose(together, alone, atol=1e-5)


def test_all_scales_are_averaged():
    with torch.no_grad():
        features = tiny().features(pictures(2))
    assert features.shape == (2, 4 * (1 + 2 + 4 + 8))
    assert (features >= 0).all()


def test_the_focal_length_follows_the_height_of_the_picture():
    model = tiny()
    torch.nn.init.zeros_(model.fc3.weight)
    with torch.no_grad():
        model.fc3.bias.copy_(torch.tensor([0.3, math.pi / 2]))  # a quarter turn from top to bottom
    rgb = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    assert model.estimate(rgb) == pytest.approx(24.0, rel=1e-5)
    assert model.estimate(np.ascontiguousarray(rgb.transpose(1, 0, 2))) == pytest.approx(40.0, rel=1e-5)


def test_estimating_looks_at_the_letterboxed_picture():
    model = tiny()
    rgb = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    seen: list[torch.Tensor] = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.estimate(rgb)
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert seen[0].shape == (1, 3, 64, 64)
    assert torch.allclose(seen[0][0, :, 0], white[:, None].expand(3, 64), atol=1e-5)


def test_the_published_file_is_larger_by_what_nobody_calls():
    with torch.device("meta"):
        model = HumanFoVConfig().build()
    built = sum(parameter.numel() for parameter in model.parameters())
    assert (built, built + model.unused_published_params) == (66_626_402, 67_677_178)
