"""Many presets timed on this machine: a few at a time, each time beside one model that is always there.

All at once would not fit into memory, and one after another would give whichever comes at a busy moment the
blame for it. So models run in turns in small groups (cuts of one encoder in the same), a reference model in
every group, and speeds of different groups are compared as multiples of the reference's (`docs/design/031`).
"""

from __future__ import annotations

import gc
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fasthmr.benchmark.bench import machine_of
from fasthmr.benchmark.candidates import DTYPES, Candidate, Opener, make_candidate, variants
from fasthmr.benchmark.preset_counts import preset_counts
from fasthmr.errors import FastHMRError, UsageError, did_you_mean
from fasthmr.evaluation.timing import Run, time_in_turns
from fasthmr.zoo import list_models

_log = logging.getLogger(__name__)

USUAL_REFERENCE = "hmr2_vit_s"
_TOGETHER = 6  # models of a group, the reference left out
_PARAMETERS = 400e6  # of a group
_MOST_ROUNDS = 100
_CUT = re.compile(r"(.+)_s([234])")
_FAILURES = (FastHMRError, RuntimeError, ValueError, MemoryError)
"""What can be wrong with one model; the others go on."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How models are run."""

    threads: int
    engine: str
    precision: str
    batch: int

    def __str__(self) -> str:
        unit = "thread" if self.threads == 1 else "threads"
        return f"{self.engine}, {self.precision}, {self.threads} {unit}, batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class GroupRun:
    """Seconds of the models of a group (the reference first), round by round, all rounds with all models."""

    setting: Setting
    models: tuple[str, ...]
    seconds: tuple[tuple[float, ...], ...]


