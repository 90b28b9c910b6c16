from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fasthmr.checkpoints.keymap import load_into
from fasthmr.checkpoints.plain_vit import (
    ENCODER_LAYOUT,
    ENCODER_TABLE,
    PLAIN_VIT_LAYOUT,
    PLAIN_VIT_TABLE,
    fit_plain_vit,
    init_encoder,
    position_grid,
    vit_from_shapes,
)
from fasthmr.checkpoints.vitpose import FLIP_PAIRS, VITPOSE_LAYOUT, VITPOSE_TABLE
from fasthmr.encoders.vit import ViT, ViTConfig
from fasthmr.errors import CheckpointMismatch
from fasthmr.geometry.heatmaps import swap_index
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.zoo import list_models, preset

TINY = ViTConfig(dim=16, depth=2, heads=2)
POSE = PoseConfig(encoder=TINY, head=HeatmapHeadConfig(context_dim=16, deconv_filters=(6, 8)))


def weights_of(model: torch.nn.Module, table, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        table.published(key): torch.randn(tensor.shape, generator=generator)
        for key, tensor in model.state_dict().items()
    }


def shapes_of(config) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = config.build().state_dict()
    return {VITPOSE_TABLE.published(key): tuple(tensor.shape) for key, tensor in state.items()}


@pytest.mark.parametrize("name", list_models("vitpose_vit_*"))
def test_files_of_all_presets_are_recognised(name):
    row = preset(name)
    config, shapes = row.config(), shapes_of(row.config())
    assert row.layout is VITPOSE_TABLE and row.task == "pose"
    assert VITPOSE_LAYOUT.matches(shapes)
    assert VITPOSE_LAYOUT.config(shapes, Path("w.pth")) == config
    assert VITPOSE_LAYOUT.preset(shapes) == name
    with torch.device("meta"):
        model = config.build()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(row.published[0].params, abs=0.006)


def test_published_names():
    keys = {VITPOSE_TABLE.published(key) for key in POSE.build().state_dict()}
    assert {
        "backbone.pos_embed",
        "backbone.last_norm.bias",
        "keypoint_head.deconv_layers.4.running_var",
        "keypoint_head.deconv_layers.3.weight",
        "keypoint_head.final_layer.bias",
    } <= keys


def test_heads_are_read_from_shapes():
    encoder = preset("vitpose_vit_s").config().encoder
    heads = [
        HeatmapHeadConfig(
            context_dim=384, keypoints=133, deconv_filters=(8, 12, 5), deconv_kernels=(4, 2, 3)
        ),
        HeatmapHeadConfig(context_dim=384, keypoints=16, kind="simple", final_kernel=1),
        HeatmapHeadConfig(context_dim=384, keypoints=14, final_kernel=3),
    ]
    for head in heads:
        config = PoseConfig(encoder=encoder, head=head, flip_pairs=FLIP_PAIRS[head.keypoints])
        assert VITPOSE_LAYOUT.config(shapes_of(config), Path()) == config
        assert VITPOSE_LAYOUT.preset(shapes_of(config)) is None
    large = replace(encoder, image_size=(384, 288), depth=3)
    config = PoseConfig(encoder=large, head=heads[2], flip_pairs=FLIP_PAIRS[14])
    assert VITPOSE_LAYOUT.config(shapes_of(config), Path()) == config


@pytest.mark.parametrize("keypoints", sorted(FLIP_PAIRS))
def test_every_point_is_swapped_once(keypoints):
    named = [point for pair in FLIP_PAIRS[keypoints] for point in pair]
    assert len(named) == len(set(named)) and max(named) < keypoints
    index = swap_index(FLIP_PAIRS[keypoints], keypoints)
    assert [index[i] for i in index] == list(range(keypoints))


def test_unknown_shapes():
    shapes = shapes_of(POSE)
    assert VITPOSE_LAYOUT.preset(shapes) is None
    with pytest.raises(CheckpointMismatch, match="no ViT of this width"):
        VITPOSE_LAYOUT.config(shapes, Path("w.pth"))
    good = shapes_of(preset("vitpose_vit_s").config())
    with pytest.raises(CheckpointMismatch, match="reads 99 channels, the layer before gives 256"):
        VITPOSE_LAYOUT.config({**good, "keypoint_head.final_layer.weight": (17, 99, 1, 1)}, Path("w.pth"))
    with pytest.raises(CheckpointMismatch, match="has 190 rows"):
        VITPOSE_LAYOUT.config({**good, "backbone.pos_embed": (1, 190, 384)}, Path("w.pth"))


def with_experts(weights: dict[str, torch.Tensor], part: int) -> dict[str, torch.Tensor]:
    """The same model as ViTPose++ stores it: the last rows of each fc2 are those of expert 0."""
    split = {}
    for key, tensor in weights.items():
        found = re.match(r"(.*mlp\.)fc2\.(weight|bias)$", key)
        split[key] = tensor[:-part] if found else tensor
        if found:
            split[f"{found[1]}experts.0.{found[2]}"] = tensor[-part:]
            split[f"{found[1]}experts.1.{found[2]}"] = torch.zeros_like(tensor[-part:])
    split["associate_keypoint_heads.0.final_layer.bias"] = torch.zeros(14)
    return split


