"""Weight files on disk: safetensors, and PyTorch files that hold tensors alone."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fasthmr.errors import UnsafeFileError, UsageError
from fasthmr.io.atomic import atomic_path

_WRAPPERS = ("state_dict", "model")
"""Keys under which training frameworks store the weights beside other things."""


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file under the names they have there, and its text metadata.

    Raises:
        UsageError: There is no such file.
        UnsafeFileError: The file is damaged, holds no tensors, or holds objects that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such weight file")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        except SafetensorError as error:
            raise UnsafeFileError(f"{path}: not a complete safetensors file ({error})") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"{path}: holds objects other than tensors, which are never loaded; "
            "save its state_dict alone and load that file"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UnsafeFileError(f"{path}: not a complete PyTorch weight file ({error})") from error
    return _tensors(content, path), {}


def save_weights(
    model: nn.Module,
    path: Path | str,
    *,
    dtype: torch.dtype = torch.float16,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the weights of a model under our names as safetensors; floats are stored as `dtype`.

    Raises:
        ValueError: A weight is not finite, or does not fit the range of `dtype`.
    """
    state: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        stored = tensor.detach().cpu()
        stored = stored.to(dtype) if stored.is_floating_point() else stored
        if not bool(torch.isfinite(stored).all()):
            raise ValueError(f"{key} is not finite as {dtype}")
        state[key] = stored.clone(memory_format=torch.contiguous_format)
    with atomic_path(Path(path)) as temporary:
        save_file(state, temporary, metadata=dict(metadata or {}))


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), dict):
                content = content[wrapper]
                break
    if not isinstance(content, dict) or not content:
        raise UnsafeFileError(f"{path}: holds no weights")
    others = [
        key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if others:
        raise UnsafeFileError(f"{path}: {len(others)} entries are not tensors, first {others[0]!r}")
    return content
