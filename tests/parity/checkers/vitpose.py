"""Kinds `vitpose.*`: 2D pose under its published key names."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from parity_checkers_hmr2 import vit_config
from parity_lib import Case, Pair, Result, checker
from torch import Tensor

from fasthmr.checkpoints.keymap import load_into
from fasthmr.checkpoints.plain_vit import fit_plain_vit
from fasthmr.checkpoints.vitpose import VITPOSE_TABLE
from fasthmr.encoders.vit import ViTConfig
from fasthmr.geometry.heatmaps import Decoding, cells_to_picture, decode_heatmaps, flip_back, heatmap_targets
from fasthmr.geometry.pose_crops import (
    PADDING,
    grow_to_aspect,
    transform_points,
    warp,
    warp_matrix,
)
from fasthmr.heads.heatmap import HeatmapHeadConfig
from fasthmr.models.pose import PoseConfig, PoseModel
from fasthmr.training.heatmap_loss import heatmap_loss
from fasthmr.training.layer_decay import layer_decay_groups
from fasthmr.types import PoseCrop

_SCALE_UNIT = 200
"""Published box sizes are in units of so many pixels."""


def head_config(context_dim: int, options: dict[str, Any], keypoints: int) -> HeatmapHeadConfig:
    """The head that a case describes."""
    upsample, layers = options.get("upsample", 0), options["num_deconv_layers"]
    if upsample and layers:
        raise ValueError("a head that enlarges before its deconvolutions is not covered")
    extra = options.get("extra") or {}
    if set(extra) - {"final_conv_kernel"}:
        raise ValueError(f"head options {sorted(extra)} are not covered")
    return HeatmapHeadConfig(
        context_dim=context_dim,
        keypoints=keypoints,
        kind="simple" if upsample else "classic",
        deconv_filters=tuple(options["num_deconv_filters"][:layers]),
        deconv_kernels=tuple(options["num_deconv_kernels"][:layers]),
        upsample=upsample or 4,
        final_kernel=extra.get("final_conv_kernel", 1),
    )


def decoding(options: dict[str, Any]) -> Decoding:
    """The reading that the released code picks for these options."""
    if options.get("use_udp", False):
        return "dark_udp"
    methods: dict[str | None, Decoding] = {
        "default": "shift",
        "unbiased": "dark",
        None: "argmax",
        "None": "argmax",
    }
    return methods[options.get("post_process", "default")]


@checker("vitpose.head")
@torch.no_grad()
def check_model(case: Case) -> Result:
    options, tensors = case.meta["config"], case.tensors
    encoder = vit_config(options["vit"])
    model = PoseConfig(
        encoder=encoder,
        head=head_config(encoder.dim, options["head"], options["num_keypoints"]),
        flip_pairs=tuple((left, right) for left, right in options["flip_pairs"]),
        decoding=decoding(options),
        blur_kernel=options.get("modulate_kernel", 11),
        shift_flipped=options.get("shift_heatmap", False),
    ).build()
    load_into(model, case.under("weight"), VITPOSE_TABLE, case.case)
    model.eval()
    pixels = tensors["input/img"]
    size = tensors["input/scale"] * _SCALE_UNIT
    crop = PoseCrop(pixels=pixels, center=tensors["input/center"], size=size)
    features = model.encoder(pixels)[-1]
    points = model.estimate(crop)
    boxes = [crop.center, size / _SCALE_UNIT, size.prod(-1, keepdim=True), torch.ones(len(size), 1)]
    result: dict[str, Tensor | Pair] = {
        "mid/feat": features,
        "output/heatmap": model(pixels),
        "output/heatmap_flip_avg": model.averaged_heatmaps(pixels),
        **_points(case, model, crop, points),
        "output/boxes": torch.cat(boxes, dim=1),
    }
    if "mid/deconv_out" in tensors:
        result["mid/deconv_out"] = model.head.enlarge(features)[:, : tensors["mid/deconv_out"].shape[1]]
    return result


def _points(case: Case, model: PoseModel, crop: PoseCrop, points: Tensor) -> dict[str, Pair]:
    """Points, each with the tolerance that its heat map has.

    Maps of random weights hold joints whose Newton step divides by almost nothing; there the last bit of a
    logarithm moves the point by a good part of a pixel. To these the tolerance of the maps is added, carried
    through the reading to first order (docs/design/008-heat-map-parity.md).
    """
    reference, expected = case.tensors["output/heatmap_flip_avg"], case.tensors["output/preds"]
    plain = case.tolerance
    allowed = plain.get("atol", plain.get("max_abs", 0.0)) + plain.get("rtol", 0.0) * reference.abs()
    moved = torch.zeros_like(points)
    with torch.enable_grad():
        maps = reference.clone().requires_grad_()
        read = model.read(maps, crop)
        for axis in range(2):
            (slope,) = torch.autograd.grad(read[..., axis].sum(), maps, retain_graph=True)
            moved[..., axis] = (slope.abs() * allowed).sum((-2, -1))
    firm = moved <= case.tolerance["preds_atol"]
    assert firm.any(), "no point is well conditioned"
    error = (points - expected).abs() / (moved + case.tolerance["preds_atol"])
    return {
        "output/preds": Pair(
            actual=points[firm], expected=expected[firm], tolerance={"atol": case.tolerance["preds_atol"]}
        ),
        "preds, error over tolerance": Pair(
            actual=error[~firm], expected=torch.zeros_like(error[~firm]), tolerance={"max_abs": 1.0}
        ),
    }


@checker("vitpose.heatmap_decode")
def check_decoding(case: Case) -> Result:
    tensors, options = case.tensors, case.meta.get("config", {})
    heatmaps = tensors["input/heatmaps"]
    center, size = tensors["input/center"], tensors["input/scale"] * _SCALE_UNIT
    grid = (heatmaps.shape[-2], heatmaps.shape[-1])
    result: dict[str, Tensor | Pair] = {}
    for name in {key.split("/")[1].rsplit(".", 1)[0] for key in tensors if key.endswith(".preds")}:
        method, kernel = _setting(name, options.get(name, ""))
        cells, scores = decode_heatmaps(heatmaps, method, kernel)
        points = cells_to_picture(cells, center, size, grid, udp=method == "dark_udp")
        expected = tensors[f"output/{name}.preds"]
        result[f"output/{name}.preds"] = points
        result[f"output/{name}.maxvals"] = Pair(
            actual=scores[..., None],
            expected=tensors[f"output/{name}.maxvals"],
            tolerance={"max_abs": 1e-6, "rel": 1e-6},
        )
        assert points.shape == expected.shape
    pairs = [(left, right) for left, right in options["flip_pairs"]]
    result["output/flip_back"] = Pair(
        actual=flip_back(heatmaps, pairs), expected=tensors["output/flip_back"], tolerance={"exact": True}
    )
    return result


def _setting(name: str, words: str) -> tuple[Decoding, int]:
    """Reading and blur kernel that a case's setting names ("udp_k17", "use_udp, kernel 17")."""
    named = next((part[1:] for part in name.split("_") if part[:1] == "k" and part[1:].isdigit()), None)
    written = words.replace(",", " ").split()
    kernel = next((after for before, after in pairwise(written) if before == "kernel"), "11")
    methods: dict[str, Decoding] = {"udp": "dark_udp", "shift": "shift", "dark": "dark", "argmax": "argmax"}
    return methods[name.split("_")[0]], int(named or kernel)


