from __future__ import annotations

import pytest
import torch

from fasthmr.encoders.vit import ViTConfig
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.training.heatmap_loss import heatmap_loss
from fasthmr.training.layer_decay import layer_decay_groups

ENCODER = ViTConfig(dim=8, depth=2, heads=2, image_size=(32, 32))


def models() -> list[torch.nn.Module]:
    head = SMPLHeadConfig(context_dim=8, dim=8, depth=1, heads=2, head_dim=4, mlp_dim=8)
    return [
        PoseConfig(encoder=ENCODER, head=HeatmapHeadConfig(context_dim=8, deconv_filters=(8, 8))).build(),
        HMRConfig(encoder=ENCODER, head=head).build(),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_every_parameter_is_in_one_group(which):
    model = models()[which]
    groups = layer_decay_groups(model, lr=1.0, rate=0.5, weight_decay=0.1)
    named = [name for group in groups for name, _ in group["params"]]
    assert sorted(named) == sorted(name for name, _ in model.named_parameters())
    rates = {name: group["lr"] for group in groups for name, _ in group["params"]}
    assert rates["encoder.pos_embed"] == rates["encoder.patch_embed.proj.weight"] == 0.125
    assert rates["encoder.blocks.0.mlp.fc1.bias"] == 0.25
    assert rates["encoder.last_norm.weight"] == 1
    decays = {name: group["weight_decay"] for group in groups for name, _ in group["params"]}
    assert decays["encoder.pos_embed"] == decays["encoder.last_norm.weight"] == 0
    assert decays["encoder.blocks.1.attn.qkv.weight"] == 0.1


def test_an_optimiser_takes_the_groups():
    model = models()[0]
    model.encoder.patch_embed.requires_grad_(False)
    groups = layer_decay_groups(model, lr=1e-2, rate=0.75, weight_decay=0.1)
    optimiser = torch.optim.AdamW(groups)
    assert not any("patch_embed" in name for group in optimiser.param_groups for name in group["param_names"])
    torch.manual_seed(0)
    pixels, target = torch.randn(2, 3, 32, 32), torch.rand(2, 17, 8, 8)
    losses = []
    for _ in range(15):
        loss = heatmap_loss(model(pixels), target, torch.ones(2, 17))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_models_without_blocks():
    with pytest.raises(ValueError, match="Linear has no encoder"):
        layer_decay_groups(torch.nn.Linear(2, 2), lr=1.0, rate=0.5, weight_decay=0.0)


def test_unlabelled_key_points_count_as_no_error():
    maps, target = torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    assert heatmap_loss(maps, target, torch.tensor([[1.0, 1.0]])) == 1
    assert heatmap_loss(maps, target, torch.tensor([[1.0, 0.0]])) == 0.5
    assert heatmap_loss(maps, target, torch.tensor([[0.5, 0.0]])) == 0.125
