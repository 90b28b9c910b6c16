"""Kinds `hierarchical.*` of Swin, GroupMixFormer and what is built on them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from parity_lib import Case, Result, checker
from torch import Tensor, nn

from fasthmr.checkpoints.hierarchical import GMF_TABLE, SWIN_TABLE
from fasthmr.checkpoints.keymap import load_into
from fasthmr.checkpoints.truncated import TRUNCATED_HMR_TABLE
from fasthmr.encoders.groupmixformer import GroupMixFormerConfig
from fasthmr.encoders.swin import SwinConfig
from fasthmr.encoders.truncated import HierarchicalConfig, TruncatedConfig, truncate
from fasthmr.heads.smpl import SMPLHeadConfig
from fasthmr.models.hmr import HMRConfig


def swin_config(case: Case, options: dict[str, Any], size: tuple[int, int]) -> SwinConfig:
    """The encoder that a case describes."""
    if options.get("ape") or options.get("in_chans", 3) != 3:
        raise ValueError("absolute positions and pictures of other than 3 channels are not covered")
    dense = "classification" not in case.meta["system"]
    stages = len(options["depths"])
    outputs = options.get("out_indices", range(stages)) if dense else range(stages)
    return SwinConfig(
        dim=options["embed_dim"],
        depths=tuple(options["depths"]),
        heads=tuple(options["num_heads"]),
        window=options["window_size"],
        image_size=size,
        convention="dense" if dense else "classification",
        out_stages=tuple(stage + 1 for stage in outputs),
        classes=0 if dense else options.get("num_classes", 0),
        patch_size=options.get("patch_size", 4),
        patch_norm=options.get("patch_norm", True),
        mlp_ratio=options.get("mlp_ratio", 4),
        qkv_bias=options.get("qkv_bias", True),
    )


def picture_size(image: Tensor) -> tuple[int, int]:
    """Height and width."""
    return image.shape[-2], image.shape[-1]


def watch(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    """What modules return, by the given names, once they have run."""
    seen: dict[str, Tensor] = {}
    for name, part in parts.items():
        part.register_forward_hook(lambda module, inputs, out, name=name: seen.update({name: out}))
    return seen


def blocks_named(names: Any) -> dict[str, tuple[int, int]]:
    """Stage and block (from 0) of every `mid/stageI_blockJ` among the names."""
    found = ((name, re.fullmatch(r"mid/stage(\d+)_block(\d+)", name)) for name in names)
    return {name: (int(match[1]) - 1, int(match[2])) for name, match in found if match}


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


@checker("hierarchical.swin")
@torch.no_grad()
def check_swin(case: Case) -> Result:
    image = case.tensors["input/image"]
    encoder = swin_config(case, case.meta["config"], picture_size(image)).build()
    load_into(encoder, case.under("weight"), SWIN_TABLE, case.case)
    encoder.eval()
    wanted = blocks_named(case.tensors)
    seen = watch({name: encoder.layers[stage].blocks[block] for name, (stage, block) in wanted.items()})
    outputs = encoder(image)
    patches = encoder.patch_embed(image)
    classified = "output/logits" in case.tensors
    numbers = encoder.config.out_stages
    return {
        **seen,
        "mid/patch_embed": patches.flatten(1, 2) if classified else channels_first(patches),
        **{
            f"mid/stage{number}_prenorm": channels_first(x)
            for number, x in enumerate(encoder.stage_maps(image), start=1)
        },
        **{f"output/stage{number}": x for number, x in zip(numbers, outputs, strict=True)},
        **({"output/logits": encoder.classify(image)} if classified else {}),
    }


def gmf_config(options: dict[str, Any], size: tuple[int, int], classes: int = 0) -> GroupMixFormerConfig:
    """The encoder that a case describes."""
    if options.get("num_heads", 8) not in (8, [8] * len(options["embedding_dims"])):
        raise ValueError(f"num_heads {options['num_heads']}: relative positions are made for 8")
    return GroupMixFormerConfig(
        widths=tuple(options["embedding_dims"]),
        depths=tuple(options["serial_depths"]),
        mlp_ratios=tuple(options["mlp_ratios"]),
        image_size=size,
        out_stages=tuple(range(1, 1 + len(options["serial_depths"]))),
        classes=classes,
        qkv_bias=options.get("qkv_bias", True),
    )


@checker("hierarchical.groupmixformer")
@torch.no_grad()
def check_gmf(case: Case) -> Result:
    image, options = case.tensors["input/image"], case.meta["config"]
    classified = "output/logits" in case.tensors
    encoder = gmf_config(options, picture_size(image), options["num_classes"] if classified else 0).build()
    load_into(encoder, case.under("weight"), GMF_TABLE, case.case)
    encoder.eval()
    stages = encoder.groupmixformer_backbone
    parts: dict[str, nn.Module] = {"mid/conv_stem": encoder.conv_stem}
    parts |= {f"mid/patch_embed{i}": part for i, part in enumerate(encoder.patch_embed_layers)}
    for i, stage in enumerate(stages, start=1):
        for j, block in enumerate(stage.gma_stage):
            name, attention = f"mid/stage{i}_block{j}", block.att
            inside = {"cpe": block.cpe, "agg": attention.aggregator, "crpe": attention.crpe, "att": attention}
            parts |= {name: block, **{f"{name}_{part}": module for part, module in inside.items()}}
    seen = watch(parts)
    outputs = encoder(image)
    result: dict[str, Tensor] = {f"output/stage{i}": x for i, x in enumerate(outputs, start=1)}
    if classified:
        result["output/logits"] = encoder.classify(image)
    for name, value in seen.items():
        if name.endswith("_agg"):
            result[f"{name}_qkv"] = by_heads(value[0])
            result[f"{name}_local"] = value[1].flatten(1, 2)
        elif name.endswith("_crpe"):
            result[name] = by_heads(value[None])[0]
        elif "stage" in name:
            result[name] = value.flatten(1, 2)
        else:
            result[name] = value if name == "mid/conv_stem" else value.flatten(2).mT
    return result


def by_heads(maps: Tensor) -> Tensor:
    """(three, batch, rows, columns, channels) to (three, batch, heads, tokens, head_dim)."""
    return maps.flatten(2, 3).unflatten(-1, (8, -1)).transpose(2, 3)


ENCODERS: dict[str, Callable[[Case, dict[str, Any], tuple[int, int]], HierarchicalConfig]] = {
    "swin": swin_config,
    "gmf": lambda case, options, size: gmf_config(options, size),
}
"""The encoder of a cut model by the family that its case names."""


@checker("hierarchical.truncated_hmr")
@torch.no_grad()
def check_truncated_hmr(case: Case) -> Result:
    options, image = case.meta["config"], case.tensors["input/image"]
    encoder = ENCODERS[options["family"]](case, options["encoder"], picture_size(image))
    kernel = re.search(r"^Conv2d k(\d)", options["match"])
    config = TruncatedConfig(
        encoder=truncate(encoder, options["stages"]),
        context_dim=options["context_dim"],
        match_kernel=int(kernel[1]) if kernel else 3,
    )
    decoder = options["decoder"]
    head = SMPLHeadConfig(
        context_dim=options["context_dim"],
        dim=decoder["dim"],
        depth=decoder["depth"],
        heads=decoder["heads"],
        head_dim=decoder["dim_head"],
        mlp_dim=decoder["mlp_dim"],
    )
    model = HMRConfig(encoder=config, head=head).build()
    load_into(model, case.under("weight"), TRUNCATED_HMR_TABLE, case.case)
    model.eval()
    parts = {
        "mid/encoder": model.encoder.encoder,
        "mid/token": model.head.decoder,
        "output/pose6d": model.head.decpose,
    }
    seen: dict[str, Any] = watch(parts)
    context = model.encoder(image)[-1]
    output = model.head(context)
    return {
        "mid/encoder": seen["mid/encoder"][-1],
        "mid/context": context,
        "mid/token": seen["mid/token"],
        "output/pose6d": model.head.init_body_pose + seen["output/pose6d"],
        "output/betas": output.params.betas,
        "output/cam": output.camera,
    }
