"""Swin weights of timm and mmpose under the official names, which are ours.

timm keeps patch merging at the start of the next stage. mmpose renames parts, and merges 2 x 2 patches
channel by channel with pixels by rows; the official order is pixel by pixel, down before right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")

_TIMM = ((r"^head\.fc\.", "head."),)
_MMPOSE = (
    (r"^stages\.", "layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
)
_MERGING = re.compile(r"layers\.(\d+)\.downsample\.")


def official_swin(state: Mapping[str, T], prefix: str = "") -> Mapping[str, T]:
    """Weights under official names and in official order; those that are so already come back as they are.

    Args:
        state: Tensors, or their shapes.
        prefix: Of the encoder; keys of other parts stay.
    """
    own = [key for key in state if key.startswith(prefix)]
    mmpose = any(key.startswith(f"{prefix}stages.") for key in own)
    merging = {int(found[1]) for key in own if (found := _MERGING.match(key.removeprefix(prefix)))}
    timm = bool(merging) and 0 not in merging
    if not mmpose and not timm and not any(key.startswith(f"{prefix}head.fc.") for key in own):
        return state
    renamed: dict[str, T] = {}
    for key, tensor in state.items():
        if not key.startswith(prefix):
            renamed[key] = tensor
            continue
        name = key.removeprefix(prefix)
        for pattern, official in _MMPOSE if mmpose else _TIMM:
            name = re.sub(pattern, official, name)
        found = _MERGING.match(name)
        if found and timm:
            name = f"layers.{int(found[1]) - 1}.downsample.{name[found.end() :]}"
        renamed[prefix + name] = _by_pixels(tensor) if found and mmpose else tensor
    return renamed


def _by_pixels(tensor: Any) -> Any:
    """Weights that read 2 x 2 cells, from mmpose's order to the official one; shapes do not change."""
    if not isinstance(tensor, Tensor):
        return tensor
    pixels = tensor.unflatten(-1, (-1, 4)).transpose(-1, -2)
    return pixels[..., [0, 2, 1, 3], :].flatten(-2)
