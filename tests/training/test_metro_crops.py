"""The recipe `tore` on data sets in METRO's files, with the free hand and with a hand of the user's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fasthmr.body.default_body import load_default_hand
from fasthmr.body.hand_points import hand_points, hand_regressor, mean_hand_pose
from fasthmr.body.hierarchy import MeshHierarchy, build_hierarchy
from fasthmr.data.metro_tsv import MetroTsv
from fasthmr.errors import UsageError
from fasthmr.geometry.crops import denormalize
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.io.hierarchy_files import save_hierarchy
from fasthmr.training.mesh_subject import MeshSubject, mesh_subject, subject_of_files
from fasthmr.training.metro_crops import MetroCrops
from fasthmr.training.tore import ToreTraining, loss_config, train
from fasthmr.training.tore_errors import measure
from fasthmr.training.tore_model import ToreConfig, model_config
from fasthmr.zoo import load_model
from tests.data.metro_files import label, write_tsv

SIZE = (112, 112)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A data set of hands, a hand of 778 vertices with a mean pose, its hierarchy with one level too many."""
    folder = tmp_path_factory.mktemp("metro")
    labels = [label(index, "hand") for index in range(5)]
    labels[3] |= {"has_smpl": 0}
    labels[4] |= {"has_3d_joints": 0}
    data = write_tsv(folder, 5, labels=labels)
    free = load_default_hand()
    levels = build_hierarchy(free.v_template, free.faces, sizes=(778, 195, 49))
    hand, faces = free.restrict(levels.kept[0]), levels.faces[1]
    assert faces is not None
    rows = torch.zeros(16, 778, dtype=torch.float64)
    rows[torch.arange(16), torch.arange(16) * 40] = 1
    table = np.stack([np.array([2**32 - 1, *free.parents[1:].tolist()]), np.arange(16)])
    arrays = {
        "v_template": hand.v_template.double(),
        "shapedirs": hand.shapedirs.double(),
        "posedirs": torch.zeros(778, 3, 135, dtype=torch.float64),
        "J_regressor": rows,
        "weights": hand.lbs_weights.double(),
        "f": faces,
        "kintree_table": torch.from_numpy(table.astype(np.int64)),
        "hands_mean": 0.1 * torch.ones(45, dtype=torch.float64),
    }
    save_file({key: value.contiguous() for key, value in arrays.items()}, folder / "hand.safetensors")
    parts = (levels.sizes, levels.up, levels.kept, levels.edges, levels.faces)
    names = ("sizes", "up", "kept", "edges", "faces")
    mesh = MeshHierarchy(**{name: part[1:] for name, part in zip(names, parts, strict=True)})
    save_hierarchy(mesh, folder / "mesh.safetensors")
    return data, folder / "hand.safetensors", folder / "mesh.safetensors"


@pytest.fixture(scope="module")
def subject(files: tuple[Path, Path, Path]) -> MeshSubject:
    return subject_of_files("hand", files[1], files[2])


def test_points_of_hands_are_sums_of_vertices(subject: MeshSubject) -> None:
    for body in (subject.body, load_default_hand()):
        rest = body(body.rest_params(1))
        joints = body.J_regressor @ rest.vertices
        points = hand_points(body, rest.vertices, joints)
        torch.testing.assert_close(hand_regressor(body) @ rest.vertices, points, atol=1e-6, rtol=0)
    assert mean_hand_pose(subject.body).mean() == pytest.approx(0.1)
    assert mean_hand_pose(load_default_hand()).abs().max() == 0


