"""`fasthmr accelerate`: options to settings, and progress with the time left on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from fasthmr.acceleration.accelerate import accelerate_model
from fasthmr.acceleration.candidates import SearchOptions
from fasthmr.acceleration.frames import Labels
from fasthmr.acceleration.plan import MergePlan
from fasthmr.acceleration.search import Progress
from fasthmr.acceleration.settings import AccelerateConfig


def run_accelerate(
    model: str,
    data: str,
    *,
    masks: str,
    labels: str,
    max_error_mm: float | None,
    target_speedup: float,
    tokens: int | None,
    plan: Path | None,
    heal_steps: int,
    heal_data: Path | None,
    detector: str,
    out: Path,
    seed: int,
) -> dict[str, Any]:
    """As the command line documents it.

    Returns:
        The numbers of the report.

    Raises:
        UsageError: As for `accelerate`.
        InputError: As for `accelerate`.
    """
    config = AccelerateConfig(
        search=SearchOptions.asked(
            max_error_mm=max_error_mm, target_speedup=target_speedup, tokens=tokens, masks=masks
        ),
        plan=None if plan is None else MergePlan.read(plan),
        masks=masks,
        labels=cast(Labels, labels),
        detector=detector,
        heal_steps=heal_steps,
        heal_data=heal_data,
        seed=seed,
    )
    with terminal_progress() as progress:
        return accelerate_model(model, data, config, out=out, progress=progress).report.as_dict()


@contextmanager
def terminal_progress() -> Iterator[Progress]:
    """A bar with the time left for each stage, on the standard error stream if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:32}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    console = Console(stderr=True)
    with Bars(*columns, *times, console=console, disable=not sys.stderr.isatty()) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int) -> None:
            kind = stage.split(",")[0]
            if kind not in tasks:
                tasks[kind] = bars.add_task(stage, total=total)
            bars.update(tasks[kind], description=stage, completed=done, total=total)

        yield tell
