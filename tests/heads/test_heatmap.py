from __future__ import annotations

import pytest
import torch

from fasthmr.heads.heatmap import HeatmapHeadConfig

CLASSIC = HeatmapHeadConfig(context_dim=12, keypoints=5, deconv_filters=(8, 6), deconv_kernels=(4, 4))
SIMPLE = HeatmapHeadConfig(context_dim=12, keypoints=5, kind="simple")


@pytest.mark.parametrize("config", [CLASSIC, SIMPLE])
def test_maps_are_four_times_as_fine(config):
    torch.manual_seed(0)
    head = config.build()
    maps = head(torch.randn(2, 12, 4, 3))
    assert maps.shape == (2, 5, 16, 12)
    assert config.enlargement == 4
    maps.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_any_number_of_transposed_convolutions(kernel):
    config = HeatmapHeadConfig(
        context_dim=4, deconv_filters=(3, 5, 2), deconv_kernels=(kernel, 4, kernel), final_kernel=3
    )
    assert config.build()(torch.randn(1, 4, 2, 3)).shape == (1, 17, 16, 24)
    bare = HeatmapHeadConfig(context_dim=4, deconv_filters=(), deconv_kernels=())
    assert bare.build()(torch.randn(1, 4, 2, 3)).shape == (1, 17, 2, 3)


def test_first_weights():
    torch.manual_seed(1)
    head = HeatmapHeadConfig(context_dim=64, deconv_filters=(64, 64)).build()
    for name, parameter in head.named_parameters():
        if parameter.dim() == 4:
            assert parameter.std().item() == pytest.approx(0.001, rel=0.2), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("bias" not in name))), name


def test_the_simple_head_sees_no_negative_features():
    torch.manual_seed(2)
    head = SIMPLE.build()
    assert torch.equal(head(torch.full((1, 12, 2, 2), -1.0)), head(torch.zeros(1, 12, 2, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deconv_filters": (256,)}, "1 deconv_filters but 2 deconv_kernels"),
        ({"deconv_kernels": (4, 5)}, "must be 2, 3 or 4, got 5"),
        ({"final_kernel": 2}, "must be odd, got 2"),
    ],
)
def test_wrong_sizes(options, message):
    with pytest.raises(ValueError, match=message):
        HeatmapHeadConfig(context_dim=4, **options)
