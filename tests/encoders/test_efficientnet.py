from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fasthmr.benchmark.counters import count
from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.encoders.efficientnet import EfficientNetConfig, SameConv2d
from fasthmr.encoders.registry import encoder_config

TINY = EfficientNetConfig(
    stages=((1, 3, 1, 1, 4), (2, 5, 2, 2, 8), (1, 3, 2, 2, 8)), stem=4, features=16, image_size=(36, 28)
)


def pictures(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, *TINY.image_size, generator=torch.Generator().manual_seed(0))


def test_maps_finest_first():
    torch.manual_seed(0)
    net = TINY.build().eval()
    with torch.no_grad():
        maps = net(pictures(2))
    assert net.channels == (4, 8, 16) and net.strides == (2, 4, 8)
    assert [tuple(x.shape) for x in maps] == [(2, 4, 18, 14), (2, 8, 9, 7), (2, 16, 5, 4)]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (9, 7)])
def test_the_odd_row_of_padding_comes_last(kernel, height, width):
    conv = SameConv2d(2, 2, kernel, (height, width), stride=2)
    x = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(0))
    sides = []
    for size in (width, height):
        total = (-(-size // 2) - 1) * 2 + kernel - size
        sides += [total // 2, (total + 1) // 2]
    expected = F.conv2d(F.pad(x, sides), conv.weight, stride=2)
    assert torch.allclose(conv(x), expected, atol=1e-6)
    assert conv(x).shape[2:] == (-(-height // 2), -(-width // 2))


def test_padding_stays_that_of_the_configured_size():
    conv = SameConv2d(1, 1, 3, (8, 8), stride=2)  # one row and column at the end
    x = torch.randn(1, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(conv(x), F.conv2d(F.pad(x, (0, 1, 0, 1)), conv.weight, stride=2))


def test_blocks_are_left_out_in_training_alone():
    torch.manual_seed(0)
    net = encoder_config("efficientnet_b0").build()
    rates = [block.drop_path.rate for block in net.blocks]
    assert rates == pytest.approx([0.2 * i / 16 for i in range(16)])
    assert not net.blocks[1].skippable and net.blocks[2].skippable


def test_published_counts_and_sizes():
    with torch.device("meta"):
        net = encoder_config("efficientnet_b0").build()
    assert net.channels == (16, 24, 40, 112, 1280) and net.strides == (2, 4, 8, 16, 32)
    counts = count(encoder_config("efficientnet_b0"))
    assert counts.params == 5_288_548
    assert counts.macs == pytest.approx(0.385e9, abs=0.001e9)


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet50", "hrnet_w40"])
def test_configuration_as_text(name):
    config = encoder_config(name)
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.compile
def test_export_agrees_with_eager():
    torch.manual_seed(0)
    net = TINY.build().eval()
    exported = torch.export.export(net, (pictures(1),)).module()
    with torch.no_grad():
        for ours, theirs in zip(net(pictures(1)), exported(pictures(1)), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)


def test_unusable_configs():
    with pytest.raises(ValueError, match="drop_connect"):
        EfficientNetConfig(drop_connect=1.0)
