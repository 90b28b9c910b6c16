"""Kinds of HMR 2.0's training: the discriminator and an augmented example."""

from __future__ import annotations

import torch
from parity_lib import Case, Result, checker, recipe_weights
from torch import Tensor

from fasthmr.checkpoints.keymap import load_into
from fasthmr.data.hmr2_example import Augmentation, PersonLabels, make_example
from fasthmr.training.discriminator import DISCRIMINATOR_TABLE, DiscriminatorConfig


@checker("hmr2.discriminator")
@torch.no_grad()
def check_discriminator(case: Case) -> Result:
    options, shapes = case.meta["config"], case.meta["weight_shapes"]
    weights = recipe_weights(shapes, seed=options["seed"], gain=options["gain"])
    body_pose, betas = case.tensors["input/body_pose"], case.tensors["input/betas"]
    first, second = (shapes[f"discriminator.betas_fc{i}.weight"][0] for i in (1, 2))
    model = DiscriminatorConfig(
        joints=options["num_joints"],
        num_betas=betas.shape[1],
        joint_dim=shapes["discriminator.D_conv1.weight"][0],
        hidden=options["hidden"],
        betas_dims=(first, second),
    ).build()
    load_into(model, weights, DISCRIMINATOR_TABLE, case.case)
    return {"output/logits": model(body_pose, betas)}


@checker("hmr2.train_example")
def check_train_example(case: Case) -> Result:
    options = case.meta["config"]
    picture = case.tensors["input/img_bgr"].flip(-1).contiguous().numpy()
    result: dict[str, Tensor] = {}
    for number, chosen in enumerate(options["augmentations"]):
        given = {name: case.tensors[f"input/{number}.{name}"] for name in _LABELS}
        example = make_example(
            picture,
            (float(options["center"][0]), float(options["center"][1])),
            float(options["box"]),
            PersonLabels(**given),
            Augmentation(
                scale=float(chosen["scale"]),
                rotation_deg=float(chosen["rot_deg"]),
                mirrored=chosen["flip"],
                color=tuple(map(float, chosen["color_scale"])),
                shift=(float(chosen["tx"]), float(chosen["ty"])),
            ),
            options["patch"],
        )
        result[f"output/{number}.img"] = example.pixels
        result[f"output/{number}.trans"] = example.picture_to_crop
        result |= {f"output/{number}.{name}": getattr(example.labels, name) for name in _LABELS}
    return result


_LABELS = ("keypoints_2d", "keypoints_3d", "global_orient", "body_pose", "betas")
