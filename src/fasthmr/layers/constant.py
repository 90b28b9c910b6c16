"""What depends on the weights of a module alone, kept between calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class _Kept(Generic[T]):
    """A value for one state of the weights."""

    weights: tuple[Tensor, ...]
    state: tuple[Hashable, ...]
    value: T


class WeightConstant(Generic[T]):
    """A value that is computed from weights once, and again when they have changed.

    Only in evaluation without gradients; otherwise, and while a model is traced, it is computed on each call.
    Weights changed through `parameter.data` are not noticed, so owners call `drop` from `train()`.
    """

    def __init__(self) -> None:
        self._kept: _Kept[T] | None = None

    def drop(self) -> None:
        """Forget the value."""
        self._kept = None

    def get(
        self,
        compute: Callable[[], T],
        weights: tuple[Tensor, ...],
        *,
        training: bool,
        about: Hashable = None,
    ) -> T:
        """The value.

        Args:
            compute: Makes it.
            weights: All that it depends on, parameters and buffers.
            training: Of the owner.
            about: What else it depends on, such as a number of tokens.
        """
        if training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return compute()
        if any(weight.is_inference() for weight in weights):  # such tensors do not count their changes
            return compute()
        state = (about, *((w._version, w.data_ptr(), w.dtype) for w in weights))
        kept = self._kept
        same = kept is not None and all(a is b for a, b in zip(kept.weights, weights, strict=True))
        if kept is None or not same or kept.state != state:
            device = "cpu" if weights[0].is_meta else weights[0].device.type  # "meta" has no autocast
            with torch.autocast(device, enabled=False):
                kept = _Kept(weights=weights, state=state, value=compute())
            self._kept = kept
        return kept.value
