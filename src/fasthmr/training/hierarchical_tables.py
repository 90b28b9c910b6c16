"""What the report `hierarchical` says of models that were trained alike: tables, differences, verdicts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fasthmr.evaluation.metrics import bootstrap_interval
from fasthmr.io.plots import Mark
from fasthmr.training.hierarchical_model import Task

_ENCODER = re.compile(r"(?P<family>[a-z]+)_(?P<size>\w+?)(?:_s(?P<stages>[234]))?")
_FAMILIES = {"swin": "Swin", "gmf": "GroupMixFormer", "vmamba": "VMamba", "vit": "plain ViT"}

SHOWN: dict[Task, tuple[str, ...]] = {"pose": ("OKS", "AR", "PCK@0.1"), "mesh": ("PA-MPJPE", "MPJPE")}
"""Errors and scores with intervals in the tables, the one to compare by first: OKS tells models of a small
budget apart, of which AP and AR see little."""

_CUT = (2, 3)
"""Stages of models that are compared with those of four."""

_SETTINGS = (
    "seed",
    "steps",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "drop_path",
    "narrowing",
    "image_size",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A finished model and how well it does.

    Attributes:
        values: By measure, person by person.
        totals: Measures of all people at once.
    """

    task: Task
    settings: Mapping[str, Any]
    hours: float
    parameters: int
    gmacs: float
    milliseconds: float
    values: Mapping[str, Float[Tensor, " people"]]
    totals: Mapping[str, float]

    @property
    def encoder(self) -> str:
        """Its name, such as `swin_t_s3`."""
        return self.settings["encoder"]

    @property
    def family(self) -> str:
        """Family and size, such as `swin_t`."""
        return self.encoder.rsplit("_s", 1)[0] if self.stages else self.encoder

    @property
    def order(self) -> tuple[int, str, int]:
        """Where it stands in tables."""
        return list(_FAMILIES).index(self.family.split("_")[0]), self.family, self.stages

    @property
    def stages(self) -> int:
        """Stages that are kept; 0 for an encoder without stages."""
        found = _ENCODER.fullmatch(self.encoder)
        return int(found["stages"] or 0) if found else 0


def introduction(runs: list[Run], count: int) -> list[str]:
    """What was trained and measured, for so many people."""
    first = runs[0].settings
    names = [name for name in _SETTINGS if all(run.settings[name] == first[name] for run in runs)]
    shared = ", ".join(f"{name} {first[name]}" for name in names)
    begun = " from random weights" if all(run.settings["start"] is None for run in runs) else ""
    hours = {(run.encoder, tuple(run.settings["tasks"]), run.hours) for run in runs}
    return [
        f"`fasthmr report hierarchical`: {len(runs)} models of {len({run.encoder for run in runs})} "
        f"encoders, trained by `fasthmr train hierarchical` on rendered people{begun}, all with {shared}. "
        "`narrowing` divides all widths of the published sizes; depths and structure are theirs. Measured on "
        f"{count} people, places and motions that no model has seen; in brackets 95 % intervals of the mean "
        "when people are drawn again. They say nothing about another seed: each model was trained once. All "
        f"trainings took {sum(row[2] for row in hours):.2f} hours of one processor core; a model for both "
        "tasks is told with its hours under each. The time of a picture is the median of passes in which all "
        f"models took turns, with {torch.get_num_threads()} threads. The budget is small, so that "
        "models are far from what they can become: numbers compare with each other, with nothing published."
    ]


def called(family: str) -> str:
    """A family with its size, for people."""
    found = _ENCODER.fullmatch(family)
    assert found is not None
    return f"{_FAMILIES[found['family']]}-{found['size'].upper()}"


def _name(run: Run) -> str:
    return called(run.family) + (f" S{run.stages}" if run.stages else "")


def _interval(values: Tensor, *, digits: int, sign: str = "") -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def _digits(name: str) -> int:
    return 1 if "MPJPE" in name else 3


