"""Watches a forward pass and adds up the multiply-accumulates of every matrix product and convolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, no_type_check

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # what torch's own list leaves out
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        torch.ops.aten._scaled_dot_product_flash_attention
    ],
    torch.ops.aten.mv: lambda matrix, vector, **_: 2 * matrix.numel(),
    torch.ops.aten.addmv: lambda start, matrix, vector, **_: 2 * matrix.numel(),
    torch.ops.aten.dot: lambda a, b, **_: 2 * a.numel(),
}
"""Operations that multiply, and two for each multiply-accumulate of theirs."""

_ENLARGE = torch.ops.aten.upsample_nearest2d

_Layout = tuple[torch.Size, tuple[int, ...], torch.dtype]

_seen: dict[Any, tuple[Callable[[list[Tensor]], Any], list[_Layout]]] = {}
"""What the results of operations on the "meta" device look like, by the operation and its arguments."""


@no_type_check  # runs for every operation: checks of its types would take longer than the model
class ProductCounter(TorchDispatchMode):
    """Counts the products of all operations that run inside `with`, by the scope they run in.

    On the "meta" device an operation whose arguments look as they did before is not worked out again: its
    results look the same too. That makes a deep model of equal blocks cheap to walk through.

    Attributes:
        macs: Multiply-accumulates by the scope they ran in; "" outside of any.
        enlarged: Elements written by nearest-neighbour enlargement.
        paused: Whether to look away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs: Counter[str] = Counter()
        self.enlarged = 0
        self.paused = False
        self._scopes: list[str] = []

    def enter(self, scope: str) -> None:
        """Count under this name from now on. The outermost scope wins."""
        self._scopes.append(scope)

    def leave(self) -> None:
        """End what the last `enter` began."""
        self._scopes.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = self._run(func, args, kwargs)
        if self.paused:
            return result
        if func._overloadpacket is _ENLARGE:
            self.enlarged += result.numel()
        flops = _FLOPS.get(func._overloadpacket)
        if flops is not None:
            scope = self._scopes[0] if self._scopes else ""
            self.macs[scope] += flops(*args, **kwargs, out_val=result) // 2
        return result

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = None if func._schema.is_mutable else (func, _look(args), _look(tuple(kwargs.items())))
        seen = _seen.get(key)
        if seen is not None:
            pack, layouts = seen
            return pack(
                [
                    torch.empty_strided(size, stride, dtype=dtype, device="meta")
                    for size, stride, dtype in layouts
                ]
            )
        result = func(*args, **kwargs)
        tensors = [result] if isinstance(result, Tensor) else result
        if key is None or not isinstance(tensors, (list, tuple)):
            return result
        if all(isinstance(tensor, Tensor) and tensor.is_meta for tensor in tensors):
            pack = _only if isinstance(result, Tensor) else type(result)
            _seen[key] = (pack, [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors])
        return result


@no_type_check
def _only(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


@no_type_check
def _look(argument: Any) -> Any:
    """Everything about an argument that the looks of a result depend on."""
    if isinstance(argument, Tensor):
        return argument.shape, argument.stride(), argument.dtype, argument.device
    if isinstance(argument, (list, tuple)):
        return tuple(_look(item) for item in argument)
    return type(argument), argument  # the type too: 1, 1.0 and True are equal keys
