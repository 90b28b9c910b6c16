from __future__ import annotations

import pytest
import torch
from torch import nn

from fasthmr.encoders.efficientnet import EfficientNetConfig
from fasthmr.encoders.hrnet import HRNetConfig
from fasthmr.encoders.resnet import ResNetConfig
from fasthmr.layers.folding import fold_batch_norms

NETWORKS = [
    ResNetConfig(depths=(1, 2, 1, 1), width=8),
    HRNetConfig(width=4, modules=(1, 1, 1), blocks=1, bottlenecks=1, stem=8, features=16),
    EfficientNetConfig(stages=((1, 3, 1, 1, 4), (2, 5, 2, 2, 8)), stem=4, features=16, image_size=(64, 64)),
]


def lived_in(config) -> nn.Module:
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    net = config.build()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.75, 1.25)
            nn.init.normal_(module.bias, std=0.1)
    return net


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("config", NETWORKS, ids=lambda c: type(c).__name__)
def test_the_same_numbers_without_batch_norms(config, channels_last):
    net = lived_in(config)
    folded = fold_batch_norms(net, channels_last=channels_last)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert net.training and any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for mine, plain in zip(folded(x), net.eval()(x), strict=True):
            assert torch.allclose(mine, plain, atol=1e-5, rtol=1e-5)


def test_batch_norms_of_other_places_stay():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    folded = fold_batch_norms(net)
    assert [type(layer) for layer in folded] == [type(layer) for layer in net]