def table(runs: list[Run], floors: Mapping[str, float]) -> list[str]:
    """Models of one task, and what a predictor that sees nothing reaches."""
    task = runs[0].task
    shown, totals = SHOWN[task], tuple(runs[0].totals)
    heads = [*totals, *shown, "parameters, M", "GMACs", "ms", "hours"]
    lines = [f"| encoder | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for run in runs:
        cells = [f"{run.totals[name]:.3f}" for name in totals]
        cells += [_interval(run.values[name], digits=_digits(name)) for name in shown]
        cells += [f"{run.parameters / 1e6:.2f}", f"{run.gmacs:.3f}", f"{run.milliseconds:.1f}"]
        lines.append(f"| {_name(run)} | {' | '.join(cells)} | {run.hours:.2f} |")
    seen = [floors[name if task == "mesh" else f"{name} 2D"] for name in shown]
    cells = [""] * len(totals) + [
        f"{value:.{_digits(name)}f}" for name, value in zip(shown, seen, strict=True)
    ]
    floor = "mean pose facing the camera" if task == "mesh" else "mean layout of these people"
    return [*lines, f"| *{floor}* | {' | '.join(cells)} | | | | |"]


def _pairs(runs: list[Run]) -> list[tuple[Run, Run]]:
    """Models of fewer stages with that of all four, in each family."""
    whole = {run.family: run for run in runs if run.stages == 4}
    return [(run, whole[run.family]) for run in runs if run.stages in _CUT and run.family in whole]


def differences(runs: list[Run]) -> list[str]:
    """Cut models against those with all stages; nothing where there are none."""
    pairs = _pairs(runs)
    if not pairs:
        return []
    shown = SHOWN[runs[0].task]
    lines = [
        "Differences to the model with all stages, person by person:",
        "",
        f"| encoder | {' | '.join(shown)} | parameters | GMACs |",
        "|---" * (len(shown) + 3) + "|",
    ]
    for run, whole in pairs:
        cells = [
            _interval(run.values[name] - whole.values[name], digits=_digits(name), sign="+") for name in shown
        ]
        sizes = [run.parameters / whole.parameters - 1, run.gmacs / whole.gmacs - 1]
        cells += [f"{100 * size:+.0f} %" for size in sizes]
        lines.append(f"| {_name(run)} minus S4 | {' | '.join(cells)} |")
    return [*lines, ""]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was seen of a family.

    Attributes:
        three: Whether three stages are not worse than four.
        two: Whether two stages are worse than four.
    """

    text: str
    three: bool
    two: bool


def verdict(runs: list[Run]) -> Verdict | None:
    """What is seen of S2 and S3 against S4 in one family; None where a model is missing."""
    measure = SHOWN[runs[0].task][0]
    unit, worse = (" mm", 1) if "MPJPE" in measure else ("", -1)
    said, lost = [], {}
    for run, whole in _pairs(runs):
        gap = worse * (run.values[measure] - whole.values[measure])
        low, high = bootstrap_interval(gap)
        size = abs(float(gap.mean()))
        share = 100 * size / float(whole.values[measure].mean())
        amount = f"{size:.{_digits(measure)}f}{unit} ({share:.1f} %)"
        if low > 0:
            said.append(f"S{run.stages} is worse than S4 by {amount}")
        elif high < 0:
            said.append(f"S{run.stages} is better than S4 by {amount}")
        else:
            said.append(f"S{run.stages} and S4 cannot be told apart, {amount}")
        lost[run.stages] = low > 0
    if len(said) < len(_CUT):
        return None
    return Verdict(text=f"by {measure} {'; '.join(said)}.", three=not lost[3], two=lost[2])


def conclusion(verdicts: Mapping[Task, Mapping[str, Verdict]]) -> list[str]:
    """What was seen of both halves of the paper's claim."""
    every = [(f"{family} {task}", said) for task, own in verdicts.items() for family, said in own.items()]
    if not every:
        return ["No family is there with all its cuts: nothing is said about the paper's claim."]
    halves = [
        _half("Three stages are no worse than four", [(name, said.three) for name, said in every]),
        _half("Two stages are worse than four", [(name, said.two) for name, said in every]),
    ]
    return [
        "The paper (arXiv 2510.12660) says that three stages do about as well as four, and two a little "
        f"worse at less cost. {' '.join(halves)} How much is told under the tables."
    ]


def _half(claim: str, every: list[tuple[str, bool]]) -> str:
    kept, lost = ([name for name, holds in every if holds == wanted] for wanted in (True, False))
    text = f"{claim} in {len(kept)} of {len(every)} comparisons here"
    text += f" ({', '.join(kept)})" if kept else ""
    return f"{text}, not in {', '.join(lost)}." if lost else f"{text}."


def mark(run: Run) -> Mark:
    """The model as a point of the picture."""
    values = run.values[SHOWN[run.task][0]]
    low, high = bootstrap_interval(values)
    label = f"S{run.stages}" if run.stages else ""
    return Mark(line=called(run.family), label=label, x=run.gmacs, y=float(values.mean()), low=low, high=high)


_PRESETS: dict[Task, str] = {"pose": "vitpose_{}", "mesh": "hmr2_{}"}


def accuracy(runs: list[Run]) -> dict[str, dict[str, float]]:
    """The measure that models are compared by, under the presets that they are, for `fasthmr bench --zoo`.

    Its name says where models are narrower than the presets.
    """
    found: dict[str, dict[str, float]] = {}
    for run in runs:
        measure, narrowing = SHOWN[run.task][0], run.settings["narrowing"]
        name = measure if narrowing == 1 else f"{measure} of 1/{narrowing} width"
        found[_PRESETS[run.task].format(run.encoder)] = {name: float(run.values[measure].mean())}
    return found


def numbers(run: Run) -> dict[str, Any]:
    """Everything that is known of a model, for programs."""
    means = {name: float(values.mean()) for name, values in run.values.items()}
    sizes = {"parameters": run.parameters, "gmacs": run.gmacs, "ms": run.milliseconds}
    intervals = {f"{name} interval": bootstrap_interval(values) for name, values in run.values.items()}
    return {**means, **intervals, **run.totals, **sizes, "hours": run.hours, "seed": run.settings["seed"]}
