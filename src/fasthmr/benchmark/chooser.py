"""Speed of many presets on this machine, with a report that says which to use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from fasthmr.benchmark.candidates import Opener
from fasthmr.benchmark.listing import matching_models
from fasthmr.benchmark.zoo_files import read_accuracy, read_runs, write_runs
from fasthmr.benchmark.zoo_page import Advice, advise, page, plot
from fasthmr.benchmark.zoo_runs import Setting, ZooRuns, run_zoo
from fasthmr.benchmark.zoo_speeds import Accuracy, CutRow, SpeedRow, cut_rows, speed_rows
from fasthmr.errors import PartialFailure, UsageError
from fasthmr.io.atomic import write_bytes
from fasthmr.io.plots import need_plots


@dataclass(frozen=True, kw_only=True)
class ZooReport:
    """What was measured, what it says, and the files it is written in."""

    runs: ZooRuns
    rows: tuple[SpeedRow, ...]
    cuts: tuple[CutRow, ...]
    advice: tuple[Advice, ...]
    files: tuple[Path, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values: rows of speed and of cuts, and the advice."""
        rows = [
            {**asdict(row), "crops_per_s": row.crops_per_s, "crops_interval": row.crops_interval}
            for row in self.rows
        ]
        advice = [
            {
                "task": piece.task,
                "sentence": piece.sentence,
                "choices": [{"crops_per_s": step, "model": row.model} for step, row in piece.choices],
            }
            for piece in self.advice
        ]
        return {"advice": advice, "rows": rows, "cuts": [asdict(cut) for cut in self.cuts]}


def choose_models(
    patterns: str,
    open_model: Opener,
    out: Path,
    *,
    models: Sequence[str] = (),
    threads: Sequence[int] = (),
    batches: Sequence[int] = (1, 8),
    engines: Sequence[str] = ("torch",),
    precisions: Sequence[str] = ("float32",),
    seconds: float = 600.0,
    min_rounds: int = 5,
    device: torch.device | None = None,
    accuracy: Path | None = None,
    resume: bool = False,
    command: str = "",
    progress: Callable[[str], None] | None = None,
) -> ZooReport:
    """Time all presets that match, and write `out`.md, .json and .png (one for each setting).

    The JSON file is written after each group of models, so that a run that was stopped can go on.

    Args:
        patterns: Shell patterns of names, separated by commas.
        models: Weight files or exported files beside them.
        threads: Of the processor; as many as torch uses if there are none.
        seconds: For everything; see `run_zoo`.
        accuracy: File of `read_accuracy`.
        command: To show in the report.
        progress: Told a line after each group.

    Raises:
        UsageError: No model matches, or an option is wrong.
        MissingExtra: Plots cannot be drawn.
        InputError: The file of accuracy, or the one to go on from, cannot be used.
        PartialFailure: Some models could not be measured; the report has the others.
    """
    need_plots()
    known = read_accuracy(accuracy) if accuracy is not None else {}
    names = list(dict.fromkeys([*matching_models(patterns), *models]))
    chosen = threads or (torch.get_num_threads(),)
    settings = [
        Setting(threads=count, engine=engine, precision=precision, batch=batch)
        for count, engine, precision, batch in product(chosen, engines, precisions, batches)
    ]
    path = out.with_name(out.name + ".json")
    before = None
    if resume:
        if not path.is_file():
            raise UsageError(f"{path}: there is no run to go on with; leave out --resume")
        before = read_runs(path)

    def note(runs: ZooRuns, line: str) -> None:
        write_runs(path, runs)
        if progress is not None:
            progress(line)

    runs = run_zoo(
        names,
        open_model,
        settings,
        seconds=seconds,
        min_rounds=min_rounds,
        device=device,
        before=before,
        done=note,
    )
    report = write_report(runs, out, known, command=command)
    if runs.failures:
        failed = ", ".join(runs.failures)
        raise PartialFailure(f"{failed} could not be measured; the report on the others is {report.files[0]}")
    return report


def write_report(runs: ZooRuns, out: Path, accuracy: Accuracy, *, command: str = "") -> ZooReport:
    """What runs say, as files; see `choose_models`."""
    rows, cuts = speed_rows(runs, accuracy), cut_rows(runs)
    pictures = {setting: _picture_path(out, setting, runs.settings) for setting in runs.settings}
    text = page(
        runs, rows, cuts, command=command, pictures={setting: p.name for setting, p in pictures.items()}
    )
    for setting, path in pictures.items():
        plot([row for row in rows if row.setting == setting], runs.machine, path)
    files = (out.with_name(out.name + ".md"), out.with_name(out.name + ".json"), *pictures.values())
    write_bytes(files[0], text.encode())
    report = ZooReport(runs=runs, rows=tuple(rows), cuts=tuple(cuts), advice=tuple(advise(rows)), files=files)
    write_runs(files[1], runs, report.as_json())
    return report


def _picture_path(out: Path, setting: Setting, settings: Sequence[Setting]) -> Path:
    """The first picture has the plain name, others say in what they differ from it."""
    first = settings[0]
    differing = [
        f"_{name}{value}" for name, value in asdict(setting).items() if value != getattr(first, name)
    ]
    return out.with_name(f"{out.name}{''.join(differing)}.png")