def test_experts_of_coco_are_joined():
    model = POSE.build()
    weights = weights_of(model, VITPOSE_TABLE)
    split = with_experts(weights, 4)
    assert split["backbone.blocks.0.mlp.fc2.weight"].shape == (12, 64)
    already = {**weights, **{key: tensor for key, tensor in split.items() if "experts" in key}}
    for state in (split, already):
        model = POSE.build()
        ignored = load_into(model, state, VITPOSE_TABLE, "tiny")
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, weights[VITPOSE_TABLE.published(key)].to(tensor.dtype)), key
        assert set(ignored) == set(state) - set(weights)
        assert ignored["backbone.blocks.1.mlp.experts.1.bias"] == "expert of another data set"
        assert "joined" in ignored["backbone.blocks.1.mlp.experts.0.bias"]


def test_bare_encoders():
    encoder = TINY.build()
    weights = weights_of(encoder, ENCODER_TABLE)
    assert weights.keys() == encoder.state_dict().keys()
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    assert ENCODER_LAYOUT.matches(shapes) and not PLAIN_VIT_LAYOUT.matches(shapes)
    assert not VITPOSE_LAYOUT.matches(shapes)


def mae(config: ViTConfig, patch: int, grid: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A file of MAE for an encoder of these sizes."""
    square = replace(config, patch_size=patch, patch_padding=0, image_size=(grid * patch, grid * patch))
    weights = weights_of(square.build(), PLAIN_VIT_TABLE, seed)
    return {**weights, "cls_token": torch.zeros(1, 1, config.dim), "head.weight": torch.zeros(3, config.dim)}


def test_encoders_start_from_mae(tmp_path):
    weights = mae(TINY, 14, 16)
    torch.save({"model": weights}, tmp_path / "mae.pth")
    encoder = TINY.build()
    ignored = init_encoder(encoder, tmp_path / "mae.pth")
    assert set(ignored) == {"cls_token", "head.weight"}
    state = encoder.state_dict()
    kernel = state["patch_embed.proj.weight"]
    assert torch.equal(kernel[..., 1:15, 1:15], weights["patch_embed.proj.weight"])
    assert kernel[..., 0, :].abs().sum() + kernel[..., 15].abs().sum() == 0
    assert torch.equal(state["pos_embed"][:, 0], weights["pos_embed"][:, 0])
    assert torch.equal(state["last_norm.weight"], weights["norm.weight"])
    assert torch.equal(state["blocks.1.mlp.fc1.bias"], weights["blocks.1.mlp.fc1.bias"])


def test_uneven_padding_and_equal_sizes():
    fitted = fit_plain_vit(mae(TINY, 13, 14), TINY)
    kernel = fitted["patch_embed.proj.weight"]
    assert kernel.shape[-2:] == (16, 16)
    assert kernel[..., :1].abs().sum() == 0 and kernel[..., 14:].abs().sum() == 0
    own = weights_of(TINY.build(), ENCODER_TABLE)
    assert all(torch.equal(tensor, own[key]) for key, tensor in fit_plain_vit(own, TINY).items())


def test_a_missing_final_norm_stays_fresh(tmp_path):
    weights = {key: tensor for key, tensor in mae(TINY, 16, 14).items() if not key.startswith("norm.")}
    torch.save(weights, tmp_path / "mae.pth")
    encoder = TINY.build()
    init_encoder(encoder, tmp_path / "mae.pth")
    assert torch.equal(encoder.last_norm.weight, torch.ones(16))


def test_encoders_start_from_pose_models(tmp_path):
    weights = weights_of(POSE.build(), VITPOSE_TABLE)
    for name, state in (("plain", weights), ("experts", with_experts(weights, 4))):
        torch.save({"state_dict": state}, tmp_path / f"{name}.pth")
        encoder: ViT = TINY.build()
        ignored = init_encoder(encoder, tmp_path / f"{name}.pth")
        assert ignored["keypoint_head.final_layer.bias"] == "not of the encoder"
        for key, tensor in encoder.state_dict().items():
            assert torch.equal(tensor, weights[f"backbone.{key}"]), key


def test_files_of_other_encoders(tmp_path):
    torch.save({"layers.0.weight": torch.zeros(3)}, tmp_path / "swin.pth")
    with pytest.raises(CheckpointMismatch, match="holds no plain ViT"):
        init_encoder(TINY.build(), tmp_path / "swin.pth")
    torch.save(mae(replace(TINY, depth=3), 16, 14), tmp_path / "deep.pth")
    with pytest.raises(CheckpointMismatch, match=r"blocks\.2\."):
        init_encoder(TINY.build(), tmp_path / "deep.pth")


def test_plain_vits_are_recognised():
    config = ViTConfig(dim=1280, depth=2, heads=16, patch_size=14, image_size=(224, 224), patch_padding=0)
    with torch.device("meta"):
        state = config.build().state_dict()
    shapes = {PLAIN_VIT_TABLE.published(key): tuple(tensor.shape) for key, tensor in state.items()}
    assert PLAIN_VIT_LAYOUT.matches(shapes) and not ENCODER_LAYOUT.matches(shapes)
    assert PLAIN_VIT_LAYOUT.config(shapes, Path()) == replace(config, drop_path=0.55)
    with pytest.raises(CheckpointMismatch, match="has no pos_embed"):
        vit_from_shapes({})


def test_grids():
    assert [position_grid(n) for n in (197, 257, 193, 433, 2)] == [
        (14, 14),
        (16, 16),
        (16, 12),
        (24, 18),
        (1, 1),
    ]
    for wrong in (0, 1, 198, 13 * 11 + 1):
        with pytest.raises(CheckpointMismatch, match=f"has {wrong} rows"):
            position_grid(wrong)
