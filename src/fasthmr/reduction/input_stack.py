"""What enters each block of a model, kept so that a change further up needs no run from the start."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fasthmr.errors import ResourceError
from fasthmr.layers.tokens import TokenState


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """Where block inputs are kept.

    Attributes:
        memory: Bytes to keep in memory; what goes beyond is written to memory-mapped files.
        folder: Place of these files; the system's temporary folder if None. They vanish with the search.
        dtype: Precision of stored tokens; None keeps theirs, which makes results exact.
        every: Keep the input of every n-th block only, and run the blocks between again when needed.
    """

    memory: int = 2 << 30
    folder: Path | None = None
    dtype: torch.dtype | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or self.memory < 0:
            raise ValueError(f"StackOptions: every={self.every} or memory={self.memory} is too small")


class InputStack:
    """Token states by depth and batch. Make one with `open_stack`."""

    def __init__(self, options: StackOptions, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._used = 0
        self._files = 0
        self._states: dict[int, list[TokenState]] = {}

    def push(self, depth: int, state: TokenState) -> None:
        """Keep one more batch of what enters block `depth`, if that depth is kept at all.

        Raises:
            ResourceError: Memory allowance and disk are both used up.
        """
        if depth % self._options.every:
            return
        tokens = state.tokens.detach().to("cpu", self._options.dtype or state.tokens.dtype)
        size = tokens.numel() * tokens.element_size()
        if self._used + size <= self._options.memory:
            self._used += size
        else:
            tokens = self._mapped(tokens, size)
        self._states.setdefault(depth, []).append(replace(state, tokens=tokens))

    def nearest(self, depth: int) -> tuple[int, list[TokenState]]:
        """The deepest kept inputs at or below `depth`, and their depth. Deeper ones are forgotten."""
        for kept in [kept for kept in self._states if kept > depth]:
            del self._states[kept]
        start = depth - depth % self._options.every
        return start, self._states[start]

    def _mapped(self, tokens: Tensor, size: int) -> Tensor:
        free = shutil.disk_usage(self._folder).free
        if free < 2 * size:
            raise ResourceError(
                f"{self._folder}: {free >> 20} MB free are too few for the inputs of all blocks; use fewer "
                "pictures, keep every second block only (every=2), half precision, or another folder"
            )
        self._files += 1
        path = self._folder / f"{self._files}.bin"
        mapped = torch.from_file(str(path), shared=True, size=tokens.numel(), dtype=tokens.dtype)
        mapped.copy_(tokens.flatten())
        with suppress(PermissionError):  # Windows keeps the name while the mapping lives
            path.unlink()  # the mapping outlives the name, so that not even a kill leaves files behind
        return mapped.view(tokens.shape)


@contextmanager
def open_stack(options: StackOptions) -> Iterator[InputStack]:
    """A stack whose files are gone after the block."""
    with tempfile.TemporaryDirectory(
        prefix="fasthmr-", dir=options.folder, ignore_cleanup_errors=True
    ) as folder:
        yield InputStack(options, Path(folder))
