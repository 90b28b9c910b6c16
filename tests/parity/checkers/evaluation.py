"""Kinds of evaluation: HMR 2.0's metrics, OKS and COCO keypoint AP."""

from __future__ import annotations

import torch
from parity_lib import Case, Pair, Result, checker
from torch import Tensor

from fasthmr.evaluation.coco import detections_by_image, keypoint_ap, keypoint_results
from fasthmr.evaluation.metrics import (
    auc,
    f_scores,
    keypoint_l2,
    mpjpe_mm,
    pa_mpjpe_mm,
    pck_curve,
    pck_per_point,
    precision_recall,
)
from fasthmr.geometry.alignment import similarity_align
from fasthmr.geometry.oks import oks, oks_nms


@checker("hmr2.eval_metrics")
def check_eval_metrics(case: Case) -> Result:
    options, tensors = case.meta["config"], case.tensors
    source, target = tensors["input/S1"], tensors["input/S2"]
    aligned = similarity_align(source, target)
    found_3d, true_3d = tensors["input/pred_keypoints_3d"], tensors["input/gt_keypoints_3d"][..., :3]
    joints, pelvis = options["keypoint_list"], options["pelvis_ind"]
    found_2d, true_2d = tensors["input/pred_keypoints_2d"], tensors["input/gt_keypoints_2d"]
    per_sample = {
        "mode_mpjpe": mpjpe_mm(found_3d, true_3d, root=pelvis, joints=joints),
        "mode_re": pa_mpjpe_mm(found_3d[:, joints], true_3d[:, joints]),
        "mode_kpl2": keypoint_l2(found_2d, true_2d[..., :2], true_2d[..., 2]),
    }
    result: dict[str, Tensor | Pair] = {
        "output/S1_aligned": aligned,
        "output/pa_error": pa_mpjpe_mm(source, target) / 1000,
        "output/mpjpe_mm": mpjpe_mm(source, target, root=None),
        "output/pa_mpjpe_mm": pa_mpjpe_mm(source, target),
        **{f"output/eval.{name}": value for name, value in per_sample.items()},
    }
    averages = {name: float(value.double().mean()) for name, value in per_sample.items()}
    # Tight boxes are stored in units of 200 pixels; keypoints are in units of the grown box.
    size = 200 * tensors["input/scale"].max(dim=1).values / tensors["input/box_size"]
    valid = true_2d[..., 2] > options["pck_conf_threshold"]
    for threshold in options["pck_thresholds"]:
        shares = pck_per_point(found_2d, true_2d[..., :2], valid, size.to(found_2d), threshold)
        result[f"output/pck_kp_{threshold}"] = shares
        result[f"output/pck_avg_{threshold}"] = shares[shares >= 0].mean()
        averages[f"kpAvg_pck_{threshold}"] = float(shares[shares >= 0].mean())
    for name, expected in case.meta.get("metrics", {}).items():
        result[f"metrics/{name}"] = Pair(actual=averages[name], expected=expected)
    return result


@checker("vitpose.oks_nms")
def check_oks_nms(case: Case) -> Result:
    points, area = case.tensors["input/keypoints"][..., :2], case.tensors["input/area"]
    sigmas, threshold = case.meta["sigmas"], case.meta.get("config", {}).get("oks_thr", 0.9)
    first = oks(points[:1].expand_as(points), points, (area[0] + area) / 2, sigmas=sigmas)
    return {
        "output/keep": oks_nms(points, area, case.tensors["input/score"], threshold, sigmas),
        "output/oks_to_first": first,
    }


@checker("vitpose.coco_ap")
def check_coco_ap(case: Case) -> Result:
    options, rows, expected = case.meta["config"], case.meta["predictions"], case.meta["output"]
    assert not options.get("soft_nms"), "suppression is hard"
    detections = detections_by_image(
        [row["image_id"] for row in rows],
        torch.tensor([row["keypoints"] for row in rows]),
        torch.tensor([row["area"] for row in rows]),
        torch.tensor([row["box_score"] for row in rows]),
    )
    results = keypoint_results(
        detections,
        score_threshold=options["vis_thr"],
        nms_threshold=options["oks_thr"],
        sigmas=options["sigmas"],
    )
    metrics = keypoint_ap(case.meta["ground_truth"], results, options["sigmas"])
    kept = expected["kept"]
    exact, close = {"exact": True}, {"max_abs": case.tolerance["score"]}
    ids = ([row["image_id"] for row in results], [row["image_id"] for row in kept])
    scores = (torch.tensor([row["score"] for row in results]), torch.tensor([row["score"] for row in kept]))
    points = (
        torch.tensor([row["keypoints"][:2] for row in results]),
        torch.tensor([row["first_keypoint"] for row in kept]),
    )
    return {
        "kept/image_id": Pair(actual=ids[0], expected=ids[1], tolerance=exact),
        "kept/score": Pair(actual=scores[0], expected=scores[1], tolerance=close),
        "kept/first_keypoint": Pair(actual=points[0], expected=points[1], tolerance=close),
        **{
            f"metrics/{name}": Pair(
                actual=metrics[name], expected=value, tolerance={"max_abs": case.tolerance["metrics"]}
            )
            for name, value in expected["metrics"].items()
        },
    }


@checker("tore.freihand_eval")
def check_freihand(case: Case) -> Result:
    options, tensors = case.meta["config"], case.tensors
    limits_mm = [1000 * limit for limit in options["f_thresholds"]]
    low, high, steps = options["pck_range"]
    thresholds = torch.linspace(low, high, steps, dtype=torch.float64)
    result: dict[str, Tensor] = {}
    aligned: dict[str, Tensor] = {}
    for name, long_name in (("xyz", "xyz"), ("verts", "mesh")):
        found, true = tensors[f"input/pred_{name}"], tensors[f"input/gt_{name}"]
        aligned[name] = similarity_align(found, true, reflection=True)
        result[f"output/{name}_aligned"] = aligned[name]
        for suffix, points in (("", found), ("_al", aligned[name])):
            distance = (points - true).norm(dim=-1)
            curve = pck_curve(distance, thresholds)
            result[f"output/{long_name}{suffix}_pck"] = curve
            result[f"output/{long_name}{suffix}_auc"] = torch.tensor([auc(curve, thresholds)])
            mean = mpjpe_mm(points, true, root=None).mean() / 1000
            result[f"output/{long_name}{suffix}_mean3d"] = mean[None]
    true = tensors["input/gt_verts"]
    for suffix, points in (("", tensors["input/pred_verts"]), ("_aligned", aligned["verts"])):
        scores = f_scores(points, true, limits_mm)
        result[f"output/f_score{suffix}_per_sample"] = scores
        result[f"output/f_score{suffix}"] = scores.mean(dim=0)
    # Upstream names the two the other way round.
    result["output/precision_recall_aligned"] = precision_recall(aligned["verts"], true, limits_mm).flip(-1)
    return result
