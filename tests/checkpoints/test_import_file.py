"""Published files become checked safetensors, by the command and by the Python call."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fasthmr import cli
from fasthmr.checkpoints.hmr2 import HMR2_TABLE
from fasthmr.checkpoints.import_file import import_body, import_checkpoint
from fasthmr.checkpoints.layouts import config_of, find_layout
from fasthmr.checkpoints.loading import build_empty
from fasthmr.encoders.hrnet import HRNetConfig
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import CheckpointMismatch, InputError, UnsafeFileError, UsageError
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.hmr import HMRConfig
from fasthmr.models.human_fov import HumanFoVConfig
from fasthmr.zoo import create_model, list_models, load_model, preset, registry
from tests.checkpoints.peak_memory import peak_growth
from tests.io.legacy_pickle import as_published, body_arrays, legacy_dumps

VIT_S = cast(ViTConfig, encoder_config("vit_s"))
LEFTOVERS = {
    "smpl.v_template": torch.zeros(7, 3),
    "smpl.parents": torch.zeros(3, dtype=torch.int64),
    "discriminator.D_conv1.bias": torch.zeros(2),
    "initialized": torch.tensor(True),
}
TRAINING = {"epoch": 35, "optimizer_states": [{"m": torch.ones(100)}], "hyper_parameters": {"a": 1}}


def hmr2(depth: int = 1, **head: Any) -> HMRConfig:
    """The light HMR 2.0 on the first blocks of ViT-S."""
    sizes = {"depth": 3, "heads": 4, "head_dim": 16, "mlp_dim": 128, **head}
    return HMRConfig(encoder=replace(VIT_S, depth=depth), head=SMPLHeadConfig(context_dim=384, **sizes))


def published(config: Any, table: Any = HMR2_TABLE, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under published names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        table.published(key): torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
        for key, tensor in build_empty(config).state_dict().items()
    }


def lightning(path: Path, weights: dict[str, torch.Tensor]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**TRAINING, "state_dict": {**weights, **LEFTOVERS}}, path)
    return path


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return published(hmr2())


def test_report_and_file(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    weights = {**weights, "smpl_head.decpose.weight": weights["smpl_head.decpose.weight"].half()}
    source = lightning(tmp_path / "epoch=35.ckpt", weights)
    report = import_checkpoint(source)
    assert report.out == tmp_path / "epoch=35.safetensors"
    assert report.recognised == "4D-Humans (HMR 2.0)"
    assert report.preset is None  # one block only
    assert (report.tensors, sum(report.ignored.values())) == (len(weights), len(LEFTOVERS))
    assert report.not_read == tuple(TRAINING)
    assert report.parameters == sum(tensor.numel() for tensor in weights.values())
    with safe_open(report.out, framework="pt") as file:
        metadata = file.metadata()
        assert file.keys() and len(file.keys()) == len(weights)
        for key in build_empty(hmr2()).state_dict():
            stored, expected = file.get_tensor(key), weights[HMR2_TABLE.published(key)]
            assert stored.dtype == expected.dtype and torch.equal(stored, expected), key
    assert metadata["source"] == "epoch=35.ckpt" and metadata["source_sha256"] == report.source_sha256
    assert {"config", "fasthmr", "layout", "licence"} <= metadata.keys() and "MIT" in metadata["licence"]
    assert str(tmp_path) not in json.dumps(metadata)


def test_the_converted_file_is_the_same_model(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    source = lightning(tmp_path / "w.ckpt", weights)
    converted = import_checkpoint(source).out
    first, second = load_model(source), load_model(converted)
    assert first.config == second.config == hmr2() and not first.training
    assert first.trained_body == second.trained_body == "smpl"
    pixels = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(first(pixels).camera, second(pixels).camera)
    again = import_checkpoint(converted)
    assert again.out.name == "w.fasthmr.safetensors" and not again.ignored
    with safe_open(again.out, framework="pt") as file:
        assert file.metadata()["source"] == "w.ckpt"


@pytest.mark.parametrize(
    "name",
    [
        name
        for pattern in ("hmr2*", "camerahmr*", "humanfov*", "vitpose*")
        for name in list_models(pattern)
        if not name.endswith("swin_s_s2")  # the same network as swin_t_s2
    ],
)
def test_published_shapes_of_every_preset_are_recognised(name: str) -> None:
    row = preset(name)
    config = row.config()
    if isinstance(config, CameraHMRConfig):
        config = replace(config, intrinsics=None)
    shapes = {
        row.layout.published(key): tuple(tensor.shape)
        for key, tensor in build_empty(config).state_dict().items()
    }
    layout = find_layout(shapes)
    assert layout is not None and layout.table is row.layout
    assert layout.preset(shapes) == name
    assert config_of(layout, shapes, Path("w.ckpt")) == config


def test_heads_of_the_decoder(tmp_path: Path) -> None:
    """Their number is not in the shapes: the folder's name decides, else what was published."""
    weights = published(hmr2())
    odd = published(hmr2(head_dim=12))
    plain = lightning(tmp_path / "w.ckpt", weights)
    named = lightning(tmp_path / "hmr_vit-small_d3-a2x32-m128" / "0" / "w.ckpt", weights)
    assert load_model(plain).config.head.heads == 4
    assert load_model(named).config.head.heads == 2
    with pytest.raises(CheckpointMismatch, match="48 in all"):
        load_model(lightning(tmp_path / "odd.ckpt", odd))
    assert load_model(lightning(tmp_path / "d3-a4x12-m128" / "odd.ckpt", odd)).config.head.head_dim == 12


