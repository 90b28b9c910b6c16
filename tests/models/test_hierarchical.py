"""Models with cut hierarchical encoders as a whole: the zoo, and their files for other engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fasthmr.checkpoints.loading import build_empty
from fasthmr.encoders.groupmixformer import GroupMixFormerConfig
from fasthmr.encoders.swin import SwinConfig
from fasthmr.encoders.truncated import TruncatedConfig, cut_and_matched
from fasthmr.encoders.vmamba import VMambaConfig
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.runtime.backends import load_exported
from fasthmr.runtime.export import export_model
from fasthmr.runtime.export_gate import outputs_of
from fasthmr.zoo import list_models, preset

FAMILIES = {
    "swin": SwinConfig(dim=8, depths=(2, 2, 1, 1), heads=(1, 2, 2, 4), window=5, image_size=(64, 32)),
    "gmf": GroupMixFormerConfig(
        widths=(20, 20, 30, 40), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2), image_size=(64, 32)
    ),
    "vmamba": VMambaConfig(widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), image_size=(64, 32)),
}
HEAD = {"dim": 16, "depth": 1, "heads": 2, "head_dim": 8, "mlp_dim": 16}


def built(config: HMRConfig | PoseConfig) -> nn.Module:
    torch.manual_seed(0)
    model = config.build().eval()
    for parameter in model.parameters():  # as if trained: what differs between crops shows
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def mesh_model(family: str, stages: int) -> nn.Module:
    encoder = cut_and_matched(FAMILIES[family], stages)
    return built(HMRConfig(encoder=encoder, head=SMPLHeadConfig(context_dim=encoder.context_dim, **HEAD)))


def pose_model(family: str, stages: int) -> nn.Module:
    encoder = cut_and_matched(FAMILIES[family], stages)
    head = HeatmapHeadConfig(context_dim=encoder.context_dim, deconv_filters=(8, 8))
    return built(PoseConfig(encoder=encoder, head=head))


def crops(batch: int, width: int) -> Tensor:
    return torch.randn(batch, 3, 64, width, generator=torch.Generator().manual_seed(batch))


@pytest.mark.compile
@pytest.mark.parametrize(("family", "stages"), [("swin", 2), ("gmf", 4)])
@torch.no_grad()
def test_exported_models_give_the_same(tmp_path: Path, family: str, stages: int) -> None:
    model = mesh_model(family, stages)
    files = export_model(model, tmp_path, ("onnx", "openvino")).files
    assert {file.engine for file in files} == {"onnxruntime", "openvino"}
    for file in files:
        loaded = load_exported(file.path)
        for batch in (1, 3):
            pixels = crops(batch, 64)
            expected, got = outputs_of(model(pixels)), outputs_of(loaded(pixels))
            for key, value in expected.items():
                torch.testing.assert_close(got[key], value, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("stages", [2, 3, 4])
@torch.no_grad()
def test_meshes_and_heat_maps(family: str, stages: int) -> None:
    output = mesh_model(family, stages)(crops(2, 64))
    assert output.params.body_pose.shape == (2, 23, 3, 3) and output.camera.shape == (2, 3)
    assert pose_model(family, stages)(crops(2, 32)).shape == (2, 17, 16, 8)


@pytest.mark.compile
@pytest.mark.parametrize("family", ["swin", "gmf"])
@torch.no_grad()
def test_compiled_encoders_give_the_same(family: str) -> None:
    encoder = mesh_model(family, 4).encoder
    compiled = torch.compile(encoder, backend="aot_eager")
    torch.testing.assert_close(compiled(crops(2, 32))[0], encoder(crops(2, 32))[0], rtol=1e-5, atol=1e-5)


def zoo() -> list[str]:
    return [
        name
        for task in ("hmr2", "vitpose")
        for name in list_models(f"{task}_*_[tsb]_s[234]")
        if isinstance(preset(name).config().encoder, TruncatedConfig)
    ]


def test_the_zoo_has_27_models_for_each_task() -> None:
    names = zoo()
    assert len(names) == 54 and sum(name.startswith("hmr2_") for name in names) == 27


@pytest.mark.parametrize("name", [name for name in zoo() if "_t_" in name])
def test_presets_have_the_published_parameters(name: str) -> None:
    row = preset(name)
    model = build_empty(row.config())
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(row.published[0].params, abs=1e-9)
    assert len(model.encoder.encoder.config.depths) == int(name[-1])
    assert row.config() == row.config() and model.encoder.strides == (16,)
