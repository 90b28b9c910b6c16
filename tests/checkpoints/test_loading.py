from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fasthmr.checkpoints.files import read_weights, save_weights
from fasthmr.checkpoints.hmr2 import HMR2_TABLE, body_in_checkpoint
from fasthmr.checkpoints.keymap import KeyTable, load_into
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import CheckpointMismatch, UnsafeFileError, UsageError
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMR, HMRConfig


def tiny(dim: int = 24) -> HMR:
    torch.manual_seed(0)
    encoder = ViTConfig(dim=dim, depth=2, heads=2, image_size=(64, 48))
    head = SMPLHeadConfig(context_dim=dim, dim=16, depth=2, heads=2, head_dim=4, mlp_dim=12)
    return HMRConfig(encoder=encoder, head=head).build()


def published(model: HMR) -> dict[str, torch.Tensor]:
    return {HMR2_TABLE.published(key): torch.randn_like(t) for key, t in model.state_dict().items()}


def test_published_names():
    keys = {HMR2_TABLE.published(key) for key in tiny().state_dict()}
    prefix = "smpl_head.transformer.transformer.layers.1."
    expected = {
        "backbone.pos_embed",
        "backbone.blocks.1.attn.qkv.weight",
        "smpl_head.init_cam",
        "smpl_head.transformer.pos_embedding",
        f"{prefix}0.fn.to_out.0.bias",
        f"{prefix}1.norm.weight",
        f"{prefix}1.fn.to_kv.weight",
        f"{prefix}2.fn.net.3.weight",
        "smpl_head.decpose.bias",
    }
    assert expected <= keys
    assert all(key.startswith(("backbone.", "smpl_head.")) for key in keys)
    assert len(keys) == len(tiny().state_dict())


def test_every_key_is_copied_or_ignored_with_a_reason():
    model = tiny()
    weights = published(model)
    leftovers = {"initialized": torch.tensor(True), "discriminator.D_conv1.bias": torch.zeros(3)}
    ignored = load_into(model, {**weights, **leftovers}, HMR2_TABLE, "tiny")
    assert set(ignored) == set(leftovers)
    assert all(ignored.values())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[HMR2_TABLE.published(key)]), key


def test_mismatches_name_keys_and_shapes():
    model = tiny(dim=32)
    weights = {"backbone.pos_embed": torch.zeros(1, 193, 1280), "surprise": torch.zeros(2)}
    with pytest.raises(CheckpointMismatch) as info:
        load_into(model, {**published(tiny(dim=32)), **weights}, HMR2_TABLE, "hmr2_vit_l")
    lines = str(info.value).splitlines()
    assert lines[0].startswith("2 of ") and lines[0].endswith("keys do not fit 'hmr2_vit_l':")
    assert " ".join(lines[1].split()) == "backbone.pos_embed file (1, 193, 1280) model (1, 13, 32)"
    assert " ".join(lines[2].split()) == "surprise file (2,) model has no such key"
    assert len(lines) == 3


def test_nothing_is_changed_when_something_does_not_fit():
    model = tiny()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights = published(model)
    weights.pop("smpl_head.deccam.bias")
    with pytest.raises(CheckpointMismatch, match=r"smpl_head.deccam.bias +file has no such key"):
        load_into(model, weights, HMR2_TABLE, "tiny")
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_many_mismatches_are_counted():
    with pytest.raises(CheckpointMismatch, match=r"\.\.\. and \d+ more"):
        load_into(tiny(), {}, HMR2_TABLE, "tiny")


def test_weights_must_be_finite():
    model = tiny()
    weights = published(model)
    weights["backbone.last_norm.bias"][3] = float("nan")
    with pytest.raises(UnsafeFileError, match=r"first backbone\.last_norm\.bias"):
        load_into(model, weights, HMR2_TABLE, "tiny")


def test_round_trip_in_half_precision(tmp_path):
    model = tiny()
    save_weights(model, tmp_path / "m.safetensors", metadata={"name": "tiny"})
    state, metadata = read_weights(tmp_path / "m.safetensors")
    assert metadata == {"name": "tiny"}
    assert state["encoder.pos_embed"].dtype == torch.float16
    other = tiny()
    load_into(other, state, KeyTable(layout="own"), "tiny")
    assert other.encoder.pos_embed.dtype == torch.float32
    assert torch.allclose(other.encoder.pos_embed, model.encoder.pos_embed, atol=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_weights_that_half_precision_cannot_hold_are_not_written(tmp_path):
    model = tiny()
    with torch.no_grad():
        model.encoder.last_norm.weight.fill_(1e6)
    with pytest.raises(ValueError, match=r"last_norm\.weight is not finite"):
        save_weights(model, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_ema"])
def test_pytorch_files(tmp_path, wrapper):
    weights = {"a": torch.ones(3)}
    torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, tmp_path / "w.ckpt")
    state, _ = read_weights(tmp_path / "w.ckpt")
    assert torch.equal(state["a"], weights["a"])


def test_running_averages_come_first(tmp_path):
    torch.save({"model": {"a": torch.zeros(3)}, "model_ema": {"a": torch.ones(3)}}, tmp_path / "w.pth")
    state, _ = read_weights(tmp_path / "w.pth")
    assert torch.equal(state["a"], torch.ones(3))


class Touch:
    """Would make a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def write_pickle_with_code(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "extra": Touch(path.with_name("executed"))}, path)


def write_bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": Touch(path.with_name("executed"))}))


def write_truncated(path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:700])


def write_text(path: Path) -> None:
    path.write_text("not found")


def write_empty(path: Path) -> None:
    path.touch()


def write_numbers(path: Path) -> None:
    torch.save({"a": 3}, path)


def write_a_list(path: Path) -> None:
    torch.save([torch.ones(1)], path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "write",
    [
        write_pickle_with_code,
        write_bare_pickle,
        write_truncated,
        write_text,
        write_empty,
        write_numbers,
        write_a_list,
    ],
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_unusable_files(tmp_path, write, name):
    path = tmp_path / name
    write(path)
    with pytest.raises(UnsafeFileError, match=name):
        read_weights(path)
    assert not (tmp_path / "executed").exists()


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such weight file"):
        read_weights(tmp_path / "none.safetensors")


def test_checkpoints_without_a_body():
    weights: Mapping[str, torch.Tensor] = published(tiny())
    assert body_in_checkpoint(weights) is None


def test_safetensors_and_published_layout_agree(tmp_path):
    weights = published(tiny())
    save_file(weights, tmp_path / "w.safetensors")
    torch.save({"state_dict": weights}, tmp_path / "w.ckpt")
    first, second = (read_weights(tmp_path / f"w.{suffix}")[0] for suffix in ("safetensors", "ckpt"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
