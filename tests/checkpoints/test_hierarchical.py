"""Hierarchical encoders in published files: names, order of weights, stages that are not built."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from fasthmr.checkpoints.config_json import config_to_json
from fasthmr.checkpoints.files import save_weights
from fasthmr.checkpoints.hierarchical import GMF_TABLE, SWIN_TABLE, init_hierarchical
from fasthmr.checkpoints.swin_names import official_swin
from fasthmr.checkpoints.truncated import TRUNCATED_HMR_TABLE, TRUNCATED_POSE_TABLE
from fasthmr.encoders import registry as encoder_registry
from fasthmr.encoders.groupmixformer import GroupMixFormerConfig
from fasthmr.encoders.swin import PatchMerging, SwinConfig
from fasthmr.encoders.truncated import cut_and_matched, truncate
from fasthmr.errors import CheckpointMismatch
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.zoo import create_model, load_model, preset, register_preset, registry

SWIN = SwinConfig(dim=8, depths=(2, 1, 2, 1), heads=(1, 2, 2, 4), window=3, image_size=(64, 32))
GMF = GroupMixFormerConfig(
    widths=(20, 20, 30, 40), depths=(1, 1, 2, 1), mlp_ratios=(2, 2, 2, 2), image_size=(64, 32)
)
CLASSIFIERS = {
    "swin": replace(SWIN, image_size=(96, 96), convention="classification", classes=5),
    "gmf": replace(GMF, image_size=(224, 224), classes=5),
}
WHOLE = {"swin": SWIN, "gmf": GMF}


def weights(config, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {key: torch.randn_like(t) if t.is_floating_point() else t for key, t in build(config).items()}


def build(config) -> dict[str, Tensor]:
    return config.build().state_dict()


def as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    def name(key: str) -> str:
        key = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", key)
        return key.replace("head.", "head.fc.")

    return {name(key): tensor for key, tensor in state.items()}


def as_mmpose(state: dict[str, Tensor], prefix: str = "backbone.") -> dict[str, Tensor]:
    names = (
        ("layers.", "stages."),
        (".attn.", ".attn.w_msa."),
        (".mlp.fc1.", ".ffn.layers.0.0."),
        (".mlp.fc2.", ".ffn.layers.1."),
        ("patch_embed.proj.", "patch_embed.projection."),
    )
    theirs = {}
    for key, tensor in state.items():
        if ".downsample." in key:
            channels = tensor.shape[-1] // 4
            order = [(0, 2, 1, 3)[pixel] * channels + c for c in range(channels) for pixel in range(4)]
            tensor = tensor[..., order]
        for ours, name in names:
            key = key.replace(ours, name)
        theirs[prefix + key] = tensor
    return theirs


def test_mmpose_merges_channel_by_channel():
    """Its merging is an unfold; with weights brought to our order ours gives the same."""
    torch.manual_seed(0)
    merging, x = PatchMerging(3), torch.randn(1, 4, 6, 3)
    theirs = {
        "norm.weight": torch.randn(12),
        "norm.bias": torch.randn(12),
        "reduction.weight": torch.randn(6, 12),
    }
    cells = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).mT
    expected = F.layer_norm(cells, (12,), theirs["norm.weight"], theirs["norm.bias"])
    expected = expected @ theirs["reduction.weight"].mT
    named = {f"stages.0.downsample.{key}": tensor for key, tensor in theirs.items()}
    ours = official_swin(named)
    merging.load_state_dict({key.removeprefix("layers.0.downsample."): t for key, t in ours.items()})
    assert torch.allclose(merging(x).flatten(1, 2), expected, atol=1e-5)


@pytest.mark.parametrize("publish", [as_timm, as_mmpose, lambda state: state])
def test_names_of_other_projects(publish):
    state = weights(CLASSIFIERS["swin"])
    theirs = publish(state)
    prefix = "backbone." if any(key.startswith("backbone.") for key in theirs) else ""
    ours = official_swin(theirs, prefix)
    assert {key.removeprefix(prefix) for key in ours} == state.keys()
    assert all(torch.equal(ours[prefix + key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize("family", sorted(WHOLE))
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_starting_a_cut_encoder_from_a_classifier(tmp_path, family, stages):
    state = weights(CLASSIFIERS[family])
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(2, 4, 4)
    if family == "gmf":
        del state["layers.0.blocks.1.attn_mask"]
    torch.save({"model": state, "epoch": 3}, tmp_path / "official.pth")
    torch.manual_seed(1)
    encoder = cut_and_matched(WHOLE[family], stages).build()
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    unused = init_hierarchical(encoder, tmp_path / "official.pth")
    for key, tensor in encoder.encoder.state_dict().items():
        norm = re.match(r"norm(\d)\.(\w+)", key) if family == "swin" else None
        if norm is None:
            assert torch.equal(tensor, state[key]), key
        elif stages == 4:
            assert torch.equal(tensor, state[f"norm.{norm[2]}"])
        else:
            assert torch.equal(tensor, before[f"encoder.{key}"])
    assert all(
        torch.equal(t, before[key]) for key, t in encoder.state_dict().items() if key.startswith("match")
    )
    assert unused["head.weight"] == "classifier"
    kept = encoder.encoder.state_dict().keys()
    assert state.keys() - unused.keys() == kept - {key for key in kept if re.match(r"norm\d\.", key)}
    if stages < 4:
        later = {reason for reason in unused.values() if "not built" in reason}
        assert f"stage {stages + 1}, which is not built" in later
    if family == "swin" and stages == 2:
        assert unused["layers.1.downsample.reduction.weight"] == "leads to stage 3, which is not built"


def test_starting_from_other_layouts(tmp_path):
    state = weights(SWIN)
    for publish in (as_timm, as_mmpose):
        save_file({k: t.contiguous() for k, t in publish(state).items()}, tmp_path / "w.safetensors")
        encoder = truncate(SWIN, 3).build()
        unused = init_hierarchical(encoder, tmp_path / "w.safetensors")
        assert all(torch.equal(t, state[k]) for k, t in encoder.state_dict().items() if k in state)
        assert "norm of a map that is not returned" in unused.values()


def models(family: str, stages: int) -> tuple[HMRConfig, PoseConfig]:
    encoder = cut_and_matched(replace(WHOLE[family], image_size=(256, 192)), stages)
    head = SMPLHeadConfig(context_dim=encoder.context_dim, dim=12, depth=2, heads=3, head_dim=4, mlp_dim=10)
    heatmaps = HeatmapHeadConfig(context_dim=encoder.context_dim)
    return HMRConfig(encoder=encoder, head=head), PoseConfig(encoder=encoder, head=heatmaps)


@pytest.mark.parametrize("family", sorted(WHOLE))
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_whole_models_of_their_files_alone(tmp_path, family, stages):
    """Decoder from the file; heads from the folder's name."""
    for config, table in zip(
        models(family, stages), (TRUNCATED_HMR_TABLE, TRUNCATED_POSE_TABLE), strict=True
    ):
        state = {table.published(key): tensor for key, tensor in weights(config).items()}
        assert any(key.startswith("backbone.encoder.") for key in state)
        folder = tmp_path / "hmr_d2-a3x4-m10"
        folder.mkdir(exist_ok=True)
        torch.save({"state_dict": state}, folder / "model.ckpt")
        model = load_model(folder / "model.ckpt")
        assert replace(model.config, encoder=config.encoder) == config
        assert model.config.encoder == config.encoder
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[table.published(key)]), key


