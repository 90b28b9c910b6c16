"""Weight files on disk: safetensors, and PyTorch files as they are published.

No file of a stranger is unpickled here. A limited process says which tensors a file holds and where they lie
(`fasthmr.io.weight_index`); this process then reads plain numbers from those places, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fasthmr.errors import UnsafeFileError, UsageError
from fasthmr.io.atomic import atomic_path
from fasthmr.io.isolated import read_isolated
from fasthmr.io.torch_pickle import WHAT
from fasthmr.io.weight_index import LIMITS, index_weights

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "BOOL": torch.bool,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
}
"""Number types by their safetensors name."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor on disk.

    Attributes:
        code: Number type by its safetensors name.
        stride: In elements.
        place: Byte of the file where its first number starts.
    """

    code: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    place: int

    def read(self, file: FileIO) -> Tensor:
        """Its numbers, row-major, in memory of its own.

        Raises:
            EOFError: The file ends before the tensor does.
        """
        dtype = DTYPES[self.code]
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=dtype)
        steps = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        raw = torch.empty((steps + 1) * dtype.itemsize, dtype=torch.uint8)
        file.seek(self.place)
        view, done = raw.numpy().data, 0
        while done < len(view):
            count = file.readinto(view[done:])
            if not count:
                raise EOFError
            done += count
        return raw.view(dtype).as_strided(self.shape, self.stride).contiguous()


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a weight file holds, before any weights are read.

    Attributes:
        format: "safetensors" or the like, for messages.
        tensors: By their names in the file, wrappers such as `state_dict` taken off.
        metadata: Texts that come with safetensors.
        others: What else the file holds and nobody reads, such as `optimizer_states`.
    """

    path: Path
    format: str
    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]
    others: tuple[str, ...]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {key: tensor.shape for key, tensor in self.tensors.items()}

    @contextmanager
    def reading(self) -> Iterator[_Reader]:
        """Opens the file; call what is yielded with the name of a tensor to get it.

        Raises:
            UnsafeFileError: The file has become shorter, or unreadable.
        """
        try:
            with self.path.open("rb", buffering=0) as file:
                yield _Reader(self.tensors, file)
        except EOFError:
            raise UnsafeFileError(f"{self.path}: ends within its weights; download it again") from None


@dataclass(frozen=True)
class _Reader:
    tensors: dict[str, StoredTensor]
    file: FileIO

    def __call__(self, key: str) -> Tensor:
        return self.tensors[key].read(self.file)


def open_weights(path: Path | str, *, trusted: bool = False) -> WeightFile:
    """Look at a weight file, in a limited process unless it is `trusted` (it came with the package).

    Raises:
        UsageError: There is no such file.
        UnsafeFileError: The file is damaged, holds no tensors, or holds objects that would run code.
        ResourceError: The limited process could not run.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such weight file")
    if trusted:
        index = index_weights(path)
    else:
        index = read_isolated(
            "fasthmr.io.weight_index", path, [str(path.absolute())], limits=LIMITS, what=WHAT
        )
    tensors = {
        key: StoredTensor(code=code, shape=tuple(shape), stride=tuple(stride), place=place)
        for key, code, shape, stride, place in index["tensors"]
    }
    return WeightFile(
        path=path,
        format=index["format"],
        tensors=tensors,
        metadata=index["metadata"],
        others=tuple(index["others"]),
    )


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file under the names they have there, and its text metadata.

    Raises:
        UsageError: There is no such file.
        UnsafeFileError: As in `open_weights`.
    """
    weights = open_weights(path)
    with weights.reading() as read:
        return {key: read(key) for key in weights.tensors}, weights.metadata


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
