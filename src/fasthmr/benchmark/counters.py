"""Parameters and multiply-accumulates of a model, counted on a forward pass (`docs/design/011`).

The pass runs on torch's "meta" device, where tensors have shapes and no contents: models are counted as they
are, with the tokens and layers that merging has left, in a fraction of a second and without memory.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fasthmr.benchmark.published_forms import rule_for, scan_operations
from fasthmr.checkpoints.loading import build_empty
from fasthmr.evaluation.products import ProductCounter
from fasthmr.layers.ss2d import SS2D
from fasthmr.zoo.registry import ModelConfig

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
"""Modules whose products every convention counts."""

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
"""Modules that the papers' profiler counts by the element."""

_LAYER, _RULED = "layer", "ruled"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Size and cost of a model. A multiply-accumulate (MAC) is one product that is added to a sum.

    Attributes:
        params: All parameters, with those of published files that nothing calls.
        macs: All matrix products and convolutions of the published formulation, attention included.
        layer_macs: Of these, the products of linear and convolution layers.
        table_params: Parameters as the papers' tables count them: those of linear, convolution and norm
            layers that are called; position codes, learned tokens and unused layers are left out.
        table_macs: Multiply-accumulates as the papers' tables count them: `layer_macs`, four for every
            element that a norm layer with weights reads, and one for every element that nearest-neighbour
            enlargement writes.
        run_macs: What this package really multiplies, with its exact shortcuts. What depends on the weights
            alone is kept between calls and not counted.
        scan_ops: Operations of selective scans, which no other number contains, by VMamba's own rule.
        transformer_macs: Those of `macs` in the transformers of a mesh head.
        regressor_macs: Those of `macs` in the shape regressor behind them, which the paper's transformers
            leave out.
    """

    params: int
    macs: int
    layer_macs: int
    table_params: int
    table_macs: int
    run_macs: int
    scan_ops: int = 0
    transformer_macs: int = 0
    regressor_macs: int = 0


def count(
    model: nn.Module | ModelConfig, *inputs: Tensor, shapes_only: bool = True, in_place: bool = False
) -> Counts:
    """Count a model, or what its configuration builds, in evaluation mode.

    Args:
        model: Left as it is, unless `in_place`.
        inputs: Arguments of one call; None for `example_inputs`, a single person or clip (and, where the
            model estimates the intrinsics of the camera, a single picture).
        shapes_only: Run on the "meta" device. Turn off, and give real inputs, where the number of tokens
            depends on the picture.
        in_place: Save the time to copy a model that is used for nothing else afterwards.

    Raises:
        ValueError: The model does not say what it takes, and no inputs are given.
    """
    if isinstance(model, nn.Module):
        watched = (model if in_place else _twin(model, shapes_only)).eval()
    else:
        watched = build_for_counting(model)
    given = tuple(_meta(tensor) if shapes_only else tensor for tensor in inputs)
    calls = [(watched, given)] if given else list(_example_calls(watched))
    counter = ProductCounter()
    tally = _Tally(watched, counter)
    with torch.no_grad(), counter:
        for called, arguments in calls:
            called(*arguments)
    layer_macs = counter.macs[_LAYER] + tally.layer_macs
    return Counts(
        params=sum(parameter.numel() for parameter in watched.parameters()) + _unused(watched),
        macs=tally.macs,
        layer_macs=layer_macs,
        table_params=sum(p.numel() for layer in tally.called for p in layer.parameters(recurse=False)),
        table_macs=layer_macs + tally.norm_macs + counter.enlarged,
        run_macs=counter.macs.total(),
        scan_ops=tally.scan_ops,
        transformer_macs=tally.transformer_macs,
        regressor_macs=tally.regressor_macs,
    )


def build_for_counting(config: ModelConfig) -> nn.Module:
    """The model of a configuration in evaluation mode, with shapes alone."""
    return build_empty(config).eval()


def example_inputs(model: nn.Module) -> tuple[Tensor, ...]:
    """Inputs of one call for one person or clip, by what the model says it takes.

    Raises:
        ValueError: It says nothing.
    """
    own = getattr(model, "example_inputs", None)
    if own is not None:
        return own()
    like = next(model.parameters())
    pixels = like.new_zeros(1, 3, *input_size(model))
    return (pixels, like.new_zeros(1, 3)) if getattr(model, "takes_camera", False) else (pixels,)


def input_size(model: nn.Module) -> tuple[int, int]:
    """Height and width in pixels of the pictures that a model takes.

    Raises:
        ValueError: It does not say.
    """
    size = getattr(model, "crop_size", None)
    size = (size, size) if isinstance(size, int) else getattr(model, "image_size", None)
    size = size or getattr(getattr(model, "config", None), "image_size", None)
    if size is None:
        raise ValueError(
            f"{type(model).__name__} has neither crop_size nor image_size: give inputs to count it by"
        )
    return size[0], size[1]


def _example_calls(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[Tensor, ...]]]:
    """The model, and the network for the camera's intrinsics that some call beside it."""
    yield model, example_inputs(model)
    intrinsics = getattr(model, "intrinsics", None)
    if isinstance(intrinsics, nn.Module):
        yield intrinsics, example_inputs(intrinsics)


