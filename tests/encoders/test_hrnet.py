from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.benchmark.counters import count
from fasthmr.encoders.hrnet import HRNet, HRNetConfig
from fasthmr.encoders.registry import encoder_config

TINY = HRNetConfig(width=4, modules=(1, 1, 1), blocks=1, bottlenecks=1, stem=8)


def tiny() -> HRNet:
    torch.manual_seed(0)
    return TINY.build().eval()


def pictures(batch: int, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 32), (70, 50)])
def test_four_maps_finest_first(height, width):
    net = tiny()
    with torch.no_grad():
        maps = net(pictures(2, height, width))
    expected = []
    for channels, stride in zip(net.channels, net.strides, strict=True):
        expected.append((2, channels, -(-height // stride), -(-width // stride)))
    assert [tuple(x.shape) for x in maps] == expected
    assert net.channels == (4, 8, 16, 32)


def test_every_map_depends_on_every_branch():
    net = tiny()
    with torch.no_grad():
        before = net(pictures(1))
        for branch in net.stage4[0].branches:
            kept = branch[0].conv2.weight.clone()
            branch[0].conv2.weight += 1
            assert all((a - b).abs().max() > 1e-4 for a, b in zip(net(pictures(1)), before, strict=True))
            branch[0].conv2.weight.copy_(kept)


def test_published_names():
    keys = tiny().state_dict().keys()
    assert {
        "conv1.weight",
        "bn2.running_var",
        "layer1.0.downsample.0.weight",
        "transition1.0.0.weight",
        "transition1.1.0.1.bias",
        "transition3.3.0.0.weight",
        "stage4.0.branches.3.0.bn2.weight",
        "stage4.0.fuse_layers.0.3.0.weight",
        "stage4.0.fuse_layers.3.0.2.1.bias",
    } <= keys
    assert not any(
        key.startswith(("transition2.0", "transition3.1", "stage4.0.fuse_layers.0.0")) for key in keys
    )


def test_a_branch_as_wide_as_stage_1_needs_no_projection():
    net = HRNetConfig(width=32, modules=(1, 1, 1), blocks=1, bottlenecks=1, stem=8).build()
    assert not any(key.startswith("transition1.0") for key in net.state_dict())


@pytest.mark.parametrize(("name", "params"), [("hrnet_w48", 65_325_120), ("hrnet_w64", 128_059_944)])
def test_published_sizes(name, params):
    with torch.device("meta"):
        net = encoder_config(name).build()
    assert sum(parameter.numel() for parameter in net.parameters()) + net.unused_published_params == params


def test_one_map_made_of_all_branches():
    torch.manual_seed(0)
    net = replace(TINY, features=12).build().eval()
    with torch.no_grad():
        (whole,) = net(pictures(2))
        assert whole.shape == (2, 12, 2, 2) and net.channels == (12,) and net.strides == (32,)
        for branch in net.stage4[0].branches:
            kept = branch[0].conv2.weight.clone()
            branch[0].conv2.weight += 1
            assert (net(pictures(2))[0] - whole).abs().max() > 1e-4
            branch[0].conv2.weight.copy_(kept)
    assert net.final_layer[0].bias is not None and net.downsamp_modules[0][0].bias is not None


def test_published_cost():
    assert count(encoder_config("hrnet_w64")).macs == pytest.approx(28.893e9, abs=0.001e9)
    with torch.device("meta"):
        assert encoder_config("hrnet_w40").build().channels == (2048,)


def test_unusable_configs():
    with pytest.raises(ValueError, match="at least 1"):
        HRNetConfig(width=4, modules=(1, 0, 1))