def test_crops_with_labels(files: tuple[Path, Path, Path], subject: MeshSubject) -> None:
    assert subject.hierarchy.sizes == (778, 195) and subject.compared == 2
    source = MetroCrops(subject, MetroTsv(files[0], "hand"), SIZE)
    batch = source.batch(torch.tensor([1, 3, 4]), None)
    row = source.data[1]
    assert batch.annotated and batch.seen.shape == (3, 3, *SIZE)
    middle = denormalize(batch.seen)[0, :, 56, 56].tolist()
    assert middle == pytest.approx([200, 20, 20], abs=12)
    pose = row.labels.pose.unflatten(0, (-1, 3))
    pose[1:] += 0.1  # of the mean hand
    torch.testing.assert_close(batch.params.body_pose[0], axis_angle_to_rotmat(pose[1:]))
    expected = row.labels.joints_3d[:, :3] - row.labels.joints_3d[:1, :3]
    torch.testing.assert_close(batch.labels.joints_3d[0, :, :3], expected)
    places = (row.labels.joints_2d[:, :2] - torch.tensor(row.center)) / (row.side / 2)
    assert (batch.labels.joints_2d[0, :, :2] - places).abs().max() < 2 * 2 / SIZE[0]
    assert batch.labels.has_mesh.tolist() == [1, 0, 1] and batch.labels.has_3d.tolist() == [1, 1, 0]
    assert [level.shape[1] for level in batch.labels.vertices] == [195, 778]
    changed = [source.batch(torch.tensor([1]), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(changed[0].seen, changed[1].seen) and not torch.equal(changed[0].seen, changed[2].seen)


def test_only_what_is_known_is_measured(files: tuple[Path, Path, Path], subject: MeshSubject) -> None:
    source = MetroCrops(subject, MetroTsv(files[0], "hand"), SIZE)
    found = measure(subject, lambda batch: subject.body(batch.params).vertices, source, 5)
    assert [len(found[name]) for name in ("MPJPE", "PA-MPJPE", "MPVE", "PA-MPVE")] == [4, 4, 4, 4]
    assert found["MPVE"].max() < 1e-3 and found["MPJPE"].min() > 100  # joints were drawn without the mesh


def config(files: tuple[Path, Path, Path], out: Path, **changes: object) -> ToreConfig:
    tiny = ToreConfig(
        out=out, data=files[0], validation=files[0], body=files[1], mesh=files[2], kind="hand",
        trunk="narrow", width=16, batch_size=2, steps=2, validated=2, checkpoint_every=2, report_every=100,
    )  # fmt: skip
    return replace(tiny, **changes)


def test_a_training_on_files(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    path = train(config(files, tmp_path))
    model = load_model(path)
    assert model.trained_body == "mano" and model.config.crop == "metro"
    assert not model.has_mesh  # it is made of a licensed body
    training = ToreTraining(config(files, tmp_path, surface_terms=True))
    total, terms = training.loss(0)
    total.backward()
    assert {"joints_3d", "joints_2d", "vertices", "edges"} <= terms.keys()
    assert loss_config(training.config, 2).levels == (0.5, 0.5)


def test_the_free_hand_needs_no_files(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    training = ToreTraining(config(files, tmp_path, body=None, mesh=None))
    assert training.subject is mesh_subject("hand") and isinstance(training.samples, MetroCrops)
    assert training.model.has_mesh


def test_settings_that_do_not_go_together(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    for changes, message in (
        ({"mesh": None}, "body and mesh belong together"),
        ({"parameters": True}, "head 'fastmetro' off bodies"),
        ({"validation": tmp_path}, "both be data sets"),
        ({"kind": "body", "trunk": "fasthmr_s"}, "use a CNN"),
        ({"data": tmp_path, "validation": tmp_path}, "rendered people have the free body"),
    ):
        with pytest.raises(UsageError, match=message):
            config(files, tmp_path, **changes)
    with pytest.raises(UsageError, match="lacks the regressor of its joints"):
        subject_of_files("body", files[1], files[2])


def test_pose_and_shape_are_read_off_the_mesh(tmp_path: Path) -> None:
    data = write_tsv(tmp_path, 2, labels=[label(0), label(1) | {"has_smpl": 0}])
    training = ToreTraining(
        ToreConfig(
            out=tmp_path, data=data, validation=data, trunk="narrow", parameters=True, width=8, batch_size=2
        )
    )
    assert training.of_parameters is not None
    total, terms = training.loss(0)
    total.backward()
    reader = training.model.head.parameters_of
    assert all(weight.grad is not None for weight in reader.parameters())
    values = {name: term.item() for name, term in terms.items()}
    guide = training.config.guide * sum(values.pop(name) for name in ("heat", "depth", "surface"))
    assert total.item() == pytest.approx(sum(values.values()) + guide)
    batch = training.samples.batch(torch.tensor([0, 1]), None)
    true = training.of_parameters(batch.params, torch.ones(2, 3), batch.params, batch.labels)
    assert true["parameters"].item() == 0 and true["body_vertices"].item() == pytest.approx(0, abs=1e-4)
    assert true["body_joints_3d"].item() > 1  # drawn without the mesh


@pytest.mark.parametrize("kind", ["body", "hand"])
@pytest.mark.parametrize("head", ["fastmetro", "metro"])
@pytest.mark.parametrize("regressor", ["none", "nsr"])
def test_pipelines_put_meshes_where_losses_do(kind: str, head: str, regressor: str, tmp_path: Path) -> None:
    chosen = ToreConfig(
        out=tmp_path, data=tmp_path, validation=tmp_path, kind=kind, trunk="narrow", head=head,
        regressor=regressor, width=16,
    )  # fmt: skip
    about_root = model_config(chosen, mesh_subject(chosen.kind)).about_root
    assert loss_config(chosen).centred == about_root
