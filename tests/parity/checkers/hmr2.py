"""Kinds `hmr2.*`: HMR 2.0 under its published key names."""

from __future__ import annotations

from typing import Any

import torch
from parity_lib import Case, Pair, Result, checker, recipe_weights
from torch import Tensor

from fasthmr.checkpoints.hmr2 import HMR2_TABLE, body_in_checkpoint
from fasthmr.checkpoints.keymap import load_into
from fasthmr.encoders.vit import ViTConfig
from fasthmr.geometry.cameras import (
    crop_camera_to_full,
    crop_camera_translation,
    default_focal,
    project_to_crop,
)
from fasthmr.geometry.crops import crop_pictures
from fasthmr.geometry.rotations import axis_angle_to_rotmat, rot6d_to_rotmat
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMR, HMRConfig
from fasthmr.training.hmr2_losses import HMR2Labels, HMR2LossWeights, hmr2_losses, weighted_sum
from fasthmr.types import BodyParams, HMROutput


def vit_config(options: dict[str, Any]) -> ViTConfig:
    """The encoder that a case describes; what it leaves out has the published value."""
    height, width = options.get("img_size", (256, 192))
    return ViTConfig(
        dim=options["embed_dim"],
        depth=options["depth"],
        heads=options["num_heads"],
        image_size=(height, width),
        patch_size=options.get("patch_size", 16),
        patch_padding=options.get("patch_padding", 2),
        mlp_ratio=options.get("mlp_ratio", 4),
        qkv_bias=options.get("qkv_bias", True),
        norm_eps=options.get("ln_eps", 1e-6),
    )


def head_config(options: dict[str, Any]) -> SMPLHeadConfig:
    """The head that a case describes."""
    if options.get("joint_rep", "6d") != "6d":
        raise ValueError(f"joint_rep {options['joint_rep']} is not covered")
    return SMPLHeadConfig(
        context_dim=options["context_dim"],
        dim=options["dim"],
        depth=options["depth"],
        heads=options["heads"],
        head_dim=options["dim_head"],
        mlp_dim=options["mlp_dim"],
        joints=1 + options.get("num_body_joints", 23),
        num_betas=options.get("num_betas", 10),
        token_input=options.get("transformer_input", "zero"),
        iterations=options.get("ief_iters", 1),
        norm_eps=options.get("ln_eps", 1e-5),
    )


