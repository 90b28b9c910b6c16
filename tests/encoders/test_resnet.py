from __future__ import annotations

import pytest
import torch

from fasthmr.benchmark.counters import count
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.resnet import ResNetConfig

TINY = ResNetConfig(depths=(1, 2, 1, 1), width=4)


def pictures(batch: int, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 32), (70, 50)])
def test_four_maps_finest_first(height, width):
    torch.manual_seed(0)
    net = TINY.build().eval()
    with torch.no_grad():
        maps = net(pictures(2, height, width))
    assert net.channels == (16, 32, 64, 128) and net.strides == (4, 8, 16, 32)
    for x, channels, stride in zip(maps, net.channels, net.strides, strict=True):
        assert x.shape == (2, channels, -(-height // stride), -(-width // stride))


def test_published_counts():
    counts = count(encoder_config("resnet50"))
    assert counts.params == 23_508_032
    assert counts.macs == pytest.approx(4.087e9, abs=0.001e9)


def test_unusable_configs():
    with pytest.raises(ValueError, match="at least 1"):
        ResNetConfig(depths=(1, 0, 1, 1))