@checker("vitpose.target")
def check_targets(case: Case) -> Result:
    tensors, options = case.tensors, case.meta["config"]
    width, height = options["image_size"]
    columns, rows = options["heatmap_size"]
    joints, visible = tensors["input/joints"][..., :2], tensors["input/visible"][..., 0]
    result: dict[str, Tensor] = {}
    for kind in ("udp", "msra", "msra_unbiased"):
        maps, weight = heatmap_targets(
            joints, visible, (height, width), (rows, columns), float(options["sigma"]), kind
        )
        result[f"output/{kind}.target"] = maps
        result[f"output/{kind}.weight"] = weight[..., None]
    if "input/loss.pred" in tensors:
        prediction = tensors["input/loss.pred"]
        target = result["output/udp.target"].expand_as(prediction)
        result["output/loss.value"] = heatmap_loss(prediction, target, tensors["input/loss.weight"][..., 0])
    return result


@checker("vitpose.crop")
def check_crop(case: Case) -> Result:
    tensors, options = case.tensors, case.meta.get("config", {})
    x, y, width, height = tensors["input/box_xywh"].double().unbind(-1)
    count = len(x)
    rows, columns = tensors["output/crop0"].shape[:2]
    boxes = torch.stack([x, y, x + width, y + height], dim=-1)
    center, size = grow_to_aspect(boxes, (rows, columns), float(options.get("padding", PADDING)))
    rotation = tensors["input/rotation"].double() if "input/rotation" in tensors else None
    matrices = warp_matrix(center, size, (rows, columns), rotation)
    exactly = {"max_abs": 1e-4, "rel": 1e-5}
    result: dict[str, Pair] = {
        "output/center": Pair(actual=center, expected=tensors["output/center"], tolerance=exactly),
        "output/scale": Pair(actual=size / _SCALE_UNIT, expected=tensors["output/scale"], tolerance=exactly),
    }
    levels = {"max_abs": case.tolerance.get("uint8", 1)}
    for i in range(count):
        joints = tensors[f"input/joints{i}"].double()
        moved = torch.cat([transform_points(matrices[i], joints[:, :2]), joints[:, 2:]], dim=1)
        crop = warp(tensors["input/img"], matrices[i], (rows, columns)).round().byte()
        for name, actual, tolerance in (
            (f"output/matrix{i}", matrices[i], exactly),
            (f"output/joints{i}", moved, exactly),
            (f"output/crop{i}", crop, levels),
        ):
            result[name] = Pair(actual=actual, expected=tensors[name], tolerance=tolerance)
    return result


@checker("vitpose.mae_init")
def check_mae_init(case: Case) -> Result:
    options = case.meta["config"]
    rows, columns = options["target_grid"]
    patch = case.tensors["output/patch_embed.proj.weight"].shape[-1]
    config = ViTConfig(
        dim=options["embed_dim"],
        depth=1,
        heads=1,
        image_size=(rows * patch, columns * patch),
        patch_size=patch,
        patch_padding=0,
    )
    fitted = fit_plain_vit(case.under("input"), config)
    return {f"output/{key}": tensor for key, tensor in fitted.items()}


@checker("vitpose.layer_decay")
def check_layer_decay(case: Case) -> Result:
    options = case.meta["config"]
    model = PoseConfig(
        encoder=ViTConfig(dim=8, depth=options["depth"], heads=2, image_size=(32, 32)),
        head=HeatmapHeadConfig(context_dim=8, kind=options["head"]),
    ).build()
    groups = layer_decay_groups(
        model,
        lr=options["base_lr"],
        rate=options["layer_decay_rate"],
        weight_decay=options["weight_decay"],
    )
    actual = {
        group["name"]: {
            "lr": group["lr"],
            "lr_scale": group["lr_scale"],
            "weight_decay": group["weight_decay"],
            "params": [VITPOSE_TABLE.published(name) for name, _ in group["params"]],
        }
        for group in groups
    }
    return {"groups": Pair(actual=actual, expected=case.meta["groups"], tolerance={"exact": True})}
