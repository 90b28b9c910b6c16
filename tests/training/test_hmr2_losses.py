"""HMR 2.0's losses, by hand and against those of the released code."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.training.hmr2_losses import HMR2Labels, HMR2LossWeights, hmr2_losses, weighted_sum
from fasthmr.types import BodyParams

GOLDEN = Path(__file__).parents[1] / "golden/hmr2/hmr2_full_tiny"


def released() -> tuple[dict[str, torch.Tensor], HMR2Labels]:
    tensors = load_file(GOLDEN.with_suffix(".safetensors"))
    truth = {k.removeprefix("input/gt."): v for k, v in tensors.items() if k.startswith("input/gt.")}
    rotations = {
        name: axis_angle_to_rotmat(truth[f"smpl_params.{name}"].unflatten(-1, (-1, 3)))
        for name in ("global_orient", "body_pose")
    }
    labels = HMR2Labels(
        keypoints_2d=truth["keypoints_2d"],
        keypoints_3d=truth["keypoints_3d"],
        params=BodyParams(**rotations, betas=truth["smpl_params.betas"]),
        has_global_orient=truth["has_smpl_params.global_orient"],
        has_body_pose=truth["has_smpl_params.body_pose"],
        has_betas=truth["has_smpl_params.betas"],
    )
    return tensors, labels


def predicted(tensors: dict[str, torch.Tensor]) -> BodyParams:
    start = "output/pred_smpl_params."
    return BodyParams(**{k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})


def test_terms_and_total_of_the_release():
    tensors, labels = released()
    config = json.loads(GOLDEN.with_suffix(".json").read_text())["config"]
    terms = hmr2_losses(
        tensors["output/pred_keypoints_2d"],
        tensors["output/pred_keypoints_3d"],
        predicted(tensors),
        labels,
        config["pelvis_ind"],
    )
    for name, value in terms.items():
        torch.testing.assert_close(value, tensors[f"output/loss.loss_{name}"], rtol=1e-5, atol=1e-5)
    weights = HMR2LossWeights(**{name.lower(): value for name, value in config["loss_weights"].items()})
    torch.testing.assert_close(
        weighted_sum(terms, weights), tensors["output/loss.total"], rtol=1e-5, atol=1e-6
    )


def test_the_published_weights_are_the_defaults():
    config = json.loads(GOLDEN.with_suffix(".json").read_text())["config"]
    given = {name.lower(): value for name, value in config["loss_weights"].items()}
    given["adversarial"] = 0.0005  # switched off in the recorded case
    assert asdict(HMR2LossWeights()) == pytest.approx(given)


def test_what_is_not_labelled_costs_nothing_and_the_pelvis_is_free():
    tensors, labels = released()
    none = torch.zeros(len(labels.has_betas))
    blank = replace(
        labels,
        keypoints_2d=labels.keypoints_2d * torch.tensor([1.0, 1, 0]),
        keypoints_3d=labels.keypoints_3d * torch.tensor([1.0, 1, 1, 0]),
        has_global_orient=none,
        has_body_pose=none,
        has_betas=none,
    )
    points_2d, points_3d = tensors["output/pred_keypoints_2d"], tensors["output/pred_keypoints_3d"]
    params = predicted(tensors)
    assert all(value.item() == 0 for value in hmr2_losses(points_2d, points_3d, params, blank).values())
    here = hmr2_losses(points_2d, points_3d, params, labels)["keypoints_3d"]
    there = hmr2_losses(points_2d, points_3d + 1.5, params, labels)["keypoints_3d"]
    torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-4)


def test_terms_add_up_over_the_batch():
    tensors, labels = released()
    params = predicted(tensors)

    def rows(which: slice) -> dict[str, torch.Tensor]:
        part = BodyParams(**{k: v[which] for k, v in vars(labels.params).items() if v is not None})
        fields = {k: v[which] for k, v in vars(labels).items() if k != "params"}
        mine = BodyParams(**{k: v[which] for k, v in vars(params).items() if v is not None})
        return hmr2_losses(
            tensors["output/pred_keypoints_2d"][which],
            tensors["output/pred_keypoints_3d"][which],
            mine,
            HMR2Labels(params=part, **fields),
        )

    first, rest, whole = rows(slice(0, 1)), rows(slice(1, None)), rows(slice(None))
    for name, value in whole.items():
        torch.testing.assert_close(first[name] + rest[name], value, rtol=1e-5, atol=1e-5)