class _Tally:
    """Hooks that tell the counter which module's products it sees, and note what is called."""

    def __init__(self, model: nn.Module, counter: ProductCounter) -> None:
        self.called: set[nn.Module] = set()
        self.layer_macs = self.attention_macs = self.norm_macs = self.scan_ops = 0
        self.transformer_macs = self.regressor_macs = 0
        self._counter = counter
        self._ruled = 0
        for module in model.modules():
            if rule_for(module):
                module.register_forward_pre_hook(self._enter_ruled, with_kwargs=True)
                module.register_forward_hook(self._leave_ruled)
            elif isinstance(module, LAYERS):
                module.register_forward_pre_hook(self._enter_layer)
                module.register_forward_hook(self._leave_layer)
            elif isinstance(module, NORMS):
                module.register_forward_hook(self._norm)
            elif isinstance(module, SS2D):
                module.register_forward_hook(self._scan)
        for head in model.modules():  # after the hooks above, which must have counted when a part ends
            for part in getattr(head, "transformers", ()):
                self._watch(part, "transformer_macs")
            if hasattr(head, "transformers") and isinstance(head.regressor, nn.Module):
                self._watch(head.regressor, "regressor_macs")

    @property
    def macs(self) -> int:
        """All products of the published form so far."""
        counted = self._counter.macs
        return counted[_LAYER] + counted[""] + self.layer_macs + self.attention_macs

    def _watch(self, part: nn.Module, name: str) -> None:
        """Add what runs inside a part to the attribute `name`."""
        before = 0

        def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            nonlocal before
            before = self.macs

        def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            setattr(self, name, getattr(self, name) + self.macs - before)

        part.register_forward_pre_hook(enter)
        part.register_forward_hook(leave)

    def _enter_ruled(self, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._ruled += 1
        if self._ruled == 1:
            self._counter.paused = True
            module.forward(*inputs, **options)  # fills what it keeps between calls
            self._counter.paused = False
            self._counter.enter(_RULED)

    def _leave_ruled(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._ruled -= 1
        if self._ruled:
            return
        self._counter.leave()
        rule = rule_for(module)
        assert rule is not None
        published = rule(module, inputs)
        self.layer_macs += published.layer_macs
        self.attention_macs += published.attention_macs
        self.norm_macs += published.norm_macs
        self.called.update(part for part in module.modules() if isinstance(part, LAYERS + NORMS))

    def _enter_layer(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._counter.enter(_LAYER)

    def _leave_layer(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._counter.leave()
        self.called.add(module)

    def _scan(self, module: SS2D, inputs: tuple[Any, ...], output: Any) -> None:
        self.scan_ops += scan_operations(module, inputs)

    def _norm(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.called.add(module)
        if not self._ruled:
            per_element = 2 if module.weight is None else 4
            self.norm_macs += per_element * inputs[0].numel()


def _unused(model: nn.Module) -> int:
    """Parameters of published files that nothing calls and that the modules (each for itself) leave out."""
    return sum(getattr(module, "unused_published_params", 0) for module in model.modules())


def _twin(model: nn.Module, shapes_only: bool) -> nn.Module:
    """A copy to hang hooks on: with contents shared, or with shapes alone."""
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [v for module in model.modules() for v in vars(module).values() if isinstance(v, Tensor)]
    return copy.deepcopy(model, {id(t): _meta(t) if shapes_only else t for t in tensors})


def _meta(tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        return tensor
    bare = torch.empty_like(tensor, device="meta")
    return nn.Parameter(bare, requires_grad=False) if isinstance(tensor, nn.Parameter) else bare