@dataclass(kw_only=True)
class ZooRuns:
    """What was measured where.

    Attributes:
        failures: What went wrong, by model.
        machine: See `bench.machine_of`.
    """

    reference: str
    settings: tuple[Setting, ...]
    machine: dict[str, Any]
    runs: list[GroupRun] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def cut_of(name: str) -> tuple[str, int] | None:
    """Name of an encoder's family of cuts and the number of stages kept; None for a model that is not cut."""
    found = _CUT.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def grouped(models: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of models that are in memory together; cuts of one encoder stay together."""
    families: dict[str, list[str]] = {}
    for name in models:
        cut = cut_of(name)
        families.setdefault(cut[0] if cut else name, []).append(name)
    groups: list[list[str]] = []
    for members in families.values():
        last = groups[-1] if groups else []
        held = sum(_parameters(name) for name in [*last, *members])
        if last and len(last) + len(members) <= _TOGETHER and held <= _PARAMETERS:
            last += members
        else:
            groups.append(list(members))
    return [tuple(group) for group in groups]


def run_zoo(
    models: Sequence[str],
    open_model: Opener,
    settings: Sequence[Setting],
    *,
    seconds: float = 600.0,
    min_rounds: int = 5,
    device: torch.device | None = None,
    seed: int = 0,
    before: ZooRuns | None = None,
    done: Callable[[ZooRuns, str], None] | None = None,
) -> ZooRuns:
    """Time models in groups. Weights are those that come along, else random ones, which take the same time.

    Args:
        models: Presets, weight files, or exported files.
        open_model: Puts a model on an engine; see `runtime.backends`.
        seconds: For everything, building left in; so spread that all get about as many rounds. At least
            `min_rounds` are run, however long they take, and 100 at most.
        before: A run of the same reference on the same machine that was stopped; what it has is not measured
            again, and `seconds` is for all together.
        done: Told after each group, with a line about it.

    Raises:
        UsageError: Nothing to measure, an unknown engine, precision or file, or `before` is of another
            machine or reference.
    """
    _check(models, settings)
    where = device or torch.device("cpu")
    result = ZooRuns(reference=_reference(models), settings=tuple(settings), machine=machine_of(where))
    if before is not None:
        _check_same(before, result)
        wanted, result.machine = {result.reference, *models}, before.machine
        result.runs = [r for r in before.runs if r.setting in result.settings and wanted >= set(r.models)]
    groups = grouped([name for name in models if name != result.reference] or [result.reference])
    measured = {(run.setting, name) for run in result.runs for name in run.models[1:] or run.models}
    planned = [
        (group, [s for s in settings if any((s, name) not in measured for name in group)]) for group in groups
    ]
    cost = {(group, s): _cost(group, result.reference, s) for group in groups for s in settings}
    left = sum(cost[group, s] for group, some in planned for s in some)
    deadline = time.perf_counter() + seconds * left / sum(cost.values())
    bench = _Bench(open_model, where, seed, min_rounds)
    for number, (group, some) in enumerate(planned, start=1):
        for setting in some:
            budget = (deadline - time.perf_counter()) * cost[group, setting] / left
            left -= cost[group, setting]
            run, failures = bench.measure(result.reference, group, setting, budget)
            result.failures.update(failures)
            result.runs.append(run)
        bench.forget(group)
        if some and done is not None:
            done(result, f"[{number}/{len(planned)}] {', '.join(group)}")
    return result


class _Bench:
    """Opens the models of a group, times them, and lets them go."""

    def __init__(self, open_model: Opener, device: torch.device, seed: int, min_rounds: int) -> None:
        self._open_model, self._device, self._seed, self._min_rounds = open_model, device, seed, min_rounds
        self._opened: dict[tuple[str, int, str, str], Candidate] = {}

    def measure(
        self, reference: str, group: Sequence[str], setting: Setting, seconds: float
    ) -> tuple[GroupRun, dict[str, str]]:
        """A group beside the reference, and what went wrong with which model."""
        start, failures = time.perf_counter(), dict[str, str]()
        with _threads(setting.threads), torch.inference_mode():
            runs: dict[str, Run] = {}
            for name in dict.fromkeys((reference, *group)):
                try:
                    run = self._candidate(name, setting).run(setting.batch, self._device, self._seed)
                    run()
                except _FAILURES as error:
                    if name == reference:
                        raise
                    failures[name] = f"{setting}: {str(error).split(chr(10))[0] or type(error).__name__}"
                    _log.warning("%s: %s", name, failures[name])
                else:
                    runs[name] = run
            taken = time_in_turns(
                list(runs.values()),
                seconds=seconds - (time.perf_counter() - start),
                min_rounds=self._min_rounds,
                max_rounds=_MOST_ROUNDS,
                warm_up=0,
            )
        rounds = tuple(tuple(round(value, 7) for value in row) for row in taken.tolist())
        return GroupRun(setting=setting, models=tuple(runs), seconds=rounds), failures

    def forget(self, group: Sequence[str]) -> None:
        """Frees the memory of a group's models."""
        for key in [key for key in self._opened if key[0] in group]:
            del self._opened[key]
        gc.collect()

    def _candidate(self, name: str, setting: Setting) -> Candidate:
        threads = 0 if setting.engine == "torch" else setting.threads  # other engines keep theirs
        key = (name, threads, setting.engine, setting.precision)
        if key not in self._opened:
            with torch.inference_mode(False):
                [(label, model)] = variants(name, None, None, self._seed)
                self._opened[key] = make_candidate(
                    label,
                    model,
                    self._open_model,
                    setting.engine,
                    setting.precision,
                    self._device,
                    counted=False,
                )
        return self._opened[key]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check(models: Sequence[str], settings: Sequence[Setting]) -> None:
    if not (models and settings):
        raise UsageError("a benchmark needs models, engines, precisions, numbers of threads and batch sizes")
    for setting in settings:
        if setting.threads < 1 or setting.batch < 1:
            raise UsageError(
                f"threads and batch sizes are at least 1, got {setting.threads} and {setting.batch}"
            )
        if setting.precision not in DTYPES:
            raise UsageError(
                f"unknown precision '{setting.precision}'{did_you_mean(setting.precision, list(DTYPES))}"
            )
    for name in models:
        if name not in list_models() and not Path(name).is_file():
            raise UsageError(f"there is no model or file '{name}'{did_you_mean(name, list_models())}")


def _check_same(before: ZooRuns, now: ZooRuns) -> None:
    kept = ("device", "system", "torch", "fasthmr")
    if before.reference != now.reference or any(before.machine.get(k) != now.machine.get(k) for k in kept):
        raise UsageError(
            f"the run to go on with compared with '{before.reference}' on {before.machine.get('device')} "
            f"(torch {before.machine.get('torch')}, fasthmr {before.machine.get('fasthmr')}), this one with "
            f"'{now.reference}' on {now.machine['device']}; leave out --resume"
        )


def _reference(models: Sequence[str]) -> str:
    """The plain ViT-S where it is among the models, else the one in the middle by cost."""
    if USUAL_REFERENCE in models:
        return USUAL_REFERENCE
    return sorted(models, key=lambda name: (_macs(name), name))[(len(models) - 1) // 2]


def _parameters(name: str) -> int:
    return preset_counts(name).counts.params if name in list_models() else Path(name).stat().st_size // 4


def _macs(name: str) -> int:
    """Of one crop; a guess for files, whose weights multiply as many tokens as those of ViTs."""
    return preset_counts(name).counts.run_macs if name in list_models() else 192 * _parameters(name)


def _cost(group: Sequence[str], reference: str, setting: Setting) -> float:
    """Of one round, in units of its own."""
    macs = sum(_macs(name) + 2e8 for name in (reference, *group))
    return setting.batch * macs / min(setting.threads, 2)
