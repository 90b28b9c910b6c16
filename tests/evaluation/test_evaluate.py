from __future__ import annotations

import dataclasses

import pytest
import torch

from fasthmr.errors import UsageError
from fasthmr.evaluation.evaluate import Evaluator, evaluate
from fasthmr.evaluation.metrics import pck
from fasthmr.evaluation.protocols import PROTOCOLS, UNITS, PointSet, protocol
from fasthmr.evaluation.samples import Bodies, Keypoints


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def regressor(points: int, vertices: int, seed: int = 9) -> torch.Tensor:
    rows = noise(points, vertices, seed=seed).softmax(dim=1)
    return rows / rows.sum(dim=1, keepdim=True)


BODIES_3D = [name for name, rule in PROTOCOLS.items() if not rule.is_2d and name != "freihand"]


@pytest.mark.parametrize("name", BODIES_3D)
def test_moving_the_whole_person_costs_nothing(name: str):
    rule = protocol(name)
    true = noise(4, rule.points.count, 3)
    result = (
        evaluate(name, Bodies(points=true + noise(4, 1, 3, seed=1)), Bodies(points=true))
        if (rule.annotated is None)
        else evaluate(
            name, Bodies(points=true + noise(4, 1, 3, seed=1)), Bodies(points=as_annotated(true, rule))
        )
    )
    assert result["mpjpe"] == pytest.approx(0, abs=1e-9)
    assert result["pa_mpjpe"] == pytest.approx(0, abs=1e-9)
    assert {score.unit for score in result.scores.values()} == {"mm"}


def as_annotated(points: torch.Tensor, rule) -> torch.Tensor:
    """The same joints in the order of the annotation file, its other joints anywhere."""
    annotated = noise(len(points), rule.annotated.count, 3, seed=5)
    annotated[:, list(rule.annotated.joints)] = points[:, list(rule.points.joints)]
    return annotated


def test_hmr2_by_hand():
    true = noise(2, 44, 3)
    found = true.clone()
    found[:, 30] += torch.tensor([0.014, 0, 0])  # one of fourteen joints
    found[:, 3] += 1.0  # not among the fourteen
    assert evaluate("hmr2_3dpw", Bodies(points=found), Bodies(points=true))["mpjpe"] == pytest.approx(1.0)
    found = true.clone()
    found[:, 39] += torch.tensor([0.01, 0, 0])  # the pelvis moves all
    assert evaluate("hmr2_h36m_p2", Bodies(points=found), Bodies(points=true))["mpjpe"] == pytest.approx(10.0)


def test_3dpw_regresses_both_meshes_and_centres_them_on_the_pelvis():
    matrix = regressor(17, 50)
    true = noise(3, 50, 3)
    found = true + noise(3, 1, 3, seed=2)
    found[:, 7] += 0.05
    result = evaluate("fasthmr_3dpw", Bodies(vertices=found), Bodies(vertices=true), regressor=matrix)
    difference = found - true - (matrix[:1] @ (found - true))
    assert result["pve"] == pytest.approx(1000 * difference.norm(dim=-1).mean().item())
    joints = (matrix @ (found - true))[:, [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]]
    joints = joints - (matrix[:1] @ (found - true))
    assert result["mpjpe"] == pytest.approx(1000 * joints.norm(dim=-1).mean().item())


def test_emdb_is_centred_on_the_hips_and_measures_acceleration_within_sequences():
    true = torch.zeros(7, 24, 3, dtype=torch.float64)
    found = true.clone()
    found[:, 20, 1] = 0.001 * torch.arange(7.0) ** 2
    found[4:, 20, 1] = 0.0
    found[:, [1, 2], 0] += torch.tensor([0.024, -0.024])  # their middle stays
    sequences = torch.tensor([3, 3, 3, 3, 1, 1, 1])
    result = evaluate("fasthmr_emdb1", Bodies(points=found), Bodies(points=true), sequences=sequences)
    torch.testing.assert_close(
        result.scores["accel_mm"].samples, torch.tensor([2 / 24, 2 / 24, 0.0], dtype=torch.float64)
    )
    assert result["accel_m_s2"] == pytest.approx(0.9 * result["accel_mm"])
    assert result["mpjpe"] == pytest.approx(2.0 + (0 + 1 + 4 + 9) / 24 / 7)


def test_metro_takes_annotated_joints_as_truth_and_the_mesh_root_from_the_mesh():
    rule = protocol("tore_3dpw")
    matrix, mesh = regressor(17, 30), noise(2, 30, 3)
    truth = Bodies(vertices=mesh, points=as_annotated(matrix @ mesh, rule))
    result = evaluate("tore_3dpw", Bodies(vertices=mesh + 1.5), truth, regressor=matrix)
    assert all(score.value == pytest.approx(0, abs=1e-9) for score in result.scores.values())
    assert set(result.scores) == {"mpjpe", "pa_mpjpe", "pve"}
    without_meshes = evaluate(
        "tore_h36m_p2", Bodies(vertices=mesh), Bodies(points=truth.points), regressor=matrix
    )
    assert set(without_meshes.scores) == {"mpjpe", "pa_mpjpe"}


