"""Healing: a merged model learns from the one that it was made from, in a few hundred steps, without labels.

Every merged block is pulled to what left the top block of its group in the original, on the tokens of the
person; head and outputs are pulled to those of the original as well.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from fasthmr.errors import UsageError
from fasthmr.models.camera_hmr import CameraHMR
from fasthmr.models.hmr import HMR
from fasthmr.models.keypoint_hmr import KeypointHMR
from fasthmr.models.reduced import ReducedEncoder
from fasthmr.training.crop_batches import BatchSource
from fasthmr.training.distill import Distiller, HealWeights, Terms
from fasthmr.training.precision import has_bf16

_LOG = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class HealConfig:
    """Length and reach of the healing.

    Attributes:
        learning_rate: At the end of the warm-up; falls as a half cosine to zero from there.
        parameters: What learns. "all": everything; "blocks": all ViT blocks and the last norm; "merged":
            blocks that stand for several, and the norms of the others.
        bf16: Compute in bfloat16 where the processor has instructions for it.
    """

    steps: int = 300
    learning_rate: float = 3e-4
    warmup_steps: int = 10
    parameters: Literal["all", "blocks", "merged"] = "all"
    clip: float = 1.0
    bf16: bool = True
    weights: HealWeights = field(default_factory=HealWeights)

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0:
            raise ValueError(f"HealConfig: steps={self.steps} or learning_rate={self.learning_rate} below 1")


def heal(
    student: Model,
    teacher: nn.Module,
    batches: BatchSource,
    config: HealConfig | None = None,
    *,
    progress: Callable[[int, Terms], None] | None = None,
) -> Model:
    """A copy of a merged model, trained to do what its original does. Both given models stay as they are.

    Norms over batches keep their statistics and nothing is dropped at random: the copy runs as it will later.

    Args:
        student: What `models.reduced.reduce_model` made of `teacher`, on the device to train on.
        batches: From step 0 on (`crop_batches`); masks say which tokens count, and serve the merging.
        progress: Called after each step with its number and the unweighted terms.

    Raises:
        UsageError: The models are not mesh models of the same kind, or the student is not a merged teacher.
    """
    config = config or HealConfig()
    _check(student, teacher)
    healed = copy.deepcopy(student).eval().requires_grad_(False)
    learning = _learning(healed, config.parameters)
    device = learning[0].device
    distiller = Distiller(healed, teacher, config.weights)
    optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=0.0)
    bf16 = config.bf16 and has_bf16(device)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            total, terms = distiller(batches(step).to(device))
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(learning, config.clip)
        optimizer.step()
        if step % 50 == 0 or step == config.steps - 1:
            shown = " ".join(f"{name} {value.item():.4f}" for name, value in terms.items())
            _LOG.info("healing, step %d: total %.4f %s", step, total.item(), shown)
        if progress is not None:
            progress(step, terms)
    return healed.requires_grad_(True).train(student.training)


def _learning(model: Any, which: Literal["all", "blocks", "merged"]) -> list[nn.Parameter]:
    """Let the chosen parameters learn; those of a self-mask head never do, since it only marks."""
    encoder: ReducedEncoder = model.encoder
    if which == "all":
        parts: list[nn.Module] = [encoder.inner, model.head]
    else:
        parts = [*encoder.inner.blocks, encoder.inner.last_norm]
    layers = encoder.config.layers
    if which == "merged" and layers is not None:
        blocks = zip(encoder.inner.blocks, layers.groups, strict=True)
        parts = [encoder.inner.last_norm]
        for block, group in blocks:
            parts += [block] if len(group) > 1 else [block.norm1, block.norm2]
    chosen = [parameter for part in parts for parameter in part.parameters()]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def _rate(step: int, config: HealConfig) -> float:
    rising = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    return rising * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / config.steps)).item())


def _check(student: Any, teacher: Any) -> None:
    if type(student) is not type(teacher) or not isinstance(student, HMR | CameraHMR | KeypointHMR):
        raise UsageError(
            f"a {type(student).__name__} cannot be healed by a {type(teacher).__name__}; "
            "give a merged mesh model and the one it was made from"
        )
    encoder = student.encoder
    if not isinstance(encoder, ReducedEncoder) or isinstance(teacher.encoder, ReducedEncoder):
        raise UsageError("healing takes a merged model and its original, in this order")
    if encoder.config.source != teacher.encoder.config:
        raise UsageError("the merged model was made from a model of another size than the one given")
