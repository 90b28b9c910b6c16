"""Seconds spent in each stage of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

STAGES = (
    *("read", "detect", "track", "camera", "crop", "model", "smooth", "body", "read again", "render"),
    *("encode", "write"),
)
"""In the order of work; pictures and videos have some of them each."""


class Stopwatch:
    """Adds up seconds by stage; stages may run in several threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


def summarise(
    runs: Sequence[Mapping[str, float]], frames: Sequence[int] | None = None
) -> dict[str, dict[str, float]]:
    """Median of the seconds for a frame and total seconds of each stage over several runs, in order of work.

    Args:
        frames: Of each run; 1 if not given, as for pictures.
    """
    frames = [1] * len(runs) if frames is None else frames
    table = {}
    for stage in STAGES:
        counted = [(run[stage], count) for run, count in zip(runs, frames, strict=True) if stage in run]
        if counted:
            table[stage] = {
                "median": median(seconds / max(count, 1) for seconds, count in counted),
                "total": sum(seconds for seconds, _ in counted),
            }
    return table
