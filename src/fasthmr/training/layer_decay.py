"""Learning rates that fall with the depth of a layer (BEiT, arXiv 2106.08254; ViTPose, arXiv 2204.12484).

The released rule knows the names of a plain ViT alone. For encoders in stages this is the project's reading
of it: the depth of a layer is the number of blocks in front of it, whatever stage they belong to, and a
change of resolution between two stages belongs to the block that follows.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

_PREFIX = re.compile(r"encoder\.(encoder\.)?")
"""Of the encoder's parameters in a model; a cut encoder holds the one that is cut."""

_BLOCK = re.compile(r"(?:(?:layers\.(\d+)\.)?blocks|groupmixformer_backbone\.(\d+)\.gma_stage)\.(\d+)\.")
_LEADS_ON = re.compile(r"layers\.(\d+)\.downsample\.")
_LEADS_IN = re.compile(r"patch_embed_layers\.(\d+)\.")
_STEM = re.compile(r"(patch_embed|conv_stem|patch_embed_layers\.0)\.|pos_embed$")
_NO_DECAY = ("bias", "pos_embed", "relative_position_bias_table", "A_logs", "Ds")


def layer_decay_groups(
    model: nn.Module, *, lr: float, rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser, for a model whose `encoder` is a chain of blocks, perhaps in stages.

    Layer 0 is the patch embedding with the positions, layer i + 1 is block i with what leads into its stage,
    and the last is everything else (norms of returned maps, matching layer, head). The learning rate of layer
    i of n is lr * rate^(n - 1 - i). Biases, norms, positions, and the rates and skips of selective scans do
    not decay. Frozen parameters are left out.

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
    blocks = _blocks(model)
    if not blocks:
        raise ValueError(f"{type(model).__name__} has no encoder with blocks to scale learning rates by")
    last = len(blocks) + 1
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = _layer(name, blocks)
        decays = parameter.dim() > 1 and not name.endswith(_NO_DECAY)
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


def _blocks(model: nn.Module) -> list[tuple[int, int]]:
    """Stage and place of every block of the encoder, in order."""
    found: dict[tuple[int, int], None] = {}
    for name, _ in model.named_parameters():
        if (prefix := _PREFIX.match(name)) and (block := _BLOCK.match(name, prefix.end())):
            found[_place(block)] = None
    return sorted(found)


def _place(block: re.Match[str]) -> tuple[int, int]:
    return int(block[1] or block[2] or 0), int(block[3])


def _layer(name: str, blocks: list[tuple[int, int]]) -> int:
    """Number of the layer that a parameter belongs to."""
    last = len(blocks) + 1
    prefix = _PREFIX.match(name)
    if not prefix:
        return last
    start = prefix.end()
    if block := _BLOCK.match(name, start):
        return blocks.index(_place(block)) + 1
    if _STEM.match(name, start):
        return 0
    if found := _LEADS_ON.match(name, start):
        return blocks.index((int(found[1]) + 1, 0)) + 1
    if found := _LEADS_IN.match(name, start):
        return blocks.index((int(found[1]), 0)) + 1
    return last