class _Wrapper(torch.nn.Module):
    """Gives a lone part the name that it has inside an `HMR`."""

    def __init__(self, **parts: torch.nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


def _load(model: torch.nn.Module, weights: dict[str, Tensor], case: Case) -> None:
    load_into(model, weights, HMR2_TABLE, case.case)
    model.eval()


def _params(output: HMROutput) -> dict[str, Tensor]:
    params = output.params
    return {"global_orient": params.global_orient, "body_pose": params.body_pose, "betas": params.betas}


@checker("hmr2.vit")
@torch.no_grad()
def check_vit(case: Case) -> Result:
    encoder = vit_config(case.meta["config"]).build()
    _load(_Wrapper(encoder=encoder), case.under("weight"), case)
    image = case.tensors["input/img"]
    tokens_in = encoder.embed(image)
    block = encoder.blocks[0]
    attention, _ = block.attn(block.norm1(tokens_in))
    return {
        "mid/patch_tokens": encoder.patch_embed(image).flatten(2).mT,
        "mid/tokens_in": tokens_in,
        "mid/block0_attn_out": attention,
        "mid/block0_out": block(tokens_in),
        "output/feat": encoder(image)[0],
    }


@checker("hmr2.smpl_head")
@torch.no_grad()
def check_head(case: Case) -> Result:
    head = head_config(case.meta["config"]).build()
    _load(_Wrapper(head=head), case.under("weight"), case)
    tokens: list[Tensor] = []
    head.decoder.register_forward_hook(lambda module, inputs, output: tokens.append(output))
    features = case.tensors["input/feat"]
    steps = head.refine(features.flatten(2).mT)
    last = head(features)
    return {
        **{f"mid/token_out_iter{i}": token for i, token in enumerate(tokens[: len(steps)])},
        **{f"output/{name}": value for name, value in _params(last).items()},
        "output/cam": last.camera,
        "output/list_body_pose": torch.cat([step.params.body_pose for step in steps]),
        "output/list_betas": torch.cat([step.params.betas for step in steps]),
        "output/list_cam": torch.cat([step.camera for step in steps]),
    }


@checker("hmr2.vit_fullsize")
@torch.no_grad()
def check_full_size(case: Case) -> Result:
    options = case.meta["config"]
    with torch.device("meta"):
        model = HMRConfig(encoder=vit_config(options["vit"]), head=head_config(options["smpl_head"])).build()
    shapes = {HMR2_TABLE.published(key): tensor.shape for key, tensor in model.state_dict().items()}
    model.to_empty(device="cpu")
    _load(model, recipe_weights(shapes, seed=options["seed"], gain=options["gain"]), case)
    features = model.encoder(case.tensors["input/img"])[0]
    output = model.head(features)
    every = features.shape[1] // case.tensors["output/feat_sub"].shape[1]
    return {
        "num_parameters": Pair(
            actual=sum(parameter.numel() for parameter in model.parameters()),
            expected=case.meta["num_parameters"],
            tolerance={"exact": True},
        ),
        "output/feat_sub": features[:, ::every],
        "output/feat_mean": features.mean((2, 3)),
        **{f"output/{name}": value for name, value in _params(output).items()},
        "output/cam": output.camera,
    }


@checker("hmr2.model")
@torch.no_grad()
def check_model(case: Case) -> Result:
    options, tensors = case.meta["config"], case.tensors
    model = HMR(HMRConfig(encoder=vit_config(options["vit"]), head=head_config(options["smpl_head"])))
    weights = case.under("weight")
    _load(model, weights, case)
    carried = body_in_checkpoint(weights, vertex_ids=tuple(tensors["aux/vertex_ids"].tolist()))
    assert carried is not None, "the checkpoint carries no body"
    body, joints44 = carried

    focal, crop_size = float(options["focal_length"]), options["image_size"]
    output = model(tensors["input/img"])
    mesh = body(output.params)
    keypoints_3d = joints44(mesh)
    keypoints_2d = project_to_crop(keypoints_3d, output.camera, focal, crop_size)
    image_size = tensors["input/img_size"]
    focal_full = default_focal(image_size, focal, crop_size).max()  # the release takes the batch's largest
    result: dict[str, Tensor] = {
        "output/pred_cam": output.camera,
        "output/pred_cam_t": crop_camera_translation(output.camera, focal, crop_size),
        "output/focal_length": torch.full((len(keypoints_3d), 2), focal),
        "output/pred_keypoints_3d": keypoints_3d,
        "output/pred_vertices": mesh.vertices,
        "output/pred_keypoints_2d": keypoints_2d,
        **{f"output/pred_smpl_params.{name}": value for name, value in _params(output).items()},
        "output/cam_t_full": crop_camera_to_full(
            output.camera,
            tensors["input/box_center"],
            tensors["input/box_size"],
            image_size,
            focal_full.expand(len(image_size)),
        ),
        "output/focal_full": focal_full,
    }
    if "output/loss.total" in tensors:
        result.update(_losses(case, output, keypoints_2d, keypoints_3d))
    return result


def _losses(case: Case, output: HMROutput, keypoints_2d: Tensor, keypoints_3d: Tensor) -> dict[str, Tensor]:
    truth, weights = case.under("input"), case.meta["config"]["loss_weights"]
    names = ("global_orient", "body_pose", "betas")
    true = {name: truth[f"gt.smpl_params.{name}"] for name in names}
    for name in ("global_orient", "body_pose"):
        true[name] = axis_angle_to_rotmat(true[name].unflatten(-1, (-1, 3)))
    labels = HMR2Labels(
        keypoints_2d=truth["gt.keypoints_2d"],
        keypoints_3d=truth["gt.keypoints_3d"],
        params=BodyParams(**true),
        **{f"has_{name}": truth[f"gt.has_smpl_params.{name}"].float() for name in names},
    )
    terms = hmr2_losses(keypoints_2d, keypoints_3d, output.params, labels, case.meta["config"]["pelvis_ind"])
    total = weighted_sum(terms, HMR2LossWeights(**{name: weights[name.upper()] for name in terms}))
    return {"output/loss.total": total, **{f"output/loss.loss_{name}": term for name, term in terms.items()}}


@checker("hmr2.crop")
def check_crop(case: Case) -> Result:
    options = case.meta["config"]
    picture = case.tensors["input/img_bgr"].flip(-1)
    aspect = tuple(options["bbox_shape"]) if options.get("bbox_shape") else (1, 1)
    crop = crop_pictures(picture, case.tensors["input/boxes_xyxy"].double(), options["image_size"], aspect)
    return {
        "output/img": crop.pixels,
        "output/box_center": crop.box_center,
        "output/box_size": crop.box_size,
        "output/img_size": crop.image_size,
    }


@checker("hmr2.rotations")
def check_rotations(case: Case) -> Result:
    return {
        "output/aa_to_rotmat": axis_angle_to_rotmat(case.tensors["input/axis_angle"]),
        "output/rot6d_to_rotmat": rot6d_to_rotmat(case.tensors["input/rot6d"], layout="columns"),
    }
