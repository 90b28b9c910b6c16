"""Rule "fasthmr-fill-v1": weights and inputs of golden cases that are too large to store.

The name of a tensor seeds a PCG64 generator whose raw words become its values, so that neither the order of
names nor the version of a library matters.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

INPUT_FACTORS = {"images": 2.0, "features": 1.0, "img_features": 2.0}
"""Inputs that are not stored are uniform between minus and plus this."""

Kind = Literal["zero", "var", "mean", "bias", "scale", "embed", "unit", "weight"]


def kind_of(key: str, shape: tuple[int, ...]) -> Kind:
    """What a tensor is, as the rule reads it from name and shape."""
    *_, parent, leaf = ["", *key.split(".")]
    if leaf == "num_batches_tracked":
        return "zero"
    if leaf == "running_var":
        return "var"
    if leaf == "running_mean":
        return "mean"
    if leaf == "bias" or leaf.endswith("_bias"):
        return "bias"
    if leaf == "weight" and (len(shape) == 1 or "norm" in parent.lower()):
        return "scale"
    if len(shape) == 2 and parent.endswith(("embeddings", "_embed")):
        return "embed"
    return "weight" if len(shape) >= 2 else "bias"


def fill(
    key: str, shape: Iterable[int], *, seed: int, gain: float = 1.0, kind: Kind | None = None
) -> np.ndarray:
    """A tensor in float64; `num_batches_tracked` is an int64 zero.

    Args:
        key: Name in the case, prefixes such as `backbone.` and `input/` included.
        kind: None for what the rule reads from the name.
    """
    sizes = tuple(shape)
    kind = kind or kind_of(key, sizes)
    if kind == "zero":
        return np.zeros(sizes, dtype=np.int64)
    generator = np.random.PCG64(zlib.crc32(f"{seed}/{key}".encode()))
    raw = generator.random_raw(math.prod(sizes)).astype(np.uint64)
    u = ((raw >> np.uint64(11)) * 2.0**-53).reshape(sizes)
    v = 2 * u - 1
    match kind:
        case "var":
            return 0.5 + u
        case "mean":
            return 0.2 * v
        case "bias":
            return 0.1 * v
        case "scale":
            return 0.75 + 0.5 * u
        case "weight":
            return v * math.sqrt(3 / math.prod(sizes[1:])) * gain
        case _:  # embed and unit
            return v


def fill_tensor(
    key: str, shape: Iterable[int], *, seed: int, gain: float = 1.0, kind: Kind | None = None
) -> Tensor:
    """`fill` in float32 (int64 for `num_batches_tracked`)."""
    values = fill(key, shape, seed=seed, gain=gain, kind=kind)
    return torch.from_numpy(values if values.dtype == np.int64 else values.astype(np.float32))


def filled_weights(meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """All weights that the json of a case lists under `state_dict`, checked against its first values.

    Raises:
        ValueError: A tensor is not the one that the case was made with.
    """
    weights: dict[str, Tensor] = {}
    for key, listed in meta["state_dict"].items():
        tensor = fill_tensor(key, listed["shape"], seed=meta["seed"], gain=meta["gain"], kind=listed["kind"])
        first = torch.tensor(listed["first"], dtype=tensor.dtype)
        if not torch.equal(tensor.flatten()[: len(first)], first):
            raise ValueError(f"{key}: the fill rule gives other values than the case lists")
        weights[key] = tensor
    return weights


def case_input(meta: Mapping[str, Any], tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Input `name` of a case: stored, or uniform by the rule with the factor of its name."""
    key = f"input/{name}"
    if key in tensors:
        return tensors[key]
    return INPUT_FACTORS[name] * fill_tensor(
        key, meta["inputs"][name]["shape"], seed=meta["seed"], kind="unit"
    )
