"""What a benchmark runs: models by name or file, as they are and merged, on engines and in precisions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fasthmr.benchmark.counters import LAYERS, build_for_counting, count, example_inputs, input_size
from fasthmr.benchmark.stand_in_mesh import give_stand_in_mesh
from fasthmr.checkpoints.config_json import config_from_json
from fasthmr.errors import UsageError
from fasthmr.evaluation.timing import Run
from fasthmr.models.inference import ready_for_inference
from fasthmr.models.mesh import MeshModel
from fasthmr.models.reduced import reduce_model
from fasthmr.reduction.eclm import LayerMergePlan
from fasthmr.reduction.mask_tokens import ellipse_mask
from fasthmr.reduction.tome_schedule import TokenMergePlan
from fasthmr.zoo import create_model, list_models, load_model, pretrained_file

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Opener = Callable[[nn.Module | Path, str, str], nn.Module]
"""A model, or the file of an exported one, on an engine by name, in a precision."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that is ready to run.

    Attributes:
        precision: Number type that the engine says it computes in.
        macs: Multiply-accumulates of one crop that are really run; 0 where nobody knows.
        product: Rows for one crop, inner size and columns of its largest linear layer.
    """

    name: str
    engine: str
    precision: str
    model: nn.Module
    macs: int
    product: tuple[int, int, int] | None

    def run(self, batch: int, device: torch.device, seed: int) -> Run:
        """A call with crops of noise."""
        inputs, masks = _inputs(self.model, batch, seed)
        inputs = [tensor.to(device) for tensor in inputs]
        masks = {name: tensor.to(device) for name, tensor in masks.items()}

        def run() -> None:
            self.model(*inputs, **masks)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run


def variants(
    name: str, layers: int | None, tokens: int | None, seed: int
) -> list[tuple[str, nn.Module | Path]]:
    """A model, and the same one merged if that is asked for, with what to call them; ready for inference.

    Raises:
        UsageError: There is no such model, or it cannot be merged so.
    """
    if Path(name).suffix.lower() in (".onnx", ".xml"):
        if layers or tokens:
            raise UsageError(f"{name}: an exported model cannot be merged; export the merged one")
        return [(Path(name).name, Path(name))]
    if name in list_models() or not Path(name).is_file():
        torch.manual_seed(seed)
        model = create_model(name, pretrained=pretrained_file(name) is not None)
        label = name
    else:
        model, label = load_model(name), Path(name).name
    if isinstance(model, MeshModel):
        give_stand_in_mesh(model, seed)
    if layers is None and tokens is None:
        return [(label, ready_for_inference(model))]
    merged = reduce_model(model, layers=_layer_plan(model, layers), tokens=_token_plan(model, tokens))
    wanted = [f"{layers} layers"] * (layers is not None) + [f"{tokens} tokens"] * (tokens is not None)
    described = f"{label}, {', '.join(wanted)}"
    return [(label, ready_for_inference(model)), (described, ready_for_inference(merged))]


def _layer_plan(model: Any, layers: int | None) -> LayerMergePlan | None:
    if layers is None:
        return None
    depth = len(getattr(model.encoder, "blocks", ()))
    if not 1 <= layers <= depth:
        raise UsageError(f"{layers} layers cannot be left of {depth}")
    kept = tuple((block,) for block in range(layers - 1))
    return LayerMergePlan(groups=(*kept, tuple(range(layers - 1, depth))))


def _token_plan(model: Any, tokens: int | None) -> TokenMergePlan | None:
    if tokens is None:
        return None
    rows, columns = getattr(model.encoder, "grid", (0, 0))
    if not 1 <= tokens <= rows * columns:
        raise UsageError(f"{tokens} tokens cannot be left of {rows * columns}")
    return TokenMergePlan.to_keep(tokens, tokens=rows * columns)


def make_candidate(
    label: str,
    model: nn.Module | Path,
    open_model: Opener,
    engine: str,
    precision: str,
    device: torch.device,
    *,
    counted: bool = True,
) -> Candidate:
    """A model on an engine, with its counts unless nobody asks for them."""
    running = open_model(model, engine, precision)
    own = isinstance(model, nn.Module) and running is model
    if own:
        if precision != "float32":
            running = _Lowered(running, DTYPES[precision], device)
        running = running.to(device)
    config = getattr(model, "config", None) if counted else None
    text = getattr(getattr(running, "info", None), "config", "") if counted else ""
    config = config_from_json(text) if config is None and text else config
    return Candidate(
        name=label,
        engine=str(getattr(running, "engine", "torch")),
        precision=str(getattr(running, "precision", precision)),
        model=running.eval(),
        macs=0 if config is None else count(config).run_macs,
        product=None if config is None else _largest_product(config),
    )


def _largest_product(config: Any) -> tuple[int, int, int] | None:
    """Rows, inner size and columns of the linear layer that multiplies most, for one crop."""
    model = build_for_counting(config)
    found: list[tuple[int, int, int]] = []

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((inputs[0].numel() // layer.in_features, layer.in_features, layer.out_features))

    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(note)
    with torch.no_grad():
        model(*example_inputs(model))
    return max(found, key=lambda sizes: sizes[0] * sizes[1] * sizes[2], default=None)


def _inputs(model: nn.Module, batch: int, seed: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Crops of noise, where each lies in its camera if the model asks, and ellipses around the middle.

    For models of motion, clips of noise.
    """
    generator = torch.Generator().manual_seed(seed)
    model = model.model if isinstance(model, _Lowered) else model
    if hasattr(model, "example_inputs"):
        shown = (tensor.expand(batch, *tensor.shape[1:]).clone() for tensor in example_inputs(model))
        return [t.normal_(generator=generator) if t.is_floating_point() else t for t in shown], {}
    height, width = input_size(model)
    inputs = [torch.randn(batch, 3, height, width, generator=generator)]
    if getattr(model, "takes_camera", False):
        inputs.append(0.1 * torch.randn(batch, 3, generator=generator))
    if not getattr(model, "takes_mask", False):
        return inputs, {}
    near, far = 0.1 + 0.15 * torch.rand(2, batch, 2, generator=generator)
    sides = torch.tensor([width, height])
    boxes = torch.cat([near * sides, (1 - far) * sides], dim=1)
    return inputs, {"mask": ellipse_mask(boxes, (height, width)).float()}


class _Lowered(nn.Module):
    """A model that multiplies in a smaller number type, in which the layers of its encoder are stored, too.

    Heads keep what they store: it is little, and parts of it have to stay precise.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        for module in getattr(self.model, "encoder", self.model).modules():
            if isinstance(module, LAYERS):
                module.to(dtype)
        self.dtype, self.kind = dtype, device.type

    def forward(self, *inputs: Tensor, **masks: Tensor) -> object:
        with torch.autocast(self.kind, self.dtype):
            return self.model(*inputs, **masks)
