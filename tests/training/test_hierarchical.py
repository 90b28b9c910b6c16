from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fasthmr.benchmark.zoo_files import read_accuracy
from fasthmr.body.default_body import load_default_body
from fasthmr.data.augment import AugmentConfig, RecordStore
from fasthmr.data.shards import load_shards
from fasthmr.encoders.registry import encoder_config
from fasthmr.encoders.truncated import TruncatedConfig
from fasthmr.encoders.vit import ViTConfig
from fasthmr.errors import CheckpointMismatch, InputError, UsageError
from fasthmr.geometry.heatmaps import heatmap_targets
from fasthmr.models.hmr import HMR
from fasthmr.models.pose import PoseModel
from fasthmr.training.hierarchical import HierarchicalConfig, HierarchicalTraining, train
from fasthmr.training.hierarchical_data import (
    COCO17_POINTS,
    StoredCrops,
    cut_crops,
    from_pixels,
    to_pixels,
    to_record,
)
from fasthmr.training.hierarchical_errors import find_keypoints, keypoint_errors, mesh_errors
from fasthmr.training.hierarchical_model import Task, model_config
from fasthmr.training.hierarchical_report import HierarchicalReportConfig, report
from fasthmr.training.hierarchical_tables import SHOWN, Run, conclusion, verdict
from fasthmr.training.hours import noted_hours
from fasthmr.types import HMROutput
from fasthmr.zoo import load_model
from fasthmr.zoo.registry import preset
from tests.rendered_records import write_records

SIZE = (64, 64)


