"""Learning rates that fall with the depth of a layer (BEiT, arXiv 2106.08254; ViTPose, arXiv 2204.12484)."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")
_STEM = re.compile(r"encoder\.(patch_embed\.|pos_embed$)")


def layer_decay_groups(
    model: nn.Module, *, lr: float, rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser, for a model whose `encoder` is a chain of `blocks`.

    Layer 0 is the patch embedding with the positions, layer i + 1 is block i, and the last is everything else
    (final norm, head). The learning rate of layer i of n is lr * rate^(n - 1 - i). Biases, norms and
    positions do not decay. Frozen parameters are left out.

    Args:
        lr: Learning rate of the last layer.
        rate: 0.8, 0.75, 0.8 and 0.85 for ViT-S, B, L and H as released.
        weight_decay: For all other parameters.

    Returns:
        Groups `layer_{i}_decay` and `layer_{i}_no_decay` in the order of their first parameters, with `name`,
        `params` (pairs of name and parameter, as optimisers take them), `lr`, `lr_scale` and `weight_decay`.

    Raises:
        ValueError: The model has no such encoder.
    """
    encoder = getattr(model, "encoder", None)
    blocks = getattr(encoder, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(f"{type(model).__name__} has no encoder with blocks to scale learning rates by")
    last = len(blocks) + 1
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        block = _BLOCK.match(name)
        layer = int(block[1]) + 1 if block else 0 if _STEM.match(name) else last
        decays = parameter.dim() > 1 and not name.endswith(("bias", "pos_embed"))
        scale = rate ** (last - layer)
        group = groups.setdefault(
            f"layer_{layer}_{'decay' if decays else 'no_decay'}",
            {
                "name": f"layer_{layer}_{'decay' if decays else 'no_decay'}",
                "params": [],
                "lr": lr * scale,
                "lr_scale": scale,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append((name, parameter))
    return list(groups.values())
