"""What every CNN trunk promises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fasthmr.encoders.efficientnet import EfficientNetConfig
from fasthmr.encoders.hrnet import HRNet, HRNetConfig
from fasthmr.encoders.resnet import ResNetConfig

TRUNKS = {
    "resnet": ResNetConfig(depths=(1, 2, 1, 1), width=4, image_size=(64, 64)),
    "hrnet": HRNetConfig(width=4, modules=(1, 1, 1), blocks=1, bottlenecks=1, stem=8, image_size=(64, 64)),
    "efficientnet": EfficientNetConfig(
        stages=((1, 3, 1, 1, 4), (2, 5, 2, 2, 8), (1, 3, 2, 2, 8)), stem=4, features=16, image_size=(36, 28)
    ),
}


@pytest.fixture(params=sorted(TRUNKS))
def trunk(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return TRUNKS[request.param].build()


def pictures(net: nn.Module, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, *net.config.image_size, generator=torch.Generator().manual_seed(0))


def test_a_batch_equals_its_samples(trunk):
    trunk.eval()
    with torch.no_grad():
        together = trunk(pictures(trunk, 3))
        alone = [trunk(sample[None]) for sample in pictures(trunk, 3)]
    for i, x in enumerate(together):
        assert torch.allclose(x, torch.cat([maps[i] for maps in alone]), atol=1e-5)


def test_gradients_reach_all_parameters(trunk):
    maps = trunk(pictures(trunk, 4))
    wanted = maps if isinstance(trunk, HRNet) else maps[-1:]  # its branches end in maps of their own
    sum((x.square() * (1 + i)).sum() for i, x in enumerate(wanted)).backward()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
