"""Writing safetensors one tensor at a time, so that memory does not grow with the file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from fasthmr.checkpoints.files import DTYPES
from fasthmr.io.atomic import atomic_path

_ALIGNMENT = 8
_CODES = {dtype: code for code, dtype in DTYPES.items()}


def write_safetensors(
    path: Path,
    outline: Mapping[str, Tensor],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str],
) -> int:
    """Write tensors in the order in which they come; the file appears complete or not at all.

    Args:
        outline: Number type and shape of each tensor in the order of `tensors`; needs no memory. Larger
            number types must come first, so that all are aligned.
        tensors: The same keys with their numbers.

    Returns:
        Size of the file in bytes.

    Raises:
        ResourceError: The disk is full, or the place cannot be written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for key, expected in outline.items():
        end = at + expected.nbytes
        header[key] = {
            "dtype": _CODES[expected.dtype],
            "shape": list(expected.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with atomic_path(path) as temporary:
        with temporary.open("wb", buffering=0) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for (key, expected), (name, tensor) in zip(outline.items(), tensors, strict=True):
                if (name, tensor.dtype, tensor.shape) != (key, expected.dtype, expected.shape):
                    raise ValueError(f"{name} came where {key} was expected, or with another type or shape")
                _write_all(file, tensor)
        size = temporary.stat().st_size
    return size


def _write_all(file: FileIO, tensor: Tensor) -> None:
    if tensor.numel() == 0:
        return
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
    while data:
        data = data[file.write(data) :]