def without(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in weights.items() if key != "smpl_head.deccam.weight"}


WRONG = {
    "smpl_head.deccam.weight": without,
    "backbone.extra": lambda weights: {**weights, "backbone.extra": torch.zeros(1)},
    "backbone.blocks.0.mlp.fc2.bias": lambda w: {**w, "backbone.blocks.0.mlp.fc2.bias": torch.zeros(5)},
    "smpl_head.init_cam": lambda w: {**w, "smpl_head.init_cam": torch.tensor([[0.0, torch.nan, 0.0]])},
    "backbone.last_norm.bias": lambda w: {**w, "backbone.last_norm.bias": torch.full((384,), torch.inf)},
}


@pytest.mark.parametrize("key", WRONG)
def test_wrong_weights_are_refused_by_name(
    tmp_path: Path,
    weights: dict[str, torch.Tensor],
    key: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = replace(preset("hmr2_vit_s"), name="one_block", config=hmr2)
    monkeypatch.setattr(registry, "_PRESETS", {**registry._PRESETS, row.name: row})
    source = lightning(tmp_path / "w.ckpt", WRONG[key](weights))
    assert cli.main(["import", str(source)]) == 4
    message = capsys.readouterr().err
    assert key in message and str(source) in message
    assert [path.name for path in tmp_path.iterdir()] == ["w.ckpt"]
    with pytest.raises(UnsafeFileError, match=key.replace(".", r"\.")):
        create_model("one_block", checkpoint=source)


def test_truncated_files(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    source = lightning(tmp_path / "w.ckpt", weights)
    converted = import_checkpoint(source).out
    for path in (source, converted):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UnsafeFileError, match="not a complete"):
            import_checkpoint(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_unknown_layouts_say_what_is_near(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {f"backbone.layer{i}.weight": torch.zeros(1) for i in range(3)}
    torch.save({**weights, "smpl_head.x": torch.zeros(1), "neck": torch.zeros(1)}, tmp_path / "w.ckpt")
    assert cli.main(["import", str(tmp_path / "w.ckpt")]) == 4
    message = capsys.readouterr().err
    assert "5 tensors of no known layout: backbone.* (3), smpl_head.x" not in message
    assert "backbone.* (3)" in message and "neck" in message
    assert "4D-Humans (HMR 2.0): " in message and "smpl_head.*" in message


def test_a_preset_may_have_another_decoder_but_not_another_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lightning(tmp_path / "w.ckpt", published(hmr2(depth=12, heads=8, head_dim=64)))
    model = create_model("hmr2_vit_s", checkpoint=path)
    assert (model.config.head.heads, model.config.head.depth) == (8, 3)
    with pytest.raises(CheckpointMismatch, match="keys do not fit 'hmr2_vit_b'") as caught:
        create_model("hmr2_vit_b", checkpoint=path)
    assert "backbone.pos_embed" in str(caught.value) or "more" in str(caught.value)
    assert cli.main(["import", str(path), "--preset", "hmr2_vit_b"]) == 4
    assert "keys do not fit 'hmr2_vit_b'" in capsys.readouterr().err


def test_the_hint_names_the_preset_that_fits(tmp_path: Path) -> None:
    path = lightning(tmp_path / "w.ckpt", published(hmr2(depth=12)))
    with pytest.raises(CheckpointMismatch, match=r'4D-Humans .*try create_model\("hmr2_vit_s"\)'):
        create_model("hmr2_vit_l", checkpoint=path)
    report = import_checkpoint(path)
    assert report.preset == "hmr2_vit_s"
    with pytest.raises(CheckpointMismatch, match='it is "hmr2_vit_s"'):
        create_model("hmr2_vit_b", checkpoint=report.out)
    assert create_model("hmr2_vit_s", checkpoint=report.out).config == preset("hmr2_vit_s").config()


def test_a_camera_network_joins_its_model(tmp_path: Path) -> None:
    head = SMPLHeadConfig(
        context_dim=384, depth=3, heads=4, head_dim=16, mlp_dim=128, token_input="camera", aux_keypoints=44
    )
    model = CameraHMRConfig(encoder=replace(VIT_S, depth=1), head=head, intrinsics=None)
    small = HRNetConfig(width=4, modules=(1, 1, 1), blocks=1, bottlenecks=1, stem=8)
    network = HumanFoVConfig(backbone=small, hidden=16)
    table, camera_table = preset("camerahmr_vit_h").layout, preset("humanfov_hrnet_w48").layout
    torch.save({"state_dict": published(model, table)}, tmp_path / "camera.ckpt")
    unused = {"fc2.bias": torch.zeros(16)}
    torch.save({"state_dict": {**published(network, camera_table), **unused}}, tmp_path / "cam_model.ckpt")

    report = import_checkpoint(tmp_path / "camera.ckpt", intrinsics=tmp_path / "cam_model.ckpt")
    joined = load_model(report.out)
    assert joined.config == replace(model, intrinsics=network)
    own, alone = joined.intrinsics.state_dict(), load_model(tmp_path / "cam_model.ckpt").state_dict()
    assert own.keys() == alone.keys() and all(torch.equal(own[key], alone[key]) for key in own)
    assert report.ignored == {"never called": 1}
    with pytest.raises(UsageError, match="intrinsics are HumanFoV weights"):
        import_checkpoint(tmp_path / "cam_model.ckpt", intrinsics=tmp_path / "camera.ckpt")


def test_the_command_says_what_it_did(
    tmp_path: Path, weights: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    source = lightning(tmp_path / "w.ckpt", weights)
    out = tmp_path / "new folder" / "m.safetensors"
    assert cli.main(["import", str(source), "--out", str(out)]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("recognised 4D-Humans (HMR 2.0)")
    assert "ignored 2 keys: body model; see body_in_checkpoint" in told
    assert f"wrote {out}" in told
    assert shlex.split(told[-1])[-1] == str(out) and told[-1].startswith("next: fasthmr predict")
    assert cli.main(["import", str(source), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "weights" and report["out"] == str(tmp_path / "w.safetensors")


def test_body_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = body_arrays(24)
    (tmp_path / "body.pkl").write_bytes(legacy_dumps(as_published(arrays), 2, python2=True))
    np.savez(tmp_path / "body.npz", **arrays)
    save_file(
        {key: torch.from_numpy(array) for key, array in arrays.items() if key != "f"}
        | {"f": torch.from_numpy(arrays["f"].astype(np.int64))},
        tmp_path / "other.safetensors",
    )
    for name in ("body.pkl", "body.npz", "other.safetensors"):
        out = tmp_path / f"{name}.safetensors"
        assert cli.main(["import", str(tmp_path / name), "--out", str(out), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["kind"], report["recognised"]) == ("body", "custom")
        assert report["next_command"].endswith(f"--body {out}")
    assert cli.main(["import", str(tmp_path / "body.pkl"), "--preset", "hmr2_vit_s"]) == 2
    assert import_body(tmp_path / "body.npz").out == tmp_path / "body.safetensors"


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """96 MB through a process that may grow by 40; the largest tensor has 2.4."""
    source = lightning(tmp_path / "w.ckpt", published(hmr2(depth=12)))
    import_checkpoint(source, tmp_path / "first.safetensors")  # what is loaded once is loaded now
    with peak_growth() as grown:
        import_checkpoint(source)
    assert grown.kib < 40 * 1024


def test_wrong_use(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    source = lightning(tmp_path / "w.ckpt", weights)
    with pytest.raises(InputError, match="no such file"):
        import_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(UsageError, match=r"a \.safetensors file"):
        import_checkpoint(source, tmp_path / "w.ckpt")
    converted = import_checkpoint(source).out
    with pytest.raises(UsageError, match="the source itself"):
        import_checkpoint(converted, converted)
    assert cli.main(["import", str(tmp_path / "none.ckpt")]) == 3
