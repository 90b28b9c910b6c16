from __future__ import annotations

import torch
from torch import nn

from fasthmr.benchmark.stand_in_mesh import give_stand_in_mesh
from fasthmr.encoders.resnet import ResNetConfig
from fasthmr.heads.fastmetro import FastMetroHeadConfig
from fasthmr.layers.mesh_levels import MeshLevelsConfig
from fasthmr.models.inference import ready_for_inference
from fasthmr.models.mesh import MeshModelConfig
from fasthmr.reduction.gtr import NSRConfig


def test_a_mesh_model_without_batch_norms_gives_the_same():
    torch.manual_seed(0)
    head = FastMetroHeadConfig(
        context_dim=64, layers=1, dims=(16, 8), mlp_dims=(12, 6), learned_levels=0,
        mesh=MeshLevelsConfig(vertices=(12, 30)),
    )  # fmt: skip
    config = MeshModelConfig(
        encoder=ResNetConfig(depths=(1, 1, 1, 1), width=2),
        head=head,
        regressor=NSRConfig(dim=8, mlp_dim=6, layers=1, heads=2),
    )
    model = config.build().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    assert not model.has_mesh
    give_stand_in_mesh(model)
    assert model.has_mesh
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(x)
        ready = ready_for_inference(model)
        quick = ready(x)
    assert ready is model and not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(quick.camera, plain.camera, rtol=1e-5, atol=1e-5)
    for mine, other in zip(quick.vertices, plain.vertices, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
