from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.encoders.vit import ViTConfig
from fasthmr.geometry.heatmaps import flip_back
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.models.pose import PoseConfig, PoseModel
from fasthmr.types import PoseCrop

TINY = PoseConfig(
    encoder=ViTConfig(dim=24, depth=2, heads=2, image_size=(64, 48)),
    head=HeatmapHeadConfig(context_dim=24, deconv_filters=(8, 8)),
)
SIMPLE = replace(TINY, head=HeatmapHeadConfig(context_dim=24, kind="simple"))


def tiny(config: PoseConfig = TINY) -> PoseModel:
    torch.manual_seed(0)
    model = config.build().eval()
    for parameter in model.head.parameters():  # the published start gives maps of nearly nothing
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def crops(batch: int, seed: int = 0) -> PoseCrop:
    generator = torch.Generator().manual_seed(seed)
    return PoseCrop(
        pixels=torch.randn(batch, 3, 64, 48, generator=generator),
        center=100 * torch.rand(batch, 2, generator=generator),
        size=torch.tensor([60.0, 80.0]).expand(batch, 2),
    )


@pytest.mark.parametrize("config", [TINY, SIMPLE])
def test_points_of_a_batch_are_those_of_its_samples(config):
    model, crop = tiny(config), crops(4)
    points = model.estimate(crop)
    assert points.shape == (4, 17, 3)
    alone = [
        model.averaged_heatmaps(pixels[None]) - model.averaged_heatmaps(crop.pixels)[i]
        for i, pixels in enumerate(crop.pixels)
    ]
    assert torch.cat(alone).abs().max() < 1e-5
    assert model.estimate(
        PoseCrop(pixels=crop.pixels[:0], center=crop.center[:0], size=crop.size[:0])
    ).shape == (
        0,
        17,
        3,
    )
    assert model.image_size == (64, 48)


def test_flip_test_is_symmetric():
    model, pixels = tiny(), crops(2).pixels
    maps = model.averaged_heatmaps(pixels)
    assert torch.allclose(flip_back(model.averaged_heatmaps(pixels.flip(-1))), maps, atol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(model(pixels), maps, atol=1e-4)


def test_the_same_input_gives_the_same_bits():
    model, crop = tiny(), crops(3)
    assert torch.equal(model.estimate(crop), model.estimate(crop))


def test_any_encoder_will_do():
    config = PoseConfig(
        encoder=ConvViTConfig(widths=(8, 12, 16), blocks=(1, 1, 1), depth=1, heads=2, image_size=(64, 48)),
        head=HeatmapHeadConfig(context_dim=16, deconv_filters=(8, 8)),
    )
    assert tiny(config)(torch.zeros(1, 3, 64, 48)).shape == (1, 17, 16, 12)


def test_configs():
    for config in (TINY, SIMPLE, replace(TINY, decoding="shift", flip_pairs=())):
        assert config_from_json(config_to_json(config)) == config
    with pytest.raises(ValueError, match="key point 16, the head gives 14"):
        replace(TINY, head=replace(TINY.head, keypoints=14))
    with pytest.raises(ValueError, match="24 channels"):
        replace(TINY, head=replace(TINY.head, context_dim=32)).build()
    with pytest.raises(ValueError, match="flip_test=False"):
        tiny(replace(TINY, flip_pairs=())).estimate(crops(1))


@pytest.mark.compile
def test_compile_and_export_agree_with_eager():
    model, pixels = tiny(), crops(2).pixels
    with torch.no_grad():
        expected = model(pixels)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(pixels), expected, atol=1e-5)
        program = torch.export.export(
            model, (pixels,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},)
        )
        other = crops(5, seed=1).pixels
        assert torch.allclose(program.module()(other), model(other), atol=1e-5)
