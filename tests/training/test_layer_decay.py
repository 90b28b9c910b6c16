from __future__ import annotations

import pytest
import torch

from fasthmr.encoders.vit import ViTConfig
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.training.heatmap_loss import heatmap_loss
from fasthmr.training.hierarchical_model import model_config
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


@pytest.mark.parametrize("name", ["swin_t_s3", "gmf_t_s2", "vmamba_t_s4"])
def test_encoders_in_stages(name):
    model = model_config(name, "pose", narrowing=8, image_size=(64, 64)).build()
    groups = layer_decay_groups(model, lr=1.0, rate=0.5, weight_decay=0.1)
    rates = {key: group["lr"] for group in groups for key, _ in group["params"]}
    decays = {key: group["weight_decay"] for group in groups for key, _ in group["params"]}
    assert sorted(rates) == sorted(key for key, _ in model.named_parameters())
    depths = model.config.encoder.encoder.depths
    last = sum(depths) + 1

    def rate(start: str) -> float:
        """The one rate of all parameters under a name."""
        (found,) = {value for key, value in rates.items() if key.startswith(start)}
        return found

    assert rate("head.") == 1
    if name != "swin_t_s3":
        assert rate("encoder.match.") == 1
    if name == "gmf_t_s2":
        assert rate("encoder.encoder.conv_stem.") == rate("encoder.encoder.patch_embed_layers.0.") == 0.5**9
        for stage, block, layer in ((0, 0, 1), (0, 3, 4), (1, 0, 5), (1, 3, 8)):
            start = f"encoder.encoder.groupmixformer_backbone.{stage}.gma_stage.{block}."
            assert rate(start) == 0.5 ** (last - layer)
        assert rate("encoder.encoder.patch_embed_layers.1.") == 0.5 ** (last - 5)
        return
    assert rate("encoder.encoder.patch_embed.") == 0.5**last
    for stage, block, layer in ((0, 0, 1), (0, 1, 2), (1, 0, 3), (2, 5, 10)):
        assert rate(f"encoder.encoder.layers.{stage}.blocks.{block}.") == 0.5 ** (last - layer)
    assert rate("encoder.encoder.layers.0.downsample.") == 0.5 ** (last - 3)
    assert rate("encoder.encoder.layers.1.downsample.") == 0.5 ** (last - 5)
    norm = "norm2." if name == "swin_t_s3" else "outnorm3."
    assert rate(f"encoder.encoder.{norm}") == 1
    plain = ("bias", "norm.weight", "A_logs", "Ds", "relative_position_bias_table")
    assert not any(value for key, value in decays.items() if key.endswith(plain))
    assert decays["encoder.encoder.layers.0.blocks.0.mlp.fc1.weight"] == 0.1


def test_models_without_blocks():
    with pytest.raises(ValueError, match="Linear has no encoder"):
        layer_decay_groups(torch.nn.Linear(2, 2), lr=1.0, rate=0.5, weight_decay=0.0)


def test_unlabelled_key_points_count_as_no_error():
    maps, target = torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    assert heatmap_loss(maps, target, torch.tensor([[1.0, 1.0]])) == 1
    assert heatmap_loss(maps, target, torch.tensor([[1.0, 0.0]])) == 0.5
    assert heatmap_loss(maps, target, torch.tensor([[0.5, 0.0]])) == 0.125
