"""Kinds of the training of METRO, FastMETRO and TORE: loss terms and metrics, and prepared examples."""

from __future__ import annotations

import torch
from parity_lib import Case, Result, checker
from torch import Tensor

from fasthmr.data.metro_example import MetroAugmentation, MetroLabels, metro_example
from fasthmr.evaluation.metrics import mpjpe_mm, pa_mpjpe_mm, pve_mm
from fasthmr.geometry.alignment import similarity_align
from fasthmr.geometry.rotations import axis_angle_to_rotmat
from fasthmr.training import tore_terms as losses

HIPS = (2, 3)


@checker("tore.losses_metrics")
def check_losses(case: Case) -> Result:
    given = case.under("input")
    cells = given["scores"].shape[-1]
    side = round(cells**0.5)
    result = _joints_and_vertices(given) | _surface(given)

    has_mesh = given["has_smpl"]
    known = has_mesh > 0
    places = losses.project_weak(given["gt_vertices"], given["camera"])
    covered = losses.covered_cells(places, (side, side))
    scores = given["scores"].clone().requires_grad_()
    loss = losses.cluster_loss(scores, covered, has_mesh)
    (gradient,) = torch.autograd.grad(loss, scores)
    result |= {
        "projected_gt_vertices": places,
        "itp_mask_gt": covered[known],
        "itp_scores_minmax": losses.relative_scores(given["scores"])[known].unflatten(-1, (side, side)),
        "itp_loss": loss[None],
        "itp_loss_grad_scores": gradient,
    }

    rotations = axis_angle_to_rotmat(given["gt_pose"].unflatten(-1, (-1, 3)))
    parameters = losses.parameter_loss(
        given["pred_rotmat"], given["pred_betas"], rotations, given["gt_betas"], has_mesh
    )
    result |= {"rodrigues_gt_pose": rotations, "fastmetro_smpl_param": parameters[None]}

    joints, true = given["pred_joints"], given["gt_joints"][..., :3]
    labelled = given["has_3d"] > 0
    result |= {
        "mpjpe": mpjpe_mm(joints[labelled], true[labelled], root=HIPS) / 1000,
        "mpve": pve_mm(given["pred_vertices"][known], given["gt_vertices"][known]) / 1000,
        "pa_mpjpe": pa_mpjpe_mm(joints.double(), true.double()) / 1000,
        "pa_aligned_pred": similarity_align(joints.double(), true.double()),
    }
    return {f"output/{name}": value.detach() for name, value in result.items()}


def _joints_and_vertices(given: dict[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for name, squared in (("l1", False), ("mse", True)):
        flat = losses.joints_2d_loss(given["pred_2d"], given["gt_2d"], squared=squared)
        solid = losses.joints_3d_loss(
            given["pred_joints"], given["gt_joints"], given["has_3d"], squared=squared, root=HIPS
        )
        result |= {f"keypoint_2d_{name}": flat[None], f"keypoint_3d_{name}": solid[None]}
    result["vertices_l1"] = losses.vertices_loss(
        given["pred_vertices"], given["gt_vertices"], given["has_smpl"]
    )[None]
    return result


def _surface(given: dict[str, Tensor]) -> dict[str, Tensor]:
    found = given["pred_vertices"].clone().requires_grad_()
    true, has, faces = given["gt_vertices"], given["has_smpl"], given["faces"]
    edges = losses.loss_edges(faces, each_face=True)
    terms = {
        "tore_edge_length": losses.edge_length_loss(found, true, has, edges, 1e-6),
        "tore_normal_vector": losses.normal_loss(found, true, has, faces),
        "fastmetro_edge_gt": losses.edge_length_loss(found, true, has, given["edges"]),
        "fastmetro_edge_self": losses.edge_self_loss(found, has, given["edges"]),
        "fastmetro_normal": losses.normal_loss(found, true, has, faces),
    }
    result = {name: term[None] for name, term in terms.items()}
    for name in ("tore_edge_length", "tore_normal_vector"):
        (result[f"{name}_grad_vertices"],) = torch.autograd.grad(terms[name], found)
    return result


@checker("tore.preprocess")
def check_preprocess(case: Case) -> Result:
    result: dict[str, Tensor] = {}
    for number, options in enumerate(case.meta["config"]["cases"]):
        given = {
            name: case.tensors[f"case{number}/input/{name}"]
            for name in ("image", "joints_2d", "joints_3d", "pose", "pixel_noise")
        }
        gains = given["pixel_noise"].tolist()
        example = metro_example(
            given["image"].numpy(),
            (float(options["center"][0]), float(options["center"][1])),
            200 * options["scale"],
            MetroLabels(joints_2d=given["joints_2d"], joints_3d=given["joints_3d"], pose=given["pose"]),
            MetroAugmentation(
                rotation_deg=options["rot_degrees"],
                mirrored=options["flip"],
                color=(gains[0], gains[1], gains[2]),
            ),
            case.meta["config"]["resolution"],
        )
        start = f"case{number}/output"
        result[f"{start}/image"] = example.pixels
        for name in ("joints_2d", "joints_3d", "pose"):
            result[f"{start}/{name}"] = getattr(example.labels, name)
    return result
