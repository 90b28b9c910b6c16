from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.body.hierarchy import MeshHierarchy
from fasthmr.data.augment import RecordStore
from fasthmr.data.shards import load_shards
from fasthmr.errors import UsageError
from fasthmr.models.keypoint_hmr import KeypointHMR
from fasthmr.models.mesh import MeshModel
from fasthmr.training.mesh_subject import BODY_14, MeshSubject, mesh_subject
from fasthmr.training.tore import ToreTraining, loss_config, train
from fasthmr.training.tore_data import BodyCrops, CachedMaps, HandCrops, cache_maps
from fasthmr.training.tore_errors import measure
from fasthmr.training.tore_model import (
    ToreConfig,
    model_config,
    set_rest_mesh,
    start_from,
)
from fasthmr.training.tore_report import ToreReportConfig, report
from fasthmr.training.tore_terms import project_weak
from fasthmr.zoo import create_model, load_model
from tests.rendered_records import write_records


def hand_config(folder: Path, **changes: object) -> ToreConfig:
    tiny = ToreConfig(
        out=folder / "run",
        data=folder / "hands",
        validation=folder / "unseen",
        kind="hand",
        trunk="narrow",
        tokens="itp",
        samples=6,
        validated=2,
        width=16,
        batch_size=2,
        steps=4,
        checkpoint_every=2,
        report_every=100,
    )
    return replace(tiny, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With drawn hands and a finished run."""
    path = tmp_path_factory.mktemp("tore")
    train(hand_config(path))
    return path


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(folder, monkeypatch):
    class Stop(Exception):
        pass

    def loss(self, step):
        if step == 3:
            raise Stop
        return whole(self, step)

    config = hand_config(folder, out=folder / "stopped")
    whole = ToreTraining.loss
    monkeypatch.setattr(ToreTraining, "loss", loss)
    with pytest.raises(Stop):
        train(config)
    monkeypatch.setattr(ToreTraining, "loss", whole)
    resumed, straight = load_model(train(config)), load_model(folder / "run" / "model.safetensors")
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)
    with pytest.raises(UsageError, match="other settings"):
        train(replace(config, learning_rate=5e-4))


def test_a_finished_model_needs_no_mesh_from_outside(folder):
    model = load_model(folder / "run" / "model.safetensors")
    assert isinstance(model, MeshModel)
    with torch.no_grad():
        output = model(torch.zeros(1, 3, model.crop_size, model.crop_size))
    assert [v.shape[1] for v in output.vertices] == [101, 403, 1609] and output.joints.shape[1] == 21
    assert output.clusters is not None and output.clusters.shape[1:] == (39, 49)


def test_a_run_starts_from_a_finished_one(folder):
    weights = folder / "run" / "model.safetensors"
    begun = ToreTraining(replace(hand_config(folder), start=weights))
    torch.testing.assert_close(begun.model.state_dict(), load_model(weights).state_dict())
    with pytest.raises(UsageError, match=r"tokens ITPConfig.*settings ask for None"):
        ToreTraining(replace(hand_config(folder), start=weights, tokens="none"))


def test_report(folder):
    config = ToreReportConfig(
        runs=folder, people=folder, hands=folder / "test", out=folder / "report.md", drawn=2
    )
    text = report(config).read_text()
    assert (
        "F@5" in text and "mean of these hands" in text and "![clusters_run](report/clusters_run.png)" in text
    )
    assert (folder / "report" / "attention_run.png").stat().st_size > 1000
    assert json.loads((folder / "report.json").read_text())["run"]["PA-MPJPE"] > 0


def test_hands_turn_with_their_labels(folder):
    source = HandCrops(mesh_subject("hand"), folder / "hands")
    rows = torch.arange(6)
    plain, turned = source.batch(rows, None), source.batch(rows, torch.Generator().manual_seed(1))
    for batch in (plain, turned):
        points, places = batch.labels.joints_3d[..., :3], batch.labels.joints_2d[..., :2]
        flat = points[..., :2] - points[..., :2].mean(1, keepdim=True)
        seen = places - places.mean(1, keepdim=True)
        scale = (flat * seen).sum((1, 2)) / flat.square().sum((1, 2))
        camera = torch.cat([scale[:, None], (places.mean(1) / scale[:, None]) - points[..., :2].mean(1)], 1)
        assert (project_weak(points, camera) - places).abs().mean() < 0.05
    assert not torch.equal(plain.labels.joints_2d, turned.labels.joints_2d)


def test_the_truth_has_no_error(folder):
    subject = mesh_subject("hand")
    source = HandCrops(subject, folder / "hands")
    found = measure(subject, lambda batch: subject.body(batch.params).vertices, source, 2)
    assert all(values.abs().max() < 1e-3 for name, values in found.items() if not name.startswith("F@"))
    assert (found["F@5"] == 1).all()


def sparse_body() -> MeshSubject:
    """The free body with every fourth vertex of the level before; simplification proper takes long."""
    body = load_default_body()
    count, all_kept = body.num_vertices, torch.arange(body.num_vertices)
    sizes, ups, kepts = [count], [], []
    for _ in range(3):
        kept = torch.arange(0, count, 4)
        near = torch.cdist(body.v_template[all_kept], body.v_template[all_kept[kept]]).argmin(1)
        places = torch.stack([torch.arange(count), near])
        ones = torch.ones(count, dtype=torch.float64)
        up = torch.sparse_coo_tensor(places, ones, (count, len(kept)), check_invariants=True)
        ups.append(up.coalesce())
        kepts.append(kept)
        count, all_kept = len(kept), all_kept[kept]
        sizes.append(count)
    edges = tuple(torch.tensor([[0, 1]]) for _ in sizes)
    hierarchy = MeshHierarchy(
        sizes=tuple(sizes), up=tuple(ups), kept=tuple(kepts), edges=edges, faces=(None,) * len(sizes)
    )
    assert body.J_regressor is not None
    return MeshSubject(
        kind="body",
        body=body,
        hierarchy=hierarchy,
        regressor=body.J_regressor[[*BODY_14, 0]],
        fitted=body.restrict(kepts[0]),
    )


def test_maps_of_a_frozen_trunk_are_what_it_sees(tmp_path):
    write_records(tmp_path / "records", 5)
    subject = sparse_body()
    crops = BodyCrops(subject, RecordStore(load_shards(tmp_path / "records")), (128, 96))
    pool = torch.nn.AvgPool2d(16)

    class Trunk(torch.nn.Module):
        def forward(self, x):
            return [pool(x)]

    cache_maps(crops, Trunk(), tmp_path / "maps", 7, augmented=False)
    cached = CachedMaps(crops, tmp_path / "maps")
    assert len(cached) == 7
    direct, stored = crops.batch(torch.tensor([1]), None), cached.batch(torch.tensor([6]), None)
    torch.testing.assert_close(stored.seen, pool(direct.seen), atol=5e-3, rtol=0)
    torch.testing.assert_close(stored.labels.vertices, direct.labels.vertices)
    assert [v.shape[1] for v in direct.labels.vertices] == list(subject.hierarchy.sizes[:0:-1])
    # Joints read from the mesh that losses compare are those of that mesh brought to the finest level.
    coarse = subject.levels(direct.params)[-1]
    whole, _ = subject.joints(fitted=False)(subject.hierarchy.upsample(coarse, level=1))
    torch.testing.assert_close(subject.joints(fitted=True)(coarse)[0], whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("regressor", ["none", "nsr"])
@pytest.mark.parametrize("head", ["fastmetro", "metro"])
def test_models_of_both_families(tmp_path, head, regressor):
    config = hand_config(tmp_path, head=head, regressor=regressor, tokens="none")
    subject = mesh_subject("hand")
    model = model_config(config, subject).build()
    set_rest_mesh(model, subject)
    output = model(torch.zeros(1, 3, 112, 112), True)
    assert [v.shape[1] for v in output.vertices] == [101, 403, 1609]
    body = replace(config, kind="body")
    assert loss_config(body).squared == (head == "metro")
    assert (
        loss_config(replace(body, surface_terms=True)).edges
        == ({"none": 500.0, "nsr": 0.0} if head == "fastmetro" else {"none": 0.0, "nsr": 1.0})[regressor]
    )


def test_hands_start_from_a_trunk_that_knows_people():
    config = ToreConfig(out=Path(), data=Path(), validation=Path(), kind="hand", width=32)
    subject = mesh_subject("hand")
    model = model_config(config, subject).build()
    start_from(model.encoder, config.trunk)
    trained = cast(KeypointHMR, create_model(config.trunk, pretrained=True)).encoder.state_dict()
    assert torch.equal(model.encoder.state_dict()["last_norm.weight"], trained["last_norm.weight"])
    set_rest_mesh(model, subject)
    assert model(torch.zeros(1, 3, 112, 112), True).vertices[-1].shape == (1, 1609, 3)


def test_unusable_settings():
    with pytest.raises(UsageError, match="must be positive"):
        ToreConfig(out=Path(), data=Path(), validation=Path(), samples=0)