def test_freihand_aligns_joints_and_mesh_apart_and_may_mirror():
    joints, mesh = 0.05 * noise(2, 21, 3), 0.05 * noise(2, 90, 3, seed=1)
    mirror = torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    found = Bodies(points=3 * joints * mirror, vertices=0.5 * mesh + 7)
    result = evaluate("freihand", found, Bodies(points=joints, vertices=mesh))
    assert result["pa_mpjpe"] == pytest.approx(0, abs=1e-9)
    assert result["pa_pve"] == pytest.approx(0, abs=1e-9)
    assert (result["f@5mm"], result["f@15mm"]) == (1.0, 1.0)
    assert result["auc"] + 1e-12 >= 1 - 0.5 / 99  # rounding may miss the first threshold, zero
    assert "mpjpe" not in result.scores


def test_2d_protocol_agrees_with_pck_and_tells_its_interval():
    true, found = 0.1 * noise(30, 44, 2), 0.1 * noise(30, 44, 2, seed=1)
    confidence = (noise(30, 44, seed=2) > 0).double()
    confidence[:, 5] = 0.5  # not above one half
    size = 0.6 + 0.1 * noise(30, seed=3).clamp(-2, 2)
    truth = Keypoints(xy=true, confidence=confidence, size=size)
    result = evaluate("hmr2_coco_val", Keypoints(xy=found), truth)
    for threshold in (0.05, 0.1):
        score = result.scores[f"pck@{threshold:g}"]
        assert score.value == pytest.approx(pck(found, true, confidence > 0.5, size, threshold))
        assert score.interval[0] < score.value < score.interval[1]
    again = evaluate("hmr2_coco_val", Keypoints(xy=found), truth)
    assert again.as_dict() == result.as_dict()


def test_batches_equal_all_at_once():
    true, found = noise(10, 24, 3), noise(10, 24, 3, seed=1)
    evaluator = Evaluator("fasthmr_emdb1")
    for rows in (slice(0, 3), slice(3, 10)):
        evaluator.add(
            Bodies(points=found[rows]), Bodies(points=true[rows]), torch.zeros(len(true[rows])).long()
        )
    whole = evaluate(
        "fasthmr_emdb1", Bodies(points=found), Bodies(points=true), sequences=torch.zeros(10).long()
    )
    for name, score in evaluator.result().scores.items():
        torch.testing.assert_close(score.samples, whole.scores[name].samples)
    assert evaluator.result().count == 10


@pytest.mark.parametrize(
    ("name", "count", "words"),
    [
        ("fasthmr_3dpw", 24, "takes 17: 17 joints of SPIN"),
        ("fasthmr_emdb1", 44, "takes 24: 24 SMPL joints"),
        ("hmr2_3dpw", 17, "takes 44"),
        ("freihand", 16, "takes 21"),
    ],
)
def test_points_of_another_set_are_refused(name: str, count: int, words: str):
    points = noise(2, count, 3)
    with pytest.raises(UsageError, match=words):
        evaluate(name, Bodies(points=points), Bodies(points=points))


def test_wrong_use_is_refused():
    body, points = Bodies(vertices=noise(1, 50, 3)), Bodies(points=noise(1, 44, 3))
    with pytest.raises(UsageError, match="no protocol 'hmr2_3dwp' \\(did you mean 'hmr2_3dpw'"):
        evaluate("hmr2_3dwp", points, points)
    with pytest.raises(UsageError, match="gives 24 points; fasthmr_3dpw needs 17"):
        evaluate("fasthmr_3dpw", body, body, regressor=regressor(24, 50))
    with pytest.raises(UsageError, match="meshes of 50 vertices and none"):
        evaluate("fasthmr_3dpw", body, body)
    with pytest.raises(UsageError, match="one for 60 vertices"):
        evaluate("fasthmr_3dpw", body, body, regressor=regressor(17, 60))
    with pytest.raises(UsageError, match="2D protocol"):
        evaluate("hmr2_coco_val", points, points)
    with pytest.raises(UsageError, match="3D protocol"):
        evaluate("hmr2_3dpw", Keypoints(xy=noise(1, 44, 2)), Keypoints(xy=noise(1, 44, 2)))
    with pytest.raises(UsageError, match=r"sample 0 .* not finite"):
        evaluate("hmr2_3dpw", Bodies(points=torch.full((1, 44, 3), torch.nan)), points)
    with pytest.raises(UsageError, match="2 predictions for 1"):
        evaluate("hmr2_3dpw", Bodies(points=noise(2, 44, 3)), points)
    with pytest.raises(UsageError, match="no samples"):
        Evaluator("hmr2_3dpw").result()
    unlabelled = Keypoints(xy=noise(1, 44, 2), confidence=torch.zeros(1, 44), size=torch.ones(1))
    with pytest.raises(UsageError, match="no true keypoint"):
        evaluate("hmr2_coco_val", Keypoints(xy=noise(1, 44, 2)), unlabelled)


def test_table_is_frozen_and_whole():
    for name, rule in PROTOCOLS.items():
        assert rule.name == name
        text = rule.describe()
        assert rule.split in text and rule.regressor in text and "source" in text
        with pytest.raises(dataclasses.FrozenInstanceError):
            rule.split = "train"  # type: ignore[misc]
    assert PROTOCOLS["fasthmr_emdb1"].points.root == (1, 2)
    assert PROTOCOLS["hmr2_3dpw"].points.joints == (*range(25, 38), 43)
    assert set(UNITS.values()) == {"mm", "mm/frame^2", "m/s^2", "0..1", "percent"}
    with pytest.raises(ValueError, match="1 joints, 2 names"):
        PointSet(name="x", count=3, joints=(0,), names=("a", "b"))
