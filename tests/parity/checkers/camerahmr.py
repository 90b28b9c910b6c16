"""Kinds `camerahmr.*`: CameraHMR under its published key names."""

from __future__ import annotations

from typing import Any

import torch
from parity_lib import Case, Pair, Result, checker, recipe_weights
from torch import Tensor, nn

from fasthmr.checkpoints.camerahmr import (
    CAMERAHMR_SMPLX_TABLE,
    CAMERAHMR_TABLE,
    DENSE_KEYPOINTS_TABLE,
    HUMAN_FOV_TABLE,
    human_fov_config,
)
from fasthmr.checkpoints.keymap import KeyTable, load_into
from fasthmr.geometry.cameras import bbox_info, crop_camera_to_full, project
from fasthmr.geometry.letterbox import letterbox
from fasthmr.heads.dense_keypoints import DenseKeypointsHeadConfig
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.heads.smplx import SMPLXHeadConfig
from fasthmr.models.camera_hmr import CameraHMRConfig
from fasthmr.models.human_fov import HumanFoV


def _sizes(options: dict[str, Any]) -> dict[str, Any]:
    """Fields of the decoder's configuration that a case describes."""
    return {
        "context_dim": options["context_dim"],
        "dim": options["dim"],
        "depth": options["depth"],
        "heads": options["heads"],
        "head_dim": options["dim_head"],
        "mlp_dim": options["mlp_dim"],
        "norm_eps": options.get("ln_eps", 1e-5),
    }


def _load(model: nn.Module, case: Case, table: KeyTable, weights: dict[str, Tensor] | None = None) -> None:
    load_into(model, case.under("weight") if weights is None else weights, table, case.case)
    model.eval()


@checker("camerahmr.model")
@torch.no_grad()
def check_model(case: Case) -> Result:
    from parity_checkers_hmr2 import vit_config  # loaded after this file

    options, tensors, weights = case.meta["config"], case.tensors, case.under("weight")
    encoder = vit_config(options["vit"])
    aux = weights.get("smpl_head.deckp.bias", torch.empty(0))
    head = SMPLHeadConfig(
        **_sizes({"context_dim": encoder.dim, **options["head"]}),
        joints=len(weights["smpl_head.decpose.bias"]) // 6,
        num_betas=len(weights["smpl_head.decshape.bias"]),
        aux_keypoints=len(aux) // 2,
        token_input="camera",
    )
    model = CameraHMRConfig(encoder=encoder, head=head).build()
    _load(model, case, CAMERAHMR_TABLE)
    given: list[Tensor] = []
    model.head.decoder.register_forward_pre_hook(lambda module, inputs: given.append(inputs[1]))

    K, center, size = tensors["input/cam_int"], tensors["input/box_center"], tensors["input/box_size"]
    image_size, focal = tensors["input/img_size"].flip(-1), K[:, 0, 0]
    output = model(tensors["input/img"], bbox_info(center, size, image_size / 2, focal))
    cam_t = crop_camera_to_full(output.camera, center, size, image_size, focal)
    result = {
        "mid/token_in": given[0][:, None],
        "output/global_orient": output.params.global_orient,
        "output/body_pose": output.params.body_pose,
        "output/betas": output.params.betas,
        "output/cam": output.camera,
        "output/cam_t": cam_t,
        "output/points_2d": project(tensors["input/points"] + cam_t[:, None], K),
    }
    if output.aux_keypoints_2d is not None:
        flat = output.aux_keypoints_2d.flatten(1)
        result[f"mid/aux_keypoints_2d_{flat.shape[1]}"] = flat
    return result


@checker("camerahmr.smplx_head")
@torch.no_grad()
def check_smplx_head(case: Case) -> Result:
    weights = case.under("weight")
    head = SMPLXHeadConfig(
        **_sizes(case.meta["config"]),
        joints=len(weights["smplx_head.decpose.bias"]) // 6,
        num_betas=len(weights["smplx_head.decshape.bias"]),
        body_joints=case.tensors["output/body_pose"].shape[1],
        hand_joints=len(weights["smplx_head.dechandpose.bias"]) // 12,
    ).build()
    _load(nn.ModuleDict({"head": head}), case, CAMERAHMR_SMPLX_TABLE)
    output = head(case.tensors["input/feat"], case.tensors["input/bbox_info"])
    pose, body, hand = output.params.body_pose, head.config.body_joints, head.config.hand_joints
    return {
        "output/global_orient": output.params.global_orient,
        "output/body_pose": pose[:, :body],
        "output/left_hand_pose": pose[:, -2 * hand : -hand],
        "output/right_hand_pose": pose[:, -hand:],
        "output/betas": output.params.betas,
        "output/cam": output.camera,
    }


@checker("camerahmr.dense_keypoints_head")
@torch.no_grad()
def check_dense_keypoints_head(case: Case) -> Result:
    points = len(case.under("weight")["head.dec_kp.bias"]) // 3
    head = DenseKeypointsHeadConfig(**_sizes(case.meta["config"]), points=points).build()
    _load(nn.ModuleDict({"head": head}), case, DENSE_KEYPOINTS_TABLE)
    output = head(case.tensors["input/feat"])
    return {"output/keypoints": torch.cat([output.xy, output.log_sigma[..., None]], dim=-1)}


@checker("camerahmr.human_fov")
@torch.no_grad()
def check_human_fov(case: Case) -> Result:
    options, shapes = case.meta["config"], case.meta["weight_shapes"]
    with torch.device("meta"):
        model: HumanFoV = human_fov_config({key: tuple(shape) for key, shape in shapes.items()}).build()
    model.to_empty(device="cpu")
    weights = recipe_weights(shapes, seed=options["seed"], gain=options["gain"])
    _load(model, case, HUMAN_FOV_TABLE, weights)
    pictures = case.tensors["input/img"]
    result: dict[str, Tensor | Pair] = {
        "output/features720": model.features(pictures),
        "output/fov": model(pictures),
        "num_parameters": Pair(
            actual=sum(p.numel() for p in model.parameters()) + model.unused_published_params,
            expected=sum(
                torch.Size(shape).numel()
                for key, shape in shapes.items()
                if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
            ),
            tolerance={"exact": True},
        ),
    }
    for name, raw in case.tensors.items():
        if name.startswith("input/raw_image"):
            key = name.replace("input/raw_image", "output/letterbox")
            reference = case.tensors[key]
            square = torch.from_numpy(letterbox(raw.numpy(), len(reference)))
            tolerance = {"max_abs": case.tolerance["uint8"]}
            result[key] = Pair(actual=square, expected=reference, tolerance=tolerance)
    return result
