"""Models side by side on this machine: time, and how much of its rate of multiplying each one reaches."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from fasthmr import __version__
from fasthmr.benchmark.candidates import DTYPES, Candidate, Opener, make_candidate, variants
from fasthmr.errors import UsageError, did_you_mean
from fasthmr.evaluation.timing import Run, Timing, summarise, time_in_turns

if TYPE_CHECKING:
    from rich.table import Table

_PRODUCT_REPEATS = 8


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One candidate at one batch size.

    Attributes:
        precision: Number type that the engine says it computes in.
        macs: Multiply-accumulates of one crop that are really run; 0 where nobody knows.
        share: Of the rate of the machine's matrix product of the model's own size, in the same precision and
            measured in the same rounds, that the model reaches; None where `macs` is not known.
    """

    model: str
    engine: str
    precision: str
    batch: int
    timing: Timing
    macs: int
    share: float | None


@dataclass(frozen=True, kw_only=True)
class ProductRate:
    """The machine's matrix product: `rows` x `inner` times `inner` x `columns`, multiply-accumulates/s."""

    precision: str
    rows: int
    inner: int
    columns: int
    macs_per_s: float


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What was measured where. Rows of a batch size are compared with the first of them or of their group."""

    rows: tuple[BenchRow, ...]
    products: tuple[ProductRate, ...]
    machine: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def bench_models(
    models: Sequence[str],
    open_model: Opener,
    *,
    batches: Sequence[int] = (1, 8),
    engines: Sequence[str] = ("torch",),
    precisions: Sequence[str] = ("float32",),
    layers: int | None = None,
    tokens: int | None = None,
    seconds: float = 10.0,
    min_rounds: int = 5,
    device: str = "cpu",
    seed: int = 0,
) -> BenchReport:
    """Time models in turns on crops of noise, with ellipses as masks for those that take one.

    Args:
        models: Presets (with the weights that come along, else random ones, which take the same time), weight
            files, or exported files. All are in memory at once. Where names are joined by commas, each
            such list is a group that is compared with its own first model.
        open_model: Puts a model on an engine; see `runtime.backends`.
        layers: Time each model also with this many blocks: the last ones are merged into one.
        tokens: And with this many tokens, as `TokenMergePlan.to_keep` merges them.
        seconds: To spend on each batch size; at least `min_rounds` rounds are run.

    Raises:
        UsageError: An unknown model, precision or engine, or models that cannot be merged so.
    """
    for precision in precisions:
        if precision not in DTYPES:
            raise UsageError(f"unknown precision '{precision}'{did_you_mean(precision, list(DTYPES))}")
    if not (models and engines and precisions and batches) or min(batches) < 1:
        raise UsageError("a benchmark needs models, engines, precisions, and batch sizes of at least 1")
    where = torch.device(device)
    grouped = any("," in entry for entry in models)
    candidates: list[Candidate] = []
    against: list[int] = []
    for entry in models:
        first = len(candidates) if grouped else 0
        for name in filter(None, entry.split(",")):
            for label, model in variants(name, layers, tokens, seed):
                candidates += [
                    make_candidate(label, model, open_model, engine, precision, where)
                    for engine in engines
                    for precision in precisions
                ]
        against += [first] * (len(candidates) - len(against))
    machine = machine_of(where)
    rows: list[BenchRow] = []
    products: list[ProductRate] = []
    for batch in batches:
        measured = _measure(candidates, against, batch, where, seconds, min_rounds, seed)
        rows += measured[0]
        products += measured[1]
    machine["load_after"] = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return BenchReport(rows=tuple(rows), products=tuple(products), machine=machine)


def as_table(report: BenchReport) -> Table:
    """A report for terminals."""
    from rich.table import Table

    machine = report.machine
    rates = "; ".join(
        f"{rate.precision} {rate.rows}x{rate.inner} by {rate.inner}x{rate.columns}: "
        f"{rate.macs_per_s / 1e9:.1f} G/s"
        for rate in report.products
    )
    table = Table(
        box=None,
        padding=(0, 1, 0, 0),
        caption=f"{machine['device']}, {machine['threads']} threads, load {machine['load_before']} to "
        f"{machine['load_after']}; medians of rounds in turns, with quartiles; speed-up over the first (of "
        "its group), with 95 % interval; share of the multiply-accumulates a second of a matrix product "
        f"({rates})",
        caption_justify="left",
    )
    for heading, side in (("model", "left"), ("engine", "left"), ("precision", "left")):
        table.add_column(heading, justify=side, overflow="fold")  # pyright: ignore[reportArgumentType]
    for heading in ("batch", "ms", "", "crops/s", "speed-up", "G", "share"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        timing = row.timing
        low, high = timing.quartiles_s
        table.add_row(
            row.model,
            row.engine,
            row.precision,
            str(row.batch),
            f"{1000 * timing.median_s:.1f}",
            f"({1000 * low:.1f}-{1000 * high:.1f})",
            f"{row.batch / timing.median_s:.1f}",
            f"{timing.speedup:.2f} ({timing.interval[0]:.2f}-{timing.interval[1]:.2f})",
            f"{row.macs / 1e9:.2f}" if row.macs else "",
            "" if row.share is None else f"{row.share:.0%}",
        )
    return table


@torch.inference_mode()
def _measure(
    candidates: Sequence[Candidate],
    against: Sequence[int],
    batch: int,
    device: torch.device,
    seconds: float,
    min_rounds: int,
    seed: int,
) -> tuple[list[BenchRow], list[ProductRate]]:
    """All candidates at one batch size, and the products that they are compared with, in the same rounds."""
    runs = [candidate.run(batch, device, seed) for candidate in candidates]
    wanted = dict.fromkeys(
        (c.precision, c.product) for c in candidates if c.product and c.precision in DTYPES
    )
    for precision, (rows, inner, columns) in wanted:
        runs.append(_product_run(batch * rows, inner, columns, DTYPES[precision], device))
    against = [*against, *([0] * len(wanted))]
    timings = summarise(time_in_turns(runs, seconds=seconds, min_rounds=min_rounds), seed, against)
    rates = {}
    for (precision, (rows, inner, columns)), timing in zip(wanted, timings[len(candidates) :], strict=True):
        speed = _PRODUCT_REPEATS * batch * rows * inner * columns / timing.median_s
        rates[precision, (rows, inner, columns)] = ProductRate(
            precision=precision, rows=batch * rows, inner=inner, columns=columns, macs_per_s=speed
        )
    table = []
    for candidate, timing in zip(candidates, timings[: len(candidates)], strict=True):
        rate = rates.get((candidate.precision, candidate.product))
        reached = batch * candidate.macs / timing.median_s
        table.append(
            BenchRow(
                model=candidate.name,
                engine=candidate.engine,
                precision=candidate.precision,
                batch=batch,
                timing=timing,
                macs=candidate.macs,
                share=None if rate is None else reached / rate.macs_per_s,
            )
        )
    return table, list(rates.values())


def _product_run(rows: int, inner: int, columns: int, dtype: torch.dtype, device: torch.device) -> Run:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(rows, inner, generator=generator).to(device, dtype)
    right = torch.randn(columns, inner, generator=generator).to(device, dtype)

    def run() -> None:
        for _ in range(_PRODUCT_REPEATS):
            F.linear(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def machine_of(device: torch.device) -> dict[str, Any]:
    """What measurements were made on and with; "load_before" is how busy it is."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "cores": None if cuda else os.cpu_count(),
        "capability": None if cuda else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "fasthmr": __version__,
        "torch": torch.__version__,
        "system": platform.platform(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    """What the processor calls itself where the system tells it, else its kind."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8", errors="replace").splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