def test_encoder_and_match_of_a_whole_model(tmp_path):
    """From 2D pose to meshes: the matching layer comes along where it fits."""
    hmr, pose = models("swin", 2)
    state = weights(pose)
    save_file(state, tmp_path / "pose.safetensors")
    encoder = hmr.encoder.build()
    unused = init_hierarchical(encoder, tmp_path / "pose.safetensors")
    assert all(torch.equal(t, state[f"encoder.{key}"]) for key, t in encoder.state_dict().items())
    assert set(unused) == {key for key in state if key.startswith("head.")}
    third = cut_and_matched(replace(SWIN, image_size=(256, 192)), 2)
    other = replace(third, match_kernel=2).build()
    assert "encoder.match.weight" in init_hierarchical(other, tmp_path / "pose.safetensors")


@pytest.fixture
def tiny_presets(monkeypatch):
    monkeypatch.setattr(registry, "_PRESETS", dict(registry._PRESETS))
    for stages in (3, 4):
        config = models("swin", stages)[0]
        row = replace(preset("hmr2_swin_t_s3"), name=f"tiny_s{stages}", config=lambda c=config: c)
        register_preset(row)


def test_four_stages_for_a_model_of_three(tiny_presets, tmp_path):
    config = models("swin", 4)[0]
    state = {TRUNCATED_HMR_TABLE.published(key): tensor for key, tensor in weights(config).items()}
    folder = tmp_path / "d2-a3x4-m10"
    folder.mkdir()
    save_file(state, folder / "w.safetensors")
    assert create_model("tiny_s4", checkpoint=folder / "w.safetensors")
    with pytest.raises(CheckpointMismatch, match="keys do not fit 'tiny_s3'") as refused:
        create_model("tiny_s3", checkpoint=folder / "w.safetensors")
    text = str(refused.value)
    assert "backbone.encoder.layers.2.downsample" in text and "has no such key" in text
    assert "HMR 2.0 with a cut encoder" in text
    encoder = models("swin", 3)[0].encoder.build()
    unused = init_hierarchical(encoder, folder / "w.safetensors")
    assert unused["backbone.encoder.layers.3.blocks.0.norm1.weight"] == "stage 4, which is not built"
    assert unused["backbone.match.weight"] == "not of the encoder"


