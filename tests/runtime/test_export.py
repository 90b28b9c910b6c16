"""Tiny models, merged and not, to files and back. Only exports need the exporter, and so the marker."""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fasthmr.encoders.convvit import ConvViTConfig
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import ExportError, UsageError
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.heads.keypoint_smpl import KeypointSMPLConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.keypoint_hmr import KeypointHMRConfig
from fasthmr.models.pose import PoseConfig
from fasthmr.models.reduced import reduce_model
from fasthmr.reduction.eclm import LayerMergePlan
from fasthmr.reduction.tome_schedule import TokenMergePlan
from fasthmr.runtime.backends import ExportedModel, load_exported, with_engine
from fasthmr.runtime.export import export_model
from fasthmr.runtime.export_gate import call, compare, gate_inputs, outputs_of
from fasthmr.runtime.pipeline import Pipeline
from fasthmr.types import BodyParams, HMROutput

VIT = ViTConfig(dim=16, depth=3, heads=2, image_size=(64, 48))


def camera_model() -> nn.Module:
    """Takes the camera and a mask; layers and tokens are merged."""
    torch.manual_seed(0)
    head = SMPLHeadConfig(
        context_dim=16,
        dim=16,
        depth=1,
        heads=2,
        head_dim=8,
        mlp_dim=16,
        token_input="camera",
        aux_keypoints=2,
    )
    model = CameraHMRConfig(encoder=VIT, head=head).build().eval()
    for parameter in model.head.parameters():  # as if trained: what differs between crops shows
        parameter.data += 0.1 * torch.randn_like(parameter)
    layers = LayerMergePlan(groups=((0,), (1, 2)))
    return reduce_model(model, layers=layers, tokens=TokenMergePlan(counts=(4,)))


def keypoint_model() -> nn.Module:
    """Halves its crops, and gives points; tokens are merged."""
    torch.manual_seed(0)
    channels = (8, 8, 16)
    encoder = ConvViTConfig(
        widths=channels, blocks=(1, 1, 1), token_stride=8, depth=1, heads=2, image_size=(64, 48)
    )
    head = KeypointSMPLConfig(channels=channels, token_stride=8, map_channels=8, dim=16, depth=1, heads=2)
    model = KeypointHMRConfig(encoder=encoder, head=head).build().eval()
    return reduce_model(model, tokens=TokenMergePlan(counts=(3,)))


def pose_model() -> nn.Module:
    torch.manual_seed(0)
    head = HeatmapHeadConfig(context_dim=16, kind="simple")
    return PoseConfig(encoder=VIT, head=head).build().eval()


class MeanScatter(nn.Module):
    """Merges tokens as is tempting and as exporters do wrong."""

    crop_size = 16

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read = nn.Linear(48, 13)

    def forward(self, pixels: Tensor) -> HMROutput:
        batch = pixels.shape[0]
        tokens = pixels.flatten(1).unflatten(1, (16, 48))
        group = (torch.arange(16) // 2)[None, :, None].expand(batch, 16, 48)
        merged = torch.zeros(batch, 8, 48).scatter_reduce(1, group, tokens, "mean", include_self=False)
        numbers = self.read(merged.abs().mean(1))
        turn = torch.eye(3).expand(batch, 1, 3, 3)
        params = BodyParams(global_orient=turn, body_pose=turn.expand(-1, 23, -1, -1), betas=numbers[:, :10])
        return HMROutput(params=params, camera=numbers[:, 10:])


@pytest.fixture(scope="module")
def camera_files(tmp_path_factory: pytest.TempPathFactory):
    model, out = camera_model(), tmp_path_factory.mktemp("camera")
    return model, export_model(model, out, name="small"), out


@pytest.mark.compile
@pytest.mark.parametrize(("ending", "engine"), [(".onnx", "onnxruntime"), (".xml", "openvino")])
@torch.no_grad()
def test_a_merged_model_equals_its_files(camera_files, ending: str, engine: str) -> None:
    model, report, out = camera_files
    names = {"small.onnx", "small.xml", "small.bin"}
    assert {path.name for path in out.iterdir()} == names
    file = next(file for file in report.files if file.path.suffix == ending)
    loaded = load_exported(file.path)
    assert loaded.engine == file.engine == engine and loaded.precision == file.precision == "float32"
    assert loaded.info.errors == file.errors and loaded.info.batches == (1, 2, 3)
    assert max(file.errors.values()) < 1e-5 and "aux_keypoints_2d" in file.errors
    assert loaded.info.versions["torch"] == version("torch")
    assert b"/" + Path(__file__).parts[1].encode() + b"/" not in file.path.read_bytes()
    for batch in (1, 2, 5):
        generator = torch.Generator().manual_seed(batch)
        pixels = torch.randn(batch, 3, 64, 64, generator=generator)
        info, mask = torch.rand(batch, 3), torch.rand(batch, 64, 64, generator=generator) > 0.99
        for given in ({"mask": mask}, {}):
            inputs = {"pixels": pixels, "bbox_info": info, **given}
            expected, got = outputs_of(call(model, inputs)), outputs_of(call(loaded, inputs))
            for key, value in expected.items():
                torch.testing.assert_close(got[key], value, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="takes bbox_info"):
        loaded(pixels)
    with pytest.raises(ValueError, match="crops of 64 x 64"):
        loaded(pixels[..., 1:], info)


@pytest.mark.compile
def test_exported_files_in_pipelines(camera_files) -> None:
    model, report, _ = camera_files
    rgb = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    options = {"detector": "full", "focal": 100.0}
    expected = Pipeline(model, **options)(rgb)
    clips = [Pipeline(file.path, **options)(rgb) for file in report.files]
    for clip in (*clips, Pipeline(report.files[0].path, engine="openvino", **options)(rgb)):
        np.testing.assert_allclose(clip.persons[0].vertices, expected.persons[0].vertices, rtol=0, atol=1e-3)
    assert clips[0].model == "small.onnx"
    with pytest.raises(UsageError, match=r"onnxruntime reads \.onnx files only"):
        Pipeline(report.files[1].path, engine="onnxruntime")
    with pytest.raises(UsageError, match="torch does not run"):
        Pipeline(report.files[0].path, engine="torch")


@pytest.mark.compile
@torch.no_grad()
def test_points_and_the_default_mask_of_halved_crops(tmp_path: Path) -> None:
    model = keypoint_model()
    loaded = load_exported(export_model(model, tmp_path, ("openvino",)).files[0].path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".xml", ".bin"}
    pixels = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    expected, got = outputs_of(model(pixels)), outputs_of(loaded(pixels))
    assert {"keypoints_xy", "keypoints_score"} <= set(got)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=0, atol=1e-5)


