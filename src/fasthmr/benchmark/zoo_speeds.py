"""What runs of a zoo say: the speed of each model, what cuts gain, and which models nothing else beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fasthmr.benchmark.counters import count
from fasthmr.benchmark.preset_counts import preset_counts
from fasthmr.benchmark.zoo_runs import Setting, ZooRuns, cut_of
from fasthmr.checkpoints.files import open_weights
from fasthmr.checkpoints.loading import plan_from_file
from fasthmr.evaluation.timing import Timing, summarise
from fasthmr.zoo import list_models, preset

Accuracy = Mapping[str, Mapping[str, float]]
"""Model -> metric -> value."""

SIZES = ("parameters", "macs")
"""Axes that stand for what a model can do where no accuracy is known: more is better."""

_LESS_IS_BETTER = ("_mm", "error", "mpjpe", "pve")
"""Metrics with one of these in their names are errors."""


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """One model in one setting.

    Attributes:
        family: Kind of its encoder.
        parameters: All of the model; None where nobody counted.
        macs: Of one crop in the published formulation; None where nobody counted.
        speedup: Time of the reference over this one's, both in the same rounds, with a 95 % interval.
        seconds: Of one call: that of the reference over all groups, divided by `speedup`.
        accuracy: By metric.
        fronts: Axes (of `SIZES`, or metrics) on which no model of the task that is as fast is as good.
    """

    model: str
    task: str
    family: str
    parameters: int | None
    macs: int | None
    setting: Setting
    rounds: int
    seconds: float
    speedup: float
    interval: tuple[float, float]
    accuracy: Mapping[str, float]
    fronts: tuple[str, ...] = ()

    @property
    def crops_per_s(self) -> float:
        """Throughput."""
        return self.setting.batch / self.seconds

    @property
    def crops_interval(self) -> tuple[float, float]:
        """Throughput at the ends of `interval`."""
        low, high = (self.crops_per_s * end / self.speedup for end in self.interval)
        return low, high

    def value(self, axis: str) -> float | None:
        """On one of `SIZES` or metrics."""
        value = getattr(self, axis) if axis in SIZES else self.accuracy.get(axis)
        return None if value is None else float(value)


@dataclass(frozen=True, kw_only=True)
class CutRow:
    """An encoder cut after two and three stages beside all four: frames a second over theirs, same rounds.

    Attributes:
        ratios: By stages kept: ratio, and the ends of its 95 % interval.
    """

    model: str
    setting: Setting
    ratios: Mapping[int, tuple[float, float, float]]


def less_is_better(metric: str) -> bool:
    """Whether a metric is an error, by its name."""
    return any(mark in metric.lower() for mark in _LESS_IS_BETTER)


def better_first(axis: str, value: float) -> float:
    """A value with its sign turned where less is better."""
    return -value if axis not in SIZES and less_is_better(axis) else value


def speed_rows(runs: ZooRuns, accuracy: Accuracy | None = None, seed: int = 0) -> list[SpeedRow]:
    """Every model in every setting, by setting and fastest first, with its fronts."""
    rows: list[SpeedRow] = []
    for setting in runs.settings:
        groups = [run for run in runs.runs if run.setting == setting]
        if not groups:
            continue
        at_reference = [row[0] for run in groups for row in run.seconds]
        unit = float(torch.tensor(at_reference, dtype=torch.float64).quantile(0.5))
        timings: dict[str, Timing] = {}
        for run in groups:
            timed = summarise(torch.tensor(run.seconds, dtype=torch.float64), seed)
            timings.update(zip(run.models[1:], timed[1:], strict=True))
            timings.setdefault(runs.reference, replace(timed[0], rounds=len(at_reference)))
        rows += _with_fronts([_row(name, setting, t, unit, accuracy or {}) for name, t in timings.items()])
    return rows


def _row(name: str, setting: Setting, timing: Timing, unit: float, accuracy: Accuracy) -> SpeedRow:
    task, family, parameters, macs = _described(name)
    return SpeedRow(
        model=name,
        task=task,
        family=family,
        parameters=parameters,
        macs=macs,
        setting=setting,
        rounds=timing.rounds,
        seconds=unit / timing.speedup,
        speedup=timing.speedup,
        interval=timing.interval,
        accuracy=accuracy.get(name, {}),
    )


def _described(name: str) -> tuple[str, str, int | None, int | None]:
    """Task, family and counts; of a weight file those of the model in it, of an exported one nothing."""
    if name in list_models():
        row, counts = preset(name), preset_counts(name).counts
        return row.task, _family(row.config()), counts.params, counts.macs
    if Path(name).suffix.lower() in (".onnx", ".xml"):
        return "exported", "exported", None, None
    config = plan_from_file(open_weights(name)).config
    counts = count(config)
    alike = (preset(other).task for other in list_models() if type(preset(other).config()) is type(config))
    return next(alike, "mesh"), _family(config), counts.params, counts.macs


def _family(config: object) -> str:
    """Kind of the encoder of a configuration, of one without that of the model."""
    inner = getattr(config, "encoder", None) or getattr(config, "trunk", None)
    return _family(inner) if inner is not None else type(config).__name__.removesuffix("Config")


def _with_fronts(rows: Sequence[SpeedRow]) -> list[SpeedRow]:
    """Rows of a setting, fastest first, each with the axes on which it is on the front of its task."""
    ordered = sorted(rows, key=lambda row: row.seconds)
    axes = (*SIZES, *metrics_of(ordered))
    best: dict[tuple[str, str], float] = {}
    marked = []
    for row in ordered:
        fronts = []
        for axis in axes:
            value = row.value(axis)
            if value is None:
                continue
            value = better_first(axis, value)
            if value > best.get((row.task, axis), -math.inf):
                best[row.task, axis] = value
                fronts.append(axis)
        marked.append(replace(row, fronts=tuple(fronts)))
    return marked


def metrics_of(rows: Sequence[SpeedRow]) -> tuple[str, ...]:
    """Metrics that some model has, in the order of their first appearance by name."""
    return tuple(sorted({metric for row in rows for metric in row.accuracy}))


def cut_rows(runs: ZooRuns, seed: int = 0) -> list[CutRow]:
    """What cutting gains, where a cut model and the whole one ran in the same rounds."""
    rows: dict[tuple[Setting, str], CutRow] = {}
    for run in runs.runs:
        places = {cut: place for place, name in enumerate(run.models) if (cut := cut_of(name)) is not None}
        for family in dict.fromkeys(family for family, _ in places):
            whole = places.get((family, 4))
            kept = [stages for stages in (2, 3) if (family, stages) in places]
            if whole is None or not kept:
                continue
            columns = [whole, *(places[family, stages] for stages in kept)]
            timed = summarise(torch.tensor(run.seconds, dtype=torch.float64)[:, columns], seed)[1:]
            ratios = {
                stages: (timing.speedup, *timing.interval) for stages, timing in zip(kept, timed, strict=True)
            }
            rows[run.setting, family] = CutRow(model=family, setting=run.setting, ratios=ratios)
    return list(rows.values())
