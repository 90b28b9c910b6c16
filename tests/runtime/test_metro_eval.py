"""METRO's protocols on small data sets in its files."""

from __future__ import annotations

import base64
import json
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from fasthmr.body.default_body import load_default_body
from fasthmr.body.hand_points import hand_regressor
from fasthmr.body.hierarchy import default_hierarchy
from fasthmr.body.lbs import BodyModel
from fasthmr.body.skeletons import BODY_JOINTS_OF_17
from fasthmr.data.metro_tsv import MetroTsv
from fasthmr.errors import InputError, UsageError
from fasthmr.evaluation.freihand import write_freihand
from fasthmr.geometry.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle
from fasthmr.io.hierarchy_files import save_hierarchy
from fasthmr.runtime.hand_views import averaged_views
from fasthmr.runtime.metro_eval import MetroEvalConfig, report
from tests.data.metro_files import label, write_tsv
from tests.runtime.vertex_models import BODIES, posed, saved, seeing


def seen_label(kind: str, points: torch.Tensor) -> dict[str, Any]:
    """Of the person or hand that `seeing` sees."""
    params = posed(BODIES[kind])
    rotations = torch.cat([params.global_orient, params.body_pose], dim=1)[0]
    return label(0, "hand" if kind == "hand" else "body") | {
        "pose": rotmat_to_axis_angle(rotations).flatten().tolist(),
        "betas": [0.0] * 10,
        "3d_joints": torch.cat([points, torch.ones(len(points), 1)], dim=1).tolist(),
    }


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> MetroEvalConfig:
    """A model that sees one pose, and a data set of people in that pose; the last without a mesh."""
    folder = tmp_path_factory.mktemp("people")
    body = load_default_body()
    regressor = torch.zeros(17, body.num_vertices, dtype=torch.float64)
    regressor[torch.arange(17), torch.arange(17) * 700] = 1
    save_hierarchy(default_hierarchy("body"), folder / "mesh.safetensors", regressor)
    joints = regressor.float() @ body(posed(body)).vertices[0]
    points = torch.zeros(24, 3)
    points[[*range(13), 18]] = joints[list(BODY_JOINTS_OF_17)]
    said = seen_label("body", points + torch.tensor([0.1, 0.2, 3.0]))
    labels = [said, said | {"gender": "m"}, said | {"has_smpl": 0}, said | {"has_3d_joints": 0}]
    return MetroEvalConfig(
        model=str(saved(seeing("body"), folder / "model.safetensors")),
        data=write_tsv(folder, 4, labels=labels),
        protocol="tore_h36m_p2",
        mesh=folder / "mesh.safetensors",
        out=folder / "out",
        batch_size=3,
    )


def test_people_who_are_seen_rightly(people: MetroEvalConfig, caplog: pytest.LogCaptureFixture) -> None:
    found = json.loads(report(people).read_text())
    assert found["protocol"] == "tore_h36m_p2" and found["samples"] == 3
    assert found["mpjpe"]["value"] < 12 and found["pa_mpjpe"]["value"] < 12  # three levels of a mesh
    assert 0 < found["pve"]["value"] < 12
    assert "1 rows without 3D joints" in caplog.text
    assert json.loads(report(replace(people, samples=1)).read_text())["samples"] == 1


def test_the_truth_of_each_gender_is_its_own_body(
    people: MetroEvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def larger(path: Path) -> BodyModel:
        read.append(path.name)
        body = load_default_body()
        body.v_template = body.v_template * 1.1
        return body

    monkeypatch.setattr("fasthmr.runtime.metro_eval.load_body_file", larger)
    config = replace(
        people, protocol="tore_3dpw_gendered", body_male=Path("male.npz"), body_female=Path("female.npz")
    )
    found = json.loads(report(config).read_text())
    assert read == ["male.npz", "female.npz"] and found["pve"]["value"] > 20
    assert found["mpjpe"]["value"] < 12  # joints are annotated


def test_options_that_do_not_go_together(people: MetroEvalConfig) -> None:
    with pytest.raises(UsageError, match="both of them"):
        replace(people, protocol="tore_3dpw_gendered", body_male=Path("m.npz"))
    with pytest.raises(UsageError, match="views are for hands"):
        replace(people, views=True)
    with pytest.raises(UsageError, match="reads a body; the protocol freihand is of a hand"):
        report(replace(people, protocol="freihand", data=write_tsv(people.out.parent, 1, name="h")))
    with pytest.raises(UsageError, match="17 regressed joints, which the free body lacks"):
        report(replace(people, mesh=None))
    unknown = label(0) | {"has_3d_joints": 0}
    with pytest.raises(InputError, match="nothing to compare with"):
        report(replace(people, data=write_tsv(people.out.parent, 1, name="u", labels=[unknown])))


@pytest.mark.parametrize("views", [False, True])
def test_hands(tmp_path: Path, views: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(averaged_views, scales=(0.9,), turns_deg=(0.0, 20.0))
    monkeypatch.setattr("fasthmr.runtime.metro_eval.averaged_views", few)
    hand = BODIES["hand"]
    points = hand_regressor(hand) @ hand(posed(hand)).vertices[0]
    data = write_tsv(tmp_path, 2, labels=[seen_label("hand", points)] * 2)
    model = saved(seeing("hand"), tmp_path / "model.safetensors")
    config = MetroEvalConfig(
        model=str(model), data=data, protocol="freihand", views=views, out=tmp_path / "out"
    )
    found = json.loads(report(config).read_text())
    assert found["pa_pve"]["value"] < 2 and found["f@5mm"]["value"] > 0.95 and found["views"] is views
    with zipfile.ZipFile(tmp_path / "out" / "pred.zip") as archive:
        joints, meshes = json.loads(archive.read("pred.json"))
    assert np.shape(joints) == (2, 21, 3) and np.shape(meshes) == (2, 1609, 3)
    assert joints[0][0] == [0, 0, 0]
    moved = np.array(meshes[0]) - hand(posed(hand)).vertices[0].numpy()
    assert np.ptp(moved, axis=0).max() < 0.02  # the same mesh about its wrist


def test_views_are_brought_onto_the_plain_one(tmp_path: Path) -> None:
    mesh = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    calls = []

    def predict(seen: torch.Tensor) -> torch.Tensor:
        calls.append(seen)
        turn = axis_angle_to_rotmat(torch.tensor([0.0, 0.0, 0.1 * len(calls)]))
        return (len(calls) * mesh @ turn.T + len(calls)).expand(len(seen), -1, -1)

    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    picture = base64.b64encode(cv2.imencode(".png", noise)[1].tobytes()).decode()
    data = MetroTsv(write_tsv(tmp_path, 1, labels=[label(0, "hand")], pictures=[picture]), "hand")
    found = averaged_views(predict, [data[0]], (32, 32), scales=(0.9, 1.1), turns_deg=(-10.0, 0.0, 10.0))
    plain = mesh @ axis_angle_to_rotmat(torch.tensor([0.0, 0.0, 0.1])).T + 1
    torch.testing.assert_close(found[0], plain, atol=1e-4, rtol=0)
    assert len(calls) == 7 and not torch.equal(calls[0], calls[1])


def test_the_official_evaluation_wants_all_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_freihand(tmp_path / "pred.zip", torch.rand(1, 21, 3), torch.rand(1, 778, 3))
    assert "1 hands; the official evaluation expects 3960" in caplog.text
    assert (tmp_path / "pred.zip").is_file()
