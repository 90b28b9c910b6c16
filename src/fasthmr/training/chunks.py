"""Samples that are made once and stored as files of so many rows each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fasthmr.io.atomic import atomic_path

_LOG = logging.getLogger(__name__)

_TOGETHER = 32


def write_chunks(
    folder: Path, count: int, size: int, make: Callable[[Int[Tensor, "rows"]], dict[str, Tensor]]
) -> None:
    """Write samples 0 .. count into a folder, leaving complete files as they are.

    Args:
        size: Samples in a file, the last may have fewer.
        make: Samples by number, at most 32 at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, size):
        path, end = folder / f"{first:06d}.safetensors", min(first + size, count)
        if path.is_file() and _rows(path) >= end - first:
            continue
        parts: dict[str, list[Tensor]] = {}
        for rows in torch.arange(first, end).split(_TOGETHER):
            for name, tensor in make(rows).items():
                parts.setdefault(name, []).append(tensor)
        with atomic_path(path) as temporary:
            save_file({name: torch.cat(tensors).contiguous() for name, tensors in parts.items()}, temporary)
        _LOG.info("%s: %d of %d samples", folder, end, count)


def _rows(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return file.get_slice(next(iter(file.keys()))).get_shape()[0]