def test_another_family_or_size(tmp_path):
    save_file(weights(CLASSIFIERS["gmf"]), tmp_path / "gmf.safetensors")
    save_file(weights(replace(SWIN, dim=16, heads=(1, 2, 2, 4))), tmp_path / "swin.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "none.safetensors")
    encoder = cut_and_matched(SWIN, 3).build()
    with pytest.raises(CheckpointMismatch, match=r"holds GroupMixFormer .* the encoder is Swin"):
        init_hierarchical(encoder, tmp_path / "gmf.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"widths \(16, 32, 64, 128\).*widths \(8, 16, 32\)"):
        init_hierarchical(encoder, tmp_path / "swin.safetensors")
    with pytest.raises(CheckpointMismatch, match="none of the hierarchical encoders"):
        init_hierarchical(encoder, tmp_path / "none.safetensors")


def test_a_file_says_which_encoders_it_fits(tmp_path, monkeypatch):
    known = {"tiny": lambda: SWIN, "tiny_s3": lambda: cut_and_matched(SWIN, 3), "other": lambda: GMF}
    monkeypatch.setattr(encoder_registry, "_ENCODERS", known)
    save_file(weights(CLASSIFIERS["swin"]), tmp_path / "swin.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"the file fits tiny, tiny_s3$"):
        init_hierarchical(truncate(GMF, 2).build(), tmp_path / "swin.safetensors")


@pytest.mark.parametrize("family", sorted(WHOLE))
def test_classifiers_as_models(tmp_path, family):
    state = weights(CLASSIFIERS[family])
    torch.save({"model": state, "optimizer": {}}, tmp_path / "official.pth")
    model = load_model(tmp_path / "official.pth")
    assert model.config == CLASSIFIERS[family]
    assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())
    if family == "swin":
        torch.save(as_timm(state), tmp_path / "timm.pth")
        again = load_model(tmp_path / "timm.pth")
        assert all(torch.equal(t, state[key]) for key, t in again.state_dict().items())


def test_pose_models_of_mmpose(tmp_path):
    swin = replace(SWIN, image_size=(256, 192))
    head = HeatmapHeadConfig(context_dim=64, deconv_filters=(8, 8, 8), deconv_kernels=(4, 4, 4))
    config = PoseConfig(encoder=swin, head=head, decoding="shift", shift_flipped=True)
    state = weights(config)
    encoder = {key.removeprefix("encoder."): t for key, t in state.items() if key.startswith("encoder.")}
    rest = {key.replace("head.", "keypoint_head."): t for key, t in state.items() if key.startswith("head.")}
    torch.save({"state_dict": {**as_mmpose(encoder), **rest}}, tmp_path / "swin_coco.pth")
    model = load_model(tmp_path / "swin_coco.pth")
    assert model.config == config
    assert all(torch.equal(t, state[key]) for key, t in model.state_dict().items())


def test_files_of_ours(tmp_path):
    config = models("gmf", 2)[0]
    model = config.build()
    save_weights(model, tmp_path / "w.safetensors", metadata={"config": config_to_json(config)})
    assert load_model(tmp_path / "w.safetensors").config == config
    encoder = config.encoder.build()
    assert all(key.startswith("head.") for key in init_hierarchical(encoder, tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("backbone.match.weight", "an encoder of 2 stages, and backbone.match.weight is missing"),
        ("backbone.encoder.patch_embed.proj.weight", "no hierarchical encoder among the keys"),
        ("backbone.encoder.layers.0.blocks.0.mlp.fc1.weight", "without the key 'layers.0.blocks.0.mlp.fc1"),
        ("smpl_head.transformer.transformer.layers.0.1.fn.to_q.weight", "has no matrix"),
    ],
)
def test_files_that_lack_a_part(tiny_presets, tmp_path, key, message):
    state = {TRUNCATED_HMR_TABLE.published(k): t for k, t in weights(models("swin", 2)[0]).items()}
    del state[key]
    folder = tmp_path / "d2-a3x4-m10"
    folder.mkdir()
    save_file(state, folder / "w.safetensors")
    with pytest.raises(CheckpointMismatch, match=re.escape(message)):
        load_model(folder / "w.safetensors")
    with pytest.raises(CheckpointMismatch, match="keys do not fit 'tiny_s3'"):
        create_model("tiny_s3", checkpoint=folder / "w.safetensors")


@pytest.mark.parametrize("shape", [(8,), (8, 3, 4), (8, 3, 4, 4, 1), (0, 3, 4, 4), (3, 3, 4, 4)])
def test_files_of_odd_shapes(tmp_path, shape):
    state = weights(SWIN)
    state["patch_embed.proj.weight"] = torch.zeros(shape)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointMismatch):
        load_model(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointMismatch):
        init_hierarchical(truncate(SWIN, 3).build(), tmp_path / "w.safetensors")


def test_tables_ignore_what_is_computed():
    assert SWIN_TABLE.reason_to_ignore("layers.0.blocks.0.attn.relative_position_index")
    assert GMF_TABLE.reason_to_ignore("norm4.weight") == "classifier"
    assert SWIN_TABLE.reason_to_ignore("norm3.weight") is None
