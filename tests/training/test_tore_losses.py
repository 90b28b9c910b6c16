from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.training.tore_losses import (
    FASTMETRO_LOSS,
    METRO_LOSS,
    TORE_FASTMETRO_LOSS,
    TORE_METRO_LOSS,
    MeshJoints,
    MeshLabels,
    MeshLosses,
)
from fasthmr.training.tore_terms import (
    aligned_loss,
    cluster_loss,
    covered_cells,
    joints_3d_loss,
    loss_edges,
    project_weak,
    relative_scores,
    vertices_loss,
)
from fasthmr.types import MeshOutput

FACES = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sample(batch: int = 2) -> tuple[MeshOutput, MeshLabels, MeshJoints]:
    levels = tuple(drawn(batch, count, 3, seed=count) for count in (4, 6, 9))
    regressor = MeshJoints(torch.eye(9)[:5], torch.eye(9)[8])
    true = levels[-1][:, 8:]
    joints = levels[-1][:, :5] - true
    camera = torch.tensor([[0.8, 0.1, -0.1]]).expand(batch, -1)
    one = torch.ones(batch)
    labels = MeshLabels(
        joints_2d=torch.cat([project_weak(joints, camera), torch.ones(batch, 5, 1)], -1),
        joints_3d=torch.cat([joints, torch.ones(batch, 5, 1)], -1),
        vertices=tuple(level - true for level in levels),
        has_3d=one,
        has_mesh=one,
    )
    shown = MeshOutput(camera=camera, joints=joints, vertices=labels.vertices, clusters=None)
    return shown, labels, regressor


@pytest.mark.parametrize("config", [METRO_LOSS, FASTMETRO_LOSS, TORE_METRO_LOSS, TORE_FASTMETRO_LOSS])
def test_the_truth_costs_nothing_but_its_own_surface(config):
    output, labels, regressor = sample()
    flat = replace(config, edges_self=0.0, normals=0.0, surface=0)
    total, terms = MeshLosses(flat, regressor, FACES)(output, labels)
    # FastMETRO projects token joints about the hips and targets about the pelvis.
    offset = terms["joints_2d"] if config.centred else 0.0
    assert float(total - offset) == pytest.approx(0, abs=1e-3)
    assert set(terms) >= {"joints_3d", "joints_2d", "vertices"}


def test_gradients_reach_all_parts():
    output, labels, regressor = sample()
    moved = MeshOutput(
        camera=(output.camera * 1.1).requires_grad_(),
        joints=(output.joints + 0.1 * drawn(2, 5, 3)).requires_grad_(),
        vertices=tuple((v + 0.1 * drawn(*v.shape, seed=1)).requires_grad_() for v in output.vertices),
        clusters=drawn(2, 3, 12).softmax(-1).requires_grad_(),
    )
    config = replace(TORE_FASTMETRO_LOSS, edges=1.0, edges_self=1.0, normals=1.0, surface=0)
    total, terms = MeshLosses(config, regressor, FACES, (4, 3))(moved, labels, epoch=5.0)
    total.backward()
    assert set(terms) == {"joints_3d", "joints_2d", "vertices", "edges", "edges_self", "normals", "clusters"}
    for part in (moved.camera, moved.joints, *moved.vertices, moved.clusters):
        assert part.grad is not None and part.grad.abs().sum() > 0


def test_clusters_weigh_little_before_the_third_epoch():
    output, labels, regressor = sample()
    seen = replace(output, clusters=drawn(2, 3, 49).softmax(-1))
    losses = MeshLosses(TORE_FASTMETRO_LOSS, regressor, FACES)
    early, late = (float(losses(seen, labels, epoch=epoch)[1]["clusters"]) for epoch in (0.0, 30.0))
    assert 0 < early < 0.06 * late


def test_samples_without_labels_do_not_count():
    found, true = drawn(3, 5, 3), torch.cat([drawn(3, 5, 3, seed=1), torch.ones(3, 5, 1)], -1)
    known = torch.tensor([0.0, 1.0, 0.0])
    alone = joints_3d_loss(found[1:2], true[1:2], torch.ones(1), squared=False)
    assert torch.equal(joints_3d_loss(found, true, known, squared=False), alone)
    assert vertices_loss(found, true[..., :3], torch.zeros(3)) == 0


def test_cells_are_those_that_points_fall_in():
    places = torch.tensor([[[-1.0, -1.0], [0.99, 0.0], [1.0, 0.0], [0.0, -1.2]]])
    expected = torch.zeros(1, 2, 4)
    expected[0, 0, 0] = expected[0, 1, 3] = 1
    assert torch.equal(covered_cells(places, (2, 4)), expected)


def test_a_token_on_the_person_costs_nothing():
    covered = torch.zeros(1, 2, 2)
    covered[0, 0, 0] = 1
    weights = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.5]]])
    assert torch.equal(relative_scores(weights), weights)
    assert cluster_loss(weights, covered, torch.ones(1)) == 1.5


def test_edges_of_every_face_or_once():
    assert len(loss_edges(FACES, each_face=True)) == 12 and len(loss_edges(FACES, each_face=False)) == 6


def test_too_few_levels_are_refused():
    output, labels, regressor = sample()
    with pytest.raises(ValueError, match="3 mesh levels to compare, the model gives 1"):
        MeshLosses(TORE_FASTMETRO_LOSS, regressor, FACES)(
            replace(output, vertices=output.vertices[-1:]), labels
        )


def test_a_turned_mesh_is_as_good_as_the_truth_and_a_smaller_one_is_not():
    _, labels, regressor = sample()
    true, one = labels.vertices, torch.ones(2)
    turn = axis_angle_to_rotmat(torch.tensor([0.3, -2.0, 1.0]))
    turned = tuple(level @ turn.mT + 0.5 for level in true)
    assert aligned_loss(turned, true, one) < 1e-6
    shrunk = tuple((0.5 * level).requires_grad_() for level in turned)
    assert aligned_loss(shrunk, true, one) > 0.1
    assert aligned_loss(shrunk, true, torch.zeros(2)) == 0

    output = replace(sample()[0], vertices=shrunk)
    _, terms = MeshLosses(replace(TORE_FASTMETRO_LOSS, aligned=3.0), regressor, FACES)(output, labels)
    (found, _), (wanted, _) = regressor(shrunk[-1]), regressor(true[-1])
    torch.testing.assert_close(terms["aligned"], 3 * aligned_loss((*shrunk, found), (*true, wanted), one))
    terms["aligned"].backward()
    for level in shrunk:  # growing again is the way down
        assert level.grad is not None
        assert (level.grad * (level - level.mean(1, keepdim=True))).sum() < 0
