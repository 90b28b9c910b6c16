"""How an exported model is compared with the model it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fasthmr.errors import ExportError, UsageError
from fasthmr.reduction.mask_tokens import ellipse_mask
from fasthmr.types import HMROutput

BATCHES = (1, 2, 3)
"""Crops in each of the calls that are compared."""

_ROUNDING = 1e-5


def outputs_of(result: object) -> dict[str, Tensor]:
    """What a model returns, as named tensors in a fixed order.

    Raises:
        UsageError: It is neither an `HMROutput` nor heat maps.
    """
    if isinstance(result, Tensor) and result.ndim == 4:
        return {"heatmaps": result}
    if not isinstance(result, HMROutput):
        raise UsageError(
            f"a model that gives {type(result).__name__} cannot be exported; "
            "models of meshes and of heat maps can"
        )
    params = result.params
    named = {
        "global_orient": params.global_orient,
        "body_pose": params.body_pose,
        "betas": params.betas,
        "camera": result.camera,
    }
    if result.keypoints is not None:
        named |= {"keypoints_xy": result.keypoints.xy, "keypoints_score": result.keypoints.score}
    if result.aux_keypoints_2d is not None:
        named["aux_keypoints_2d"] = result.aux_keypoints_2d
    return named


def gate_inputs(model: nn.Module, seed: int = 0) -> list[dict[str, Tensor]]:
    """Inputs of three calls with 1, 2 and 3 crops of noise.

    Masks are ellipses; the second batch has one that is empty, the third one that covers the crop, so that
    the person's tokens have to merge, too.

    Raises:
        UsageError: The model does not say what it takes.
    """
    generator = torch.Generator().manual_seed(seed)
    size = getattr(model, "crop_size", None)
    height, width = (size, size) if isinstance(size, int) else getattr(model, "image_size", (None, None))
    if not isinstance(height, int) or not isinstance(width, int):
        raise UsageError(
            f"{type(model).__name__} has neither crop_size nor image_size and cannot be exported"
        )
    calls = []
    for batch in BATCHES:
        inputs = {"pixels": torch.randn(batch, 3, height, width, generator=generator)}
        if getattr(model, "takes_camera", False):
            inputs["bbox_info"] = 0.3 * torch.randn(batch, 3, generator=generator)
        if getattr(model, "takes_mask", False):
            near, far = torch.rand(2, batch, 2, generator=generator) * 0.4
            sides = torch.tensor([width, height])
            mask = ellipse_mask(torch.cat([near * sides, (1 - far) * sides], dim=1), (height, width)).float()
            if batch > 1:
                mask[-1] = batch - 2
            inputs["mask"] = mask
        calls.append(inputs)
    return calls


def call(model: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """A model on named inputs."""
    extra = {"mask": inputs["mask"]} if "mask" in inputs else {}
    return model(*(inputs[name] for name in ("pixels", "bbox_info") if name in inputs), **extra)


def compare(
    expected: Sequence[Mapping[str, Tensor]],
    given: Sequence[Mapping[str, Tensor]],
    *,
    what: str,
    tolerance: float,
) -> dict[str, float]:
    """Largest absolute difference by output, over all calls; see `export_model` for what is allowed.

    Raises:
        ExportError: Some output is missing, has another shape, is not finite, or differs by more.
    """
    errors = {}
    for name in expected[0]:
        theirs = [outputs.get(name) for outputs in given]
        ours = [outputs[name] for outputs in expected]
        if any(b is None or a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
            shapes = [None if b is None else tuple(b.shape) for b in theirs]
            wanted_shapes = [tuple(a.shape) for a in ours]
            raise ExportError(f"{what} gives '{name}' of shapes {shapes}, the model {wanted_shapes}")
        wanted, got = torch.cat(ours), torch.cat([b for b in theirs if b is not None])
        error = float((wanted - got).abs().max())
        scale = max(1.0, float(wanted.abs().max()))
        allowed = tolerance * scale
        if len(wanted) > 1:
            change = float((wanted.amax(0) - wanted.amin(0)).max())
            allowed = min(allowed, max(0.02 * change, _ROUNDING * scale))
        if not error <= allowed:  # also true for numbers that are none
            raise ExportError(
                f"{what} gives other numbers than the model: '{name}' differs by {error:.2g}, "
                f"allowed are {allowed:.2g}; nothing is kept. A likely cause is an operation that exporters "
                'translate wrongly, such as scatter_reduce(reduce="mean")'
            )
        errors[name] = error
    return errors
