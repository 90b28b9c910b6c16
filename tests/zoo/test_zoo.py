from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from fasthmr.checkpoints.files import save_weights
from fasthmr.checkpoints.hmr2 import HMR2_TABLE
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import CheckpointMismatch, UsageError
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.zoo import (
    create_model,
    list_models,
    load_model,
    preset,
    pretrained_file,
    register_preset,
    registry,
)

TINY = HMRConfig(
    encoder=ViTConfig(dim=24, depth=1, heads=2, image_size=(32, 16)),
    head=SMPLHeadConfig(context_dim=24, dim=16, depth=1, heads=2, head_dim=4, mlp_dim=12),
)


@pytest.fixture
def tiny_preset(monkeypatch):
    monkeypatch.setattr(registry, "_PRESETS", dict(registry._PRESETS))
    row = replace(preset("hmr2_vit_s"), name="tiny", config=lambda: TINY, description="for tests")
    register_preset(row)
    return row


@pytest.mark.parametrize("name", list_models("hmr2_vit_*"))
def test_presets_have_the_published_parameters(name):
    row = preset(name)
    with torch.device("meta"):
        model = row.config().build()
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(row.published[0].params, abs=0.006)
    assert row.config() == row.config()
    assert model.crop_size == 256


def test_listing():
    assert list_models("hmr2_vit_?") == ["hmr2_vit_b", "hmr2_vit_h", "hmr2_vit_l", "hmr2_vit_s"]
    assert set(list_models("hmr2*")) <= set(list_models())


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'hmr2_vit_h'"):
        create_model("hmr2-vit-h")


def test_names_are_taken_once(tiny_preset):
    with pytest.raises(ValueError, match="registered already"):
        register_preset(tiny_preset)


def test_random_weights_in_evaluation_mode(tiny_preset):
    assert not create_model("tiny").training


def test_checkpoints_of_both_layouts(tiny_preset, tmp_path):
    torch.manual_seed(3)
    model = create_model("tiny")
    save_weights(model, tmp_path / "own.safetensors", dtype=torch.float32)
    published = {HMR2_TABLE.published(key): tensor for key, tensor in model.state_dict().items()}
    torch.save({"state_dict": published, "epoch": 35}, tmp_path / "released.ckpt")
    for file in ("own.safetensors", "released.ckpt"):
        again = create_model("tiny", checkpoint=tmp_path / file)
        assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())


def test_a_checkpoint_of_another_size(tiny_preset, tmp_path):
    other = replace(TINY, encoder=replace(TINY.encoder, depth=2)).build()
    save_weights(other, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointMismatch, match="keys do not fit 'tiny'"):
        create_model("tiny", checkpoint=tmp_path / "w.safetensors")


def test_pretrained_needs_weights_in_the_package(tiny_preset, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"assets/tiny\.safetensors is missing"):
        create_model("tiny", pretrained=True)
    with pytest.raises(UsageError, match="not both"):
        create_model("tiny", checkpoint="x", pretrained=True)
    assert pretrained_file("tiny") is None

    torch.manual_seed(4)
    model = TINY.build()
    save_weights(model, tmp_path / "assets" / "tiny.safetensors")
    monkeypatch.setattr(registry, "files", lambda package: tmp_path)
    loaded = create_model("tiny", pretrained=True)
    assert all(
        torch.allclose(loaded.state_dict()[key], tensor, atol=1e-3)
        and loaded.state_dict()[key].dtype == tensor.dtype
        for key, tensor in model.state_dict().items()
    )


def test_models_of_their_files_alone(tiny_preset, tmp_path):
    torch.manual_seed(5)
    model = TINY.build()
    save_weights(model, tmp_path / "w.safetensors", dtype=torch.float32, metadata={"preset": "tiny"})
    again = load_model(tmp_path / "w.safetensors")
    assert again.config == TINY and again.trained_body == "smpl" and not again.training
    assert all(torch.equal(again.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in again.parameters())
    save_weights(model, tmp_path / "alone.safetensors")
    with pytest.raises(CheckpointMismatch, match="no known layout"):
        load_model(tmp_path / "alone.safetensors")


@dataclass(frozen=True, kw_only=True)
class _WithTable:
    def build(self):
        model = nn.Linear(2, 2)
        model.register_buffer("table", torch.arange(3), persistent=False)
        return model


def test_what_a_file_does_not_hold_is_computed(tiny_preset, tmp_path):
    """Tensors that a model makes for itself survive although the model is first made without memory."""
    register_preset(replace(tiny_preset, name="table", config=_WithTable, layout=registry.OWN_TABLE))
    model = _WithTable().build()
    save_weights(model, tmp_path / "w.safetensors", dtype=torch.float32)
    again = create_model("table", checkpoint=tmp_path / "w.safetensors")
    assert again.table.tolist() == [0, 1, 2]
    assert torch.equal(again.weight, model.weight)
