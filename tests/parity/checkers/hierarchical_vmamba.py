"""Kinds `hierarchical.*` of VMamba: the scan, the scan of maps, encoders, and cut models with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from parity_checkers_hierarchical import ENCODERS, blocks_named, channels_first, watch
from parity_lib import Case, Pair, Result, checker
from torch import Tensor

from fasthmr.checkpoints.hierarchical import VMAMBA_TABLE
from fasthmr.checkpoints.keymap import load_into
from fasthmr.encoders.vmamba import VMambaConfig
from fasthmr.layers.scan import selective_scan, selective_scan_reference
from fasthmr.layers.ss2d import DIRECTIONS, SS2D, cross_merge, cross_scan

_FIXED = {
    "ssm_dt_rank": "auto",
    "dt_rank": "auto",
    "ssm_act_layer": "silu",
    "mlp_act_layer": "gelu",
    "norm_layer": "ln2d",
    "downsample_version": "v3",
    "patchembed_version": "v2",
    "forward_type": "v05_noz",
    "patch_size": 4,
    "in_chans": 3,
    "ssm_conv": 3,
    "ssm_conv_bias": False,
}
"""Options that the encoder has only in the released form."""

_SCAN = tuple(f"mid/scan_{name}" for name in ("u", "delta_raw", "A", "B", "C", "D", "delta_bias"))
"""Arguments of the scan, where a case of the scan of maps has them."""


def _check_options(options: dict[str, Any]) -> None:
    for name, value in _FIXED.items():
        if options.get(name, value) != value:
            raise ValueError(f"{name}={options[name]} is not covered")


def vmamba_config(case: Case, options: dict[str, Any], size: tuple[int, int]) -> VMambaConfig:
    """The encoder that a case describes."""
    _check_options(options)
    stages = len(options["depths"])
    classes = options.get("num_classes", 0) if "output/logits" in case.tensors else 0
    dims = options["dims"]
    return VMambaConfig(
        widths=tuple(dims) if isinstance(dims, list) else tuple(dims * 2**stage for stage in range(stages)),
        depths=tuple(options["depths"]),
        ssm_ratio=options["ssm_ratio"],
        image_size=size,
        out_stages=tuple(stage + 1 for stage in options.get("out_indices", range(stages))),
        out_norm=not classes,
        classes=classes,
        state=options["ssm_d_state"],
        mlp_ratio=options["mlp_ratio"],
    )


ENCODERS["vm"] = vmamba_config


@checker("hierarchical.vmamba")
@torch.no_grad()
def check_vmamba(case: Case) -> Result:
    image = case.tensors["input/image"]
    encoder = vmamba_config(case, case.meta["config"], (image.shape[-2], image.shape[-1])).build()
    load_into(encoder, case.under("weight"), VMAMBA_TABLE, case.case)
    encoder.eval()
    parts = {}
    for name, (stage, block) in blocks_named(case.tensors).items():
        parts[name] = encoder.layers[stage].blocks[block]
        parts[f"{name}_ss2d"] = parts[name].op
    seen = watch(parts)
    outputs = zip(encoder.config.out_stages, encoder(image), strict=True)
    return {
        **{name: channels_first(x) for name, x in seen.items()},
        "mid/patch_embed": channels_first(encoder.patch_embed(image)),
        **{
            f"mid/stage{number}_prenorm": channels_first(x)
            for number, x in enumerate(encoder.stage_maps(image), start=1)
        },
        **{f"output/stage{number}": x for number, x in outputs},
        **({"output/logits": encoder.classify(image)} if encoder.config.classes else {}),
    }


@checker("hierarchical.ss2d")
@torch.no_grad()
def check_ss2d(case: Case) -> Result:
    options = case.meta["config"]
    _check_options(options)
    block = SS2D(
        options["d_model"],
        ratio=options["ssm_ratio"],
        state=options["d_state"],
        kernel=options["d_conv"],
        conv_bias=options["conv_bias"],
    ).eval()
    load_into(block, case.under("weight"), VMAMBA_TABLE, case.case)
    x = case.tensors["input/x"]
    maps = x.permute(0, 2, 3, 1) if options["channel_first"] else x
    seen = watch({"mid/in_proj": block.in_proj, "mid/dwconv": block.conv2d})
    u = block.filtered(maps)
    merged = {"image layout": block.scan_map(u)}
    scanned: dict[str, Tensor] = {}
    if all(name in case.tensors for name in _SCAN):
        scanned["mid/scan_y"] = selective_scan(*(case.tensors[name] for name in _SCAN))
        directions = scanned["mid/scan_y"].unflatten(1, (DIRECTIONS, -1))
        merged["four orders"] = cross_merge(directions, (maps.shape[1], maps.shape[2]))
    output = {"image layout": block(maps), "four orders": block.plain(maps)}
    return {
        "mid/in_proj": channels_first(seen["mid/in_proj"]),
        "mid/dwconv": seen["mid/dwconv"],
        "mid/scan_u": cross_scan(u).flatten(1, 2),
        **scanned,
        **_both("mid/merged", {name: m.flatten(1, 2).mT for name, m in merged.items()}, case),
        **_both("output/y", {name: channels_first(m) for name, m in output.items()}, case),
    }


@checker("hierarchical.selective_scan")
@torch.no_grad()
def check_scan(case: Case) -> Result:
    given = case.under("input")
    softplus = case.meta["config"]["delta_softplus"]
    forms = {"chunks": selective_scan, "token by token": selective_scan_reference}
    found = {name: _scanned(form, given, softplus) for name, form in forms.items()}
    single = _scanned(selective_scan, {name: x.float() for name, x in given.items()}, softplus).double()
    reference = case.tensors["output/y"]
    return {
        **_both("output/y", found, case),
        "single precision": Pair(actual=single, expected=reference, tolerance={"max_rel_to_max": 1e-5}),
    }


def _scanned(form: Callable[..., Tensor], given: dict[str, Tensor], softplus: bool) -> Tensor:
    inputs = [given[name] for name in ("u", "delta", "A", "B", "C")]
    return form(*inputs, given.get("D"), given.get("delta_bias"), delta_softplus=softplus)


def _both(name: str, forms: dict[str, Tensor], case: Case) -> dict[str, Tensor | Pair]:
    """All forms of one value against the same reference; the first carries its name."""
    first, *others = forms
    extra = {}
    if name in case.tensors:
        extra = {f"{name} {form}": Pair(actual=forms[form], expected=case.tensors[name]) for form in others}
    return {name: forms[first], **extra}