@pytest.mark.compile
@torch.no_grad()
def test_heat_maps(tmp_path: Path) -> None:
    model = pose_model()
    path = export_model(model, tmp_path, ("onnx",), name="pose").files[0].path
    rgb = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    clips = [Pipeline(which, task="pose", detector="full")(rgb) for which in (model, path)]
    ours, theirs = (clip.persons[0].keypoints_2d for clip in clips)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-2)
    with pytest.raises(UsageError, match="2D keypoints and no mesh"):
        Pipeline(path)


@pytest.mark.compile
def test_wrong_numbers_are_not_kept(tmp_path: Path) -> None:
    """The exporter writes a scatter that does not reduce, and says nothing."""
    with pytest.raises(ExportError, match="gives other numbers than the model: 'betas' differs by"):
        export_model(MeanScatter(), tmp_path, ("onnx",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.compile
def test_another_engine_for_the_time_being() -> None:
    class Plain(MeanScatter):
        def forward(self, pixels: Tensor) -> HMROutput:
            given = super().forward(pixels)
            numbers = self.read(pixels.flatten(1).unflatten(1, (16, 48)).abs().mean(1))
            return HMROutput(
                params=BodyParams(
                    global_orient=given.params.global_orient,
                    body_pose=given.params.body_pose,
                    betas=numbers[:, :10],
                ),
                camera=numbers[:, 10:],
            )

    model = Plain().train()
    running = with_engine(model, "onnxruntime")
    assert isinstance(running, ExportedModel) and model.training
    assert with_engine(running, "auto") is running and with_engine(model, "torch") is model
    with pytest.raises(UsageError, match="opened with onnxruntime already"):
        with_engine(running, "openvino")


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot export to 'onx' \(did you mean 'onnx'\?\)"):
        export_model(MeanScatter(), tmp_path, ("onx",))
    with pytest.raises(UsageError, match="not of single precision"):
        export_model(MeanScatter().half(), tmp_path)
    with pytest.raises(UsageError, match="neither crop_size nor image_size"):
        export_model(nn.Linear(2, 2), tmp_path)
    with pytest.raises(UsageError, match="unknown engine 'open_vino'"):
        with_engine(MeanScatter(), "open_vino")
    assert list(tmp_path.iterdir()) == []


def test_the_gate() -> None:
    inputs = gate_inputs(camera_model())
    assert [len(given["pixels"]) for given in inputs] == [1, 2, 3]
    assert float(inputs[2]["mask"][-1].min()) == 1 and float(inputs[1]["mask"][-1].max()) == 0
    generator = torch.Generator().manual_seed(0)
    ours = [{"betas": torch.randn(n, 10, generator=generator)} for n in (1, 2, 3)]
    near = [{"betas": given["betas"] + 5e-5} for given in ours]
    errors = compare(ours, near, what="x", tolerance=1e-4)
    assert errors["betas"] == pytest.approx(5e-5, rel=1e-2)
    far = copy.deepcopy(ours)
    far[2]["betas"][1, 3] += 1e-3
    with pytest.raises(ExportError, match=r"'betas' differs by 0\.001"):
        compare(ours, far, what="x", tolerance=1e-4)
    far[2]["betas"][1, 3] = float("nan")
    with pytest.raises(ExportError, match="differs by nan"):
        compare(ours, far, what="x", tolerance=1e-4)
    with pytest.raises(ExportError, match="gives 'betas' of shapes"):
        compare(ours, [{}, {}, {}], what="x", tolerance=1e-4)
    # nearly constant outputs, as of untrained weights, hide errors
    flat = [{"betas": 1e-3 * given["betas"]} for given in ours]
    with pytest.raises(ExportError, match="differs by 9"):
        compare(flat, [{"betas": given["betas"] + 9e-5} for given in flat], what="x", tolerance=1e-4)
