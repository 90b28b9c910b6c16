from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.checkpoints.config_json import config_from_json, config_to_json
from fasthmr.encoders.hrnet import HRNetConfig
from fasthmr.encoders.vit import ViTConfig
from fasthmr.heads.dense_keypoints import DenseKeypointsHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.heads.smplx import SMPLXHeadConfig
from fasthmr.models.camera_hmr import CameraHMR, CameraHMRConfig
from fasthmr.models.dense_keypoints import DenseKeypointsConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.human_fov import HumanFoVConfig
from fasthmr.types import HMROutput

ENCODER = ViTConfig(dim=24, depth=2, heads=2, image_size=(64, 48))
HEAD = SMPLHeadConfig(
    context_dim=24, dim=16, depth=2, heads=2, head_dim=4, mlp_dim=12, token_input="camera", aux_keypoints=5
)
SMPLX_HEAD = SMPLXHeadConfig(context_dim=24, dim=16, depth=2, heads=2, head_dim=4, mlp_dim=12)
POINTS_HEAD = DenseKeypointsHeadConfig(context_dim=24, dim=16, depth=2, heads=2, head_dim=4, mlp_dim=12)
FOV = HumanFoVConfig(
    backbone=HRNetConfig(width=4, modules=(1, 1, 1), blocks=1, bottlenecks=1, stem=8, image_size=(64, 64)),
    hidden=12,
)
TINY = CameraHMRConfig(encoder=ENCODER, head=HEAD, intrinsics=FOV)
CONFIGS = (TINY, CameraHMRConfig(encoder=ENCODER, head=SMPLX_HEAD))


def build(config: CameraHMRConfig = TINY) -> CameraHMR:
    torch.manual_seed(0)
    return config.build().eval()


def inputs(batch: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 64, 64, generator=generator), torch.randn(batch, 3, generator=generator)


def values(output: HMROutput) -> torch.Tensor:
    params = output.params
    parts = (params.global_orient, params.body_pose, params.betas, output.camera)
    return torch.cat([part.flatten(1) for part in parts], dim=1)


@pytest.mark.parametrize("config", CONFIGS, ids=["smpl", "smplx"])
def test_a_batch_equals_its_samples_and_repeats_exactly(config):
    model, (pixels, places) = build(config), inputs(8)
    with torch.no_grad():
        together = values(model(pixels, places))
        alone = torch.cat([values(model(pixels[i : i + 1], places[i : i + 1])) for i in range(len(pixels))])
        assert torch.equal(values(model(pixels, places)), together)
        nobody = model(pixels[:0], places[:0])
    assert torch.allclose(together, alone, atol=1e-5)
    assert values(nobody).shape == (0, together.shape[1])


def test_the_camera_matters():
    model, (pixels, places) = build(), inputs(2)
    with torch.no_grad():
        near, far = values(model(pixels, places)), values(model(pixels, places + 0.1))
    assert (near - far).abs().max() > 1e-4


def test_what_the_model_says_of_its_crops():
    model = build()
    assert (model.takes_camera, model.crop_aspect, model.crop_antialias, model.crop_size) == (
        True,
        (1, 1),
        False,
        64,
    )
    hmr = HMRConfig(encoder=ENCODER, head=replace(HEAD, token_input="zero")).build()
    assert (hmr.takes_camera, hmr.crop_aspect, hmr.crop_antialias) == (False, (192, 256), True)


def test_gradients_reach_all_parameters_but_those_of_the_intrinsics():
    model, (pixels, places) = build(), inputs(4)
    output = model(pixels, places)
    assert output.aux_keypoints_2d is not None
    weighted = torch.cat([values(output), output.aux_keypoints_2d.flatten(1)], dim=1)
    (weighted.square() * torch.arange(weighted.shape[1])).sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("intrinsics."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "config", [*CONFIGS, FOV, DenseKeypointsConfig(encoder=ENCODER, head=POINTS_HEAD)], ids=str
)
def test_configs_survive_json(config):
    assert config_from_json(config_to_json(config)) == config


def test_heads_and_models_that_do_not_fit():
    with pytest.raises(ValueError, match="use HMRConfig"):
        replace(TINY, head=replace(HEAD, token_input="zero"))
    with pytest.raises(ValueError, match="use CameraHMRConfig"):
        HMRConfig(encoder=ENCODER, head=HEAD)
    with pytest.raises(ValueError, match="24 channels"):
        replace(TINY, head=replace(HEAD, context_dim=32)).build()


def test_dense_keypoints():
    torch.manual_seed(0)
    model = DenseKeypointsConfig(encoder=ENCODER, head=POINTS_HEAD).build().eval()
    pixels, _ = inputs(2)
    with torch.no_grad():
        assert model(pixels).xy.shape == (2, 138, 2)
    assert (model.crop_aspect, model.crop_antialias) == ((1, 1), False)


@pytest.mark.compile
def test_compile_and_export_agree_with_eager():
    model = build(replace(TINY, intrinsics=None))
    pixels, places = inputs(2)
    with torch.no_grad():
        expected = values(model(pixels, places))
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert torch.allclose(values(compiled(pixels, places)), expected, atol=1e-5)

        class Flat(torch.nn.Module):
            """Export takes plain tensors."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
                return values(self.model(pixels, places))

        batch = torch.export.Dim("batch", max=64)
        program = torch.export.export(
            Flat().eval(), (pixels, places), dynamic_shapes=({0: batch}, {0: batch})
        )
        other = inputs(5, seed=1)
        assert torch.allclose(program.module()(*other), values(model(*other)), atol=1e-5)
