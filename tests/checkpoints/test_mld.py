"""Files in the layout of MLD become motion models, from a file of their own or from one with everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fasthmr.checkpoints.import_file import import_checkpoint
from fasthmr.checkpoints.keymap import KeyTable
from fasthmr.checkpoints.layouts import config_of, find_layout
from fasthmr.checkpoints.loading import build_empty
from fasthmr.checkpoints.mld import (
    MLD_DENOISER_LAYOUT,
    MLD_DENOISER_TABLE,
    MLD_VAE_LAYOUT,
    MLD_VAE_TABLE,
)
from fasthmr.errors import CheckpointMismatch
from fasthmr.temporal.latent_denoiser import LatentDenoiserConfig
from fasthmr.temporal.motion_vae import MotionVAEConfig
from fasthmr.zoo import create_model, load_model, preset

SIZES = {"latents": 2, "width": 16, "layers": 3, "mlp_dim": 20, "max_tokens": 40, "frames": 9}
VAE = MotionVAEConfig(channels=11, **{**SIZES, "frames": 36})
"""What a file of this size is read as: clips as long as the position table allows."""
DENOISER = LatentDenoiserConfig(
    condition_dim=12, condition="relu_linear", time_dim=12, **{**SIZES, "frames": 37}
)
JUDGES = {"t2m_moveencoder.main.0.weight": torch.zeros(2), "text_encoder.a": torch.zeros(2)}


def published(config: Any, table: KeyTable, prefix: str = "", seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = {
        prefix + table.published(key): torch.rand(tensor.shape, generator=generator)
        for key, tensor in build_empty(config).state_dict().items()
    }
    if table is MLD_DENOISER_TABLE:
        state[f"{prefix}mem_pos.pe"] = torch.zeros(40, 1, 16)
    return state


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def everything() -> dict[str, torch.Tensor]:
    return {
        **published(VAE, MLD_VAE_TABLE, "vae."),
        **published(DENOISER, MLD_DENOISER_TABLE, "denoiser."),
        **JUDGES,
    }


def test_published_names():
    keys = published(VAE, MLD_VAE_TABLE)
    assert {
        "global_motion_token",
        "skel_embedding.weight",
        "query_pos_encoder.pe",
        "query_pos_decoder.pe",
        "encoder.input_blocks.0.self_attn.in_proj_weight",
        "encoder.middle_block.linear1.bias",
        "encoder.output_blocks.0.norm2.weight",
        "encoder.linear_blocks.0.weight",
        "decoder.input_blocks.0.multihead_attn.in_proj_bias",
        "decoder.middle_block.multihead_attn.out_proj.weight",
        "decoder.output_blocks.0.norm3.bias",
        "decoder.norm.weight",
        "final_layer.bias",
    } <= keys.keys()
    keys = published(DENOISER, MLD_DENOISER_TABLE)
    assert {
        "time_embedding.linear_2.weight",
        "emb_proj.1.weight",
        "query_pos.pe",
        "encoder.middle_block.self_attn.out_proj.bias",
    } <= keys.keys()


@pytest.mark.parametrize("prefix", ["", "vae."])
@pytest.mark.parametrize("config", [VAE, replace(VAE, decoder="all_encoder", layers=1)])
def test_vae_of_a_file(tmp_path: Path, prefix: str, config: MotionVAEConfig):
    state = published(config, MLD_VAE_TABLE, prefix)
    torch.save({"state_dict": state}, tmp_path / "vae.ckpt")
    model = load_model(tmp_path / "vae.ckpt")
    assert model.config == config and not model.training
    assert torch.equal(model.decoder.stack.positions, state[f"{prefix}query_pos_decoder.pe"])
    again = model(torch.rand(2, 9, 11))[0]
    assert again.shape == (2, 9, 11)


@pytest.mark.parametrize("prefix", ["", "denoiser."])
@pytest.mark.parametrize(
    "config", [DENOISER, replace(DENOISER, condition="none", condition_dim=16, time_dim=None)]
)
def test_denoiser_of_a_file(tmp_path: Path, prefix: str, config: LatentDenoiserConfig):
    state = published(replace(config, latents=27, frames=12), MLD_DENOISER_TABLE, prefix)
    torch.save({"state_dict": state}, tmp_path / "denoiser.ckpt")
    model = load_model(tmp_path / "denoiser.ckpt")
    assert model.config == replace(config, latents=27, frames=12)  # not in the file: as published
    predicted = model(torch.rand(2, 2, 16), torch.tensor([3, 4]), torch.rand(2, 9, config.condition_dim))
    assert predicted.shape == (2, 2, 16)


def test_file_with_everything(tmp_path: Path):
    torch.save({"state_dict": everything(), "epoch": 3}, tmp_path / "mld.ckpt")
    report = import_checkpoint(tmp_path / "mld.ckpt")
    assert report.recognised == "MLD motion VAE" and report.preset is None
    assert report.tensors == len(published(VAE, MLD_VAE_TABLE))
    assert report.ignored == {
        "language model": 1,
        "latent denoiser of the same file": len(published(DENOISER, MLD_DENOISER_TABLE)),
        "network that generated motion is judged by": 1,
    }
    vae = load_model(report.out)
    assert vae.config == VAE
    assert torch.equal(vae.encoder.tokens, everything()["vae.global_motion_token"])
    denoiser = create_model("latent_denoiser_table14", checkpoint=tmp_path / "mld.ckpt")
    assert denoiser.config == DENOISER  # with the number of latents that the VAE has
    assert torch.equal(denoiser.time.fc1.bias, everything()["denoiser.time_embedding.linear_1.bias"])


@pytest.mark.parametrize("name", ["motion_vae_table12", "motion_vae_table15"])
def test_published_sizes_are_recognised(name: str):
    row = preset(name)
    shapes = {
        row.layout.published(k): tuple(v.shape) for k, v in build_empty(row.config()).state_dict().items()
    }
    layout = find_layout(shapes)
    assert layout is MLD_VAE_LAYOUT and layout.preset(shapes) == name
    assert config_of(layout, shapes, Path("vae.ckpt")) == row.config()


def test_published_denoiser_has_the_published_number_of_weights():
    """13.39 M with MLD's own time numbers (as many as the condition has) and its unused positions."""
    config = LatentDenoiserConfig(condition="relu_linear", time_dim=1024)
    state = build_empty(config).state_dict()
    shapes = {MLD_DENOISER_TABLE.published(key): tuple(tensor.shape) for key, tensor in state.items()}
    assert find_layout(shapes) is MLD_DENOISER_LAYOUT
    assert config_of(MLD_DENOISER_LAYOUT, shapes, Path("d.ckpt")) == config
    unused = 500 * 512
    assert (sum(t.numel() for t in state.values()) + unused) / 1e6 == pytest.approx(13.39, abs=0.005)


def test_files_that_do_not_fit(tmp_path: Path):
    state = published(VAE, MLD_VAE_TABLE)
    torch.save({**state, "dist_layer.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointMismatch, match=r"dist_layer\.weight .* has no such key"):
        load_model(tmp_path / "w.pth")
    torch.save({k: v for k, v in state.items() if "query_pos_encoder" not in k}, tmp_path / "w.pth")
    with pytest.raises(CheckpointMismatch, match=r"without the key 'query_pos_encoder\.pe'"):
        load_model(tmp_path / "w.pth")
    narrow = {k: v[:3] if k == "query_pos_encoder.pe" else v for k, v in state.items()}
    torch.save(narrow, tmp_path / "w.pth")
    with pytest.raises(CheckpointMismatch, match="not a usable file"):
        load_model(tmp_path / "w.pth")