def config(folder: Path, **changes: object) -> HierarchicalConfig:
    tiny = HierarchicalConfig(
        out=folder / "pose",
        data=folder / "records",
        validation=folder / "records",
        crops=folder / "crops",
        encoder="swin_t_s2",
        narrowing=12,
        image_size=SIZE,
        samples=6,
        validated=3,
        steps=4,
        batch_size=2,
        checkpoint_every=2,
        report_every=100,
    )
    return replace(tiny, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With records, a finished run for key points, and one for meshes that went on from its encoder."""
    path = tmp_path_factory.mktemp("hierarchical")
    write_records(path / "records", 6)
    start = train(config(path))["pose"]
    train(config(path, out=path / "mesh", tasks=("mesh",), start=start, learning_rate=1e-5))
    return path


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(folder, monkeypatch):
    class Stop(Exception):
        pass

    def loss(self, step):
        if step == 3:
            raise Stop
        return whole(self, step)

    stopped = config(folder, out=folder / "stopped", drop_path=0.5, tasks=("mesh", "pose"))
    straight = train(replace(stopped, out=folder / "straight"))
    whole = HierarchicalTraining.loss
    monkeypatch.setattr(HierarchicalTraining, "loss", loss)
    with pytest.raises(Stop):
        train(stopped)
    monkeypatch.setattr(HierarchicalTraining, "loss", whole)
    resumed = train(stopped)
    assert set(resumed) == {"pose", "mesh"}
    for task, file in straight.items():
        wanted, found = (load_model(path).state_dict() for path in (file, resumed[task]))
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, msg=name)
    with pytest.raises(UsageError, match="other settings"):
        train(replace(stopped, learning_rate=5e-3))


def test_finished_models(folder):
    pose, mesh = (load_model(folder / name / f"{name}.safetensors") for name in ("pose", "mesh"))
    assert isinstance(pose, PoseModel) and isinstance(mesh, HMR)
    assert pose(torch.zeros(1, 3, *SIZE)).shape == (1, 17, 16, 16)
    assert isinstance(mesh(torch.zeros(1, 3, 64, 64)), HMROutput)
    assert noted_hours(folder / "mesh") > 0
    # A rate of 1e-5 does not lead far from where the run began.
    ours, theirs = mesh.encoder.state_dict(), pose.encoder.state_dict()
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    assert mesh.head.init_body_pose[0, :6].tolist() == [1, 0, 0, 0, -1, 0]


def test_another_encoder_is_no_start(folder):
    start = folder / "pose" / "pose.safetensors"
    with pytest.raises(CheckpointMismatch, match="Swin"):
        HierarchicalTraining(config(folder, encoder="vmamba_t_s2", start=start))
    with pytest.raises(CheckpointMismatch, match="do not fit"):
        HierarchicalTraining(config(folder, encoder="vit_s", start=start))


def test_a_plain_vit_goes_on_too(folder, tmp_path):
    run = config(folder, out=tmp_path, encoder="vit_s", steps=1)
    start = train(run)["pose"]
    training = HierarchicalTraining(replace(run, tasks=("mesh",), start=start))
    for name, value in load_model(start).encoder.state_dict().items():
        assert torch.equal(training.learner.encoder.state_dict()[name], value)


def test_report(folder, tmp_path):
    for cut in (3, 4):
        train(config(folder, out=folder / f"s{cut}", encoder=f"swin_t_s{cut}", steps=1))
    out = tmp_path / "report.md"
    found = HierarchicalReportConfig(runs=folder, people=folder / "records", out=out, count=5, timed=1)
    text = report(found).read_text()
    assert "Swin-T S2 minus S4" in text and "mean pose facing the camera" in text
    assert "![2D pose (ViTPose head)](report_pose.png)" in text
    assert (tmp_path / "report_pose.png").stat().st_size > 1000
    numbers = json.loads(out.with_suffix(".json").read_text())
    assert 0 <= numbers["runs"]["swin_t_s2 pose"]["AP"] <= 1
    assert numbers["runs"]["swin_t_s2 mesh"]["PA-MPJPE"] > 10
    assert set(numbers["claim"]) == {"Swin-T, pose"}
    found_accuracy = read_accuracy(out.with_suffix(".json"))
    assert set(found_accuracy) == {"hmr2_swin_t_s2", *(f"vitpose_swin_t_s{cut}" for cut in (2, 3, 4))}
    error = {"PA-MPJPE of 1/12 width": numbers["runs"]["swin_t_s2 mesh"]["PA-MPJPE"]}
    assert found_accuracy["hmr2_swin_t_s2"] == pytest.approx(error)
    with pytest.raises(InputError, match="no finished run"):
        report(replace(found, runs=tmp_path))


def run(stages: int, errors: list[float], task: Task = "mesh") -> Run:
    return Run(
        task=task,
        settings={"encoder": f"swin_t_s{stages}", "seed": 0},
        hours=0.0,
        parameters=stages,
        gmacs=float(stages),
        milliseconds=1.0,
        values={name: torch.tensor(errors) for name in SHOWN[task]},
        totals={},
    )


@pytest.mark.parametrize(
    ("task", "three", "two", "no_worse", "worse"),
    [
        ("mesh", [9.0, 11.0, 10.0], [12.0, 13.0, 12.0], True, True),
        ("mesh", [9.0, 11.0, 10.0], [9.0, 11.0, 10.0], True, False),
        ("mesh", [12.0, 13.0, 12.0], [14.0, 14.0, 14.0], False, True),
        ("pose", [10.0, 10.0, 10.0], [8.0, 8.0, 9.0], True, True),
        ("pose", [9.0, 8.0, 9.0], [8.0, 8.0, 8.0], False, True),
        ("pose", [9.0, 8.0, 9.0], [11.0, 12.0, 11.0], False, False),
    ],
)
def test_the_claim_of_the_paper(task, three, two, no_worse, worse):
    runs = [run(2, two, task), run(3, three, task), run(4, [10.0, 10.0, 10.0], task)]
    said = verdict(runs)
    assert said is not None and (said.three, said.two) == (no_worse, worse)
    assert verdict(runs[1:]) is None
    lines = " ".join(conclusion({task: {"Swin-T": said}}))
    assert f"no worse than four in {int(no_worse)} of 1 comparisons" in lines
    assert f"are worse than four in {int(worse)} of 1 comparisons" in lines
    assert "nothing is said" in " ".join(conclusion({task: {}}))


def test_differences_are_told_in_percent_too():
    runs = [run(cut, [values], "mesh") for cut, values in ((2, 12.0), (3, 9.0), (4, 10.0))]
    said = verdict(runs)
    assert said is not None
    assert said.text == (
        "by PA-MPJPE S2 is worse than S4 by 2.0 mm (20.0 %); S3 is better than S4 by 1.0 mm (10.0 %)."
    )


def test_presets_are_trained_at_their_own_size():
    for encoder in ("swin_s_s4", "gmf_b_s2", "vmamba_t_s3", "vit_s"):
        assert model_config(encoder, "pose") == preset(f"vitpose_{encoder}").config()
        assert model_config(encoder, "mesh") == preset(f"hmr2_{encoder}").config()


@pytest.mark.parametrize("encoder", ["swin_t", "gmf_t", "vmamba_t"])
def test_narrow_models_keep_the_structure(encoder):
    whole = encoder_config(encoder)
    for stages in (2, 3, 4):
        narrow = model_config(f"{encoder}_s{stages}", "mesh", narrowing=4, image_size=(128, 96)).encoder
        assert isinstance(narrow, TruncatedConfig)
        assert narrow.encoder.depths == whole.depths[:stages]
        assert narrow.encoder.widths == tuple(width // 4 for width in whole.widths[:stages])
        assert narrow.context_dim == whole.widths[2] // 4
    vit = model_config("vit_s", "mesh", narrowing=4, image_size=(128, 96)).encoder
    assert isinstance(vit, ViTConfig) and (vit.dim, vit.heads, vit.depth) == (96, 3, 12)


def test_stochastic_depth_of_kept_blocks():
    fresh = model_config("swin_t_s3", "pose").encoder
    continued = model_config("swin_t_s3", "pose", continuing=True).encoder
    assert fresh.encoder.drop_path == 0.2
    assert continued.encoder.drop_path == pytest.approx(0.2 * 9 / 11)


def test_crops_are_read_back(folder):
    store = RecordStore(load_shards(folder / "records"))
    crops = StoredCrops(folder / "crops" / "validation", 3)
    batch = crops.batch(torch.tensor([2, 0]))
    assert len(crops) == 3 and crops.image_size == SIZE
    points = torch.from_numpy(store.labels("points_2d"))[[2, 0]]
    torch.testing.assert_close(to_record(batch.points, store.side), points, atol=1e-3, rtol=0)
    with pytest.raises(InputError, match="holds 3 crops, not 4"):
        StoredCrops(folder / "crops" / "validation", 4)


def test_all_crops_are_seen_before_one_comes_again(folder):
    crops = StoredCrops(folder / "crops" / "train", 6)
    seen = torch.cat([crops.of_step(step, 2, seed=1).betas for step in range(3)])
    assert len(seen.unique(dim=0)) == 6
    again = torch.cat([crops.of_step(step, 4, seed=1).betas for step in range(2)])
    assert torch.equal(again[:6], seen)


def test_more_crops_are_added(folder, tmp_path):
    for count in (2, 4):
        cut_crops(folder / "records", tmp_path, count, SIZE, augment=AugmentConfig.none())
        assert len(StoredCrops(tmp_path, count)) == count
    with pytest.raises(UsageError, match="another size"):
        cut_crops(folder / "records", tmp_path, 4, (128, 96), augment=AugmentConfig.none())


def test_pixels_and_crop_units():
    points = torch.rand(2, 5, 2) - 0.5
    torch.testing.assert_close(from_pixels(to_pixels(points, (128, 96)), (128, 96)), points)


def test_perfect_heat_maps_have_no_error(folder):
    crops = StoredCrops(folder / "crops" / "validation", 3)
    true = crops.labels("points")[:, list(COCO17_POINTS)]
    maps, _ = heatmap_targets(to_pixels(true, SIZE), torch.ones(3, 17), SIZE, (16, 16), sigma=1.0)
    model = torch.nn.Identity()
    model.forward = lambda pixels: maps  # pyright: ignore[reportAttributeAccessIssue]
    found = find_keypoints(model, crops, 3)
    inside = (true.abs() < 0.4).all(-1)
    errors = keypoint_errors(found, true, inside, torch.full((3,), 0.15))
    assert (errors["PCK@0.05"] == 1).all() and (errors["OKS"] > 0.8).all() and (errors["AR"] > 0.6).all()


def test_the_first_estimate_is_the_mean_pose(folder):
    training = HierarchicalTraining(config(folder, tasks=("mesh",)))
    model = training.models(training.learner)["mesh"]
    with torch.no_grad():
        params = model(torch.randn(2, 3, 64, 64)).params
    front = torch.diag(torch.tensor([1.0, -1.0, -1.0])).expand(2, 1, 3, 3)
    torch.testing.assert_close(params.global_orient, front, atol=0.1, rtol=0)
    errors = mesh_errors(model, training.validation, load_default_body(), 3)
    assert all(values.shape == (3,) for values in errors.values())
    assert (errors["PA-MPJPE"] < errors["MPJPE"]).all() and errors["PA-MPJPE"].mean() > 10


def test_unusable_settings(folder):
    with pytest.raises(UsageError, match="at least 1"):
        config(folder, batch_size=0)
    with pytest.raises(UsageError, match="each once"):
        config(folder, tasks=("pose", "pose"))
    with pytest.raises(UsageError, match="neither a cut hierarchical encoder"):
        model_config("resnet50", "pose")
    with pytest.raises(UsageError, match="narrowing=97"):
        model_config("vmamba_t_s2", "pose", narrowing=97)
