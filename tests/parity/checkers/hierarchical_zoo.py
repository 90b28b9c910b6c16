"""Kind `hierarchical.zoo_counts`: parameters and products of every entry of the zoo."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from parity_lib import Case, Pair, Result, checker
from torch import nn

from fasthmr.benchmark.counters import count
from fasthmr.checkpoints.loading import build_empty
from fasthmr.encoders.registry import encoder_config, list_encoders
from fasthmr.zoo import preset

_FAMILIES = {"Swin": "swin", "GMF": "gmf", "VM": "vmamba"}
_NOTES = ("note", "vit_names", "smpl_decoder_formula")
_STRIDE = 16


@checker("hierarchical.zoo_counts")
@torch.no_grad()
def check_zoo(case: Case) -> Result:
    """Every number of the case."""
    groups = {"hierarchical": _cut, "vit": _plain, "vmamba_with_classifier": _classifier}
    unknown = set(case.meta) - {*_NOTES, *groups}
    if unknown:
        raise ValueError(f"no numbers for {', '.join(sorted(unknown))}")
    pairs = {}
    for group, numbers_of in groups.items():
        for name, expected in case.meta.get(group, {}).items():
            ours = numbers_of(name)
            actual = {key: ours.get(key) for key in expected} if isinstance(ours, dict) else ours
            pairs[f"{group}/{name}"] = Pair(actual=actual, expected=expected)
    return pairs


def _classifier(name: str) -> int:
    """Parameters of the ImageNet models of VMamba, such as "T s2l5"."""
    size, release = name.lower().split()
    named = f"vmamba_{size}_{release}"
    config = encoder_config(named if named in list_encoders() else f"vmamba_{size}")
    return _params(build_empty(replace(config, classes=1000, out_norm=False)))


def _params(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _cut(name: str) -> dict[str, Any]:
    """Of HMR 2.0 and ViTPose with a cut encoder, such as "Swin-T-S2"."""
    family, size, cut = name.split("-")
    encoder = f"{_FAMILIES[family]}_{size}_{cut}".lower()
    model = build_empty(encoder_config(encoder)).eval()
    inner = count(model.encoder)
    whole = encoder_config(encoder.rpartition("_")[0])
    width, height = (side // _STRIDE for side in reversed(whole.image_size))
    stride = model.encoder.strides[-1]
    seen = torch.empty(1, model.encoder.channels[-1], height * _STRIDE // stride, width * _STRIDE // stride)
    context = torch.empty(1, model.channels[0], height, width)
    norm = 2 * model.encoder.channels[-1] if family != "GMF" else 0
    matched = count(model.match, seen).macs if _params(model.match) else 0
    numbers = {
        "channels": list(whole.widths),
        "context_dim": model.channels[0],
        "encoder_params": _params(model.encoder) - norm,
        "out_norm_params": norm,
        "match_params": _params(model.match, model.match_norm),
        "encoder_macs": inner.macs,
        "match_macs": matched,
        "scan_ops": inner.scan_ops,
    }
    for task, start, head in (
        ("hmr", "hmr2", "smpl_decoder_params"),
        ("hpe", "vitpose", "classic_pose_head_params"),
    ):
        full = build_empty(preset(f"{start}_{encoder}").config()).eval()
        numbers[head] = _params(full.head)
        numbers[f"{task}_params"] = _params(full)
        numbers[f"{task}_macs"] = inner.macs + matched + count(full.head, context).macs
    return numbers


def _plain(name: str) -> dict[str, Any]:
    """Of HMR 2.0 and ViTPose with a plain ViT: "S-(depth, heads, head_dim, mlp)" or "ViTPose-S"."""
    if name.startswith("ViTPose"):
        size = name.rpartition("-")[2].lower()
        classic, simple = (
            build_empty(preset(f"vitpose_vit_{size}{kind}").config()).eval() for kind in ("", "_simple")
        )
        return {
            "enc": _params(classic.encoder),
            "classic": _params(classic.head),
            "total": _params(classic),
            "mac": count(classic).macs,
            "simple": _params(simple.head),
            "simple_total": _params(simple),
            "simple_mac": count(simple).macs,
        }
    size, depth = name[0].lower(), int(name[3])
    usual = (depth == 6) == (size == "h")
    decoder = "" if usual else "_large" if depth == 6 else "_small"
    model = build_empty(preset(f"hmr2_vit_{size}{decoder}").config()).eval()
    whole, encoder = count(model).macs, count(model.encoder).macs
    return {
        "enc": _params(model.encoder),
        "head": _params(model.head),
        "total": _params(model),
        "mac": whole,
        "enc_mac": encoder,
        "head_mac": whole - encoder,
    }
