"""The loop of recipes: one cycle of the rate, averaged weights, checkpoints.

A step is a function of its number, so that a run that was stopped continues as if it had not.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fasthmr.errors import UsageError
from fasthmr.io.atomic import atomic_path
from fasthmr.training.averaging import follow_average

_LOG = logging.getLogger(__name__)

Loss = Callable[[int], tuple[Tensor, Mapping[str, Tensor]]]
"""From the number of a step to its loss, and terms to show."""

_FIRST_RATE, _LAST_RATE = 0.04, 0.001


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length and rates of a training.

    Attributes:
        learning_rate: The highest; it rises over a share `rising` of the steps, then falls as a half cosine.
        ema: Decay of the averaged weights, which are the ones kept.
        bf16: Compute in bfloat16 where the processor has instructions for it.
        checkpoint_every, report_every: Steps.
    """

    steps: int
    learning_rate: float
    rising: float = 0.15
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.99
    bf16: bool = True
    checkpoint_every: int = 50
    report_every: int = 100

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.learning_rate > 0:
            raise UsageError(f"steps={self.steps} and learning_rate={self.learning_rate} must be positive")

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        rising = max(self.rising * self.steps, 1.0)
        if step < rising:
            share = _FIRST_RATE + (1 - _FIRST_RATE) * (step + 1) / rising
        else:
            left = (step - rising) / max(self.steps - rising, 1.0)
            share = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * left)) / 2
        return self.learning_rate * min(share, 1.0)


def run_loop(
    model: nn.Module,
    loss: Loss,
    config: LoopConfig,
    checkpoint: Path,
    *,
    settings: str,
    judge: Callable[[nn.Module], str] | None = None,
    groups: list[dict[str, Any]] | None = None,
) -> nn.Module:
    """Train, or go on from a checkpoint.

    Args:
        model: What learns; parameters that need no gradient stay.
        loss: Computes with `model`.
        settings: What the run was asked for; a checkpoint of another run is refused.
        judge: Says how good the averaged model is.
        groups: Of parameters, for the optimiser, each with its `lr_scale` (`layer_decay_groups`); None for
            one rate, and weight decay for matrices alone.

    Returns:
        The averaged model, in evaluation mode.

    Raises:
        UsageError: The checkpoint belongs to a run with other settings.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    plain = [
        {"params": [p for p in learning if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(plain if groups is None else groups, lr=config.learning_rate)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    step = _resume(checkpoint, settings, model, average, optimizer)
    bf16 = config.bf16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    begin, first = time.monotonic(), step
    if step == 0 and judge is not None:
        _LOG.info("before: %s", judge(average))
    model.train()
    while step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step) * group.get("lr_scale", 1.0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            total, terms = loss(step)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(learning, config.clip)
        optimizer.step()
        step += 1
        follow_average(average, model, min(config.ema, step / (step + 9)))
        last = step == config.steps
        if step % config.report_every == 0 or last:
            shown = " ".join(f"{name} {value.item():.5f}" for name, value in terms.items())
            each = (time.monotonic() - begin) / (step - first)
            found = "" if judge is None else f"; {judge(average)}"
            _LOG.info("step %d of %d, %.2f s each: %s%s", step, config.steps, each, shown, found)
        if step % config.checkpoint_every == 0 or last:
            state = {
                "settings": settings,
                "step": step,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            with atomic_path(checkpoint) as path:
                torch.save(state, path)
    return average


def _resume(
    checkpoint: Path, settings: str, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    if not checkpoint.is_file():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    if state["settings"] != settings:
        raise UsageError(
            f"{checkpoint} belongs to a run with other settings; give the same ones or another folder"
        )
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    _LOG.info("going on from step %d of %s", state["step"], checkpoint)
    return int(state["step"])
