from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import UnsafeFileError
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMR, HMRConfig
from fasthmr.types import HMROutput

TINY = HMRConfig(
    encoder=ViTConfig(dim=24, depth=2, heads=2, image_size=(64, 48), drop_path=0.1),
    head=SMPLHeadConfig(context_dim=24, dim=16, depth=2, heads=2, head_dim=4, mlp_dim=12),
)


def tiny() -> HMR:
    torch.manual_seed(0)
    return TINY.build().eval()


def crops(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def values(output: HMROutput) -> torch.Tensor:
    params = output.params
    parts = (params.global_orient, params.body_pose, params.betas, output.camera)
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def test_only_the_middle_columns_are_seen():
    model, pixels = tiny(), crops(2)
    changed = pixels.clone()
    changed[..., :8] = 0
    changed[..., -8:] = 0
    with torch.no_grad():
        assert torch.equal(values(model(pixels)), values(model(changed)))
    assert (model.crop_size, model.margin) == (64, 8)


def test_a_batch_equals_its_samples():
    model, pixels = tiny(), crops(3)
    with torch.no_grad():
        together = values(model(pixels))
        alone = torch.cat([values(model(sample[None])) for sample in pixels])
        nobody = model(pixels[:0])
    assert torch.allclose(together, alone, atol=1e-5)
    assert nobody.params.body_pose.shape == (0, 23, 3, 3)


def test_gradients_reach_all_parameters():
    model = tiny()
    values(model(crops(4))).square().mul(torch.arange(229.0)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0 or name == "head.decoder.to_token_embedding.weight", name


def test_wrong_crops_and_configs():
    with pytest.raises(ValueError, match="64 x 64 pixels, got 64 x 48"):
        tiny()(torch.zeros(1, 3, 64, 48))
    with pytest.raises(ValueError, match="middle of a square"):
        replace(TINY, encoder=replace(TINY.encoder, image_size=(48, 64)))
    with pytest.raises(ValueError, match="24 channels"):
        replace(TINY, head=replace(TINY.head, context_dim=32)).build()


def test_config_survives_json():
    assert config_from_json(config_to_json(TINY)) == TINY


@pytest.mark.parametrize(
    "text", ["", "[]]", '{"type": "os.system"}', '{"type": "HMRConfig", "depth": 3}', "{}"]
)
def test_json_that_is_no_config(text):
    with pytest.raises(UnsafeFileError, match="not a model configuration"):
        config_from_json(text)


@pytest.mark.compile
def test_compile_and_export_agree_with_eager():
    model, pixels = tiny(), crops(2)
    with torch.no_grad():
        expected = values(model(pixels))
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert torch.allclose(values(compiled(pixels)), expected, atol=1e-5)

        class Flat(torch.nn.Module):
            """Export takes plain tensors."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                return values(self.model(pixels))

        program = torch.export.export(
            Flat().eval(), (pixels,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},)
        )
        other = crops(5, seed=1)
        assert torch.allclose(program.module()(other), values(model(other)), atol=1e-5)
