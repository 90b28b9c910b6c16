"""How much faster a merged model is: both run in turn, so that a busy machine slows both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fasthmr.benchmark.counters import example_inputs
from fasthmr.evaluation.timing import Run, summarise, time_in_turns


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A speed-up measured in turns.

    Attributes:
        value: Median time before over median time after.
        interval: 95 % bootstrap interval of `value`.
        before_s, after_s: Median seconds of one batch.
    """

    value: float
    interval: tuple[float, float]
    before_s: float
    after_s: float


@torch.inference_mode()
def speed_ratio(before: nn.Module, after: nn.Module, *, batch_size: int, seconds: float = 1.5) -> Ratio:
    """Time two models on the same random crops.

    Args:
        seconds: Of measuring; a few rounds are run however long they take.
    """
    inputs = [tensor.expand(batch_size, *tensor.shape[1:]).clone() for tensor in example_inputs(before)]
    inputs[0].normal_(generator=torch.Generator(inputs[0].device).manual_seed(0))

    def run(model: nn.Module) -> Run:
        def once() -> None:
            model(*inputs)
            if inputs[0].is_cuda:
                torch.cuda.synchronize()

        return once

    first, second = summarise(time_in_turns((run(before), run(after)), seconds=seconds, warm_up=2))
    return Ratio(
        value=second.speedup, interval=second.interval, before_s=first.median_s, after_s=second.median_s
    )
