"""VMamba weights of all releases under the names of the last one, which are ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")

_OLD = (
    (r"^patch_embed\.proj\.", "patch_embed.0."),
    (r"^patch_embed\.norm\.", "patch_embed.2."),
    (r"^(layers\.\d+\.blocks\.\d+)\.ln_1\.", r"\1.norm."),
    (r"^(layers\.\d+\.blocks\.\d+)\.ln_2\.", r"\1.norm2."),
    (r"^(layers\.\d+\.blocks\.\d+)\.self_attention\.", r"\1.op."),
    (r"^norm\.", "classifier.norm."),
    (r"^head\.", "classifier.head."),
)
_LINEAR = re.compile(r"(layers\.\d+\.blocks\.\d+\.(op\.(in|out)_proj|mlp\.fc[12])|classifier\.head)\.weight$")


def official_vmamba(state: Mapping[str, T]) -> Mapping[str, T]:
    """Weights under today's names; linear layers that are stored as convolutions of 1 x 1 are so no more.

    Files of other families come back as they are.

    Args:
        state: Tensors, or their shapes.
    """
    if not any(key.startswith("layers.0.blocks.0.") and key.endswith(".x_proj_weight") for key in state):
        return state
    renamed: dict[str, T] = {}
    for key, tensor in state.items():
        name = key
        for pattern, official in _OLD:
            name = re.sub(pattern, official, name)
        renamed[name] = _linear(tensor) if _LINEAR.match(name) else tensor
    return renamed


def _linear(weight: Any) -> Any:
    """A convolution of 1 x 1 as a matrix; others, and matrices, as they are."""
    shape = tuple(weight.shape) if isinstance(weight, Tensor) else weight
    if len(shape) != 4 or prod(shape[2:]) != 1:
        return weight
    return weight.flatten(1) if isinstance(weight, Tensor) else shape[:2]
