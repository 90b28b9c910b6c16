"""VMamba in published files: names of all releases, whole files for cut encoders."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fasthmr.checkpoints.hierarchical import VMAMBA_TABLE, init_hierarchical
from fasthmr.checkpoints.keymap import load_into, shapes_of
from fasthmr.checkpoints.layouts import find_layout
from fasthmr.checkpoints.vmamba_names import official_vmamba
from fasthmr.encoders.truncated import cut_and_matched
from fasthmr.encoders.vmamba import VMambaConfig
from fasthmr.errors import CheckpointMismatch

WHOLE = VMambaConfig(widths=(8, 12, 16, 20), depths=(1, 2, 1, 1), ssm_ratio=2, image_size=(224, 224))
CLASSIFIER = replace(WHOLE, out_norm=False, classes=5)


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {key: torch.randn_like(tensor) for key, tensor in CLASSIFIER.build().state_dict().items()}


def as_first_release(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Its names, and linear layers as convolutions."""
    names = (
        (r"(blocks\.\d+)\.norm\.", r"\1.ln_1."),
        (r"(blocks\.\d+)\.norm2\.", r"\1.ln_2."),
        (r"(blocks\.\d+)\.op\.", r"\1.self_attention."),
        (r"^classifier\.", ""),
    )
    theirs = {}
    for key, tensor in state.items():
        linear = re.search(r"(proj|fc[12]|head)\.weight$", key)
        for pattern, name in names:
            key = re.sub(pattern, name, key)
        theirs[key] = tensor[..., None, None] if linear else tensor
    return theirs


def test_names_of_all_releases():
    state = weights()
    old = as_first_release(state)
    assert "layers.1.blocks.1.self_attention.in_proj.weight" in old and "head.weight" in old
    for theirs in (old, state):
        ours = official_vmamba(theirs)
        assert ours.keys() == state.keys()
        assert all(torch.equal(ours[key], tensor) for key, tensor in state.items())
        assert official_vmamba(shapes_of(theirs)) == shapes_of(state)
    others = {"norm.weight": torch.ones(2), "head.weight": torch.ones(3, 2, 1, 1)}
    assert official_vmamba(others) is others


def test_a_classifier_says_its_sizes():
    state = weights()
    layout = find_layout(shapes_of(as_first_release(state)))
    assert layout is not None and layout.name == "VMamba (ImageNet)"
    assert layout.config(shapes_of(state), None) == CLASSIFIER
    model = CLASSIFIER.build()
    assert load_into(model, as_first_release(state), layout.table, "small") == {}
    assert torch.equal(model.layers[0].blocks[0].op.A_logs, state["layers.0.blocks.0.op.A_logs"])


@pytest.mark.parametrize("publish", [as_first_release, dict])
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_starting_a_cut_encoder_from_a_classifier(tmp_path, stages, publish):
    state = weights()
    torch.save({"model": {}, "model_ema": publish(state), "epoch": 3}, tmp_path / "official.pth")
    encoder = cut_and_matched(WHOLE, stages).build()
    norm = encoder.encoder.get_submodule(f"outnorm{stages - 1}")
    unused = init_hierarchical(encoder, tmp_path / "official.pth")
    for key, tensor in encoder.encoder.state_dict().items():
        if not key.startswith("outnorm"):
            assert torch.equal(tensor, state[key]), key
    expected = state["classifier.norm.weight"] if stages == 4 else torch.ones_like(norm.weight)
    assert torch.equal(norm.weight, expected)
    dropped = {key for key in state if re.match(rf"layers\.[{stages}-9]", key)}
    dropped |= {key for key in state if key.startswith(f"layers.{stages - 1}.downsample")}
    assert {key for key, why in unused.items() if "not built" in why} == dropped
    assert {why for key, why in unused.items() if key not in dropped} == {"classifier"}


def test_another_size_is_refused(tmp_path):
    torch.save(weights(), tmp_path / "official.pth")
    other = cut_and_matched(replace(WHOLE, depths=(2, 2, 1, 1)), 3).build()
    with pytest.raises(CheckpointMismatch, match=r"holds VMamba with widths \(8, 12, 16, 20\) and depths"):
        init_hierarchical(other, tmp_path / "official.pth")


def test_keys_are_those_of_the_last_release():
    keys = CLASSIFIER.build().state_dict().keys()
    assert {VMAMBA_TABLE.published(key) for key in keys} == keys
    assert {
        "patch_embed.0.weight",
        "patch_embed.2.weight",
        "patch_embed.5.bias",
        "patch_embed.7.bias",
    } <= keys
    assert {"layers.0.downsample.1.weight", "layers.0.downsample.3.weight"} <= keys
    assert "layers.3.downsample.1.weight" not in keys
