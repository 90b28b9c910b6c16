"""Seconds spent in each stage of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

STAGES = ("read", "detect", "camera", "crop", "model", "body", "render", "write")


class Stopwatch:
    """Adds up seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def summarise(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Median and total seconds of each stage over several runs, stages in the order of work."""
    table = {}
    for stage in STAGES:
        values = [run[stage] for run in runs if stage in run]
        if values:
            table[stage] = {"median": median(values), "total": sum(values)}
    return table
