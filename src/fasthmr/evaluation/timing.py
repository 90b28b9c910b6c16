"""How long things take, measured in turns, so that a busy machine slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.evaluation.metrics import interval_of

_DRAWS = 2000

Run = Callable[[], object]
"""Something to time; returns when the work is done."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of one run, over several rounds.

    Attributes:
        quartiles_s: First and third.
        speedup: Median of the candidate compared with, the first of them all or of a group, over this one's.
        interval: 95 % bootstrap interval of `speedup`; rounds are drawn again, all candidates together.
    """

    rounds: int
    median_s: float
    quartiles_s: tuple[float, float]
    speedup: float
    interval: tuple[float, float]


def time_in_turns(
    runs: Sequence[Run],
    *,
    seconds: float = 10.0,
    min_rounds: int = 5,
    max_rounds: int | None = None,
    warm_up: int = 1,
) -> Float[Tensor, "rounds runs"]:
    """Seconds of each run, in rounds that begin with another one each time.

    Args:
        seconds: To spend, warming up left out; `min_rounds` are run however long they take, `max_rounds` at
            most.
        warm_up: Runs of each at the start that are not counted.
    """
    for _ in range(warm_up):
        for run in runs:
            run()
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) < min_rounds or (
        (max_rounds is None or len(rounds) < max_rounds) and time.perf_counter() - start < seconds
    ):
        taken = [0.0] * len(runs)
        for place in range(len(runs)):
            which = (place + len(rounds)) % len(runs)
            begin = time.perf_counter()
            runs[which]()
            taken[which] = time.perf_counter() - begin
        rounds.append(taken)
    return torch.tensor(rounds, dtype=torch.float64)


def summarise(
    seconds: Float[Tensor, "rounds runs"], seed: int = 0, against: Sequence[int] | None = None
) -> list[Timing]:
    """What the rounds of `time_in_turns` say about each run.

    Args:
        against: For each run the number of the one to compare it with; the first for all if None.
    """
    count = len(seconds)
    generator = torch.Generator().manual_seed(seed)
    drawn = seconds[torch.randint(count, (_DRAWS, count), generator=generator)]
    drawn_medians = drawn.quantile(0.5, dim=1)
    quartiles = seconds.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=seconds.dtype), dim=0)
    timings = []
    for i in range(seconds.shape[1]):
        low, median, high = quartiles[:, i].tolist()
        base = 0 if against is None else against[i]
        timings.append(
            Timing(
                rounds=count,
                median_s=median,
                quartiles_s=(low, high),
                speedup=float(quartiles[1, base]) / median,
                interval=interval_of(drawn_medians[:, base] / drawn_medians[:, i]),
            )
        )
    return timings
