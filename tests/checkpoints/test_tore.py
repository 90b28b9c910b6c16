from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fasthmr.checkpoints.files import save_weights
from fasthmr.checkpoints.keymap import match_keys, shapes_of
from fasthmr.checkpoints.layouts import find_layout
from fasthmr.checkpoints.tore import MESH_LAYOUT, MESH_TABLE, keep_ratio_of, mesh_config
from fasthmr.encoders.resnet import ResNetConfig
from fasthmr.errors import CheckpointMismatch, UsageError
from fasthmr.heads.fastmetro import FastMetroHeadConfig
from fasthmr.heads.metro import MetroHeadConfig
from fasthmr.models.mesh import MeshModelConfig
from fasthmr.reduction.gtr import NSRConfig
from fasthmr.reduction.itp import ITPConfig
from fasthmr.zoo import create_model, list_models, load_model, preset, register_preset, registry

TRUNK = ResNetConfig(depths=(1, 1, 1, 1), width=1)
FAST = FastMetroHeadConfig(context_dim=32, layers=1, dims=(16, 8), mlp_dims=(12, 6), learned_levels=0)
REDUCED = MeshModelConfig(
    encoder=TRUNK,
    head=FAST,
    tokens=ITPConfig(keep_ratio=0.8),
    regressor=NSRConfig(dim=8, mlp_dim=6, layers=1),
)
METRO = MeshModelConfig(
    encoder=TRUNK,
    head=MetroHeadConfig(
        context_dim=32, widths=(8, 4), hidden=(8, 8, 4), layers=1, mlp_dim=6, positions=450, unused_words=5
    ),
)


def published(config: MeshModelConfig) -> dict[str, torch.Tensor]:
    """A file as the releases write it, with BERT's unused tables."""
    torch.manual_seed(1)
    state = {MESH_TABLE.published(key): tensor for key, tensor in config.build().state_dict().items()}
    for i, width in enumerate(getattr(config.head, "hidden", ())):
        start = f"trans_encoder.{i}.bert."
        state[start + "embeddings.word_embeddings.weight"] = torch.zeros(5, width)
        state[start + "pooler.dense.bias"] = torch.zeros(width)
    return state


def test_names_are_the_published_ones():
    names = published(METRO).keys()
    assert {
        "backbone.0.weight", "backbone.4.0.conv1.weight", "conv_learn_tokens.weight", "upsampling2.bias",
        "trans_encoder.2.bert.position_embeddings.weight", "cam_param_fc2.weight",
        "trans_encoder.0.bert.encoder.layer.0.attention.self.query.weight",
    } <= names  # fmt: skip
    assert {
        "token_selector_fc.weight", "layer_norm.bias", "vertex_token_embed.weight",
        "transformer_3.decoder.layers.0.multihead_attn.in_proj_bias",
        "xyz_regressor_v.weight", "dim_reduce_enc.bias",
    } <= published(REDUCED).keys()  # fmt: skip


@pytest.mark.parametrize("config", [METRO, REDUCED, replace(REDUCED, tokens=None)])
def test_files_say_what_they_are(config, tmp_path):
    state = published(config)
    assert find_layout(shapes_of(state)) is MESH_LAYOUT
    assert mesh_config(shapes_of(state), Path()) == config
    torch.save(state, tmp_path / "released.bin")
    model = load_model(tmp_path / "released.bin")
    assert model.trained_body == "smpl"
    mine = {MESH_TABLE.published(key): tensor for key, tensor in model.state_dict().items()}
    assert all(torch.equal(state[key], tensor) for key, tensor in mine.items())
    with pytest.raises(UsageError, match="set_mesh"):
        model(torch.zeros(1, 3, 224, 224))
    save_weights(model, tmp_path / "own.safetensors", dtype=torch.float32)


def test_presets_and_published_sizes_have_the_same_keys():
    names = ("tore_fastmetro_l_r50_itp80", "metro_hand_r50", "fastmetro_l_effnet_b0", "tore_metro_r50")
    for name in (*names, "tore_hand_fastmetro_l_r50_itp80"):
        config = preset(name).config()
        with torch.device("meta"):
            shapes = {MESH_TABLE.published(k): v for k, v in shapes_of(config.build().state_dict()).items()}
        if isinstance(config.head, MetroHeadConfig):
            shapes["trans_encoder.0.bert.embeddings.word_embeddings.weight"] = (30522, 1024)
        assert MESH_LAYOUT.preset(shapes) == name
        assert mesh_config(shapes, Path()) == config
        match_keys(shapes_of(_meta_state(config)), shapes, MESH_TABLE, name)


def _meta_state(config: MeshModelConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return config.build().state_dict()


def test_another_number_of_image_tokens_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_PRESETS", dict(registry._PRESETS))
    row = replace(preset("tore_fastmetro_l_r50_itp80"), name="tiny", config=lambda: REDUCED)
    register_preset(row)
    torch.save(published(replace(REDUCED, tokens=ITPConfig(keep_ratio=0.5))), tmp_path / "half.bin")
    with pytest.raises(CheckpointMismatch, match=r"layer_norm.bias +file \(24, 16\) +model \(39, 16\)"):
        create_model("tiny", checkpoint=tmp_path / "half.bin")


@pytest.mark.parametrize("tokens", range(1, 50))
def test_keep_ratios_come_back(tokens):
    assert ITPConfig(keep_ratio=keep_ratio_of(tokens, 49)).build(8, (7, 7)).tokens == tokens


def test_usual_ratios_are_round():
    assert [keep_ratio_of(tokens, 49) for tokens in (49, 39, 24)] == [1.0, 0.8, 0.5]
    with pytest.raises(CheckpointMismatch, match="50 image tokens from a map of 49 cells"):
        keep_ratio_of(50, 49)


def test_foreign_meshes_and_missing_trunks():
    shapes = shapes_of(published(REDUCED))
    with pytest.raises(CheckpointMismatch, match="a mesh of 400 vertices"):
        mesh_config({**shapes, "vertex_token_embed.weight": (400, 8)}, Path())
    with pytest.raises(CheckpointMismatch, match=r"among the keys 'backbone\.\*'"):
        mesh_config({k: v for k, v in shapes.items() if not k.startswith("backbone.")}, Path())


def test_models_of_hands_say_so_in_the_second_word():
    hands = [name for name in list_models() if preset(name).trained_body == "mano"]
    assert hands == [name for name in list_models() if name.split("_")[1:2] == ["hand"]]
    assert {"metro_hand_r50", "fastmetro_hand_l_r50", "tore_hand_fastmetro_l_r50_itp80"} <= set(hands)


def test_rows_of_the_papers_tables():
    rows = [row for name in list_models("*metro*") for row in preset(name).published]
    assert [row.part for row in rows] == ["whole", "transformers"] * 16 and all(
        row.within <= 0.15 and math.isfinite(row.gmacs or math.nan) for row in rows
    )
    assert json.dumps([row.source for row in rows]).count("Table 2") == 16
