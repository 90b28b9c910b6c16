"""Report `acceleration`: what each part of merging gives and costs, on people that nothing was chosen on."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from fasthmr.acceleration.accelerate import THROUGHPUT_BATCHES, save_merged
from fasthmr.acceleration.candidates import SearchOptions
from fasthmr.acceleration.document import Document
from fasthmr.acceleration.figures import layer_similarity
from fasthmr.acceleration.frames import Frames, record_frames
from fasthmr.acceleration.judge import Change, Judge, predict_joints
from fasthmr.acceleration.learning import heal_merged, learn_self_mask, training_batches
from fasthmr.acceleration.parts import ModelParts
from fasthmr.acceleration.plan import MergePlan
from fasthmr.acceleration.report import (
    AccelerationReport,
    add_cost,
    add_figures,
    add_merged,
    add_search,
    change_text,
)
from fasthmr.acceleration.search import JointSearch, joint_search
from fasthmr.acceleration.settings import AccelerateConfig
from fasthmr.acceleration.speed import Ratio, speed_ratio
from fasthmr.acceleration.variants import Measured, Variant, measure_variant
from fasthmr.benchmark.counters import count
from fasthmr.errors import UsageError
from fasthmr.reduction.eclm import weights_fingerprint
from fasthmr.reduction.self_mask import SelfMaskHead
from fasthmr.runtime.loading import load_model
from fasthmr.training.crop_batches import BatchSource, CropBatch
from fasthmr.training.self_mask import MaskAgreement, compare_with_masks

_LOG = logging.getLogger(__name__)
_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class AccelerationReportConfig:
    """What to measure.

    Attributes:
        data: Rendered records to search on.
        test: Rendered records that everything is judged on and nothing is chosen on.
        heal_data: Rendered records to heal on; `data` if None.
        model: Preset or weight file.
        out: The report; pictures go beside it.
        weights: Where to write the model that is healed and finds the person itself; None for nowhere.
        keep: Tokens to try; the usual choice if empty.
        people: Crops that layers are searched on.
        state: Folder for trials, so that a stopped run goes on; None for none.
    """

    data: Path
    test: Path
    heal_data: Path | None = None
    model: str = "fasthmr_m"
    out: Path = Path("docs/reports/acceleration.md")
    weights: Path | None = None
    target_speedup: float = 2.2
    keep: tuple[int, ...] = ()
    thresholds_mm: tuple[float, ...] = field(default=SearchOptions().thresholds_mm)
    people: int = 256
    test_people: int = 2048
    heal_steps: int = 1000
    self_mask_steps: int = 300
    time_s: float = 10.0
    state: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.heal_steps < 1:
            raise UsageError(f"heal_steps={self.heal_steps}; the report needs at least 1")


@dataclass(frozen=True, kw_only=True)
class _Row:
    """A line of the table."""

    measured: Measured
    change: Change
    macs_ratio: float
    speed: Ratio | None


def report(config: AccelerationReportConfig) -> None:
    """Search, merge in every way, heal, measure and write the report."""
    parts = ModelParts.of(load_model(config.model, "mesh").eval())
    settings = AccelerateConfig(
        heal_data=config.heal_data or config.data,
        heal_steps=config.heal_steps,
        self_mask_steps=config.self_mask_steps,
        time_s=config.time_s,
        seed=config.seed,
    )
    options = SearchOptions(
        target_speedup=config.target_speedup, keep=config.keep or None, thresholds_mm=config.thresholds_mm
    )
    calibration = record_frames(config.data, parts, masks="true", limit=config.people, seed=config.seed)
    test = record_frames(config.test, parts, masks="true", limit=config.test_people, seed=config.seed)
    source = training_batches(parts, calibration, settings)
    self_mask = learn_self_mask(parts, source, settings)
    judge = Judge(parts, calibration)
    searched = joint_search(judge, options, self_mask=self_mask, state_dir=config.state)
    plan = MergePlan(
        layers=searched.chosen.layers, tokens=searched.chosen.tokens, source=weights_fingerprint(parts.model)
    )
    _LOG.info("chosen: %s", searched.chosen.name)
    bench = _Bench(parts=parts, settings=settings, source=source, test=test, config=config)
    rows = bench.rows(plan, self_mask)
    final = bench.final
    _write(config, bench, final, rows, plan, searched, calibration, _agreement(parts, self_mask, test))
    if config.weights is not None:
        save_merged(final, config.weights, name=config.model, source=plan.source)


class _Bench:
    """Merges, heals and measures variants of one plan."""

    def __init__(
        self,
        *,
        parts: ModelParts,
        settings: AccelerateConfig,
        source: BatchSource,
        test: Frames,
        config: AccelerationReportConfig,
    ) -> None:
        self.parts, self.settings, self.source, self.config = parts, settings, source, config
        self.test = test
        self.final: nn.Module = parts.model
        self.unmerged = predict_joints(parts, test)
        self.base = measure_variant(Variant(name="unmerged", model=parts.model), parts, test, self.unmerged)
        self.macs = count(parts.model).macs

    def rows(self, plan: MergePlan, self_mask: SelfMaskHead) -> list[_Row]:
        """All lines; the last model, healed and finding the person itself, is kept as `final`."""
        model, ellipse = self.parts.model, self._with_ellipses()
        plain = replace(plan, tokens=None if plan.tokens is None else replace(plan.tokens, guided=False))
        rows = [self._row("unmerged", model)]
        for name, part in (
            ("layers alone", replace(plan, tokens=None)),
            ("tokens alone", replace(plan, layers=None)),
        ):
            rows.append(self._row(f"{name}, true masks", part.fit(model)))
        guided = plan.fit(model)
        rows.append(self._row("both, true masks", guided))
        rows.append(self._row("both, ellipse in the box", guided, ellipse))
        rows.append(self._row("both, no masks (plain ToMe)", plain.fit(model)))
        own = plan.fit(model, self_mask)
        rows.append(self._row("both, self-mask", own))
        rows.append(self._row("both, true masks, healed", self._healed(guided)))
        rows.append(self._row("both, no masks (plain ToMe), healed", self._healed(plain.fit(model))))
        self.final = self._healed(own)
        rows.append(self._row("both, self-mask, healed", self.final))
        return rows

    def _healed(self, merged: nn.Module) -> nn.Module:
        return heal_merged(merged, self.parts, self.source, self.settings)

    def _with_ellipses(self) -> Frames:
        config = self.config
        return record_frames(
            config.test, self.parts, masks="ellipse", limit=config.test_people, seed=config.seed
        )

    def _row(self, name: str, model: nn.Module, frames: Frames | None = None) -> _Row:
        measured = measure_variant(
            Variant(name=name, model=model), self.parts, frames or self.test, self.unmerged
        )
        change = Change.of(measured.errors["MPJPE"], self.base.errors["MPJPE"])
        _LOG.info("%s: MPJPE %s mm", name, change_text(change))
        same = model is self.parts.model
        seconds = self.settings.time_s
        speed = None if same else speed_ratio(self.parts.model, model, batch_size=_BATCH, seconds=seconds)
        return _Row(measured=measured, change=change, macs_ratio=self.macs / count(model).macs, speed=speed)


def _agreement(parts: ModelParts, head: SelfMaskHead, test: Frames) -> MaskAgreement:
    assert test.masks is not None
    return compare_with_masks(head, parts.model, CropBatch(pixels=test.pictures, mask=test.masks.float()))


def _write(
    config: AccelerationReportConfig,
    bench: _Bench,
    final: nn.Module,
    rows: list[_Row],
    plan: MergePlan,
    searched: JointSearch,
    calibration: Frames,
    agreement: MaskAgreement,
) -> None:
    parts = bench.parts
    seconds = bench.settings.time_s
    summary = AccelerationReport(
        model=config.model,
        calibration=calibration.describe(),
        held_out=bench.test.describe(),
        rows=(rows[0].measured, rows[-1].measured),
        plan=plan,
        depth=parts.depth,
        tokens=parts.tokens,
        before=count(parts.model),
        after=count(final),
        speeds={
            size: speed_ratio(parts.model, final, batch_size=size, seconds=seconds)
            for size in THROUGHPUT_BATCHES
        },
        search=searched,
        heal_steps=config.heal_steps,
        similarity=layer_similarity(parts, calibration),
    )
    page = Document(title="Acceleration: what merging gives and what it costs")
    page.text(f"`fasthmr report acceleration` on `{config.model}`.")
    page.text(
        f"Searched on {calibration.describe()}. Judged on {bench.test.describe()}, on which nothing was "
        f"chosen or trained. Healing: {config.heal_steps} steps of {bench.settings.heal_batch} crops."
    )
    page.heading("Variants")
    page.text(
        f"Millimetres on the test people; changes are means of pairs with 95 % bootstrap intervals; speed at "
        f"batch {_BATCH}, in turns with the unmerged model, eager single precision, without what an external "
        "mask would cost."
    )
    base = float(rows[0].measured.errors["MPJPE"].mean())
    page.table(
        ["model", "MPJPE", "change", "%", "PA-MPJPE", "MACs ratio", "speed-up"],
        [
            [
                row.measured.name,
                f"{float(row.measured.errors['MPJPE'].mean()):.2f}",
                change_text(row.change),
                f"{100 * row.change.mean / base:+.2f}",
                f"{float(row.measured.errors['PA-MPJPE'].mean()):.2f}",
                f"{row.macs_ratio:.2f}",
                "1" if row.speed is None else _speed_text(row.speed),
            ]
            for row in rows
        ],
    )
    page.text(
        f"The self-mask head marks {100 * agreement.recall:.1f} % of the patches that true masks put on the "
        f"person, and {100 * agreement.share:.1f} % of all (intersection over union {agreement.iou:.3f})."
    )
    add_cost(page, summary)
    add_merged(page, summary)
    add_figures(page, summary, parts, final, bench.test, prefix=f"{config.out.stem}_")
    add_search(page, searched)
    page.write(config.out.parent, config.out.stem, page=False)
    _LOG.info("%s written", config.out)


def _speed_text(speed: Ratio) -> str:
    return f"{speed.value:.2f} ({speed.interval[0]:.2f} to {speed.interval[1]:.2f})"
